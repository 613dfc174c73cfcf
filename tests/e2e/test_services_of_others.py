"""Services that we did not write, called as a user calls them: what arrives, what is repeated and what is not."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import respx
from fastapi import Body, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

import socaity
from socaity import ConnectError, JobStatus, RetryPolicy, ServerError, TransportError
from tests.e2e.servers import DEADLINE
from tests.transports.doubles import served

AT_ONCE = RetryPolicy(attempts=8, base_delay=0, max_delay=0)
EVENTS: Any = {200: {"content": {"text/event-stream": {}}}}
MEGABYTE = 2**20


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def breaking(part: bytes) -> AsyncIterator[bytes]:
    yield part
    raise ConnectionResetError


def make_app() -> FastAPI:
    app = FastAPI(title="theirs")
    runs: Counter[str] = Counter()

    @app.post("/count_runs")
    def count_runs(name: str) -> int:
        return runs[name]

    @app.post("/run")
    async def run(request: Request, body: Annotated[dict[str, Any], Body()]) -> Any:
        return json.loads(await request.body())

    @app.post("/submit")
    async def submit(
        request: Request,
        input: Annotated[dict[str, Any], Body()],
        policy: Annotated[dict[str, Any], Body()],
        webhook: Annotated[str | None, Body()] = None,
    ) -> Any:
        return json.loads(await request.body())

    @app.post("/draw")
    def draw(name: str) -> str:
        runs[name] += 1
        return f"picture {name}"

    @app.post("/enlarge")
    def enlarge(picture: str, name: str) -> str:
        runs[name] += 1
        if runs[name] <= 2:
            raise HTTPException(429, "too many requests", {"Retry-After": "0.01"})
        return f"large {picture}"

    @app.post("/limited")
    def limited(number: int) -> int:
        """Takes each number at its second try."""
        runs[f"limited {number}"] += 1
        if runs[f"limited {number}"] < 2:
            raise HTTPException(429, "too many requests", {"Retry-After": "0.01"})
        runs["limited"] += 1
        return number

    @app.get("/whoami")
    def whoami(authorization: Annotated[str | None, Header()] = None) -> str | None:
        return authorization

    @app.get("/streams/framed", responses=EVENTS)
    def framed(megabytes: int) -> StreamingResponse:
        text = json.dumps("x" * (megabytes * MEGABYTE)).encode()
        body = pieces(b": hello\n\ndata: ", text[:70_000], text[70_000:], b"\n\n: still here\n\ndata: 2\n\n")
        return StreamingResponse(body, media_type="text/event-stream")

    @app.get("/streams/unframed", responses=EVENTS)
    def unframed() -> StreamingResponse:
        return StreamingResponse(pieces(b"Once ", b"upon"), media_type="text/event-stream")

    @app.get("/streams/undeclared")
    def undeclared() -> StreamingResponse:
        return StreamingResponse(pieces(b"data: 1\n\n", b"data: 2\n\n"), media_type="text/event-stream")

    @app.get("/streams/whole", responses=EVENTS)
    def whole(value: str) -> Response:
        return Response(value, media_type="application/json")

    @app.get("/files/broken")
    def broken_file() -> StreamingResponse:
        headers = {"Content-Length": str(3 * MEGABYTE)}
        return StreamingResponse(
            breaking(bytes(MEGABYTE)), media_type="application/octet-stream", headers=headers
        )

    @app.get("/files/refused")
    def refused_file() -> None:
        raise HTTPException(500, "no such luck")

    @app.get("/streams/silent", responses=EVENTS)
    def silent() -> StreamingResponse:
        return StreamingResponse(pieces(b": nothing to say\n\n"), media_type="text/event-stream")

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(make_app()) as url:
        yield url


@pytest.fixture
def service(address: str) -> Iterator[socaity.Service]:
    with socaity.connect(address, progress=False, retry=AT_ONCE) as connected:
        yield connected


# -- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [{"input": {}}, {"input": {"n": 1, "deep": [{"x": 0.5}]}, "policy": {"ttl": 1}}, {}]
)
def test_an_object_is_sent_as_it_is(service: socaity.Service, body: dict[str, Any]) -> None:
    sent = service.run(body).result(DEADLINE)
    assert sent == body
    assert json.dumps(sent) == json.dumps(body)  # 1 is not 1.0, and True is not 1


def test_every_option_beside_the_input_is_sent(service: socaity.Service) -> None:
    given = {
        "input": {},
        "policy": {"executionTimeout": 5000, "lowPriority": True},
        "webhook": "https://a.example/b",
    }
    assert service.submit(**given).result(DEADLINE) == given
    assert service.submit(input={}, policy={}).result(DEADLINE) == {"input": {}, "policy": {}}


def test_each_service_sends_its_own_key_however_many_are_used_at_once(address: str) -> None:
    seen: dict[str, set[str]] = {}

    def use(key: str) -> None:
        with socaity.connect(address, api_key=key, progress=False) as mine:
            jobs = [mine.whoami() for _ in range(25)]
            seen[key] = {job.result(DEADLINE) for job in jobs}

    keys = [f"tenant-{number}" for number in range(8)]
    threads = [threading.Thread(target=use, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert seen == {key: {f"Bearer {key}"} for key in keys}


# -- streams ----------------------------------------------------------------------------------------------------------


def test_an_event_of_several_megabytes_is_one_chunk(service: socaity.Service) -> None:
    job = service.framed(3)
    first, second = list(job)
    assert (len(first), second) == (3 * MEGABYTE, 2)


def test_text_without_frames_is_delivered(service: socaity.Service) -> None:
    assert "".join(service.unframed()) == "Once upon"


def test_a_stream_without_chunks_is_empty_and_no_failure(service: socaity.Service) -> None:
    job = service.silent()
    assert (job.result(DEADLINE), list(job)) == ([], [])


def test_a_stream_that_was_not_declared_is_not_lost(service: socaity.Service) -> None:
    job = service.undeclared()
    assert job.result(DEADLINE) == [1, 2]
    assert list(job) == [1, 2]


@pytest.mark.parametrize(
    ("value", "result", "chunks"),
    [
        ("[1, 2]", [1, 2], [1, 2]),
        ('{"status": "done"}', {"status": "done"}, [{"status": "done"}]),
        ("[]", [], []),
        ("0", 0, [0]),
        ("null", [], []),
    ],
)
def test_a_whole_answer_where_a_stream_was_declared_is_not_lost(
    service: socaity.Service, value: str, result: Any, chunks: list[Any]
) -> None:
    job = service.whole(value)
    assert job.result(DEADLINE) == result
    assert list(job) == chunks

    async def read() -> list[Any]:
        return [chunk async for chunk in service.whole(value)]

    assert asyncio.run(asyncio.wait_for(read(), DEADLINE)) == chunks


# -- files that come --------------------------------------------------------------------------------------------------


def test_a_file_that_breaks_off_leaves_nothing_on_the_disk(service: socaity.Service, tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="broke"):
        service.broken_file().save(tmp_path / "file.bin", timeout=DEADLINE)
    with pytest.raises(ServerError, match="no such luck"):
        service.refused_file().save(tmp_path / "file.bin", timeout=DEADLINE)
    assert list(tmp_path.iterdir()) == []


# -- what is sent again -----------------------------------------------------------------------------------------------


def test_a_rate_limit_in_a_chain_is_waited_for_and_what_was_made_is_kept(service: socaity.Service) -> None:
    picture = service.draw(name="cat")
    large = service.enlarge(picture=picture, name="large cat")
    assert large.result(DEADLINE) == "large picture cat"
    assert picture.result(DEADLINE) == "picture cat"
    assert service.count_runs("cat").result(DEADLINE) == 1
    assert service.count_runs("large cat").result(DEADLINE) == 3


def test_rows_that_a_rate_limit_refused_come_later(service: socaity.Service) -> None:
    assert service.limited.map(range(30)).result(DEADLINE) == list(range(30))
    assert service.count_runs("limited").result(DEADLINE) == 30


class Breaking:
    """A service on a plain socket that reads whole requests, and may close the connection instead of answering."""

    def __init__(self, parameters: list[dict[str, Any]], *, breaks: int) -> None:
        operation = {
            "operationId": "pay",
            "parameters": parameters,
            "responses": {"200": {"description": "paid"}},
        }
        self._document = {
            "openapi": "3.1.0",
            "info": {"title": "bank", "version": "1"},
            "paths": {"/pay": {"post": operation}},
        }
        self._breaks = breaks
        self.keys: list[str | None] = []
        """The idempotency key of each payment that came."""

    def __call__(self, request: bytes) -> bytes | None:
        """The answer, or None to break the connection."""
        if request.startswith(b"GET /openapi.json"):
            return json.dumps(self._document).encode()
        headers = dict(line.lower().split(b": ", 1) for line in request.split(b"\r\n")[1:] if b": " in line)
        key = headers.get(b"idempotency-key")
        self.keys.append(None if key is None else key.decode())
        return None if len(self.keys) <= self._breaks else b'"paid"'


@contextmanager
def answering(answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """A server that gives each request to `answer`, on a connection of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(65536)):
                    request += more
                body = answer(request) if request else None
                if body is not None:
                    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                    connection.sendall(f"{head}Connection: close\r\n\r\n".encode() + body)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE)


