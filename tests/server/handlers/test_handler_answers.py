"""What handlers may answer with: everything that has one meaning; and what is said of the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.openinference.datatypes import TensorError
from socaity_server import SocaityRouter
from socaity_server.handlers import (
    Datatype,
    DefaultModelHandler,
    InferenceRequest,
    InferenceResponse,
    RequestInput,
    ResponseOutput,
)
from tests.server.conftest import open_client
from tests.server.openinference.conftest import read_answer, refused

pytestmark = pytest.mark.anyio

INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}


class Answering(DefaultModelHandler):
    """Answers with what it is made with."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def infer(self, payload: InferenceRequest, model_name: str, model_version: str | None = None) -> Any:
        return self.answer


async def ask(router: SocaityRouter, handler: DefaultModelHandler) -> httpx.Response:
    router.add_handler(handler, models="it")
    async with open_client(router) as client:
        return await client.post("/v2/models/it/infer", json={"inputs": [INPUT]})


def response(kind: str, shape: list[int], data: Any) -> InferenceResponse:
    output = ResponseOutput(name="y", shape=shape, datatype=Datatype(kind), data=data)
    return InferenceResponse(model_name="it", outputs=[output])


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        ("FP64", list(np.array([1.5, 2.5])), [1.5, 2.5]),
        ("FP32", list(np.array([1.5, 2.5], np.float32)), [1.5, 2.5]),
        ("INT64", list(np.array([1, 2])), [1, 2]),
        ("FP32", [1, np.float32(2)], [1.0, 2.0]),
        ("BOOL", list(np.array([True, False])), [True, False]),
        ("BYTES", list(np.array(["a", "ü"])), ["a", "ü"]),
        ("INT64", np.array([1, 2], ">i8"), [1, 2]),
        ("FP32", np.array([1.5, 2.5], ">f4"), [1.5, 2.5]),
        ("FP32", (1.5, np.float16(2.5)), [1.5, 2.5]),
    ],
)
async def test_what_numpy_makes_of_numbers_is_taken(
    router: SocaityRouter, kind: str, data: Any, expected: Any
) -> None:
    answer = await ask(router, Answering(response(kind, [2], data)))

    assert read_answer(answer)["y"] == (kind, [2], expected)


@pytest.mark.parametrize(
    "data", [list(np.ones((2, 2), np.float32)), [(1.0, 1.0), (1.0, 1.0)], ((1.0, 1.0), [np.float64(1), 1])]
)
async def test_lists_of_arrays_and_tuples_are_nested(router: SocaityRouter, data: Any) -> None:
    answer = await ask(router, Answering(response("FP32", [2, 2], data)))

    assert read_answer(answer)["y"] == ("FP32", [2, 2], [1.0] * 4)


@pytest.mark.parametrize(
    ("shape", "data", "expected"),
    [
        ([-1], [1, 2, 3], [3]),
        ([-1, 2], [[1, 2], [3, 4]], [2, 2]),
        ([-1, 2], [1, 2, 3, 4], [2, 2]),
        ([2, -1], [1, 2, 3, 4], [2, 2]),
        ([-1, -1], [[1, 2, 3]], [1, 3]),
        ([-1, -1], np.ones((3, 2), np.float32), [3, 2]),
        ([-1, 2], list(np.ones((3, 2), np.float32)), [3, 2]),
        ([-1], [], [0]),
        ([-1, 2], [], [0, 2]),
        ([-1], np.float32(7), [1]),
    ],
)
async def test_any_length_is_that_of_the_data(
    router: SocaityRouter, shape: list[int], data: Any, expected: list[int]
) -> None:
    answer = await ask(router, Answering(response("FP32", shape, data)))

    assert read_answer(answer)["y"][1] == expected


@pytest.mark.parametrize(
    ("kind", "shape", "data", "texts"),
    [
        ("FP32", [-1, -1], [1, 2], ["[-1, -1]", "[2]"]),
        ("FP32", [-1, 3], [1, 2, 3, 4], ["[-1, 3]", "[4]"]),
        ("FP32", [-1, 3], [[1, 2], [3, 4]], ["[2, 3]", "[2, 2]"]),
        ("FP32", [-1, 0], [1], ["[-1, 0]", "[1]"]),
        ("FP32", [-2], [1, 2], ["-2"]),
        ("FP32", [-1, 3], np.ones((2, 2), np.float32), ["[2, 3]", "[2, 2]"]),
        ("INT64", [1], [np.float64(1)], ["whole numbers", "1.0"]),
        ("INT64", [1], [True], ["whole numbers", "True"]),
        ("UINT8", [1], [np.int64(300)], ["300"]),
        ("FP32", [1], np.array([1.0]), ["float64"]),
    ],
)
async def test_what_has_another_meaning_is_not_taken(
    router: SocaityRouter, kind: str, shape: list[int], data: Any, texts: list[str]
) -> None:
    answer = await ask(router, Answering(response(kind, shape, data)))

    refused(answer, 500, "gave a wrong answer", "output ('y')", *texts)


def test_types_take_any_length_too() -> None:
    request = InferenceRequest(
        inputs=[
            RequestInput.model_validate({"name": "x", "shape": [-1, 2], "datatype": "FP32", "data": [[1, 2]]})
        ]
    )

    request.validate_oip()
    assert request.inputs[0].as_numpy().shape == (1, 2)
    wrong = InferenceRequest(inputs=[request.inputs[0].model_copy(update={"shape": [-1, 3]})])
    wrong.inputs[0]._array = None
    with pytest.raises(TensorError, match="'x'"):
        wrong.validate_oip()


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        (None, ["NoneType", "InferenceResponse"]),
        (RequestInput(name="x", shape=[1], datatype=Datatype.FP32, data=[1.0]), ["RequestInput"]),  # type: ignore[arg-type]
        ({"outputs": 7}, ["model_name", "outputs"]),
    ],
)
async def test_what_is_no_answer_is_said_in_one_line(
    router: SocaityRouter, answer: Any, texts: list[str]
) -> None:
    text = refused(await ask(router, Answering(answer)), 500, "wrong answer", *texts)

    assert "\n" not in text
    assert "pydantic" not in text


async def test_an_answer_may_be_a_dict(router: SocaityRouter) -> None:
    answer = await ask(router, Answering(response("FP32", [1], [2]).model_dump()))

    assert read_answer(answer)["y"] == ("FP32", [1], [2.0])


def _decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


async def test_an_async_handler_that_does_not_look_so_is_told(router: SocaityRouter) -> None:
    class Hidden(DefaultModelHandler):
        @_decorated
        async def infer(self, payload: Any, model_name: str, model_version: str | None = None) -> Any:
            raise AssertionError("nobody awaits it")

    refused(await ask(router, Hidden()), 500, "wrong answer", "async def")
