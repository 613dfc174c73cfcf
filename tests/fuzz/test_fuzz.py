"""A coverage-guided fuzzer finds nothing in the readers of bytes from outside; `FUZZ_SECONDS=600` lets it look for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from socaity.protocol.messagepack import packb
from socaity.protocol.openinference import grpc, rest
from socaity.protocol.openinference.messages import InferRequest, Tensor

pytestmark = pytest.mark.skipif(
    find_spec("atheris") is None and "CI" not in os.environ,
    reason="atheris is there for Linux on x86-64 only",
)

SECONDS = int(os.environ.get("FUZZ_SECONDS", "4"))
RUNS = 1_000_000
LIMITS = ["-timeout=5", "-rss_limit_mb=2048", "-malloc_limit_mb=256", "-max_len=4096", "-verbosity=0"]


def samples() -> dict[str, list[bytes]]:
    """What is well-formed, from which the fuzzer goes on."""
    tensors = [
        Tensor("x", "FP32", (2, 2), np.ones((2, 2), np.float32), is_binary=True),
        Tensor("s", "BYTES", (2,), np.array([b"a", b"\xff"], object), is_binary=True),
        Tensor("h", "BF16", (1,), np.ones(1, np.float32), is_binary=True),
    ]
    request = InferRequest("m", tensors, id="1", parameters={"a": 1, "b": True, "c": "d", "e": 0.5})
    body, length = rest.write_request(request)
    assert length is not None
    message = grpc.write_request(request)
    for tensor in tensors[:2]:
        tensor.is_binary = False
    tensors[1].data = np.array([b"a", b"b"], object)
    plain, _ = rest.write_request(InferRequest("m", tensors[:2], outputs=[]))
    typed = type(message)(model_name="m")
    typed.inputs.add(name="x", datatype="INT8", shape=[2]).contents.int_contents.extend([1, -1])
    return {
        "rest_request": [
            length.to_bytes(2, "little") + b"".join(body),
            b"\xff\xff" + b"".join(plain),
            b"\0\0abc",
        ],
        "header_length": [b"17", b" 4294967296"],
        "grpc_request": [message.SerializeToString(), typed.SerializeToString()],
        "frame": [packb([1, 0, [[1, "a", np.ones(3, np.float32)], [7, 1, 4, b"abcd"]]])],
        "value": [packb({"a": [1, 2.5, None, "x", np.arange(4)]})],
    }


@pytest.mark.parametrize("target", ["rest_request", "header_length", "grpc_request", "frame", "value"])
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "samples"
    corpus.mkdir()
    for number, sample in enumerate(samples()[target]):
        (corpus / str(number)).write_bytes(sample)
    program = Path(__file__).with_name("target.py")
    run = subprocess.run(
        [
            *(sys.executable, str(program), target),
            *LIMITS,
            f"-runs={RUNS}",
            f"-max_total_time={SECONDS}",
            f"-artifact_prefix={tmp_path}/",
            str(corpus),
        ],
        capture_output=True,
        text=True,
        timeout=SECONDS + 50,
        check=False,
    )
    found = sorted(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert (run.returncode, found) == (0, []), run.stderr[-3000:]