def test_a_call_that_may_have_run_is_not_repeated_and_says_so() -> None:
    bank = Breaking([], breaks=1000)
    with answering(bank) as url, socaity.connect(url, progress=False, retry=AT_ONCE) as service:
        job = service.pay()
        error = job.exception(DEADLINE)
    assert len(bank.keys) == 1
    assert isinstance(error, TransportError)
    assert not isinstance(error, ConnectError)
    assert error.ambiguous  # type: ignore[attr-defined]
    assert "it may have run and was not repeated; look at the service before you call again" in str(error)
    assert job.status is JobStatus.FAILED


def test_where_the_service_takes_a_key_the_call_is_repeated_with_it() -> None:
    header = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}
    bank = Breaking([header], breaks=2)
    with answering(bank) as url, socaity.connect(url, progress=False, retry=AT_ONCE) as service:
        job = service.pay()
        assert job.result(DEADLINE) == "paid"
        assert bank.keys == [job.id] * 3


def test_a_call_that_was_not_sent_is_sent_when_the_service_is_back() -> None:
    bank = Breaking([], breaks=0)
    with answering(bank) as url:
        patient = RetryPolicy(attempts=10_000, base_delay=0.001, max_delay=0.001)
        service = socaity.connect(url, progress=False, retry=patient).refresh()
    with (
        socket.socket() as reserved
    ):  # nobody else gets the port, and nobody listens, while the service is away
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", int(url.rpartition(":")[2])))
        job = service.pay()
        tried = threading.Event()
        service._retry = Told(patient, tried)
        assert tried.wait(DEADLINE)
        assert not job.done()
        reserved.listen()
        connection, _ = reserved.accept()
        with connection:
            assert connection.recv(65536).startswith(b"POST /pay ")
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n42")
        assert job.exception(DEADLINE) is None
    service.close()


