"""The short way of plain model calls, byte by byte on a real connection: it must be told from uvicorn's own only by its speed."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse

from socaity_server import SocaityRouter
from socaity_server.frontends import http_connection
from socaity_server.frontends.limits import Limits
from socaity_server.frontends.lite import ModelHandler

from .conftest import serve
from .test_models_http import DEADLINE, Scaler

PATH = "/predict/scale"


@pytest.fixture
def scaler() -> Scaler:
    return Scaler()


@pytest.fixture
def port(router: SocaityRouter, scaler: Scaler) -> Iterator[int]:
    router.add_model(scaler, name="scale")

    @router.add_route("/echo")
    async def echo(text: str) -> str:
        return text

    with serve(router) as url:
        yield int(url.rpartition(":")[2])


class Connection:
    """A raw connection that reads one response at a time."""

    def __init__(self, port: int, *, buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE)
        if buffer is not None:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, option, buffer)
        self.socket.connect(("127.0.0.1", port))
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def response(self) -> tuple[int, dict[str, str], Any]:
        status = int(self._file.readline().split()[1])
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        body = self._file.read(int(headers.get("content-length", "0")))
        return status, headers, json.loads(body) if body else None

    def raw_line(self) -> bytes:
        return self._file.readline()

    def is_at_end(self) -> bool:
        return self._file.read(1) == b""

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@pytest.fixture
def connection(port: int) -> Iterator[Connection]:
    with closing(Connection(port)) as connection:
        yield connection


def request(
    body: Any, path: str = PATH, *, version: str = "1.1", method: str = "POST", **headers: str
) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "host: localhost", "content-type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "transfer_encoding" not in headers:
        lines.append(f"content-length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


def test_plain_call_is_answered_and_the_connection_lives_on(connection: Connection) -> None:
    for number in range(3):
        connection.send(request({"features": [[number, 2]]}))
        status, headers, body = connection.response()
        assert (status, body) == (200, {"model": "scale", "predictions": [[2 * number, 4]]})
        assert headers["content-type"] == "application/json"
        assert "date" in headers
        assert "connection" not in headers


def test_body_may_come_in_pieces_and_in_chunks(connection: Connection) -> None:
    whole = request({"x": [1, 2]})
    connection.send(*[whole[at : at + 1] for at in range(len(whole))])
    assert connection.response()[2] == [2, 4]
    chunks = b'4\r\n{"x"\r\n8\r\n: [1, 2]\r\n1\r\n}\r\n0\r\n\r\n'
    connection.send(request(chunks, transfer_encoding="chunked"))
    assert connection.response()[2] == [2, 4]


def test_pipelined_requests_of_both_kinds_are_answered_in_their_order(connection: Connection) -> None:
    kinds = [PATH, PATH, "/echo", PATH, "/echo", "/echo", PATH, "/predict_batched/scale"]
    bodies: list[Any] = []
    for number, path in enumerate(kinds):
        bodies.append({"text": f"{number}"} if path == "/echo" else {"x": [number, 0]})
    connection.send(b"".join(request(body, path) for body, path in zip(bodies, kinds, strict=True)))
    for number, path in enumerate(kinds):
        assert connection.response()[2] == (f"{number}" if path == "/echo" else [2 * number, 0])


@pytest.mark.parametrize(("version", "headers"), [("1.1", {"connection": "close"}), ("1.0", {})])
def test_connection_is_closed_where_the_client_asks_for_it(
    connection: Connection, version: str, headers: dict[str, str]
) -> None:
    connection.send(request({"x": [1, 2]}, version=version, **headers))
    assert connection.response()[2] == [2, 4]
    assert connection.is_at_end()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"x": [1, 2', 400, "malformed_body"),
        (b"[1]", 400, "malformed_body"),
        (b"", 400, "malformed_body"),
        (b'{"x": [1, 2, 3]}', 422, "invalid_input"),
        (b'{"x": [666, 2]}', 500, "job_failed"),
    ],
)
def test_errors_are_problem_documents_and_the_connection_lives_on(
    connection: Connection, body: bytes, status: int, code: str
) -> None:
    connection.send(request(body))
    got, headers, problem = connection.response()
    assert (got, problem["code"], headers["content-type"]) == (status, code, "application/problem+json")
    connection.send(request({"x": [1, 2]}))
    assert connection.response()[2] == [2, 4]


def test_too_large_body_is_refused_before_it_has_come(router: SocaityRouter) -> None:
    small = SocaityRouter(max_body=1000, grace=1.0)
    small.add_model(Scaler(), name="scale")
    with serve(small) as url, closing(Connection(int(url.rpartition(":")[2]))) as connection:
        head = b"POST /predict/scale HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += b"content-length: 99999\r\n\r\n"
        connection.send(head, b"[" * 2000)
        status, headers, problem = connection.response()
        assert (status, problem["code"], headers["connection"]) == (413, "too_large", "close")


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (PATH + "?explain=1", {}, (200, "explain")),
        (PATH, {"x_explain": "1"}, (200, None)),
        (PATH, {"origin": "http://evil.example"}, (403, "code")),
        (PATH, {"x_request_timeout_ms": "never"}, (400, "code")),
        (PATH, {"expect": "100-continue"}, (100, None)),
    ],
)
def test_special_requests_take_the_long_way(
    connection: Connection, path: str, headers: dict[str, str], expected: tuple[int, str | None]
) -> None:
    connection.send(request({"x": [1, 2]}, path, **headers))
    status, answered, body = connection.response()
    assert status == expected[0]
    if expected[1] is not None:
        assert expected[1] in body
    if "x_explain" in headers:
        assert "server-timing" in answered


def test_arguments_that_may_be_references_take_the_long_way(connection: Connection) -> None:
    connection.send(request({"x": {"$job": "0" * 32}}))
    status, _, problem = connection.response()
    assert (status, problem["code"]) == (422, "unknown_job")


def test_other_methods_and_unknown_models_are_uvicorns(connection: Connection) -> None:
    connection.send(request(b"", method="PUT"))
    assert connection.response()[0] == 405
    connection.send(request({"x": [1, 2]}, "/predict/nobody"))
    assert connection.response()[0] == 404


def test_call_of_a_client_that_has_gone_does_not_run(
    port: int, router: SocaityRouter, scaler: Scaler
) -> None:
    scaler.gate = threading.Semaphore(0)
    with closing(Connection(port)) as first, closing(Connection(port)) as last:
        first.send(request({"x": [1, 2]}))
        assert scaler.started.wait(DEADLINE)
        gone = Connection(port)
        gone.send(request({"x": [666, 2]}))
        batcher = router.dataplane.direct_routes()["scale"].batcher
        _until(lambda: batcher.queued_calls == 1, last)
        gone.close()
        _until(lambda: batcher.queued_calls == 0, last)
        scaler.gate.release(2)
        assert first.response()[2] == [2, 4]
        assert router.dataplane.direct_routes()["scale"].statistics.failures == {"cancelled": 1}


def _until(condition: Any, connection: Connection) -> None:
    """Each request gives the server's loop the time to do what it has to do."""
    for _ in range(10_000):
        if condition():
            return
        connection.send(request(b"", "/health", method="GET"))
        connection.response()
    raise AssertionError("it did not come true")


