"""Schemathesis calls everything that `/openapi.json` describes, rightly and wrongly: nothing is answered as a bug of ours."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.environments import python_of

from .servers import ServerProcess

EXAMPLES = 10
"""For each operation, beside those at the edges of what its schema allows."""
SECONDS = 110
KNOWN = {"model_name": ["doubling", "total", "spell", "none"], "model_version": ["1", "2"]}
"""What nobody could guess; the last of each is not there."""

pytestmark = pytest.mark.timeout(600)  # it may have to be installed first


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess("schema_service:router")
    process.start()
    yield process
    process.kill()


def read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def test_no_call_is_answered_with_a_server_error(server: ServerProcess, tmp_path: Path) -> None:
    described = read(f"{server.url}/openapi.json")
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    for operation in operations:
        for parameter in operation.get("parameters", ()):
            if parameter["name"] in KNOWN:
                parameter["schema"]["enum"] = KNOWN[parameter["name"]]
    (tmp_path / "openapi.json").write_text(json.dumps(described))
    program = python_of("schemathesis").with_name("st")
    run = subprocess.run(
        [
            *(str(program), "run", "openapi.json", "--url", server.url, "--checks", "not_a_server_error"),
            *("--max-examples", str(EXAMPLES), "--request-timeout", "10", "--seed", "7", "--no-color"),
        ],
        cwd=tmp_path,  # where it keeps what it has found
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", run.stdout)
    assert tested is not None
    assert int(tested[1]) == len(operations)
    passed = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) == int(passed[2]) > 10 * len(operations)
    # and not only the names of models that are not there
    counts = read(f"{server.url}/v2/models/total/stats")["model_stats"][0]["inference_stats"]
    assert counts["success"]["count"] + counts["fail"]["count"] > 0
