"""What it costs to learn that a job has ended: requests, connections and time."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import socaity
from socaity.transport import Target
from socaity_server import JobProgress, SocaityRouter
from socaity_transports import http
from socaity_transports.http import HTTPTransport, WatchTimes
from tests.e2e.servers import DEADLINE, CuttingProxy
from tests.transports.doubles import served

SHORT, LONG = 10, 10


class Counted:
    """An app in front of another that notes every request."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests: list[str] = []
        self.preferences: list[str] = []
        self.hides: str | None = None
        """What is answered with a page of text, as by something on the way that does not know it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        self.requests.append(f"{scope.get('method', 'SOCKET')} {scope['path']}")
        self.preferences += [value.decode() for name, value in scope["headers"] if name == b"prefer"]
        if self.hides is not None and scope["path"].endswith(self.hides):
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]}
            )
            await send({"type": "http.response.body", "body": b"hello"})
            return
        await self.app({**scope, "query_string": b""} if self.hides else scope, receive, send)

    def of_jobs(self) -> list[str]:
        return [one for one in self.requests if not one.endswith(("/openapi.json", "/socaity"))]


def make_router(gates: dict[str, threading.Event]) -> SocaityRouter:
    router = SocaityRouter(provider="fastapi", environment="localhost")

    @router.add_route("/quick", queue_size=100)
    def quick(text: str) -> str:
        return text

    @router.add_route("/ended_at", queue_size=100, concurrency=LONG)
    def ended_at(job_progress: JobProgress, gate: str) -> float:
        """Waits at the gate; gives the time at which it ended."""
        job_progress.message = "at the gate"
        assert gates.setdefault(gate, threading.Event()).wait(DEADLINE)
        return time.monotonic()

    @router.add_route("/telling", queue_size=100)
    def telling(job_progress: JobProgress, gate: str) -> str:
        """Waits at the gate; tells how far it is and ends."""
        assert gates.setdefault(gate, threading.Event()).wait(DEADLINE)
        job_progress.log("begun")
        job_progress.progress = 0.5
        job_progress.message = "half"
        job_progress.log("ended")
        return "told"

    return router


@pytest.fixture
def gates() -> dict[str, threading.Event]:
    return {}


@pytest.fixture
def counted(gates: dict[str, threading.Event]) -> Iterator[tuple[Counted, str]]:
    app = Counted(make_router(gates).app)
    with served(app, lifespan="on", ws="websockets-sansio") as url:
        yield app, url


def until(job: socaity.Job[Any], holds: Callable[[], bool]) -> None:
    """Wait for something while a job runs."""
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline
        with pytest.raises(TimeoutError):
            job.result(0.002)


def test_a_finished_job_costs_at_most_two_requests_over_http(
    counted: tuple[Counted, str], gates: dict[str, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, url = counted
    with socaity.connect(url, transport="http", progress=False) as service:
        assert app.requests == ["GET /openapi.json", "GET /socaity"]
        with monkeypatch.context() as held:
            held.setattr(http, "SUBMIT_WAIT", DEADLINE)  # a job is short if it ends while its submit is held
            for number in range(SHORT):
                assert service.quick(f"text {number}").result(DEADLINE) == f"text {number}"
        assert len(app.of_jobs()) == SHORT
        jobs = [service.ended_at(f"gate {number}") for number in range(LONG)]
        for number, job in enumerate(jobs):
            until(job, lambda job=job: job.progress.message == "at the gate")  # type: ignore[misc]
            gates[f"gate {number}"].set()
        for job in jobs:
            job.result(DEADLINE)
    assert len(app.of_jobs()) <= SHORT + 2 * LONG


def test_a_submit_is_held_too_briefly_for_anyone_to_miss_what_the_job_tells(
    counted: tuple[Counted, str], gates: dict[str, threading.Event]
) -> None:
    app, url = counted
    with socaity.connect(url, transport="http", progress=False) as service:
        job = service.ended_at("gate")
        until(job, lambda: job.progress.message == "at the gate")
        assert job.status == "running"
        gates["gate"].set()
        job.result(DEADLINE)
    [preference] = app.preferences
    name, _, wait = preference.rpartition("=")
    assert name == "respond-async, wait"
    assert 0 < float(wait) <= 0.1


def test_a_job_that_ends_before_its_submit_is_answered_tells_all_the_same(
    counted: tuple[Counted, str], gates: dict[str, threading.Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "SUBMIT_WAIT", DEADLINE)
    app, url = counted
    gates["gate"] = threading.Event()
    told: list[str | None] = []
    with socaity.connect(url, transport="http", progress=False) as service:
        job = service.telling("gate")
        job.add_progress_callback(lambda job: told.append(job.progress.message))
        gates["gate"].set()
        assert job.result(DEADLINE) == "told"
        assert told[-1] == "half"
        assert job.logs == ["begun", "ended"]
        assert app.of_jobs() == ["POST /telling", f"GET /jobs/{job.id}/events"]

        app.hides = "/events"  # what was told cannot be had: the result is there
        assert service.telling("gate").result(DEADLINE) == "told"


def test_all_jobs_of_a_service_share_one_socket(
    counted: tuple[Counted, str], gates: dict[str, threading.Event]
) -> None:
    app, url = counted
    gates["open"] = threading.Event()
    gates["open"].set()
    with socaity.connect(url, progress=False) as service:
        jobs = [service.quick(str(number)) for number in range(SHORT)]
        jobs += [service.ended_at("open") for _ in range(LONG)]
        for job in jobs:
            job.result(DEADLINE)
    assert app.requests == ["GET /openapi.json", "SOCKET /ws"]


@pytest.mark.parametrize("wire", ["websocket", "http"])
def test_the_end_of_a_job_is_known_at_once(
    counted: tuple[Counted, str], gates: dict[str, threading.Event], wire: str
) -> None:
    _, url = counted
    url = url.replace("http:", "ws:") if wire == "websocket" else url
    added = []
    with socaity.connect(url, transport=wire, progress=False) as service:
        jobs = [service.ended_at(f"gate {number}") for number in range(LONG)]
        for number, job in enumerate(jobs):
            until(job, lambda job=job: job.progress.message == "at the gate")  # type: ignore[misc]
            gates[f"gate {number}"].set()
            ended = job.result(DEADLINE)
            added.append(time.monotonic() - ended)
    # a client that asks once a second would learn it 0.5 s late
    assert statistics.median(added) <= 0.1


def test_the_times_of_a_watch_can_be_chosen(
    counted: tuple[Counted, str], gates: dict[str, threading.Event]
) -> None:
    """Where neither events nor held requests get through, the job is asked for; how often, the caller says."""
    app, url = counted
    app.hides = "/events"

    def quickly(target: Target) -> HTTPTransport:
        return HTTPTransport(target, times=WatchTimes(first_poll=0.001, max_poll=0.002))

    def seldom(target: Target) -> HTTPTransport:
        return HTTPTransport(target, times=WatchTimes(first_poll=DEADLINE, max_poll=DEADLINE))

    with (
        socaity.connect(url, transport=quickly, progress=False) as eager,
        socaity.connect(url, transport=seldom, progress=False) as patient,
    ):
        one, other = eager.ended_at("same gate"), patient.ended_at("same gate")
        until(one, lambda: app.requests.count(f"GET /jobs/{one.id}") > 20)
        assert app.requests.count(f"GET /jobs/{other.id}") <= 2
        gates["same gate"].set()
        one.result(DEADLINE)


@pytest.mark.parametrize("wire", ["websocket", "http"])
def test_connections_are_used_again_and_closed_at_the_end(counted: tuple[Counted, str], wire: str) -> None:
    _, url = counted
    with CuttingProxy(int(url.rpartition(":")[2])) as proxy:
        url = proxy.url.replace("http:", "ws:") if wire == "websocket" else proxy.url
        service = socaity.connect(url, transport=wire, progress=False)
        for number in range(20):
            service.quick(str(number)).result(DEADLINE)
        assert (proxy.connections, len(proxy._open)) == (1, 2)  # both ends of the only one
        service.close()
        deadline = time.monotonic() + 3.0  # the server closes idle ones itself after 5
        while proxy._open:
            assert time.monotonic() < deadline