def test_middleware_and_limits_see_every_request() -> None:
    guarded = SocaityRouter(grace=1.0)
    guarded.add_model(Scaler(), name="scale")

    async def refuse(request: Any, call_next: Any) -> Any:
        return PlainTextResponse("{}", status_code=418)

    guarded.app.add_middleware(BaseHTTPMiddleware, dispatch=refuse)
    with serve(guarded) as url, closing(Connection(int(url.rpartition(":")[2]))) as connection:
        connection.send(request({"x": [1, 2]}))
        assert connection.response()[0] == 418

    limited = SocaityRouter(grace=1.0)
    limited.add_model(Scaler(), name="scale")
    limited.app.limits = Limits(max_concurrent=None, rate_limit=1, rate_period=600.0)
    with serve(limited) as url, closing(Connection(int(url.rpartition(":")[2]))) as connection:
        for status in (200, 429):
            connection.send(request({"x": [1, 2]}))
            assert connection.response()[0] == status


def test_stopping_server_answers_what_it_has_taken(router: SocaityRouter) -> None:
    scaler = Scaler()
    scaler.gate = threading.Semaphore(0)
    slow = SocaityRouter(grace=DEADLINE)
    slow.add_model(scaler, name="scale")
    ready = threading.Event()
    address: list[str] = []

    def on_ready(url: str) -> None:
        address.append(url)
        ready.set()

    server = slow.server(port=0, on_ready=on_ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(DEADLINE)
    port = int(address[0].rpartition(":")[2])
    with closing(Connection(port)) as connection, closing(Connection(port)) as other:
        connection.send(request({"x": [1, 2]}))
        assert scaler.started.wait(DEADLINE)
        server.should_exit = True
        status = 200
        while status == 200:  # until the server notices, which takes it a tenth of a second
            other.send(request(b"", "/health", method="GET"))
            status, _, health = other.response()
        assert (status, health["status"]) == (503, "draining")
        other.send(request({"x": [1, 2]}))
        status, headers, problem = other.response()
        assert (status, problem["code"], headers["Retry-After".lower()]) == (503, "unavailable", "1")
        scaler.gate.release(1)
        assert connection.response()[2] == [2, 4]
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_known_heads_are_told_apart_and_never_taken_for_bodies(connection: Connection) -> None:
    """The same head again and again; between them others, pieces, two at once, and heads inside of bodies."""

    def both(number: int) -> bytes:
        return request({"x": [number, 7]}) + request({"x": [number, 8]})

    for number in range(10, 30):
        known = request({"x": [number, 1]})
        connection.send(known)
        assert connection.response()[2] == [2 * number, 2]
        at = number % len(known)
        connection.send(known[:at], known[at:])
        assert connection.response()[2] == [2 * number, 2]
        connection.send(both(number))
        assert [connection.response()[2] for _ in range(2)] == [[2 * number, 14], [2 * number, 16]]
        connection.send(b"\r\n" + known)  # empty lines before a request are allowed
        assert connection.response()[2] == [2 * number, 2]
        connection.send(request({"text": request({"x": [1, 2]}).decode()}, "/echo"))
        assert connection.response()[2] == request({"x": [1, 2]}).decode()


def test_known_head_with_another_length_of_body_is_not_taken(connection: Connection) -> None:
    known = request({"x": [10, 1]})
    head, body = known[: known.index(b"\r\n\r\n") + 4], known[known.index(b"\r\n\r\n") + 4 :]
    for _ in range(2):
        connection.send(known)
        assert connection.response()[2] == [20, 2]
    connection.send(head + body[:-1], b"}")
    assert connection.response()[2] == [20, 2]
    connection.send(b"X" + known)
    assert connection.raw_line() in (b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 405 Method Not Allowed\r\n")


def test_known_head_takes_the_long_way_when_the_short_one_is_closed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        if number == 2:
            monkeypatch.setattr(ModelHandler, "call_plain", lambda *arguments: None)
        connection.send(request({"x": [number, 2]}))
        assert connection.response()[::2] == (200, [2 * number, 4])


@pytest.mark.parametrize("path", [PATH, "/echo"])
def test_idle_connection_is_closed_and_a_busy_one_is_not(
    router: SocaityRouter, scaler: Scaler, path: str
) -> None:
    router.add_model(scaler, name="scale")

    @router.add_route("/echo")
    async def echo(text: str) -> str:
        return text

    body = {"text": "a"} if path == "/echo" else {"x": [1, 2]}
    with serve(router, keep_alive=0.3) as url, closing(Connection(int(url.rpartition(":")[2]))) as one:
        began = time.monotonic()
        while time.monotonic() < began + 0.5:  # longer than the limit, and never idle for as long
            one.send(request({"x": [1, 2]}))
            assert one.response()[0] == 200
            one.send(request(body, path))
            assert one.response()[0] == 200
        left = time.monotonic()
        assert one.is_at_end()
        assert 0.2 < time.monotonic() - left < DEADLINE


def test_head_that_is_too_large_or_too_slow_ends_its_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Connection(port)) as connection:
        connection.send(b"POST /predict/scale HTTP/1.1\r\nhost: localhost\r\nx-long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.send(b"a" * 4096)
        assert connection.raw_line() == b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    monkeypatch.setattr(http_connection, "_HEAD_SECONDS", 0.05)
    for beginning in (b"", b"POST /predict/scale HTTP/1.1\r\nhost: localhost\r\n"):
        with closing(Connection(port)) as connection:
            connection.send(beginning)
            assert connection.is_at_end()
    with closing(Connection(port)) as connection:
        for number in range(3):
            connection.send(request({"x": [number, 2]}))
            assert connection.response()[2] == [2 * number, 4]
            time.sleep(0.06)  # the limit is for a head that has begun


def test_client_that_does_not_read_is_not_answered_without_end(port: int) -> None:
    """Its answers fill the buffers of the system; then its requests wait, and nothing is kept for it in memory."""
    one = request({"x": [[1, 2]] * 2000})
    with closing(Connection(port, buffer=65536)) as connection:  # the system's own may hold more than we send
        connection.socket.setblocking(False)
        sent, stalled_at = 0, 0.0
        # the buffers of the system may hold some dozens of megabytes
        while sent < 256 * 2**20:
            try:
                sent += connection.socket.send(one[sent % len(one) :])
                stalled_at = 0.0
            except BlockingIOError:
                stalled_at = stalled_at or time.monotonic()
                if time.monotonic() - stalled_at > 1.0:
                    break  # the server reads no further
                time.sleep(0.01)
        else:
            pytest.fail("the server took everything")
