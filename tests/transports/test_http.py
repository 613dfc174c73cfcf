"""Jobs of our server over HTTP, with everything that may stand between."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
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
from socaity.protocol.events import JobStatus
from socaity.transport import Target, error_from_event
from socaity_server import JobProgress, SocaityRouter
from socaity_transports import http
from socaity_transports._httpx import HTTPClient, HTTPRequest
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


async def test_a_short_job_is_one_request(between: Between, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SUBMIT_WAIT", 20)
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
        with pytest.raises(JobLost, match="has not been reached") as lost:
            async for _ in JobWatch(client, gone, "a" * 32, known=True, **options).events():
                pass
        assert "nothing was sent" not in str(lost.value)
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


# -- what an answer may say -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spell", [str, str.upper, str.title], ids=["lower", "upper", "title"])
def test_every_end_is_an_end_in_any_letter_case(spell: Callable[[str], str]) -> None:
    def end(status: str, **document: Any) -> Any:
        [event] = events_of_document({"status": spell(status), **document})
        assert event.is_terminal
        return event.data if event.kind == "result" else error_from_event(event, "a" * 32)

    assert end("succeeded", result=0) == 0
    assert isinstance(end("cancelled"), JobCancelled)
    assert isinstance(end("failed"), JobFailed)
    timed_out = end("failed", error={"code": "timeout", "detail": "it ran out of time"})
    assert (type(timed_out), timed_out.code) == (JobFailed, "timeout")
    assert isinstance(end("failed", error={"code": "job_lost"}), JobLost)
    assert isinstance(end("failed", error={"code": "job_not_found", "status": 404}), NotFoundError)
    rejected = end("failed", error={"code": "queue_full", "status": 503, "retry_after": 2})
    assert (type(rejected), rejected.retry_after) == (ServerError, 2)
    assert {status for status in JobStatus if status.is_terminal} == {"succeeded", "failed", "cancelled"}


@pytest.mark.parametrize("status", ["queued", "running", "RUNNING"])
def test_a_result_beside_an_unfinished_status_is_no_result(status: str) -> None:
    for result in (None, "", [], {"progress": 0.5}):
        events = events_of_document({"status": status, "result": result})
        assert [event.kind for event in events] == ["status"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, None])
@pytest.mark.parametrize("is_pushed", [True, False], ids=["pushed", "asked"])
async def test_trouble_on_the_way_does_not_end_a_job(
    between: Between, status: int | None, is_pushed: bool
) -> None:
    """`None` is a connection that breaks."""
    no_events = answer_events(200, "text/html", b"")
    left = 3

    async def way(app: Any, scope: Any, receive: Any, send: Any) -> None:
        nonlocal left
        if scope["path"].endswith("/events") and not is_pushed:
            await no_events(app, scope, receive, send)
        elif scope["method"] == "GET" and "/jobs/" in scope["path"] and left:
            left -= 1
            if status is None:
                raise ConnectionResetError
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            gates.go_on.set()
            await app(scope, receive, send)

    async with opened(between.url, times=QUICK) as transport:
        call = await begun(transport, "slow")
        await until(gates.started.is_set)
        between.way = way
        assert await call.result() == "slow"
    assert left == 0


async def test_a_job_is_asked_for_less_and_less_and_never_more_often_than_the_service_wants() -> None:
    documents: list[tuple[dict[str, Any], dict[str, str]]] = [({"status": "running"}, {})] * 6
    documents += [({"status": "running"}, {"retry-after": "9"}), ({"status": "succeeded", "result": 1}, {})]
    answers = iter(documents)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/events"):
            await answer_events(200, "text/html", b"")(None, scope, receive, send)
            return
        document, headers = next(answers)
        pairs = [
            (b"content-type", b"application/json"),
            *((k.encode(), v.encode()) for k, v in headers.items()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})

    times = WatchTimes(first_poll=0.5, max_poll=2.0)
    with served(app) as url:
        client = HTTPClient(Target(url))
        try:
            watch = JobWatch(client, url, "a" * 32, times=times, streaming=False, sleep=sleep)
            events = [event async for event in watch.events()]
        finally:
            await client.aclose()
    assert events[-1].data == 1
    # the first answer shows that requests are not held; the next delays grow to the largest
    assert slept == [0.5, 0.75, 1.125, 1.6875, 2.0, 9.0]


# -- connections ------------------------------------------------------------------------------------------------------


class CancelledAt:
    """Awaits a coroutine and cancels it at its suspension number `at`, whatever it waits for."""

    def __init__(self, coroutine: Any, at: int) -> None:
        self._coroutine, self._at = coroutine, at
        self.is_reached = False

    def __await__(self) -> Any:
        steps, count = self._coroutine.__await__(), 0
        step, value = steps.send, None
        while True:
            try:
                waited = step(value)
            except StopIteration as end:
                return end.value
            count += 1
            step, value = steps.send, None
            if count == self._at:
                self.is_reached = True
                if waited is not None:
                    waited._asyncio_future_blocking = False
                    waited.cancel()
                step, value = steps.throw, asyncio.CancelledError()
                continue
            try:
                yield waited
            except BaseException as exc:
                step, value = steps.throw, exc


async def test_a_request_that_is_cancelled_at_any_moment_harms_no_other(between: Between) -> None:
    client = HTTPClient(Target(between.url))

    async def ask() -> Any:
        async with client.stream(HTTPRequest(url=f"{between.url}/openapi.json")) as response:
            return await response.document()

    async def ask_and_cancel(at: int) -> bool:
        cancelled = CancelledAt(ask(), at)
        with suppress(asyncio.CancelledError):
            await cancelled
        return cancelled.is_reached

    try:
        await ask()
        moments = 0
        while await asyncio.ensure_future(ask_and_cancel(moments + 1)):
            moments += 1
            async with asyncio.timeout(20):
                assert (await ask())["info"]["title"] == "ours"
        assert moments > 2
    finally:
        await client.aclose()
