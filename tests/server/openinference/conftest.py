"""A service with models for every corner of the protocol, and what tests send to it."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from socaity_server import SocaityRouter
from socaity_server.model_config import ModelConfig
from socaity_server.runtimes.base import Runtime, TensorSpec
from tests.server.conftest import Gate, open_client

Array = np.ndarray[Any, Any]
LENGTH = "Inference-Header-Content-Length"


class Simple(Runtime):
    """The sum and the difference of two rows of 16 whole numbers."""

    name = "simple 1"
    inputs = (TensorSpec("INPUT0", "int32", (None, 16)), TensorSpec("INPUT1", "int32", (None, 16)))
    outputs = (TensorSpec("OUTPUT0", "int32", (None, 16)), TensorSpec("OUTPUT1", "int32", (None, 16)))
    batched = True

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        first, second = inputs["INPUT0"], inputs["INPUT1"]
        return {"OUTPUT0": first + second, "OUTPUT1": first - second}


class Identity(Runtime):
    """Gives its only input back, of any shape with one axis more than the batch."""

    name = "identity 1"
    batched = True

    def __init__(self, dtype: str, shape: tuple[int | None, ...] = (None, None)) -> None:
        self.inputs = (TensorSpec("INPUT0", dtype, shape),)
        self.outputs = (TensorSpec("OUTPUT0", dtype, shape),)
        self.batched = shape[:1] == (None,)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"OUTPUT0": inputs["INPUT0"]}


class Gated(Identity):
    """Waits for a gate."""

    def __init__(self, gate: Gate) -> None:
        super().__init__("float32")
        self.gate = gate
        self.rows: list[int] = []
        self.lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self.lock:
            self.rows += inputs["INPUT0"][:, 0].astype(int).tolist()
        self.gate()
        return super().run(inputs)


def add_everything(router: SocaityRouter) -> SocaityRouter:
    """Models and functions of every kind."""
    router.add_model(Simple(), name="simple")
    router.add_model(Identity("float32"), name="fp32", config=ModelConfig(allow_nan=True))
    router.add_model(Identity("uint8"), name="uint8")
    router.add_model(Identity("float32", (2, 3)), name="fixed")
    router.add_model(Identity("object"), name="text")
    router.add_model(Identity("object", (None, 1)), name="word")
    router.add_model(Identity("float32", (None, None, None)), name="two_free")

    @router.add_route("/anything", max_batch_size=8)
    def anything(x: Array) -> Array:
        return x

    @router.add_route("/repeat")
    def repeat(text: str, times: int = 2, loud: bool = False) -> str:
        return (text.upper() if loud else text) * times

    @router.add_route("/same_bytes")
    def same_bytes(data: bytes) -> bytes:
        return data

    @router.add_route("/mean")
    async def mean(values: list[float], weight: float = 1.0) -> dict[str, float]:
        return {"mean": weight * sum(values) / len(values), "weight": weight}

    @router.add_route("/words")
    def words(text: str, fail_last: bool = False) -> Iterator[str]:
        yield from text.split()
        if fail_last:
            raise ValueError("no more words")

    @router.add_route("/numbers")
    async def numbers(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @router.add_route("/queued", queue_size=3)
    def queued(x: np.ndarray[Any, np.dtype[np.float32]]) -> Array:
        return x * 2

    @router.add_route("/mock")
    def mock(PROMPT: str, STREAM: bool, REPETITION: int = 1) -> list[str]:
        return [PROMPT] * REPETITION

    @router.add_route("/files")
    def files(path: dict[str, str]) -> str:
        return "not for this protocol"

    return router


@pytest.fixture
def router(router: SocaityRouter) -> SocaityRouter:
    return add_everything(router)


@pytest.fixture(scope="module")
async def shared_client() -> AsyncIterator[httpx.AsyncClient]:
    """Of one service for all tests of a file, which leave it as it is."""
    async with open_client(add_everything(SocaityRouter(grace=1.0))) as client:
        yield client


def tensor(name: str, array: Array, kind: str, *, binary: bool = False) -> dict[str, Any]:
    """An input as JSON says it; where it is binary its bytes come from `raw_of`."""
    entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": kind}
    if binary:
        return {**entry, "parameters": {"binary_data_size": len(raw_of(array))}}
    return {**entry, "data": array.reshape(-1).tolist()}


def raw_of(array: Array) -> bytes:
    """The raw form, written down here once more so that the codec is not its own judge."""
    if array.dtype.kind != "O":
        return array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.reshape(-1))


def binary_body(
    inputs: Sequence[tuple[dict[str, Any], bytes]], **document: Any
) -> tuple[bytes, dict[str, str]]:
    """The body of a binary request, and its header."""
    text = json.dumps({"inputs": [entry for entry, _ in inputs], **document}).encode()
    return text + b"".join(data for _, data in inputs), {LENGTH: str(len(text))}


def read_answer(answer: httpx.Response) -> dict[str, tuple[str, list[int], Any]]:
    """Datatype, shape and data by output; the data is bytes where it was binary, else as JSON has it."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(LENGTH)
    body = answer.content
    document = json.loads(body if length is None else body[: int(length)])
    rest = b"" if length is None else body[int(length) :]
    found = {}
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        data = output.get("data")
        if size is not None:
            assert data is None
            data, rest = rest[:size], rest[size:]
        found[output["name"]] = (output["datatype"], output["shape"], data)
    assert not rest
    return found


def refused(answer: httpx.Response, status: int, *texts: str) -> str:
    """The message of an error, which has the form that clients need."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert "content-encoding" not in answer.headers
    document = answer.json()
    assert list(document) == ["error"]
    for text in texts:
        assert text in document["error"], document["error"]
    message: str = document["error"]
    return message
