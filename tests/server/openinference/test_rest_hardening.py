"""Requests that want to break the server: each gets an error, and the next request is served."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from socaity_server import SocaityRouter
from socaity_server.model_config import ModelConfig
from tests.server.conftest import Gate, open_client
from tests.server.openinference.conftest import (
    LENGTH,
    Gated,
    Identity,
    binary_body,
    raw_of,
    read_answer,
    refused,
    tensor,
)

pytestmark = pytest.mark.anyio

INFER = "/v2/models/{}/infer"


@pytest.fixture
async def client(shared_client: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    yield shared_client
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")]}
    assert (await shared_client.post(INFER.format("fp32"), json=body)).status_code == 200, (
        "it is not alive any more"
    )


@pytest.mark.parametrize("length", ["4294967296", "99999999999999999999", "-1", "12a", "", "1.5", "²"])
async def test_a_header_length_that_is_none_is_refused(client: httpx.AsyncClient, length: str) -> None:
    headers = {LENGTH.encode(): length.encode("latin-1")}

    refused(await client.post(INFER.format("fp32"), content=b"{}", headers=headers), 400, LENGTH)


async def test_a_header_length_beyond_the_body_is_refused(client: httpx.AsyncClient) -> None:
    refused(await client.post(INFER.format("fp32"), content=b"{}", headers={LENGTH: "3"}), 400, "3 bytes")


@pytest.mark.parametrize(
    ("shape", "texts"),
    [
        ([2**62, 2**62], ["causes total element count to exceed maximum size of"]),
        ([2**62], ["byte size overflow for input"]),
        (
            [-1, 2],
            ["Unable to parse 'shape'", "attempt to access JSON non-unsigned-integer as unsigned-integer"],
        ),
        ([1.5], ["Unable to parse 'shape'"]),
        (["1"], ["Unable to parse 'shape'"]),
        ([True], ["Unable to parse 'shape'"]),
        ([1] * 1000, ["dimensions"]),
        ([1] * 80, ["dimensions"]),
        (None, ["shape"]),
        ("12", ["shape"]),
        ({}, ["shape"]),
    ],
)
async def test_shapes_that_are_none_are_refused(
    client: httpx.AsyncClient, shape: Any, texts: list[str]
) -> None:
    entry = {"name": "INPUT0", "shape": shape, "datatype": "FP32"}
    body, headers = binary_body([({**entry, "parameters": {"binary_data_size": 4}}, b"four")])

    refused(await client.post(INFER.format("fp32"), content=body, headers=headers), 400, *texts)
    refused(await client.post(INFER.format("fp32"), json={"inputs": [{**entry, "data": [1]}]}), 400)


async def test_a_huge_shape_reserves_nothing(client: httpx.AsyncClient) -> None:
    for kind in ("BYTES", "BF16", "FP64"):
        entry = {"name": "x", "shape": [2**40], "datatype": kind, "parameters": {"binary_data_size": 8}}
        body, headers = binary_body([(entry, b"8 bytes.")])
        refused(await client.post(INFER.format("anything"), content=body, headers=headers), 400)


def nested(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


async def test_data_may_be_nested_but_not_too_deeply(client: httpx.AsyncClient) -> None:
    def body(depth: int) -> str:
        shape = json.dumps([1] * depth)
        return f'{{"inputs":[{{"name":"x","shape":{shape},"datatype":"INT8","data":{nested(depth)}}}]}}'

    deep = '{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":%s}]}'

    assert read_answer(await client.post(INFER.format("anything"), content=body(50)))["output"][2] == [1]
    refused(
        await client.post(INFER.format("anything"), content=deep % nested(101)),
        400,
        "JSON nesting depth exceeds maximum allowed limit (100)",
    )
    refused(await client.post(INFER.format("anything"), content=deep % nested(100_000)), 400, "nest")


async def test_an_output_is_requested_once(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")], "outputs": [{"name": "OUTPUT0"}] * 2}

    refused(
        await client.post(INFER.format("fp32"), json=body), 400, "output 'OUTPUT0' already exists in request"
    )


async def test_an_input_is_given_once(client: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")] * 2}

    refused(
        await client.post(INFER.format("fp32"), json=body), 400, "input 'INPUT0' already exists in request"
    )


@pytest.mark.parametrize(
    "document",
    [
        [],
        1,
        None,
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [{}]},
        {"inputs": [{"name": 1}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP31", "data": [1]}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": 7, "data": [1]}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32"}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": {"a": 1}}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "data": [[1], [2, 3]]}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [[1, 2]]}]},
        {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [1], "parameters": []}]},
        {
            "inputs": [
                {
                    "name": "INPUT0",
                    "shape": [1, 1],
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": -1},
                }
            ]
        },
        {
            "inputs": [
                {"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
            ]
        },
        {"inputs": [], "outputs": {}},
        {"inputs": [], "outputs": [{"name": None}]},
        {"inputs": [], "id": 7},
        {"inputs": [], "parameters": {"a": {"b": 1}}},
        {"inputs": [], "parameters": 1},
    ],
)
async def test_documents_that_are_no_requests_are_refused(client: httpx.AsyncClient, document: Any) -> None:
    refused(await client.post(INFER.format("fp32"), json=document), 400)


@pytest.mark.parametrize(("path", "rest"), [("infer", b'"inputs": []'), ("generate", b'"text": "a"')])
async def test_an_id_that_has_no_form_in_utf8_is_refused(
    client: httpx.AsyncClient, path: str, rest: bytes
) -> None:
    body = b'{"id": "\\ud800", %b}' % rest

    refused(await client.post(f"/v2/models/repeat/{path}", content=body), 400, "`id` is text")


@pytest.mark.parametrize("model", ["fp32", "mean"])
async def test_a_timeout_beyond_all_numbers_is_refused(client: httpx.AsyncClient, model: str) -> None:
    """NaN makes the tolerant reader read the body, and that knows numbers of any length."""
    name, kind, shape = ("INPUT0", "FP32", "[1, 1]") if model == "fp32" else ("values", "FP64", "[1]")
    entry = f'{{"name": "{name}", "shape": {shape}, "datatype": "{kind}", "data": [NaN]}}'
    body = f'{{"parameters": {{"timeout": 1{"0" * 400}}}, "inputs": [{entry}]}}'

    refused(
        await client.post(INFER.format(model), content=body), 400, "timeout is a whole number of microseconds"
    )


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b"{", b'{"inputs":[', b"nothing", b'{"inputs":"\\ud800"}', b"1" * 5000]
)
async def test_bodies_that_are_no_json_are_refused(client: httpx.AsyncClient, body: bytes) -> None:
    refused(await client.post(INFER.format("fp32"), content=body), 400)


@pytest.mark.parametrize(
    ("size", "data"),
    [(3, b"123"), (5, b"12345"), (8, b"1234"), (4, b"12345678")],
)
async def test_binary_data_of_a_wrong_size_is_refused(
    client: httpx.AsyncClient, size: int, data: bytes
) -> None:
    entry = {"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    body, headers = binary_body([(entry, data)])

    refused(await client.post(INFER.format("fp32"), content=body, headers=headers), 400)


@pytest.mark.parametrize("data", [b"", b"\x01", b"\xff\xff\xff\xff", b"\x05\x00\x00\x00abc", b"\x00" * 12])
async def test_malformed_bytes_are_refused(client: httpx.AsyncClient, data: bytes) -> None:
    entry = {
        "name": "INPUT0",
        "shape": [1, 2],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    body, headers = binary_body([(entry, data)])

    refused(await client.post(INFER.format("text"), content=body, headers=headers), 400, "BYTES")


async def test_a_bool_is_one_or_nothing(client: httpx.AsyncClient) -> None:
    entry = {"name": "x", "shape": [1, 2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}}
    body, headers = binary_body([(entry, b"\x01\x02")])

    refused(await client.post(INFER.format("anything"), content=body, headers=headers), 400, "BOOL")


# Sizes


@pytest.fixture
async def small() -> AsyncIterator[httpx.AsyncClient]:
    """A service that takes bodies of 4096 bytes."""
    router = SocaityRouter(max_body=4096, grace=1.0)
    router.add_model(Identity("float64"), name="fp64")
    async with open_client(router) as client:
        yield client


TOO_LARGE = "exceeds the maximum allowed input size of 4096"


async def test_a_body_that_is_too_large_is_refused(small: httpx.AsyncClient) -> None:
    refused(await small.post(INFER.format("fp64"), content=b" " * 5000), 413, TOO_LARGE)


async def test_a_body_in_pieces_is_refused_as_soon_as_it_is_too_large(small: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b" " * 100

    refused(await small.post(INFER.format("fp64"), content=pieces()), 413, TOO_LARGE)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_body_that_unpacks_to_too_much_is_refused(small: httpx.AsyncClient, coding: str) -> None:
    pack = gzip.compress if coding == "gzip" else zlib.compress
    many = b"".join(gzip.compress(b" " * 3000) for _ in range(3)) if coding == "gzip" else pack(b" " * 9000)

    for body in (pack(b" " * 100_000), many):
        assert len(body) < 4096
        refused(
            await small.post(INFER.format("fp64"), content=body, headers={"content-encoding": coding}),
            413,
            TOO_LARGE,
        )


async def test_numbers_that_are_larger_in_memory_are_counted_there(small: httpx.AsyncClient) -> None:
    entry = {"name": "INPUT0", "shape": [1, 1000], "datatype": "FP64", "data": [0] * 1000}
    body = json.dumps({"inputs": [entry]}, separators=(",", ":"))

    assert len(body) < 4096
    refused(await small.post(INFER.format("fp64"), content=body), 413, TOO_LARGE)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    "body", [b"", b"nothing of that kind", b"\x1f\x8b\x08\x00", zlib.compress(b"{}")[:-3]]
)
async def test_what_cannot_be_unpacked_is_refused(
    client: httpx.AsyncClient, coding: str, body: bytes
) -> None:
    refused(
        await client.post(INFER.format("fp32"), content=body, headers={"content-encoding": coding}),
        400,
        coding,
    )


@pytest.mark.parametrize("coding", ["br", "gzip, deflate", "x"])
async def test_an_unknown_packing_is_415(client: httpx.AsyncClient, coding: str) -> None:
    refused(await client.post(INFER.format("fp32"), content=b"{}", headers={"content-encoding": coding}), 415)


# Raw requests


async def test_a_raw_request_has_one_input(client: httpx.AsyncClient) -> None:
    refused(
        await client.post(INFER.format("simple"), content=b"1234", headers={LENGTH: "0"}),
        400,
        "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in",
    )


async def test_a_raw_request_has_one_variable_dimension(client: httpx.AsyncClient) -> None:
    refused(
        await client.post(INFER.format("two_free"), content=b"1234", headers={LENGTH: "0"}),
        400,
        "The shape of the raw input 'INPUT0' can not be deduced because there are more than one variable-sized dimension",
    )


async def test_raw_text_is_one_element(router: SocaityRouter) -> None:
    router.add_model(Identity("object", (None, 2)), name="pairs")
    async with open_client(router) as client:
        answer = await client.post(INFER.format("pairs"), content=b"1234", headers={LENGTH: "0"})

    refused(answer, 400, "For BYTE datatype raw input 'INPUT0', the model must have input shape [1]")


@pytest.mark.parametrize(("model", "data"), [("fp32", b"12345"), ("fixed", b"1234"), ("anything", b"1234")])
async def test_raw_data_fits_or_is_refused(client: httpx.AsyncClient, model: str, data: bytes) -> None:
    refused(await client.post(INFER.format(model), content=data, headers={LENGTH: "0"}), 400)


# Other routes


@pytest.mark.parametrize(
    "body",
    [b'{"ready":1}', b'{"ready":"true"}', b'{"ready":' + b"[" * 250_000 + b"]" * 250_000 + b"}", b"[]", b"{"],
    ids=["number", "text", "deep", "list", "cut"],
)
async def test_an_index_is_asked_for_with_a_boolean(client: httpx.AsyncClient, body: bytes) -> None:
    refused(
        await client.post("/v2/repository/index", content=body),
        400,
        "Invalid value for 'ready': expected a boolean",
    )


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{", b'{"parameters":7}', b'{"parameters":{"a":[]}}'])
async def test_loads_are_read_with_care(client: httpx.AsyncClient, body: bytes) -> None:
    refused(await client.post("/v2/repository/models/simple/load", content=body), 400)


@pytest.mark.parametrize(
    ("name", "value"),
    [("priority", -1), ("priority", "high"), ("timeout", -5), ("timeout", 1.5), ("timeout", True)],
)
async def test_a_policy_that_is_none_is_refused(client: httpx.AsyncClient, name: str, value: Any) -> None:
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")], "parameters": {name: value}}

    refused(await client.post(INFER.format("fp32"), json=body), 400, name)


@pytest.mark.parametrize("value", [-1, "2", 1.5])
async def test_a_classification_that_is_none_is_refused(client: httpx.AsyncClient, value: Any) -> None:
    body = {
        "inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")],
        "outputs": [{"name": "OUTPUT0", "parameters": {"classification": value}}],
    }

    refused(await client.post(INFER.format("fp32"), json=body), 400, "classification")


async def test_shared_memory_is_not_offered(client: httpx.AsyncClient) -> None:
    parameters = {"shared_memory_region": "a", "shared_memory_byte_size": 8}
    entry = {"name": "INPUT0", "shape": [1, 2], "datatype": "FP32", "parameters": parameters}

    refused(await client.post(INFER.format("fp32"), json={"inputs": [entry]}), 501, "shared memory")


async def test_a_full_queue_is_503(router: SocaityRouter, gate: Gate) -> None:
    router.add_model(Gated(gate), name="gated", config=ModelConfig(queue_size=1, max_batch_size=1))
    body = {"inputs": [tensor("INPUT0", np.ones((1, 1)), "FP32")]}

    async with open_client(router) as client:
        first = asyncio.create_task(client.post(INFER.format("gated"), json=body))
        await asyncio.to_thread(gate.wait_entered)
        batcher = router.dataplane.direct_routes()["gated"].batcher
        second = asyncio.create_task(client.post(INFER.format("gated"), json=body))
        while not batcher.depth:
            await asyncio.sleep(0)
        third = await client.post(INFER.format("gated"), json=body)
        gate.open()
        answers = await asyncio.gather(first, second)

    refused(third, 503, "full")
    assert int(third.headers["retry-after"]) >= 1
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_body_may_come_in_pieces(client: httpx.AsyncClient) -> None:
    array = np.arange(50_000, dtype=np.float32).reshape(1, -1)
    body, headers = binary_body(
        [(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))],
        parameters={"binary_data_output": True},
    )

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1001):
            yield body[start : start + 1001]

    answer = await client.post(INFER.format("fp32"), content=pieces(), headers=headers)

    assert read_answer(answer)["OUTPUT0"][2] == raw_of(array)
