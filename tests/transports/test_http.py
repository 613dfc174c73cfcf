"""Jobs of our server over HTTP, with everything that may stand between."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import (
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    JobLost,
    NotFoundError,
    ProtocolError,
    ServerError,
)
from socaity.protocol.description import EndpointDescription
from socaity.transport import Target
from socaity_server import JobProgress, SocaityRouter
from socaity_transports._httpx import HTTPClient
from socaity_transports._watch import JobWatch, WatchTimes, events_of_document
from socaity_transports.http import HTTPTransport
from tests.transports.doubles import RecordedCall, called, opened, served

pytestmark = pytest.mark.anyio

QUICK = WatchTimes(first_byte=0.2, silence=0.4, hold=5.0, base_delay=0.001, max_delay=0.01, first_poll=0.001)
Way = Callable[[Any, Any, Any, Any], Awaitable[None]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Between:
    """An app in front of another: it records the requests, and `way` may do something to one."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests: list[str] = []
        self.way: Way | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.requests.append(f"{scope['method']} {scope['path']}")
        if self.way is None:
            await self.app(scope, receive, send)
        else:
            await self.way(self.app, scope, receive, send)

    def count(self, part: str) -> int:
        return sum(part in request for request in self.requests)


class Gates:
    """Where the functions of the service wait for the test."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()

    def reset(self) -> None:
        self.started.clear()
        self.go_on.clear()

    def wait(self) -> None:
        self.started.set()
        assert self.go_on.wait(20)


gates = Gates()


def make_router() -> SocaityRouter:
    router = SocaityRouter(provider="fastapi", environment="localhost", title="ours")

    @router.add_route("/double", max_batch_size=8)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    @router.add_route("/quick", queue_size=100)
    def quick(text: str, data: bytes = b"") -> Any:
        return {"text": text, "size": len(data)}

    @router.add_route("/slow", queue_size=1)
    def slow(job_progress: JobProgress, steps: int = 3) -> str:
        for step in range(steps):
            job_progress.progress = step / steps
        gates.wait()
        return "slow"

    @router.add_route("/fail", queue_size=10)
    def fail() -> None:
        raise ValueError("boom")

    @router.add_route("/count")
    def count(n: int, gated: bool = False) -> Iterator[int]:
        for i in range(n):
            if gated and i == n // 2:
                gates.wait()
            yield i

    return router


@pytest.fixture(scope="module")
def between() -> Iterator[Between]:
    between = Between(make_router().app)
    with served(between, lifespan="on") as url:
        between.url = url
        yield between


@pytest.fixture(autouse=True)
def fresh(between: Between) -> Iterator[None]:
    gates.reset()
    between.way = None
    between.requests.clear()
    yield
    gates.go_on.set()


async def begun(transport: HTTPTransport, name: str, /, **arguments: Any) -> RecordedCall:
    description = await transport.describe()
    call = RecordedCall(next(e for e in description.endpoints if e.name == name), arguments)
    transport.start([call])
    return call


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop and the server work until `condition` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


# -- the usual way ----------------------------------------------------------------------------------------------------


async def test_our_server_describes_itself(between: Between) -> None:
    async with opened(between.url) as transport:
        description = await transport.describe()
    assert between.requests == ["GET /openapi.json", "GET /socaity"]
    assert description.title == "ours"
    assert {"double", "quick", "slow", "fail", "count"} <= {e.name for e in description.endpoints}


async def test_a_direct_call_is_one_request_and_keeps_arrays(between: Between) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with opened(between.url) as transport:
        call = await called(transport, "double", x=x)
    value = await call.result()
    assert value.dtype == np.float32
    assert np.array_equal(value, x * 2)
    assert between.requests[2:] == ["POST /double"]


async def test_a_short_job_is_one_request(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await called(transport, "quick", text="hi", data=b"123")
    assert call.value == {"text": "hi", "size": 3}
    assert between.requests[2:] == ["POST /quick"]


async def test_a_long_job_costs_two_requests_and_tells_its_progress(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await begun(transport, "slow")
        await until(lambda: between.count("/events") == 1 and "progress" in call.kinds)
        gates.go_on.set()
        assert await call.result() == "slow"
    assert [r.partition("/jobs")[0] for r in between.requests[2:]] == ["POST /slow", "GET "]
    assert [event.seq for event in call.events] == list(range(1, len(call.events) + 1))
    assert call.events[-1].kind == "result"


async def test_a_generator_gives_its_chunks(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await called(transport, "count", n=5)
    assert call.chunks == [0, 1, 2, 3, 4]
    assert call.events[-1][1:] == ("result", None)
    assert len(between.requests[2:]) == 2


async def test_a_connection_is_used_again(between: Between) -> None:
    ports = set()

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        ports.add(scope["client"][1])
        await app(scope, receive, send)

    between.way = way
    async with opened(between.url) as transport:
        for _ in range(5):
            await called(transport, "quick", text="x")
    assert len(ports) == 1


async def test_a_failed_job_says_why(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await called(transport, "fail")
    assert isinstance(call.error, JobFailed)
    assert "boom" in str(call.error)
    assert call.error.error_type == "ValueError"
    assert call.is_accepted


async def test_wrong_arguments_are_refused(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await called(transport, "quick", text=5)
        assert isinstance(call.error, InvalidInputError)
        assert not call.is_accepted
        call = await called(transport, "quick", text=object())
    assert isinstance(call.error, InvalidInputError)
    assert "cannot be sent" in str(call.error)


async def test_a_full_queue_refuses_with_retry_after(between: Between) -> None:
    async with opened(between.url) as transport:
        first = await begun(transport, "slow")
        await until(gates.started.is_set)
        second = await begun(transport, "slow")
        await until(lambda: between.count("POST /slow") == 2)
        third = RecordedCall(second.endpoint)
        refused = None
        for call in (third, RecordedCall(second.endpoint)):
            transport.start([call])
            await until(lambda call=call: call.is_done or between.count("POST /slow") == 4)
            refused = refused or (call if call.is_done else None)
        assert refused is not None
        assert isinstance(refused.error, ServerError)
        assert refused.error.code == "queue_full"
        assert refused.error.retry_after > 0
        assert not refused.is_accepted
        gates.go_on.set()
        await first.result()
        await second.result()


async def test_cancel_stops_the_remote_job(between: Between) -> None:
    async with opened(between.url) as transport:
        running = await begun(transport, "slow")
        await until(gates.started.is_set)
        queued = await begun(transport, "slow")
        await until(lambda: queued.is_accepted)
        for call in (queued, running):
            await transport.cancel(call.id)
            with pytest.raises(JobCancelled):
                await call.result()
        await transport.cancel(running.id)
        with pytest.raises(NotFoundError):
            await transport.cancel("f" * 32)


async def test_a_job_that_is_being_submitted_can_be_cancelled(between: Between) -> None:
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    let_through = threading.Event()

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            loop.call_soon_threadsafe(arrived.set)
            await asyncio.to_thread(let_through.wait, 20)
        await app(scope, receive, send)
        if scope["path"].endswith("/cancel"):
            let_through.set()

    async with opened(between.url) as transport:
        await transport.describe()
        between.way = way
        call = await begun(transport, "slow")
        async with asyncio.timeout(20):
            await arrived.wait()
            await transport.cancel(call.id)
        with pytest.raises(JobCancelled):
            await call.result()


async def test_another_process_can_attach(between: Between) -> None:
    async with opened(between.url) as transport:
        first = await begun(transport, "count", n=4, gated=True)
        await until(lambda: len(first.chunks) == 2)
        async with opened(between.url) as other:
            second = RecordedCall(first.endpoint)
            second.id = first.id
            other.attach(second)
            gates.go_on.set()
            await second.ended()
            await first.ended()
            assert second.events == first.events
            assert [e async for e in other.watch(first.id, after=3)] == first.events[3:]
            async with aclosing(other.watch(first.id)) as events:
                assert (await anext(events)).seq == 1
            with pytest.raises(NotFoundError):
                await anext(other.watch("f" * 32))


async def test_closing_ends_the_jobs_here_and_the_connections(between: Between) -> None:
    async with opened(between.url) as transport:
        call = await begun(transport, "slow")
        await until(lambda: "progress" in call.kinds)
        given_up = transport.watch(call.id)
        await anext(given_up)
    assert isinstance(call.error, JobLost)
    gates.go_on.set()
    with pytest.raises(JobLost):
        async for _ in given_up:
            pass


# -- what stands between ----------------------------------------------------------------------------------------------


async def test_a_cut_stream_goes_on_where_it_was(between: Between) -> None:
    cut_after = iter([1, 2, 3, 5, 8])

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        left = next(cut_after, None) if scope["path"].endswith("/events") else None

        async def cutting_send(message: Any) -> None:
            nonlocal left
            if left is not None and message["type"] == "http.response.body":
                if left == 0:
                    raise ConnectionResetError
                left -= 1
                message = {**message, "body": message["body"][: 200 if left else -5]}
            await send(message)

        await app(scope, receive, cutting_send)

    between.way = way
    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "count", n=60)
        assert await call.result() is None
    assert call.chunks == list(range(60))
    assert [event.seq for event in call.events] == list(range(1, len(call.events) + 1))


def answer_events(status: int, kind: str, body: bytes) -> Way:
    """A way on which the event stream is something else."""

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].endswith("/events"):
            await app(scope, receive, send)
            return
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind.encode())]}
        )
        await send({"type": "http.response.body", "body": body})

    return way


@pytest.mark.parametrize(
    ("kind", "body", "streams"), [("text/html", b"hello", 1), ("text/event-stream", b": hi\n\n", 2)]
)
async def test_where_events_do_not_pass_a_request_is_held(
    between: Between, kind: str, body: bytes, streams: int
) -> None:
    between.way = answer_events(200, kind, body)
    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "slow")
        await until(lambda: between.requests[-1] == f"GET /jobs/{call.id}")
        gates.go_on.set()
        assert await call.result() == "slow"
    assert between.count("/events") == streams
    assert between.count(call.id) == streams + 1


async def test_a_stream_that_is_kept_back_is_given_up(between: Between) -> None:
    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        kept: list[Any] = []

        async def keeping_send(message: Any) -> None:
            kept.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                for one in kept:
                    await send(one)

        await app(scope, receive, keeping_send if scope["path"].endswith("/events") else send)

    between.way = way
    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "count", n=4, gated=True)
        await until(lambda: between.count(call.id) == 2)
        gates.go_on.set()
        await call.ended()
    assert call.chunks == [0, 1, 2, 3]  # read whole when the job had ended
    assert between.count(call.id) == 3


async def test_where_requests_are_not_held_the_job_is_polled(between: Between) -> None:
    html = answer_events(200, "text/html", b"")

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        await html(app, {**scope, "query_string": b""}, receive, send)

    between.way = way
    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "slow")
        await until(lambda: "progress" in call.kinds and between.count(f"GET /jobs/{call.id}") > 4)
        assert call.kinds.count("status") <= 2
        gates.go_on.set()
        assert await call.result() == "slow"


async def test_a_stream_without_its_chunks_is_no_success(between: Between) -> None:
    between.way = answer_events(200, "text/html", b"")
    async with opened(between.url, times=QUICK) as transport:
        call = await called(transport, "count", n=3)
    assert isinstance(call.error, ProtocolError)


async def test_an_accepted_job_that_is_unknown_is_lost(between: Between) -> None:
    problem = b'{"status": 404, "code": "job_not_found", "detail": "no such job"}'
    between.way = answer_events(404, "application/problem+json", problem)
    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "slow")
        with pytest.raises(JobLost, match="no such job"):
            await call.result()


async def test_a_service_that_is_restarting_is_waited_for(between: Between) -> None:
    troubles = iter([503, 502, 500, 429])

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        status = next(troubles, None) if scope["path"].endswith("/events") else None
        if status is None:
            gates.go_on.set()
            await app(scope, receive, send)
        else:
            await answer_events(status, "text/plain", b"")(app, scope, receive, send)

    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "slow")
        await until(gates.started.is_set)
        between.way = way
        assert await call.result() == "slow"
    assert between.count("/events") == 5


async def test_a_service_that_stays_away_ends_in_bounded_time() -> None:
    with served(Between(None)) as gone:
        pass
    now = 0.0
    slept = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    client = HTTPClient(Target(gone))
    options = {"clock": lambda: now, "sleep": sleep, "uniform": random.Random(1).uniform}
    try:
        with pytest.raises(JobLost, match="has not been reached"):
            async for _ in JobWatch(client, gone, "a" * 32, known=True, **options).events():
                pass
        assert 55 < now < 70
        assert all(delay <= 5 for delay in slept)
        with pytest.raises(ConnectError):
            async for _ in JobWatch(client, gone, "a" * 32, **options).events():
                pass
    finally:
        await client.aclose()


# -- pure -------------------------------------------------------------------------------------------------------------


def test_documents_become_events() -> None:
    def kinds(**document: Any) -> list[tuple[str, Any]]:
        return [event[1:] for event in events_of_document(document)]

    progress = {"fraction": 0.5, "message": None}
    assert kinds(status="Queued", queue_position=2) == [("status", {"status": "queued", "queue_position": 2})]
    assert kinds(status="running", progress=progress)[1] == ("progress", progress)
    assert kinds(status="succeeded", result=3) == [("result", 3)]
    assert kinds(status="failed", error={"code": "timeout"}) == [("error", {"code": "timeout"})]
    assert kinds(status="failed", error="text") == [("error", {"code": "job_failed", "detail": "text"})]
    assert kinds(status="cancelled")[0][1]["code"] == "cancelled"
    with pytest.raises(ProtocolError, match="sleeping"):
        kinds(status="sleeping")


async def test_a_call_of_an_unknown_endpoint_is_not_found(between: Between) -> None:
    async with opened(between.url) as transport:
        call = RecordedCall(EndpointDescription(name="nothing", path="/nothing"))
        transport.start([call])
        await call.ended()
    assert isinstance(call.error, NotFoundError)
