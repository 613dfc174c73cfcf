"""Inference over REST: every datatype in both forms, any mix of them, and what a request may say besides."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from socaity_server import SocaityRouter
from tests.server.conftest import open_client
from tests.server.openinference.conftest import (
    LENGTH,
    Identity,
    binary_body,
    raw_of,
    read_answer,
    refused,
    tensor,
)

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]

INFER = "/v2/models/{}/infer"
ONE = np.arange(16, dtype=np.int32).reshape(1, 16)
TWO = np.ones((1, 16), np.int32)


def texts(*values: bytes) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(1, -1)


SAMPLES: dict[str, Array] = {
    "BOOL": np.array([[True, False, True]]),
    **{
        kind: np.array([[np.iinfo(kind.lower()).min, 0, np.iinfo(kind.lower()).max]], kind.lower())
        for kind in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
    },
    "FP16": np.array([[0.5, -2.0, 65504.0]], np.float16),
    "FP32": np.array([[0.1, -2.0, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -2.0, 1.7e308]]),
    "BYTES": texts("grüße".encode(), b"", b"x" * 300),
}


@pytest.fixture
def client(shared_client: httpx.AsyncClient) -> httpx.AsyncClient:
    return shared_client


async def test_a_model_answers_in_json(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", ONE, "INT32"), tensor("INPUT1", TWO, "INT32")]}

    answer = await client.post(INFER.format("simple"), json=body)

    assert answer.json() == {
        "model_name": "simple",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "shape": [1, 16], "datatype": "INT32", "data": (ONE + 1).ravel().tolist()},
            {"name": "OUTPUT1", "shape": [1, 16], "datatype": "INT32", "data": (ONE - 1).ravel().tolist()},
        ],
    }


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
async def test_every_datatype_comes_back_as_it_went(
    client: httpx.AsyncClient, kind: str, binary_in: bool, binary_out: bool
) -> None:
    array = SAMPLES[kind]
    data = raw_of(array)
    plain = [one.decode() for one in array.ravel()] if kind == "BYTES" else array.ravel().tolist()
    entry = tensor("x", array, kind, binary=binary_in)
    if not binary_in:
        entry["data"] = plain
    body, headers = binary_body(
        [(entry, data if binary_in else b"")], parameters={"binary_data_output": binary_out}
    )
    if not binary_in:
        del headers[LENGTH]

    output = read_answer(await client.post(INFER.format("anything"), content=body, headers=headers))["output"]

    assert output[:2] == (kind, [1, 3])
    if binary_out:
        assert output[2] == data
    elif kind in ("FP16", "FP32"):
        assert np.array(output[2], array.dtype).tolist() == plain
    else:
        assert output[2] == plain


async def test_bfloat16_keeps_its_bits(client: httpx.AsyncClient) -> None:
    data = np.array([0x3F80, 0x0001, 0xC0FF], "<u2").tobytes()
    entry = {"name": "x", "shape": [1, 3], "datatype": "BF16", "parameters": {"binary_data_size": 6}}
    body, headers = binary_body([(entry, data)], parameters={"binary_data_output": True})

    answer = read_answer(await client.post(INFER.format("anything"), content=body, headers=headers))

    assert answer == {"output": ("BF16", [1, 3], data)}


async def test_a_datatype_is_not_kept_for_the_next_request(client: httpx.AsyncClient) -> None:
    for kind, data in (("BF16", b"\x80\x3f"), ("FP32", b"\x00\x00\x80\x3f"), ("INT8", b"\x01")):
        entry = {"name": "x", "shape": [1], "datatype": kind, "parameters": {"binary_data_size": len(data)}}
        body, headers = binary_body([(entry, data)], parameters={"binary_data_output": True})
        answer = await client.post(INFER.format("anything"), content=body, headers=headers)
        assert read_answer(answer) == {"output": (kind, [1], data)}


async def test_a_model_may_declare_bfloat16(router: SocaityRouter) -> None:
    router.add_model(Identity("bfloat16"), name="bf16")
    data = np.array([0x3F80, 0x0001, 0xC0FF], "<u2").tobytes()
    entry = {"name": "INPUT0", "shape": [1, 3], "datatype": "BF16", "parameters": {"binary_data_size": 6}}
    body, headers = binary_body([(entry, data)], parameters={"binary_data_output": True})

    async with open_client(router) as client:
        answer = await client.post(INFER.format("bf16"), content=body, headers=headers)
        metadata = (await client.get("/v2/models/bf16")).json()

    assert read_answer(answer) == {"OUTPUT0": ("BF16", [1, 3], data)}
    assert metadata["outputs"] == [{"name": "OUTPUT0", "datatype": "BF16", "shape": [-1, -1]}]


async def test_json_and_binary_are_mixed_at_will(client: httpx.AsyncClient) -> None:
    body, headers = binary_body(
        [
            (tensor("INPUT1", TWO, "INT32", binary=True), raw_of(TWO)),
            (tensor("INPUT0", ONE, "INT32"), b""),
        ],
        parameters={"binary_data_output": True},
        outputs=[{"name": "OUTPUT1"}, {"name": "OUTPUT0", "parameters": {"binary_data": False}}],
    )

    answer = await client.post(INFER.format("simple"), content=body, headers=headers)

    found = read_answer(answer)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert list(found) == ["OUTPUT1", "OUTPUT0"]
    assert found["OUTPUT1"][2] == raw_of(ONE - TWO)
    assert found["OUTPUT0"][2] == (ONE + TWO).ravel().tolist()


async def test_an_id_comes_back_and_none_is_left_out(client: httpx.AsyncClient) -> None:
    inputs = [tensor("INPUT0", ONE, "INT32"), tensor("INPUT1", TWO, "INT32")]

    named = await client.post(INFER.format("simple"), json={"id": "a/b ü", "inputs": inputs})
    empty = await client.post(INFER.format("simple"), json={"id": "", "inputs": inputs})

    assert named.json()["id"] == "a/b ü"
    assert "id" not in empty.json()


async def test_no_field_of_an_answer_is_null(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        INFER.format("fixed"), json={"inputs": [tensor("INPUT0", np.ones((2, 3)), "FP32")]}
    )

    def values(document: Any) -> list[Any]:
        if isinstance(document, dict):
            return [one for value in document.values() for one in values(value)]
        return (
            [one for value in document for one in values(value)] if isinstance(document, list) else [document]
        )

    assert None not in values(answer.json())


async def test_unknown_keys_of_a_request_are_ignored(client: httpx.AsyncClient) -> None:
    body = {"model_name": "other", "inputs": [tensor("INPUT0", np.ones((2, 3)), "FP32")], "extra": {"a": [1]}}

    assert (await client.post(INFER.format("fixed"), json=body)).json()["model_name"] == "fixed"


@pytest.mark.parametrize(
    "content_type", ["", "application/octet-stream", "text/plain", "application/json; charset=utf-8"]
)
async def test_the_content_type_does_not_matter(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps({"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")]}).encode()

    answer = await client.post(INFER.format("fp32"), content=body, headers={"content-type": content_type})

    assert read_answer(answer)["OUTPUT0"] == ("FP32", [1, 2], [1.0, 1.0])


async def test_whole_numbers_are_taken_for_floats(client: httpx.AsyncClient) -> None:
    body = {"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}

    assert read_answer(await client.post(INFER.format("fp32"), json=body))["OUTPUT0"][2] == [1, 2, 3, 4]


async def test_nested_data_is_as_good_as_flat(client: httpx.AsyncClient) -> None:
    entry = {"name": "x", "shape": [2, 1, 2, 1], "datatype": "INT8", "data": [[[[1], [2]]], [[[3], [4]]]]}

    answer = await client.post(INFER.format("anything"), json={"inputs": [entry]})

    assert read_answer(answer)["output"] == ("INT8", [2, 1, 2, 1], [1, 2, 3, 4])


@pytest.mark.parametrize("value", [300, -1, True, 2.5, "7", None])
async def test_a_value_that_is_no_uint8_is_refused(client: httpx.AsyncClient, value: Any) -> None:
    body = {"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "UINT8", "data": [1, value]}]}

    refused(await client.post(INFER.format("uint8"), json=body), 400, "INPUT0", "UINT8")


async def test_numbers_that_are_none_come_back_as_null(client: httpx.AsyncClient) -> None:
    body = (
        b'{"inputs":[{"name":"INPUT0","shape":[1,4],"datatype":"FP32","data":[NaN,Infinity,-Infinity,1.5]}]}'
    )

    plain = await client.post(INFER.format("fp32"), content=body)
    binary = await client.post(
        INFER.format("fp32"), content=body[:-1] + b',"parameters":{"binary_data_output":true}}'
    )

    assert read_answer(plain)["OUTPUT0"][2] == [None, None, None, 1.5]
    found = np.frombuffer(read_answer(binary)["OUTPUT0"][2], "<f4")
    np.testing.assert_array_equal(found, np.array([np.nan, np.inf, -np.inf, 1.5], np.float32))


async def test_a_batch_without_rows_has_the_shapes_that_it_gives_itself(router: SocaityRouter) -> None:
    """Not those of the call before: nobody has said which shapes the function gives."""

    @router.add_route("/total", max_batch_size=8)
    def total(x: Array) -> Array:
        return x.sum() if not len(x) else x

    @router.add_route("/highest", max_batch_size=8)
    def highest(x: Array) -> Array:
        x.max()  # there is none without rows
        return x

    async with open_client(router) as client:

        async def answer(model: str, shape: list[int]) -> httpx.Response:
            entry = {"name": "x", "shape": shape, "datatype": "FP32", "data": [1.0] * shape[0]}
            return await client.post(INFER.format(model), json={"inputs": [entry]})

        for model in ("anything", "total", "highest"):
            assert (await answer(model, [2])).status_code == 200

        assert read_answer(await answer("anything", [0, 3])) == {"output": ("FP32", [0, 3], [])}
        assert read_answer(await answer("highest", [0])) == {"output": ("FP32", [0], [])}
        refused(await answer("total", [0]), 500, "a batch of 0 rows gave a result of shape []")


@pytest.mark.parametrize(
    ("model", "shape"), [("anything", [0]), ("fp32", [0, 3]), ("fp32", [2, 0]), ("simple", [0, 16])]
)
async def test_an_empty_tensor_is_no_error(client: httpx.AsyncClient, model: str, shape: list[int]) -> None:
    kind, names = ("INT32", ["INPUT0", "INPUT1"]) if model == "simple" else ("FP32", ["INPUT0"])
    if model == "anything":
        names = ["x"]
    inputs = [{"name": name, "shape": shape, "datatype": kind, "data": []} for name in names]

    found = read_answer(await client.post(INFER.format(model), json={"inputs": inputs}))

    for name, output in found.items():
        assert output[0] == kind, name
        assert output[2] == []
        assert len(output[1]) == len(shape)


async def test_an_empty_binary_tensor_needs_no_header(client: httpx.AsyncClient) -> None:
    entry = {
        "name": "x",
        "shape": [0],
        "datatype": "FP64",
        "parameters": {"binary_data_size": 0},
        "data": None,
    }

    answer = await client.post(INFER.format("anything"), json={"inputs": [entry]})

    assert read_answer(answer)["output"] == ("FP64", [0], [])


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", "ÿ".encode("latin-1"), b"plain"])
@pytest.mark.parametrize("model", ["text", "same_bytes", "repeat"])
async def test_any_bytes_survive(client: httpx.AsyncClient, model: str, data: bytes) -> None:
    name, shape = {"text": ("INPUT0", [1, 1]), "same_bytes": ("data", [1]), "repeat": ("text", [1])}[model]
    raw = len(data).to_bytes(4, "little") + data
    entry = {"name": name, "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary_body([(entry, raw)], parameters={"binary_data_output": True, "times": 1})

    (output,) = read_answer(await client.post(INFER.format(model), content=body, headers=headers)).values()

    assert output == ("BYTES", shape, raw)


async def test_bytes_that_are_no_text_have_no_form_in_json(client: httpx.AsyncClient) -> None:
    raw = b"\x01\x00\x00\x00\xff"
    entry = {"name": "data", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    body, headers = binary_body([(entry, raw)])

    refused(
        await client.post(INFER.format("same_bytes"), content=body, headers=headers),
        400,
        "binary_data_output",
    )


async def test_the_rows_of_one_request_are_one_call(client: httpx.AsyncClient) -> None:
    one = [tensor("INPUT0", ONE, "INT32"), tensor("INPUT1", TWO, "INT32")]
    await client.post(INFER.format("simple"), json={"inputs": one})
    array = np.arange(80, dtype=np.int32).reshape(5, 16)
    inputs = [tensor("INPUT0", array, "INT32"), tensor("INPUT1", array, "INT32")]

    (before,) = (await client.get("/v2/models/simple/stats")).json()["model_stats"]
    found = read_answer(await client.post(INFER.format("simple"), json={"inputs": inputs}))
    (after,) = (await client.get("/v2/models/simple/stats")).json()["model_stats"]

    assert found["OUTPUT0"] == ("INT32", [5, 16], (2 * array).ravel().tolist())
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert [one["batch_size"] for one in after["batch_stats"]] == [1, 5]


async def test_more_rows_than_a_batch_come_back_together(client: httpx.AsyncClient) -> None:
    array = np.arange(1000, dtype=np.float64).reshape(1000, 1)
    entry = tensor("x", array, "FP64", binary=True)
    body, headers = binary_body([(entry, raw_of(array))], parameters={"binary_data_output": True})

    found = read_answer(await client.post(INFER.format("anything"), content=body, headers=headers))

    assert found["output"] == ("FP64", [1000, 1], raw_of(array))


# Raw requests


async def test_a_body_that_is_nothing_but_numbers_is_one_row(client: httpx.AsyncClient) -> None:
    data = np.array([1.5, 2.5, 3.5], "<f4").tobytes()

    answer = await client.post(INFER.format("fp32"), content=data, headers={LENGTH: "0"})

    assert read_answer(answer)["OUTPUT0"] == ("FP32", [1, 3], data)


async def test_a_raw_request_of_a_model_without_a_batch_has_its_shape(client: httpx.AsyncClient) -> None:
    data = np.arange(6, dtype="<f4").tobytes()

    answer = await client.post(INFER.format("fixed"), content=data, headers={LENGTH: "0"})

    assert read_answer(answer)["OUTPUT0"] == ("FP32", [2, 3], data)


async def test_raw_text_has_no_length_in_front(client: httpx.AsyncClient) -> None:
    answer = await client.post(INFER.format("word"), content=b"hello", headers={LENGTH: "0"})

    assert read_answer(answer)["OUTPUT0"] == ("BYTES", [1, 1], b"\x05\x00\x00\x00hello")


# Compression


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_requests_may_be_packed(client: httpx.AsyncClient, coding: str) -> None:
    array = np.zeros((1, 100_000), np.float32)
    body, headers = binary_body(
        [(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))],
        outputs=[{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
    )
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)

    answer = await client.post(
        INFER.format("fp32"), content=packed, headers={**headers, "content-encoding": coding}
    )

    assert read_answer(answer)["OUTPUT0"][2] == raw_of(array)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [4, 100_000])
async def test_answers_are_packed_for_who_accepts_nothing_else(
    client: httpx.AsyncClient, coding: str, size: int
) -> None:
    array = np.zeros((1, size), np.float32)
    body, headers = binary_body(
        [(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))],
        parameters={"binary_data_output": True},
    )

    answer = await client.post(
        INFER.format("fp32"), content=body, headers={**headers, "accept-encoding": coding}
    )

    assert answer.headers["content-encoding"] == coding
    assert read_answer(answer)["OUTPUT0"][2] == raw_of(array)


async def test_an_answer_is_not_packed_by_habit(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", np.zeros((1, 2)), "FP32")]}

    answer = await client.post(
        INFER.format("fp32"), json=body, headers={"accept-encoding": "gzip, deflate, br"}
    )
    listed = await client.get("/v2/models", headers={"accept-encoding": "gzip"})
    wrong = await client.post(INFER.format("fp32"), json={}, headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in answer.headers
    assert "content-encoding" not in listed.headers
    refused(wrong, 400)


# What does not fit


async def test_a_wrong_shape_says_what_was_expected(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2), int), "INT32"), tensor("INPUT1", TWO, "INT32")]}

    refused(await client.post(INFER.format("simple"), json=body), 400, "INPUT0", "[-1,16]", "[1,2]")


async def test_a_wrong_datatype_says_what_was_expected(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", ONE, "INT64"), tensor("INPUT1", TWO, "INT32")]}

    refused(await client.post(INFER.format("simple"), json=body), 400, "INPUT0", "'INT64'", "'INT32'")


async def test_inputs_of_different_batch_sizes_are_refused(client: httpx.AsyncClient) -> None:
    two = np.ones((2, 16), np.int32)
    body = {"inputs": [tensor("INPUT0", ONE, "INT32"), tensor("INPUT1", two, "INT32")]}

    refused(await client.post(INFER.format("simple"), json=body), 400, "INPUT0", "INPUT1", "batch size")


async def test_missing_and_unknown_inputs_are_named(client: httpx.AsyncClient) -> None:
    missing = {"inputs": [tensor("INPUT0", ONE, "INT32")]}
    unknown = {"inputs": [tensor("INPUT7", ONE, "INT32")]}

    refused(
        await client.post(INFER.format("simple"), json=missing), 400, "expected 2 inputs but got 1", "INPUT1"
    )
    refused(await client.post(INFER.format("simple"), json=unknown), 400, "INPUT7")


@pytest.mark.parametrize("model", ["fp32", "anything"])
async def test_an_unknown_output_is_refused(client: httpx.AsyncClient, model: str) -> None:
    name = "INPUT0" if model == "fp32" else "x"
    body = {"inputs": [tensor(name, np.ones((1, 2)), "FP32")], "outputs": [{"name": "nothing"}]}

    refused(await client.post(INFER.format(model), json=body), 400, "'nothing'")


async def test_a_request_without_inputs_is_refused(client: httpx.AsyncClient) -> None:
    refused(
        await client.post(INFER.format("simple"), json={"inputs": []}), 400, "expected 2 inputs but got 0"
    )
    refused(await client.post(INFER.format("simple"), json={}), 400, "inputs")
    refused(await client.post(INFER.format("simple")), 400, "no JSON")


async def test_what_a_model_raises_is_said(client: httpx.AsyncClient) -> None:
    body = {"inputs": [{"name": "values", "shape": [0], "datatype": "FP64", "data": []}]}

    message = refused(await client.post(INFER.format("mean"), json=body), 500, "ZeroDivisionError")

    assert "Traceback" not in message


# Functions


async def test_functions_are_models(client: httpx.AsyncClient) -> None:
    body = {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["ab"]}],
        "parameters": {"times": 3, "loud": True},
    }

    answer = await client.post(INFER.format("repeat"), json=body)

    assert read_answer(answer)["output"] == ("BYTES", [1], ["ABABAB"])


async def test_optional_parameters_are_optional_inputs(client: httpx.AsyncClient) -> None:
    values = {"name": "values", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]}
    weight = {"name": "weight", "shape": [1], "datatype": "FP64", "data": [2.0]}

    alone = await client.post(INFER.format("mean"), json={"inputs": [values]})
    both = await client.post(INFER.format("mean"), json={"inputs": [weight, values]})

    assert read_answer(alone) == {"mean": ("FP64", [1], [1.5]), "weight": ("FP64", [1], [1.0])}
    assert read_answer(both)["mean"][2] == [3.0]


async def test_a_function_with_a_queue_runs_as_a_job(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("x", np.ones((2, 2)), "FP32")]}

    found = read_answer(await client.post(INFER.format("queued"), json=body))

    assert found["output"] == ("FP32", [2, 2], [2.0] * 4)
    assert [job["endpoint"] for job in (await client.get("/jobs")).json()["jobs"]] == ["queued"]


async def test_what_can_be_no_tensor_is_no_model(client: httpx.AsyncClient) -> None:
    names = (await client.get("/v2/models")).json()["models"]

    assert "files" not in names
    assert {"anything", "mean", "repeat", "simple"} <= set(names)
    refused(await client.post(INFER.format("files"), json={"inputs": []}), 404, "files")


# Classification


async def test_classification_gives_the_highest_first(client: httpx.AsyncClient) -> None:
    array = np.array([[0.1, 0.7, 0.2], [3.0, 3.0, 1.0]], np.float32)
    body = {
        "inputs": [tensor("INPUT0", array, "FP32")],
        "outputs": [{"name": "OUTPUT0", "parameters": {"classification": 2}}],
    }

    found = read_answer(await client.post(INFER.format("fp32"), json=body))

    assert found["OUTPUT0"] == (
        "BYTES",
        [2, 2],
        ["0.700000:1", "0.200000:2", "3.000000:0", "3.000000:1"],
    )
