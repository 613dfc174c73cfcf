"""Deadlines and priorities travel from the client to the model, over every wire of ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

import socaity
from socaity.exceptions import ConfigurationError, ServerError, TransportTimeout
from socaity_server import SocaityRouter

from ..server.conftest import serve
from ..server.test_models_http import DEADLINE, Scaler


@pytest.fixture
def scaler() -> Scaler:
    return Scaler()


@pytest.fixture
def router(scaler: Scaler) -> SocaityRouter:
    router = SocaityRouter(grace=1.0)
    router.add_model(scaler, name="scale", max_batch_size=1)

    @router.add_route("/paint", queue_size=3)
    def paint(text: str) -> str:
        return text

    return router


@pytest.fixture(params=["websocket", "http", "inprocess"])
def service(request: pytest.FixtureRequest, router: SocaityRouter) -> Iterator[socaity.Service]:
    retry = socaity.RetryPolicy(attempts=1)
    if request.param == "inprocess":
        with socaity.connect(router, retry=retry) as service:
            yield service
        return
    with serve(router) as url:
        if request.param == "websocket":
            url = url.replace("http:", "ws:") + "/ws"
        with socaity.connect(url, transport=request.param, retry=retry) as service:
            yield service


def test_call_in_time_is_answered(service: socaity.Service) -> None:
    endpoint = service.scale.with_options(timeout=DEADLINE, priority=3)
    assert endpoint([1, 2]).result(DEADLINE).tolist() == [2, 4]
    assert service.scale.options is None


def test_call_that_is_too_late_fails_at_its_timeout(service: socaity.Service, scaler: Scaler) -> None:
    scaler.gate = threading.Semaphore(0)
    job = service.scale.with_options(timeout=0.05)([1, 2])
    with pytest.raises(ServerError, match="allowed to take is over") as caught:
        job.result(DEADLINE)
    assert (caught.value.status, caught.value.code) == (504, "deadline_exceeded")
    scaler.gate.release(8)
    assert service.scale([1, 2]).result(DEADLINE).tolist() == [2, 4]


def test_typed_function_takes_options(router: SocaityRouter, scaler: Scaler) -> None:
    remote = socaity.remote(router)

    @remote
    def scale(x: list[float]) -> np.ndarray: ...

    hasty = scale.with_options(timeout=0.05)
    scaler.gate = threading.Semaphore(0)
    with pytest.raises(ServerError, match="allowed to take is over"):
        hasty([1, 2]).result(DEADLINE)
    scaler.gate.release(8)
    assert scale.with_options(timeout=DEADLINE, priority=3)([1, 2]).result(DEADLINE).tolist() == [2, 4]
    remote.service.close()


def test_urgent_call_overtakes(service: socaity.Service, router: SocaityRouter, scaler: Scaler) -> None:
    scaler.gate = threading.Semaphore(0)
    first = service.scale([0, 0])
    assert scaler.started.wait(DEADLINE)
    batcher = router.dataplane.direct_routes()["scale"].batcher
    jobs = []
    for queued, (number, priority) in enumerate([(1, 0), (2, 0), (9, 5)], start=1):
        jobs.append(service.scale.with_options(priority=priority)([number, 0]))
        # HTTP keeps no order between calls: each has to be there before the next one is sent.
        give_up = time.monotonic() + DEADLINE
        while batcher.queued_calls < queued:
            assert time.monotonic() < give_up
            service.refresh()  # a round trip, in which the server may take the call
    scaler.gate.release(8)
    socaity.gather(first, *jobs).result(DEADLINE)
    assert [float(rows[0, 0]) for rows in scaler.seen] == [0, 9, 1, 2]


def test_server_that_says_nothing_is_given_up(service: socaity.Service, scaler: Scaler) -> None:
    class Deaf:
        """A wire that takes calls and never answers."""

        uses_context = False

        def start(self, calls: object) -> None: ...

        async def cancel(self, job_id: str) -> None: ...

        async def aclose(self) -> None: ...

    wire, service._transport = service._transport, Deaf()  # type: ignore[assignment]
    try:
        with pytest.raises(TransportTimeout, match="no answer came within"):
            service.scale.with_options(timeout=0.01)([1, 2]).result(DEADLINE)
    finally:
        service._transport = wire


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("inf")}, {"priority": 11}])
def test_impossible_options_are_refused(service: socaity.Service, options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        service.scale.with_options(**options)  # type: ignore[arg-type]


def test_jobs_take_no_options(service: socaity.Service) -> None:
    with pytest.raises(ConfigurationError, match=r"job\.result"):
        service.paint.with_options(timeout=1.0)


def test_middleware_is_called_and_not_passed_by(router: SocaityRouter) -> None:
    paths = []

    class Watching:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            paths.append(scope.get("path"))
            await self.app(scope, receive, send)

    with socaity.connect(Watching(router.app), progress=False) as service:
        assert service.scale([1, 2]).result(DEADLINE).tolist() == [2, 4]
    assert "/ws" in paths
