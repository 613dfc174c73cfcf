"""Schemathesis calls everything that `/openapi.json` describes, rightly and wrongly: nothing is answered as a bug of ours."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.environments import python_of

from .servers import ServerProcess

EXAMPLES = 10
"""For each operation, beside those at the edges of what its schema allows."""
SECONDS = 110

pytestmark = pytest.mark.timeout(600)  # it may have to be installed first


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("schema_service:router")
    process.start()
    yield process
    process.kill()


def test_no_call_is_answered_with_a_server_error(server: ServerProcess, tmp_path: Path) -> None:
    program = python_of("schemathesis").with_name("st")
    run = subprocess.run(
        [
            *(str(program), "run", f"{server.url}/openapi.json", "--checks", "not_a_server_error"),
            *("--max-examples", str(EXAMPLES), "--request-timeout", "10", "--seed", "7", "--no-color"),
        ],
        cwd=tmp_path,  # where it keeps what it has found
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    with urllib.request.urlopen(f"{server.url}/openapi.json", timeout=10) as answer:
        described = json.load(answer)
    operations = [method for path in described["paths"].values() for method in path]
    tested = re.search(r"Tested: (\d+)", run.stdout)
    assert tested is not None
    assert int(tested[1]) == len(operations)
    passed = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) > 10 * len(operations)
