"""A submit over HTTP whose answer did not come: the job is looked for, and never runs a second time unless that is harmless."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import socaity
from socaity.transport import Target
from socaity_server import SocaityRouter
from socaity_transports import http
from socaity_transports.http import HTTPTransport, WatchTimes
from tests.e2e.servers import DEADLINE, ServerProcess
from tests.transports.doubles import served

AT_ONCE = socaity.RetryPolicy(attempts=4, base_delay=0, max_delay=0)

runs: Counter[str] = Counter()
lock = threading.Lock()


def ran(name: str) -> None:
    with lock:
        runs[name] += 1


def make_app() -> Any:
    router = SocaityRouter(provider="fastapi", environment="localhost")

    @router.add_route("/pay", queue_size=10)
    def pay() -> str:
        ran("pay")
        return "paid"

    @router.add_route("/look", queue_size=10, idempotent=True)
    def look() -> str:
        ran("look")
        return "seen"

    @router.add_route("/count", queue_size=10)
    def count() -> Iterator[int]:
        ran("count")
        yield from range(5)

    return router.app


class Road:
    """Two starts of one service, and what happens on the way to them: the second takes over after `restart`."""

    def __init__(self) -> None:
        self.starts = [make_app(), make_app()]
        self.app = self.starts[0]
        self.keys: list[str] = []
        self.fate: str | None = None
        """Of the next submit: `cut` or `502`, after the service has got it unless `early`."""
        self.early = self.restarts = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["method"] == "POST":
            self.keys.append(dict(scope["headers"])[b"idempotency-key"].decode())
            await self._submit(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            for app in self.starts:
                await stack.enter_async_context(app.router.lifespan_context(app))
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _submit(self, scope: Any, receive: Any, send: Any) -> None:
        fate, self.fate = self.fate, None
        if fate is None:
            await self.app(scope, receive, send)
            return
        if not self.early:

            async def nowhere(message: Any) -> None: ...

            await self.app(scope, receive, nowhere)
        if self.restarts:
            self.app = self.starts[1]
        if fate == "502":
            await send({"type": "http.response.start", "status": 502, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionResetError


@pytest.fixture
def road() -> Iterator[tuple[Road, socaity.Service]]:
    runs.clear()
    road = Road()
    with (
        served(road, lifespan="on") as url,
        socaity.connect(url, transport="http", progress=False, retry=AT_ONCE) as service,
    ):
        yield road, service


@pytest.mark.parametrize("fate", ["cut", "502"])
def test_a_job_that_the_service_has_is_followed(road: tuple[Road, socaity.Service], fate: str) -> None:
    on_the_way, service = road
    on_the_way.fate = fate
    job = service.pay()
    assert job.result(DEADLINE) == "paid"
    assert (on_the_way.keys, runs["pay"]) == ([job.id], 1)


def test_a_stream_that_the_service_has_is_followed_from_its_first_chunk(
    road: tuple[Road, socaity.Service],
) -> None:
    on_the_way, service = road
    on_the_way.fate = "cut"
    assert list(service.count()) == [0, 1, 2, 3, 4]
    assert runs["count"] == 1


@pytest.mark.parametrize("fate", ["cut", "502"])
def test_a_job_that_the_same_server_never_got_is_submitted_again(
    road: tuple[Road, socaity.Service], fate: str
) -> None:
    on_the_way, service = road
    on_the_way.fate, on_the_way.early = fate, True
    job = service.pay()
    assert job.result(DEADLINE) == "paid"
    assert (on_the_way.keys, runs["pay"]) == ([job.id, job.id], 1)


@pytest.mark.parametrize("fate", ["cut", "502"])
def test_a_job_that_a_restarted_server_does_not_know_is_lost(
    road: tuple[Road, socaity.Service], fate: str
) -> None:
    on_the_way, service = road
    on_the_way.fate, on_the_way.restarts = fate, True
    job = service.pay()
    with pytest.raises(socaity.JobLost, match="may have run"):
        job.result(DEADLINE)
    assert (on_the_way.keys, runs["pay"]) == ([job.id], 1)
    assert service.pay().result(DEADLINE) == "paid"


def test_after_a_lost_job_the_new_server_is_known(road: tuple[Road, socaity.Service]) -> None:
    on_the_way, service = road
    on_the_way.fate, on_the_way.restarts = "cut", True
    assert isinstance(service.pay().exception(DEADLINE), socaity.JobLost)
    on_the_way.fate, on_the_way.early = "cut", True
    assert service.pay().result(DEADLINE) == "paid"
    assert runs["pay"] == 2


def test_an_idempotent_job_runs_again_on_a_restarted_server(road: tuple[Road, socaity.Service]) -> None:
    on_the_way, service = road
    on_the_way.fate, on_the_way.restarts = "cut", True
    job = service.look()
    assert job.result(DEADLINE) == "seen"
    assert (on_the_way.keys, runs["look"]) == ([job.id, job.id], 2)


def impatient(target: Target) -> HTTPTransport:
    return HTTPTransport(target, times=WatchTimes(give_up=0.5))


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_job_whose_server_died_before_it_answered_is_lost(
    monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    monkeypatch.setattr(http, "SUBMIT_WAIT", DEADLINE)  # the answer is still to come when the server dies
    with (
        ServerProcess() as server,
        socaity.connect(server.url, progress=False) as direct,
        socaity.connect(
            server.url, transport="http" if comes_back else impatient, progress=False, retry=AT_ONCE
        ) as service,
    ):
        job = service.wait_at("never")
        deadline = time.monotonic() + DEADLINE
        while not direct.runs("never").result(DEADLINE):
            assert time.monotonic() < deadline
        server.kill()
        if comes_back:
            server.start()
        error = job.exception(DEADLINE)
        assert isinstance(error, socaity.JobLost)
        assert "nothing was sent" not in str(error)
        if comes_back:
            assert direct.runs("never").result(DEADLINE) == 0
