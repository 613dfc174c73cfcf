"""Other makers' clients drive our server: each check of the programs in tests/peers is a test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.environments import python_of
from tests.peers.programs import PROGRAMS, Program, Way, known_names
from tests.peers.running import OurServer
from tests.peers.scorecard import OURS, published, score

pytestmark = pytest.mark.timeout(
    900
)  # the first run installs the peers, and the first test of a program runs all of it
DEADLINE = 120.0
ONE_PROCESS = Path(__file__).parents[1] / "peers" / "checks" / "one_process.py"
Found = dict[str, bool | str]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Program], Found]]:
    """What the checks of a program found; each is run once, and so is each server."""
    servers: dict[Way, OurServer] = {}
    runs: dict[str, Found] = {}
    with contextlib.ExitStack() as stack:

        def run(program: Program) -> Found:
            if program.name not in runs:
                if program.way not in servers:
                    server = OurServer(tmp_path_factory.mktemp("peers"), program.way)
                    servers[program.way] = stack.enter_context(server)
                runs[program.name] = servers[program.way].run(program)
            return runs[program.name]

        yield run


@pytest.mark.parametrize(
    ("program", "check"),
    [(program, check) for program in PROGRAMS for check in known_names()[program.name]],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_it_works_with(program: Program, check: str, found: Callable[[Program], Found]) -> None:
    result = found(program).get(check, "the program has no such check")
    assert result is True, result


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_check_of_a_program_is_a_test(program: Program, found: Callable[[Program], Found]) -> None:
    assert list(found(program)) == known_names()[program.name], "run: python -m tests.peers.programs"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_the_scorecard_says_what_is_found(program: Program, found: Callable[[Program], Found]) -> None:
    assert published(OURS)[program.name] == score(found(program)), "run: python -m tests.peers.scorecard"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("client", ["tritonclient", "kserve", "mlserver"])
def test_server_and_client_live_in_one_process(client: str, when: str) -> None:
    """Imported before our server and after it: the messages of both are called the same."""
    site_packages = next((python_of(client).parents[1] / "lib").glob("python*/site-packages"))
    command = [sys.executable, str(ONE_PROCESS), str(site_packages), client, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.stdout, done.returncode) == ("[0.0, 2.0, 4.0, 6.0]\n", 0), done.stderr
