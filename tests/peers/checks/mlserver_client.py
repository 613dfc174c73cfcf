"""MLServer's own client and types: `mlserver infer` over a file of requests, and every answer read with its models."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from checks import Address, Checks, is_same
from mlserver import types

check = Checks()
PATIENCE = 60.0


def ask(address: Address, path: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://{address.http}{path}", data, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return response.read().decode()


def question(number: int) -> dict[str, Any]:
    """As MLServer's types write it."""
    inputs = [
        types.RequestInput(name=f"INPUT{place}", shape=[1, 16], datatype="INT32", data=[number] * 16)
        for place in (0, 1)
    ]
    return json.loads(
        types.InferenceRequest(id=str(number), inputs=inputs).model_dump_json(exclude_none=True)
    )


@check("mlserver infer over a file of requests")
def _(address: Address) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given, answered = Path(folder) / "given.jsonl", Path(folder) / "answered.jsonl"
        given.write_text("".join(json.dumps(question(number)) + "\n" for number in range(50)))
        command = [sys.executable, "-m", "mlserver.cli.main", "infer", "-u", address.http, "-m", "simple"]
        command += ["-i", str(given), "-o", str(answered), "-w", "4", "-t", "rest"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        is_same(done.returncode, 0, f"the exit status ({done.stdout[-300:]}{done.stderr[-500:]})")
        answers = [json.loads(line) for line in answered.read_text().splitlines()]
    is_same(len(answers), 50, "how many answers there are")
    sums = sorted(answer["outputs"][0]["data"][0] for answer in answers)
    is_same(sums, sorted(2 * number for number in range(50)), "the sums")


@check("its types read metadata")
def _(address: Address) -> None:
    server = types.MetadataServerResponse.model_validate_json(ask(address, "/v2"))
    assert server.name, server
    model = types.MetadataModelResponse.model_validate_json(ask(address, "/v2/models/simple"))
    is_same(
        [(one.name, str(getattr(one.datatype, "value", one.datatype))) for one in model.inputs],
        [("INPUT0", "INT32"), ("INPUT1", "INT32")],
        "inputs",
    )


@check("its types read an answer")
def _(address: Address) -> None:
    text = ask(address, "/v2/models/simple/infer", question(3))
    answer = types.InferenceResponse.model_validate_json(text)
    is_same((answer.model_name, answer.id), ("simple", "3"), "the name and the id")
    is_same(list(answer.outputs[0].data), [6] * 16, "OUTPUT0")


@check("its types read the index")
def _(address: Address) -> None:
    text = ask(address, "/v2/repository/index", {"ready": False})
    index = types.RepositoryIndexResponse.model_validate_json(text)
    assert "simple" in {one.name for one in index}, text


if __name__ == "__main__":
    check.main()
