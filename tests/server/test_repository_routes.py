"""Functions that ask the model repository for something: what it refuses reaches the caller as it is, on every wire."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import socaity
from socaity.exceptions import JobFailed, NotFoundError, ServerError, SocaityError
from socaity_server import SocaityRouter
from tests.transports.doubles import served

DEADLINE = 20.0


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    models = tmp_path / "models"
    for name, source in {"half": "def predict(x):\n    return x / 2\n", "broken": "def predict(x:\n"}.items():
        (models / name).mkdir(parents=True)
        (models / name / "model.py").write_text(source)
        (models / name / "model_config.yaml").write_text("execution: thread")
    router = SocaityRouter()
    repository = router.add_models(models)

    @router.add_route("/load", queue_size=10)
    async def load(name: str, version: str | None = None) -> str:
        return (await repository.load(name, version)).state

    @router.add_route("/load_now")
    async def load_now(name: str, version: str | None = None) -> str:
        return (await repository.load(name, version)).state

    @router.add_route("/why")
    def why(name: str) -> None:
        raise repository.why_absent(name) or LookupError(name)

    @router.add_route("/mine")
    def mine(name: str) -> None:
        raise NotFoundError(f"no {name} in the cellar")

    with served(router.app, lifespan="on", ws="websockets-sansio") as url:
        yield url


@pytest.fixture(params=["websocket", "http"])
def service(address: str, request: pytest.FixtureRequest) -> Iterator[socaity.Service]:
    url = address.replace("http:", "ws:") if request.param == "websocket" else address
    with socaity.connect(url, transport=request.param, progress=False, retry=1) as service:
        yield service


def refusal(job: socaity.Job[Any]) -> SocaityError:
    error = job.exception(DEADLINE)
    assert isinstance(error, SocaityError)
    return error


@pytest.mark.parametrize("route", ["load", "load_now"])
def test_unknown_model_and_version_are_not_found(service: socaity.Service, route: str) -> None:
    load = service[route]
    assert load("half").result(DEADLINE) == "ready"
    error = refusal(load("haf"))
    assert isinstance(error, NotFoundError)
    assert (error.status, error.code, str(error)) == (404, "model_not_found", "There is no model 'haf'.")
    error = refusal(load("half", "7"))
    assert isinstance(error, NotFoundError)
    assert (error.status, error.code) == (404, "version_not_found")


@pytest.mark.parametrize("route", ["load", "load_now", "why"])
def test_model_that_cannot_be_loaded_is_unavailable_with_its_reason(
    service: socaity.Service, route: str
) -> None:
    error = refusal(service[route]("broken"))
    assert isinstance(error, ServerError)
    assert (error.status, error.code) == (503, "model_failed")
    assert "SyntaxError" in str(error)


def test_other_errors_of_a_function_are_its_failure(service: socaity.Service) -> None:
    for failing in (service.mine("wine"), service.why("half")):
        error = refusal(failing)
        assert isinstance(error, JobFailed)
