"""Outputs of functions have the datatype that their metadata says, whatever the values of a call are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.openinference.messages import InferRequest, RequestedOutput
from socaity_server import SocaityRouter
from socaity_server.openinference.outputs import answer
from socaity_server.openinference.signature import Signature, TensorMetadata
from tests.server.conftest import open_client
from tests.server.openinference.conftest import read_answer, tensor

pytestmark = pytest.mark.anyio

Array = np.ndarray[Any, Any]
Halves = np.ndarray[Any, np.dtype[np.float32]]


def add_functions(router: SocaityRouter) -> SocaityRouter:
    """Functions that return what their annotation allows."""

    @router.add_route("/words")
    def words(index: int) -> list[str]:
        return [["a"], []][index]

    @router.add_route("/whole")
    def whole(index: int) -> list[int]:
        return [[1], [], [True]][index]

    @router.add_route("/rows")
    def rows(index: int) -> list[list[float]]:
        return [[[1.5]], [], [[], []], [[1, 2]]][index]

    @router.add_route("/texts")
    def texts(index: int) -> list[list[str]]:
        return [[["a"]], [[]]][index]

    @router.add_route("/number")
    def number(index: int) -> float:
        return [1.5, 3, True][index]

    @router.add_route("/array")
    def array(index: int) -> Halves:
        return [np.ones(2, np.float32), np.ones(2), np.ones(2, int), np.ones((0, 3))][index]  # type: ignore[return-value]

    @router.add_route("/several")
    def several(index: int) -> dict[str, Any]:
        return {"a": index}

    @router.add_route("/stream")
    def stream(index: int) -> Iterator[float]:
        yield from [1.5, 2, 3]

    @router.add_route("/large")
    def large(index: int) -> int:
        return [1, 2**63][index]

    @router.add_route("/wrong")
    def wrong(index: int) -> int:
        found: Any = [1, 1.5, "a", [1, "a"]][index]
        return found  # type: ignore[no-any-return]

    return router


@pytest.fixture
async def functions(router: SocaityRouter) -> Any:
    async with open_client(add_functions(SocaityRouter(grace=1.0))) as client:
        yield client


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("words", 1, ("BYTES", [0], [])),
        ("whole", 1, ("INT64", [0], [])),
        ("whole", 2, ("INT64", [1], [1])),
        ("rows", 1, ("FP64", [0, 0], [])),
        ("rows", 2, ("FP64", [2, 0], [])),
        ("rows", 3, ("FP64", [1, 2], [1.0, 2.0])),
        ("texts", 1, ("BYTES", [1, 0], [])),
        ("number", 1, ("FP64", [1], [3.0])),
        ("number", 2, ("FP64", [1], [1.0])),
        ("array", 0, ("FP32", [2], [1.0, 1.0])),
        ("array", 1, ("FP32", [2], [1.0, 1.0])),
        ("array", 2, ("FP32", [2], [1.0, 1.0])),
        ("array", 3, ("FP32", [0, 3], [])),
    ],
)
async def test_an_output_has_the_datatype_that_the_metadata_says(
    functions: httpx.AsyncClient, name: str, index: int, expected: tuple[str, list[int], list[Any]]
) -> None:
    body = {"inputs": [tensor("index", np.array([index]), "INT64")]}

    (declared,) = (await functions.get(f"/v2/models/{name}")).json()["outputs"]
    found = read_answer(await functions.post(f"/v2/models/{name}/infer", json=body))["output"]

    assert found == expected
    assert found[0] == declared["datatype"]


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("large", 1, ("UINT64", [1], [2**63])),
        ("wrong", 1, ("FP64", [1], [1.5])),
        ("wrong", 2, ("BYTES", [1], ["a"])),
        ("wrong", 3, ("BYTES", [1], ['[1,"a"]'])),
        ("several", 1, None),
    ],
)
async def test_a_value_that_does_not_fit_says_what_it_is(
    functions: httpx.AsyncClient, name: str, index: int, expected: Any
) -> None:
    body = {"inputs": [tensor("index", np.array([index]), "INT64")]}

    found = read_answer(await functions.post(f"/v2/models/{name}/infer", json=body))

    assert found == ({"a": ("INT64", [1], [1])} if expected is None else {"output": expected})


async def test_every_value_of_a_generator_has_it(functions: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("index", np.array([0]), "INT64")]}

    events = (await functions.post("/v2/models/stream/infer_stream", json=body)).text

    assert events.count('"datatype":"FP64"') == 3
    assert "INT64" not in events


def test_bf16_is_that_of_the_metadata() -> None:
    signature = Signature("m", [], [TensorMetadata("y", "BF16", (-1,))])

    for array in (np.ones(2, np.float32), np.ones(2), np.ones(0)):
        (output,) = answer(InferRequest("m", []), {"y": array}, signature, version="1").outputs
        assert (output.datatype, output.shape) == ("BF16", array.shape)
        assert output.data is not None
        assert output.data.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinity_is_higher_than_the_largest_number(dtype: Any) -> None:
    largest = np.finfo(dtype).max
    array = np.array([largest, np.nan, np.inf, -np.inf, 1], dtype)
    signature = Signature("m", [], [TensorMetadata("y", None, None)], knows_outputs=False)
    wanted = InferRequest("m", [], outputs=[RequestedOutput("y", {"classification": 3})])

    (output,) = answer(wanted, {"y": array}, signature, version="1").outputs

    assert output.data is not None
    assert output.data.tolist() == [b"inf:2", f"{float(largest):f}:0".encode(), b"1.000000:4"]
