"""The generate extension: flat objects in and out, and streams as Server-Sent Events."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from socaity_server import SocaityRouter
from tests.server.conftest import open_client
from tests.server.openinference.conftest import add_everything, refused

pytestmark = pytest.mark.anyio

GENERATE = "/v2/models/{}/generate"
STREAM = "/v2/models/{}/generate_stream"


@pytest.fixture
def client(shared_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_client


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_keys_are_inputs_and_outputs(client: httpx.AsyncClient) -> None:
    body = {"id": "7", "PROMPT": "hi", "STREAM": False, "parameters": {"REPETITION": 2, "other": 1}}

    answer = await client.post(GENERATE.format("mock"), json=body)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "id": "7",
        "model_name": "mock",
        "model_version": "1",
        "output": ["hi", "hi"],
        "text_output": ["hi", "hi"],
    }


async def test_a_single_element_is_a_scalar_and_none_is_a_list(client: httpx.AsyncClient) -> None:
    one = await client.post(GENERATE.format("mock"), json={"PROMPT": "hi", "STREAM": False})
    none = await client.post(GENERATE.format("mock"), json={"PROMPT": "hi", "STREAM": False, "REPETITION": 0})

    assert one.json()["output"] == "hi"
    assert none.json()["output"] == []
    assert "id" not in one.json()


async def test_the_text_input_is_the_only_text(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        GENERATE.format("repeat"), json={"text_input": "ab", "parameters": {"times": 3}}
    )

    assert answer.json()["text_output"] == "ababab"


async def test_models_are_asked_for_one_row(client: httpx.AsyncClient) -> None:
    answer = await client.post(GENERATE.format("fp32"), json={"INPUT0": [1, 2.5]})
    scalar = await client.post(GENERATE.format("fp32"), json={"INPUT0": 3})
    simple = await client.post(GENERATE.format("simple"), json={"INPUT0": [1] * 16, "INPUT1": [1] * 16})
    fixed = await client.post(GENERATE.format("fixed"), json={"INPUT0": [1, 2, 3, 4, 5, 6]})

    assert answer.json()["OUTPUT0"] == [1.0, 2.5]
    assert scalar.json()["OUTPUT0"] == 3.0
    assert simple.json()["OUTPUT0"] == [2] * 16
    assert fixed.json()["OUTPUT0"] == [1, 2, 3, 4, 5, 6]


async def test_a_generator_streams(client: httpx.AsyncClient) -> None:
    answer = await client.post(STREAM.format("words"), json={"id": "a", "text_input": "one two"})

    assert events(answer) == [
        {"id": "a", "model_name": "words", "model_version": "1", "output": word, "text_output": word}
        for word in ("one", "two")
    ]


async def test_an_async_generator_streams(client: httpx.AsyncClient) -> None:
    answer = await client.post(STREAM.format("numbers"), json={"count": 3})

    assert [event["output"] for event in events(answer)] == [0, 1, 2]


async def test_any_model_streams_its_one_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post(STREAM.format("repeat"), json={"text": "a"})

    assert [event["output"] for event in events(answer)] == ["aa"]


async def test_a_stream_without_an_answer_is_empty(client: httpx.AsyncClient) -> None:
    assert events(await client.post(STREAM.format("numbers"), json={"count": 0})) == []


async def test_a_failure_before_the_first_answer_has_a_status(client: httpx.AsyncClient) -> None:
    answer = await client.post(STREAM.format("words"), json={"text": "", "fail_last": True})

    refused(answer, 500, "no more words")


async def test_a_later_failure_is_an_event(client: httpx.AsyncClient) -> None:
    found = events(await client.post(STREAM.format("words"), json={"text": "a", "fail_last": True}))

    assert [event.get("output") for event in found] == ["a", None]
    assert list(found[1]) == ["error"]
    assert "no more words" in found[1]["error"]


@pytest.mark.parametrize("count", [0, 2])
async def test_generate_wants_exactly_one_answer(client: httpx.AsyncClient, count: int) -> None:
    answer = await client.post(GENERATE.format("numbers"), json={"count": count})
    one = await client.post(GENERATE.format("numbers"), json={"count": 1})

    refused(answer, 400, "generate expects model to produce exactly 1 response")
    assert one.json()["output"] == 0


@pytest.mark.parametrize(("count", "given"), [(0, "no answer"), (2, "more than one answer")])
async def test_infer_of_a_stream_does_not_speak_of_generate(
    client: httpx.AsyncClient, count: int, given: str
) -> None:
    one = {"name": "count", "shape": [1], "datatype": "INT64", "data": [count]}
    answer = await client.post("/v2/models/numbers/infer", json={"inputs": [one]})

    refused(answer, 400, f"the model 'numbers' streams and gave {given}, where infer wants exactly 1")
    assert "generate" not in answer.text


async def test_a_body_with_inputs_is_an_inference_request(client: httpx.AsyncClient) -> None:
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a b"]}]}

    generated = await client.post(GENERATE.format("repeat"), json=body)
    streamed = events(await client.post(STREAM.format("words"), json=body))
    inferred = events(await client.post("/v2/models/words/infer_stream", json=body))

    assert generated.json()["outputs"][0]["data"] == ["a ba b"]
    assert [event["outputs"][0]["data"] for event in streamed] == [["a"], ["b"]]
    assert inferred == streamed


# What is wrong


@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ('{"PROMPT":"a","PROMPT":"b","STREAM":false}', ["input 'PROMPT' already exists in request"]),
        (
            '{"PROMPT":"a","STREAM":false,"parameters":{"PROMPT":"b"}}',
            ["input 'PROMPT' already exists in request"],
        ),
        ("{}", ["expected number of inputs between 2 and 3 but got 0"]),
        ("", ["expected number of inputs between 2 and 3 but got 0"]),
        ('{"PROMPT":1,"STREAM":false}', ["attempt to access JSON non-string as string"]),
        ('{"PROMPT":"a","STREAM":"no"}', ["attempt to access JSON non-boolean as boolean"]),
        ('{"PROMPT":"a","STREAM":false,"parameters":[]}', ["Expected JSON object for keyword: 'parameters'"]),
        (
            '{"PROMPT":"a","STREAM":false,"parameters":{"nested":{"a":1}}}',
            ["parameter 'nested' has invalid type"],
        ),
        ('{"PROMPT":"a","STREAM":false,"nested":[1]}', ["parameter 'nested' has invalid type"]),
        ('{"PROMPT":"a","STREAM":false,"REPETITION":1.5}', ["REPETITION"]),
        ('{"PROMPT":"a","STREAM":false,"id":1}', ["attempt to access JSON non-string as string"]),
        ("[]", ["object"]),
        ("{", ["no JSON"]),
        ('{"PROMPT":' + "[" * 100_000, ["nested"]),
    ],
)
async def test_requests_that_are_wrong_are_refused(
    client: httpx.AsyncClient, path: str, body: str, texts: list[str]
) -> None:
    refused(await client.post(path.format("mock"), content=body), 400, *texts)


@pytest.mark.parametrize(
    ("values", "kind", "data"),
    [
        ([1, 2.5], "FP64", [1.0, 2.5]),
        ([2.5, 1], "FP64", [2.5, 1.0]),
        ([[1, 2], [3, 4.5]], "FP64", [1.0, 2.0, 3.0, 4.5]),
        ([1, None], "FP64", [1.0, None]),
        ([1, 2], "INT64", [1, 2]),
        ([0, 2**63], "UINT64", [0, 2**63]),
        ([True, False], "BOOL", [True, False]),
    ],
)
async def test_all_elements_say_the_datatype_where_it_is_free(
    values: list[Any], kind: str, data: list[Any]
) -> None:
    async with open_client(add_everything(SocaityRouter(grace=1.0))) as client:
        answer = await client.post(GENERATE.format("anything"), json={"x": values})
        (learned,) = (await client.get("/v2/models/anything")).json()["outputs"]

    assert answer.json()["output"] == data
    assert learned["datatype"] == kind


@pytest.mark.parametrize("values", [[1, "a"], [True, 1], [-1, 2**63], [1, [2.5]], [None, 1.5]])
async def test_elements_of_several_kinds_have_no_datatype(
    client: httpx.AsyncClient, values: list[Any]
) -> None:
    refused(await client.post(GENERATE.format("anything"), json={"x": values}), 400, "x")
