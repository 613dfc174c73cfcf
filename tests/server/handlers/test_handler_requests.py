"""What requests to handlers may ask: highest values, versions, priorities; and what is refused before the handler runs."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.openinference.datatypes import TensorError
from socaity_server import SocaityRouter
from socaity_server.handlers import InferenceRequest, InferenceResponse, ModelMetadataResponse
from tests.server.conftest import open_client
from tests.server.handlers.test_handlers import INFER, Doubler, Echo
from tests.server.openinference.conftest import LENGTH, binary_body, raw_of, read_answer, refused, tensor

pytestmark = pytest.mark.anyio

X = tensor("x", np.array([[1, 2], [3, 4]]), "FP32")


class Versioned(Echo):
    """Has the versions that it is made with; keeps which it is asked for."""

    def __init__(self, versions: list[str] | None) -> None:
        self.given = versions
        self.asked: list[str | None] = []

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        self.asked.append(model_version)
        return super().infer(payload, model_name, model_version)

    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        inputs: Any = [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        return ModelMetadataResponse(name=model_name, platform="mine", versions=self.given, inputs=inputs)


@pytest.fixture
def router(router: SocaityRouter) -> SocaityRouter:
    router.add_handler(Doubler(), models=["double"])
    router.add_handler(Echo(), models="echo")
    return router


# Requested outputs


@pytest.mark.parametrize(("model", "output", "best"), [("echo", "x", 4), ("double", "y", 8)])
async def test_the_highest_values_may_be_asked(
    client: httpx.AsyncClient, model: str, output: str, best: int
) -> None:
    wanted = [{"name": output, "parameters": {"classification": 2}}]

    answer = await client.post(INFER.format(model), json={"inputs": [X], "outputs": wanted})

    expected = [f"{best:.6f}:3", f"{best * 3 / 4:.6f}:2"]
    assert read_answer(answer) == {output: ("BYTES", [2], expected)}


@pytest.mark.parametrize("classes", [-1, "2", 1.5, True])
async def test_a_wrong_number_of_classes_is_refused(client: httpx.AsyncClient, classes: Any) -> None:
    for model in ("echo", "double"):
        name = "x" if model == "echo" else "y"
        wanted = [{"name": name, "parameters": {"classification": classes}}]
        answer = await client.post(INFER.format(model), json={"inputs": [X], "outputs": wanted})
        refused(answer, 400, "number of classes")


@pytest.mark.parametrize("model", ["echo", "double"])
async def test_outputs_are_not_put_into_shared_memory(
    client: httpx.AsyncClient, router: SocaityRouter, model: str
) -> None:
    name = "x" if model == "echo" else "y"
    region = {"shared_memory_region": "mine", "shared_memory_byte_size": 16}
    body = {"inputs": [X], "outputs": [{"name": name, "parameters": region}]}

    refused(await client.post(INFER.format(model), json=body), 501, "shared memory")


# Inputs and parameters


async def test_a_request_without_inputs_does_not_reach_a_handler(
    client: httpx.AsyncClient, router: SocaityRouter
) -> None:
    refused(await client.post(INFER.format("echo"), json={"inputs": []}), 400, "no inputs")
    refused(await client.post(INFER.format("double"), json={"inputs": []}), 400, "InferenceRequest", "x")
    with pytest.raises(TensorError, match="no inputs"):
        InferenceRequest(inputs=[]).validate_oip()


@pytest.mark.parametrize("priority", ["high", -1, 1.5, True])
async def test_a_wrong_priority_is_refused(client: httpx.AsyncClient, priority: Any) -> None:
    body = {"inputs": [X], "parameters": {"priority": priority}}

    refused(await client.post(INFER.format("echo"), json=body), 400, "priority")
    assert (await client.post(INFER.format("echo"), json={**body, "parameters": {"priority": 3}})).is_success


# Versions


async def test_a_handler_without_versions_has_version_1(router: SocaityRouter) -> None:
    plain = Versioned(None)
    router.add_handler(plain, models="plain")
    async with open_client(router) as client:
        (entry,) = [
            one for one in (await client.post("/v2/repository/index")).json() if one["name"] == "plain"
        ]
        metadata = (await client.get("/v2/models/plain/versions/1")).json()
        statistics = (await client.get("/v2/models/plain/versions/1/stats")).json()["model_stats"]
        named = await client.post("/v2/models/plain/versions/1/infer", json={"inputs": [X]})
        other = await client.post("/v2/models/plain/versions/2/infer", json={"inputs": [X]})
        ready = await client.get("/v2/models/echo/versions/1/ready")

    assert (entry["version"], statistics[0]["version"]) == ("1", "1")
    assert metadata["versions"] == ["1"]
    assert named.json()["model_version"] == "1"
    assert ready.status_code == 200
    refused(other, 404, "version '1' is")


@pytest.mark.parametrize(
    ("versions", "newest"),
    [(["1", "10", "2"], "10"), (["10", "9"], "10"), (["b", "a"], "a"), (["10", "9-rc"], "9-rc")],
)
async def test_the_newest_version_is_for_who_names_none(
    router: SocaityRouter, versions: list[str], newest: str
) -> None:
    handler = Versioned(versions)
    router.add_handler(handler, models="many")
    async with open_client(router) as client:
        answer = await client.post(INFER.format("many"), json={"inputs": [X]})
        for version in versions:
            await client.post(f"/v2/models/many/versions/{version}/infer", json={"inputs": [X]})
        index = (await client.post("/v2/repository/index")).json()

    assert answer.json()["model_version"] == newest
    assert handler.asked == [None, *versions]
    assert [one["version"] for one in index if one["name"] == "many"] == versions


# Not loaded


async def test_an_unloaded_handler_is_as_an_unloaded_model_of_a_folder(client: httpx.AsyncClient) -> None:
    await client.post("/v2/repository/models/double/unload")

    for path in ("", "/config", "/stats", "/versions/1"):
        refused(await client.get(f"/v2/models/double{path}"), 404, "not loaded")
    refused(await client.post(INFER.format("double"), json={"inputs": [X]}), 404, "not loaded")
    ready = await client.get("/v2/models/double/ready")
    assert (ready.status_code, ready.json()) == (503, {"name": "double", "ready": False})
    assert ready.headers["retry-after"] == "1"
    assert "double" not in (await client.get("/v2/models")).json()["models"]
    assert "double" not in {
        one["name"] for one in (await client.get("/v2/models/stats")).json()["model_stats"]
    }
    states = {one["name"]: one["state"] for one in (await client.post("/v2/repository/index")).json()}
    assert states["double"] == "UNAVAILABLE"
    assert (await client.get("/v2/health/ready")).status_code == 200


async def test_binary_outputs_of_handlers_may_be_the_highest_values(client: httpx.AsyncClient) -> None:
    array = np.array([[1, 2]], np.float32)
    wanted = [{"name": "y", "parameters": {"classification": 1, "binary_data": True}}]
    body, headers = binary_body([(tensor("x", array, "FP32", binary=True), raw_of(array))], outputs=wanted)

    answer = await client.post(INFER.format("double"), content=body, headers=headers)

    assert answer.headers[LENGTH]
    assert read_answer(answer)["y"] == ("BYTES", [1], b"\x0a\x00\x00\x004.000000:1")
