"""What the server has not, or cannot mean: it is said, over every kind of model, and never ignored."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import numpy as np
import pytest

from socaity_server import SocaityRouter
from socaity_server.handlers import DefaultModelHandler
from tests.server.conftest import open_client
from tests.server.openinference.conftest import (
    Identity,
    binary_body,
    raw_of,
    read_answer,
    refused,
    tensor,
)

pytestmark = pytest.mark.anyio

INPUTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "fp32": ([tensor("INPUT0", np.ones((1, 2)), "FP32")], "OUTPUT0"),
    "anything": ([tensor("x", np.ones((1, 2)), "FP32")], "output"),
    "repeat": ([{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}], "output"),
    "queued": ([tensor("x", np.ones(2), "FP32")], "output"),
}
"""By model: inputs that fit, and the name of the output."""


async def infer(client: httpx.AsyncClient, model: str, **more: Any) -> httpx.Response:
    body = {"inputs": INPUTS[model][0], **more}
    return await client.post(f"/v2/models/{model}/infer", json=body)


def wanted(model: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"name": INPUTS[model][1], "parameters": parameters}]


@pytest.mark.parametrize("model", INPUTS)
async def test_outputs_are_not_put_into_shared_memory(client: httpx.AsyncClient, model: str) -> None:
    outputs = wanted(model, shared_memory_region="mine", shared_memory_byte_size=16)

    refused(await infer(client, model, outputs=outputs), 501, "shared memory")


@pytest.mark.parametrize("model", INPUTS)
async def test_a_wrong_priority_is_refused(client: httpx.AsyncClient, model: str) -> None:
    for priority in ("x", -1, 1.5, True):
        refused(await infer(client, model, parameters={"priority": priority}), 400, "priority")
    assert (await infer(client, model, parameters={"priority": 2})).status_code == 200


@pytest.mark.parametrize("model", INPUTS)
@pytest.mark.parametrize("place", ["request", "input", "output"])
async def test_an_unknown_content_type_is_refused(client: httpx.AsyncClient, model: str, place: str) -> None:
    def body(name: Any) -> dict[str, Any]:
        tag = {"parameters": {"content_type": name}}
        if place == "request":
            return tag
        if place == "output":
            return {"outputs": wanted(model, content_type=name)}
        return {"inputs": [{**one, **tag} for one in INPUTS[model][0]]}

    for name in ("parquet", "pd", 7):
        answer = await infer(client, model, **body(name))
        refused(answer, 400, "content type", str(name), "np, numpy, str")
    for name in ("np", "numpy", ""):
        assert (await infer(client, model, **body(name))).status_code == 200


async def test_text_is_no_content_type_of_numbers(client: httpx.AsyncClient) -> None:
    def tagged(model: str) -> list[dict[str, Any]]:
        return [{**one, "parameters": {"content_type": "str"}} for one in INPUTS[model][0]]

    refused(await infer(client, "fp32", inputs=tagged("fp32")), 400, "BYTES")
    assert (await infer(client, "repeat", inputs=tagged("repeat"))).status_code == 200


async def test_a_function_may_have_a_parameter_of_that_name(router: SocaityRouter) -> None:
    @router.add_route("/kind")
    def kind(data: bytes, content_type: str = "") -> str:
        return content_type

    body = {
        "inputs": [{"name": "data", "shape": [1], "datatype": "BYTES", "data": ["a"]}],
        "parameters": {"content_type": "image/png"},
    }
    async with open_client(router) as client:
        answer = await client.post("/v2/models/kind/infer", json=body)

    assert read_answer(answer)["output"][2] == ["image/png"]


# Not ready, not there


async def test_what_is_not_ready_says_when_to_ask_again(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    assert "retry-after" not in (await client.get("/v2/health/ready")).headers
    await router.dataplane.drain(0.1)

    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/fp32/ready"):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_an_unknown_model_is_told_all_that_there_are(router: SocaityRouter) -> None:
    router.add_handler(DefaultModelHandler(), models="iris")
    async with open_client(router) as client:
        text = refused(await client.get("/v2/models/iriss"), 404, "no model 'iriss'; did you mean 'iris'?")

    assert "fp32" in text
    assert "files" not in text  # needs what is no tensor


@pytest.mark.parametrize("path", ["index", "models/fp32/load", "models/fp32/unload"])
async def test_a_repository_is_not_named(client: httpx.AsyncClient, path: str) -> None:
    refused(await client.post(f"/v2/repository/mine/{path}"), 501, "repositories")


async def test_a_route_whose_name_means_something_else_is_no_model(
    router: SocaityRouter, caplog: pytest.LogCaptureFixture
) -> None:
    @router.add_route("/stats")
    def stats(x: int) -> int:
        return x

    router.add_model(Identity("float32"), name="a")
    async with open_client(router) as client:
        with caplog.at_level(logging.WARNING, "socaity_server"):
            listed = (await client.get("/v2/models")).json()["models"]
            await client.get("/v2/models")
        everything = (await client.get("/v2/models/stats")).json()
        body = {"inputs": [tensor("x", np.array([1]), "INT64")]}
        refused(await client.post("/v2/models/stats/infer", json=body), 404, "name means something else")
        called = await client.post("/stats", json={"x": 1})

    assert "a" in listed
    assert "stats" not in listed
    assert "model_stats" in everything
    assert called.is_success
    assert [one.getMessage() for one in caplog.records if "'stats'" in one.getMessage()] == [
        "'stats' is no model of the Open Inference Protocol: /v2/models/stats means something else"
    ]


# Streams and generate


@pytest.mark.parametrize("verb", ["infer_stream", "generate", "generate_stream"])
async def test_streams_take_no_binary_tensors(client: httpx.AsyncClient, verb: str) -> None:
    array = np.ones((1, 2), np.float32)
    body, headers = binary_body([(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))])

    answer = await client.post(f"/v2/models/fp32/{verb}", content=body, headers=headers)

    refused(answer, 400, f"{verb} takes JSON only", "Inference-Header-Content-Length")


async def test_streams_may_say_how_long_the_json_is(client: httpx.AsyncClient) -> None:
    body, headers = binary_body([(tensor("INPUT0", np.ones((1, 2)), "FP32"), b"")])

    answer = await client.post("/v2/models/fp32/infer_stream", content=body, headers=headers)

    assert answer.status_code == 200
    assert answer.text.startswith("data: ")


@pytest.mark.parametrize("verb", ["infer_stream", "generate", "generate_stream"])
async def test_a_stream_of_bytes_that_are_no_text_is_led_to_infer(
    client: httpx.AsyncClient, router: SocaityRouter, verb: str
) -> None:
    @router.add_route("/noise")
    def noise(x: int) -> bytes:
        return b"\xff"

    number = tensor("x", np.array([1]), "INT64")
    body = {"inputs": [number]} if verb == "infer_stream" else {"x": 1}
    answer = await client.post(f"/v2/models/noise/{verb}", json=body)

    refused(answer, 400, f"JSON, which is all that {verb} answers with", "use infer")
