"""How the models of handlers come and go: what is checked when they are added, and when a load fails."""

from __future__ import annotations

import functools
from typing import Any

import httpx
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server import SocaityRouter
from socaity_server.frontends.openinference.rest_targets import target_of
from socaity_server.handlers import (
    DefaultModelHandler,
    ModelHandler,
    ModelMetadataResponse,
    ModelReadyResponse,
)
from socaity_server.openinference.model import is_reachable
from tests.server.conftest import open_client
from tests.server.handlers.test_handlers import Echo
from tests.server.openinference.conftest import refused

pytestmark = pytest.mark.anyio


class LoadsLater(Echo):
    async def model_load(self, model_name: str) -> bool:  # type: ignore[override]
        raise AssertionError


class ReadyLater(Echo):
    async def model_ready(self, model_name: str, model_version: str | None = None) -> ModelReadyResponse:  # type: ignore[override]
        raise AssertionError


class DescribedLater(Echo):
    async def model_metadata(  # type: ignore[override]
        self, model_name: str, model_version: str | None = None
    ) -> ModelMetadataResponse:
        raise AssertionError


@pytest.mark.parametrize("kind", [LoadsLater, ReadyLater, DescribedLater])
def test_only_infer_may_be_async(router: SocaityRouter, kind: type[ModelHandler]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{kind.__name__}\.model_\w+ is async"):
        router.add_handler(kind(), models="later")


@pytest.mark.parametrize("method", ["model_load", "model_metadata"])
def test_what_gives_something_to_await_is_told(router: SocaityRouter, method: str) -> None:
    async def later() -> None:
        raise AssertionError

    class Hidden(Echo):
        pass

    setattr(Hidden, method, lambda self, *names: later())
    with pytest.raises(ConfigurationError, match=f"{method} gave something to await"):
        router.add_handler(Hidden(), models="hidden")


@pytest.mark.parametrize("answer", [7, None, {"platform": "mine"}])
def test_metadata_of_a_wrong_kind_is_told(router: SocaityRouter, answer: Any) -> None:
    class Wrong(Echo):
        def model_metadata(self, model_name: str, model_version: str | None = None) -> Any:
            return answer

    with pytest.raises(ConfigurationError, match=r"'wrong'.*model_metadata is wrong") as caught:
        router.add_handler(Wrong(), models="wrong")
    assert "pydantic" not in str(caught.value)


async def test_metadata_and_readiness_may_be_dicts(router: SocaityRouter) -> None:
    class Plain(Echo):
        def model_metadata(self, model_name: str, model_version: str | None = None) -> Any:
            return {"name": model_name, "platform": "plain", "versions": ["3"]}

        def model_ready(self, model_name: str, model_version: str | None = None) -> Any:
            return {"name": model_name, "ready": True}

    router.add_handler(Plain(), models="plain")
    async with open_client(router) as client:
        metadata = (await client.get("/v2/models/plain")).json()
        ready = await client.get("/v2/models/plain/ready")

    assert (metadata["platform"], metadata["versions"]) == ("plain", ["3"])
    assert ready.status_code == 200


class Failing(Echo):
    """Does what `errors` say, by method."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors

    def model_load(self, model_name: str) -> bool:
        return self._or_error("model_load", True)

    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        inputs: Any = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
        return self._or_error(
            "model_metadata", ModelMetadataResponse(name=model_name, platform="mine", inputs=inputs)
        )

    def _or_error(self, method: str, answer: Any) -> Any:
        if method in self.errors:
            raise self.errors[method]
        return answer


def test_metadata_that_raise_are_an_error_of_the_program(router: SocaityRouter) -> None:
    handler = Failing(model_metadata=RuntimeError("no file"))

    with pytest.raises(ConfigurationError, match="RuntimeError: no file"):
        router.add_handler(handler, models="broken")


@pytest.mark.parametrize("method", ["model_load", "model_metadata"])
async def test_a_load_that_fails_leaves_the_model_as_it_was(router: SocaityRouter, method: str) -> None:
    handler = Failing()
    router.add_handler(handler, models="it")
    load, unload = (f"/v2/repository/models/it/{verb}" for verb in ("load", "unload"))

    async def state(client: httpx.AsyncClient) -> tuple[str, int]:
        (entry,) = (await client.post("/v2/repository/index")).json()
        return entry["state"], (await client.get("/v2/models/it/ready")).status_code

    async with open_client(router) as client:
        handler.errors = {method: RuntimeError("no file")}
        refused(await client.post(load), 503, "could not be loaded: RuntimeError: no file")
        served = await state(client)
        await client.post(unload)
        refused(await client.post(load), 503, "no file")
        gone = await state(client)
        handler.errors = {}
        assert (await client.post(load)).status_code == 200
        back = await state(client)

    assert (served, gone, back) == (("READY", 200), ("UNAVAILABLE", 503), ("READY", 200))


# Names


_TAKEN = [
    "stats",
    "a/infer",
    "a/infer_stream",
    "a/generate",
    "a/generate_stream",
    "q/ready",
    "q/config",
    "q/b/stats",
    "a/trace/setting",
    "x/versions/2",
]
_FREE = [
    "infer",
    "ready",
    "versions/2",
    "stats/x",
    "a/infer/b",
    "x/versions",
    "org/model",
    "a.b",
    "trace/setting",
]


@pytest.mark.parametrize("name", [*_TAKEN, "a//b", "a/../b", "."])
def test_a_name_that_means_something_else_is_refused(router: SocaityRouter, name: str) -> None:
    with pytest.raises(ConfigurationError, match="No client can reach"):
        router.add_handler(Echo(), models=name)


@pytest.mark.parametrize("name", [*_TAKEN, *_FREE])
def test_names_are_judged_as_addresses_are_read(name: str) -> None:
    target = target_of(f"/models/{name}")

    is_model = target is not None and (target.kind, target.model, target.version) == ("model", name, "")
    assert is_reachable(name) == is_model == (name in _FREE)


def test_a_partial_of_an_async_function_is_async(router: SocaityRouter) -> None:
    async def load(greeting: str, name: str) -> bool:
        raise AssertionError

    handler = DefaultModelHandler()
    handler.model_load = functools.partial(load, "hello")  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match="is async"):
        router.add_handler(handler, models="partial")