class Told:
    """A policy that tells when it was asked for the second time, which is after a try that was refused."""

    def __init__(self, policy: RetryPolicy, asked: threading.Event) -> None:
        self._policy, self._asked = policy, asked

    def next_delay(self, attempt: int, error: socaity.SocaityError, elapsed: float) -> float | None:
        assert isinstance(error, ConnectError)
        self._asked.set()
        return self._policy.next_delay(attempt, error, elapsed)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_refused_calls_are_repeated_whatever_the_scheme(scheme: str) -> None:
    document = {
        "openapi": "3.1.0",
        "info": {"title": "t", "version": "1"},
        "paths": {"/pay": {"post": {"operationId": "pay"}}},
    }
    answers = [
        httpx.ConnectError("refused"),
        httpx.Response(503),
        httpx.Response(429),
        httpx.Response(200, json=7),
    ]
    with respx.mock(base_url=f"{scheme}://bank.example") as edge:
        edge.get("/openapi.json").respond(json=document)
        pay = edge.post("/pay").mock(side_effect=answers)
        with socaity.connect(f"{scheme}://bank.example", progress=False, retry=AT_ONCE) as service:
            assert service.pay().result(DEADLINE) == 7
    assert pay.call_count == 4


def test_what_a_gateway_may_have_passed_on_is_not_repeated() -> None:
    tries: list[str] = []
    app = FastAPI()

    @app.post("/pay")
    def pay() -> Any:
        tries.append("pay")
        return JSONResponse({"detail": "no answer"}, 504)

    with served(app) as url, socaity.connect(url, progress=False, retry=AT_ONCE) as service:
        error = service.pay().exception(DEADLINE)
    assert tries == ["pay"]
    assert isinstance(error, ServerError)
    assert error.ambiguous  # type: ignore[attr-defined]
