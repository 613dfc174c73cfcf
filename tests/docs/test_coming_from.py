"""Both sides of the pages about coming from elsewhere run, and print what the page says.

A block with the title `socaity` runs here, against the page's own service; one with the title of the peer runs in the environment
of the peer, against a server of the peer's own protocol: what the page's first file of that side starts, or for
replicate, which only its company serves, a double. A file is a block that begins with `# name.py`.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.docs.environments import python_of
from tests.docs.replicate_api import replicate_api
from tests.docs.served import DEADLINE, free_port, running, served
from tests.docs.snippets import Block, python_blocks

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "docs" / "coming-from"
OURS = "socaity"
ADDRESS = "127.0.0.1:8000"


class Peer(NamedTuple):
    """How the other side of a page is run."""

    title: str
    environment: str | None
    """Its virtual environment; None: ours has what it needs."""
    port: str = ""
    """The port of its server on the page."""
    ready: str = ""
    """What that says when it can be called."""


PEERS = {
    "replicate": Peer("replicate", "replicate"),
    "gradio-client": Peer("gradio", "gradio", "7860", r"Running on local URL:\s+(\S+)"),
    "litserve": Peer("LitServe", "litserve", "8001", r"(Application startup complete)"),
    "fastapi-httpx": Peer("FastAPI and httpx", None, "8001", r"(Application startup complete)"),
}
QUIET = {
    "SOCAITY_PROGRESS": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
pytestmark = pytest.mark.timeout(900)  # the first run installs the peers


def test_every_page_is_run() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == set(PEERS)


@pytest.mark.parametrize("name", PEERS)
def test_every_block_has_a_side_and_every_pair_an_output(name: str) -> None:
    found = python_blocks(FOLDER / f"{name}.md")
    assert {block.title for block in found} == {PEERS[name].title, OURS}
    assert all(block.is_run for block in found)
    sides = [block.title for block in found if block.file is None]
    assert sides == [PEERS[name].title, OURS] * (len(sides) // 2)


@pytest.mark.parametrize("name", PEERS)
def test_both_sides_print_what_the_page_says(name: str, tmp_path: Path) -> None:
    page = FOLDER / f"{name}.md"
    peer = PEERS[name]
    found = python_blocks(page)
    outputs = expected_outputs(found)
    python = Path(sys.executable) if peer.environment is None else python_of(peer.environment)
    theirs = [block for block in found if block.title == peer.title]
    ours = [block for block in found if block.title == OURS]

    with contextlib.ExitStack() as stack:
        env = dict(QUIET)
        places: dict[str, str] = {}
        if peer.port:
            port = str(free_port())
            places[f"127.0.0.1:{peer.port}"] = f"127.0.0.1:{port}"
            file = write_file(theirs, tmp_path, {f"port={peer.port}": f"port={port}"})
            command = [str(python), f"{file}.py"]
            stack.enter_context(running(command, tmp_path, ready=peer.ready, env=env))
        else:
            env["REPLICATE_BASE_URL"] = stack.enter_context(replicate_api())
            env["REPLICATE_API_TOKEN"] = "r8_example"
        file = write_file(ours, tmp_path, {})
        places[ADDRESS] = stack.enter_context(served(f"{file}:router", tmp_path))

        for side, interpreter in ((theirs, python), (ours, Path(sys.executable))):
            snippets = [block for block in side if block.file is None]
            printed = run(interpreter, page, snippets, places=places, env=env, folder=tmp_path)
            said = [outputs[block] for block in snippets]
            assert [text.strip() for text in printed] == [text.strip() for text in said], interpreter


def expected_outputs(found: Sequence[Block]) -> dict[Block, str]:
    """What each snippet prints: the output after a pair is that of both."""
    outputs = {}
    snippets = [block for block in found if block.file is None]
    for first, second in zip(snippets[::2], snippets[1::2], strict=True):
        assert second.output is not None, f"line {second.line}: no output after the pair"
        outputs[first] = second.output if first.output is None else first.output
        outputs[second] = second.output
    return outputs


def write_file(side: Sequence[Block], folder: Path, replaced: Mapping[str, str]) -> str:
    """Write the server of a side; gives its module's name."""
    [block] = [block for block in side if block.file is not None]
    code = block.code
    for old, new in replaced.items():
        assert old in code, f"{old} is not in {block.file}.py"
        code = code.replace(old, new)
    (folder / f"{block.file}.py").write_text(code, encoding="utf-8")
    assert block.file is not None
    return block.file


def run(
    python: Path,
    page: Path,
    snippets: Sequence[Block],
    *,
    places: Mapping[str, str],
    env: Mapping[str, str],
    folder: Path,
) -> list[str]:
    """Run the snippets of a side in one process; gives what each printed."""
    sources = []
    for block in snippets:
        source = block.padded
        for written, real in places.items():
            source = source.replace(written, real)
        sources.append((str(page), source))
    todo, done = folder / "blocks.json", folder / "outputs.json"
    todo.write_text(json.dumps(sources), encoding="utf-8")
    ended = subprocess.run(
        [str(python), str(HERE / "run_blocks.py"), str(todo), str(done)],
        cwd=folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.returncode == 0, ended.stdout
    outputs: list[str] = json.loads(done.read_text(encoding="utf-8"))
    return outputs
