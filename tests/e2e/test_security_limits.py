"""How many connections, who a proxy says that a client is, and what is said of a server that everybody reaches."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import Request

import socaity
from socaity_server import Auth, SocaityRouter, listening
from socaity_server.address import is_loopback
from socaity_server.frontends import http_connection, login
from socaity_server.runtimes.base import Runtime, TensorSpec
from tests.e2e.servers import ServerProcess
from tests.server.auth.peers import Peer
from tests.server.conftest import serve
from tests.server.test_models_http import Scaler

DEADLINE = 20
KEY = "a-key-of-the-tests-0001"


def opened(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=DEADLINE)


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    return connection.recv(4096).partition(b"\r\n")[0]


def test_connections_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCAITY_MAX_CONNECTIONS", "3")
    with serve(SocaityRouter(grace=1.0)) as url, ExitStack() as stack:
        taken = [stack.enter_context(opened(url)) for _ in range(3)]
        for connection in taken:
            assert ask(connection) == b"HTTP/1.1 200 OK"
        with opened(url) as late:
            answer = late.makefile("rb").read()  # to the end: it is closed
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
        for connection in taken:  # the others go on
            assert ask(connection) == b"HTTP/1.1 200 OK"
        taken[0].shutdown(socket.SHUT_RDWR)
        answer = b""
        while not answer.startswith(b"HTTP/1.1 200"):  # as soon as the server has seen that one has gone
            with opened(url) as next_one:
                try:
                    answer = ask(next_one)
                except ConnectionError:
                    continue


def test_large_head_is_refused_with_authentication() -> None:
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url, opened(url) as connection:
        connection.sendall(b"GET /jobs HTTP/1.1\r\nAuthorization: Bearer ")
        try:
            while True:
                connection.sendall(b"x" * 16_384)
        except ConnectionError:
            pass


def closes(connection: socket.socket, piece: bytes, most: int = 64) -> bool:
    """Whether the server ends the connection before `most` MiB of pieces have gone there."""
    try:
        for _ in range(most * 2**20 // len(piece)):
            connection.sendall(piece)
    except ConnectionError:
        return True
    return False


CHUNKED = b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"0\r\n", (b"a: " + b"b" * 100 + b"\r\n") * 600),
        (b"0\r\na: ", b"b" * 65_536),
        (b"5;", b"x" * 65_536),
    ],
    ids=["fields behind", "field behind", "words between"],
)
def test_no_end_of_words_around_a_body(begin: bytes, piece: bytes) -> None:
    """Somebody without a key could fill the memory with them."""
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url, opened(url) as connection:
        connection.sendall(CHUNKED + begin)
        assert closes(connection, piece)


@pytest.mark.parametrize("most", [None, 10])
def test_requests_that_wait_for_each_other_have_an_end(
    most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them takes memory, before anybody knows who asks."""
    if most is not None:
        monkeypatch.setattr(http_connection, "_MOST_PIPELINED", most)
    one = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"Host", b"Connection: close\r\nHost")
    with (
        serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url,
        opened(url) as connection,
    ):
        connection.sendall(one * 999 + last)
        answers = b""
        with suppress(ConnectionError):
            while piece := connection.recv(65_536):
                answers += piece
        count = answers.count(b"HTTP/1.1 200 OK\r\n")
        assert count == 1000 if most is None else count < 1000
        assert b"HTTP/1.1 400" not in answers  # it would be taken for an answer to one of them


def test_fields_behind_a_body_are_no_headers() -> None:
    """They come when the guard has looked."""
    router = SocaityRouter(grace=1.0)

    @router.app.post("/echo")
    async def echo(request: Request) -> str:
        await request.body()
        return " ".join(request.headers)

    with serve(router) as url, opened(url) as connection:
        head = b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\nx\r\n0\r\nSocaity-Token: x\r\n\r\n")
        connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        first, _, second = connection.makefile("rb").read().partition(b"HTTP/1.1 404")
        assert b'"host transfer-encoding"' in first
        assert second  # the next request is understood


def test_refused_body_does_not_go_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "_LINGER_SECONDS", 0.0)
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url, opened(url) as connection:
        connection.sendall(b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 401"
        assert closes(connection, b"x" * 16_384)


@pytest.mark.parametrize("is_form", [True, False])
def test_body_that_stops_is_not_waited_for(is_form: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        *((login, "_FORM_SECONDS", 0.1) if is_form else (http_connection, "_BODY_SECONDS", 0.1))
    )
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url, opened(url) as connection:
        connection.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\ntoken")
        answer = connection.makefile("rb").readline()  # b"": closed
        assert answer == (b"HTTP/1.1 408 Request Timeout\r\n" if is_form else b"")


class Unfolder(Runtime):
    """Answers a number with millions of them."""

    name = "unfolder 1"
    inputs = (TensorSpec("x", "float32", (None, 1)),)
    outputs = (TensorSpec("y", "float32", (None, 4_000_000)),)
    batched = True

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return {"y": np.repeat(inputs["x"], 4_000_000, axis=1)}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends them")
@pytest.mark.parametrize("path", ["/blow", "/predict/unfold"])
def test_client_that_takes_nothing_of_an_answer_is_cut_off(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer would be kept for as long as it likes."""
    monkeypatch.setattr(listening, "_TAKING_SECONDS", 0.3)
    monkeypatch.setenv("SOCAITY_MAX_CONNECTIONS", "1")
    router = SocaityRouter(grace=1.0)
    router.add_model(Unfolder(), name="unfold", max_batch_size=1)

    @router.add_route("/blow")
    def blow(x: list[list[float]]) -> str:
        return "x" * 32_000_000

    body = b'{"x": [[1.0]]}'
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    with serve(router) as url, socket.socket() as taker:
        taker.settimeout(DEADLINE)
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taker.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        taker.sendall(head % (path.encode(), len(body)) + body)
        assert taker.recv(15) == b"HTTP/1.1 200 OK"
        ends = time.monotonic() + DEADLINE
        answer = b""
        while not answer.startswith(b"HTTP/1.1 200"):  # as soon as it is the only one
            assert time.monotonic() < ends, "the answer is kept"
            with opened(url) as other, suppress(ConnectionError):
                answer = ask(other)


UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (b"Content-Length: 5\r\n\r\nhello", b"400 Bad Request"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400 Bad Request"),
        (b"a: b\r\n" * 300 + b"\r\n", b"431 Request Header Fields Too Large"),
        (b"a: " + b"b" * 20_000 + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
    ],
    ids=["body", "chunks", "many fields", "long field"],
)
def test_every_handshake_is_answered(more: bytes, status: bytes) -> None:
    """Who gets no answer keeps a connection."""
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url, opened(url) as connection:
        connection.sendall(UPGRADE + more)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 " + status)  # to the end: it is closed


def test_large_token_is_refused() -> None:
    with serve(SocaityRouter(auth=Auth(api_keys={"p": KEY}), grace=1.0)) as url:
        answer = httpx.get(f"{url}/jobs", headers={"Authorization": f"Bearer {'x' * 20_000}"})
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("trusted", "seen"), [(None, "127.0.0.1"), ("10.9.9.9", "127.0.0.1"), ("127.0.0.1", "203.0.113.7")]
)
def test_only_known_proxies_say_who_a_client_is(
    trusted: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if trusted is None:
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    else:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    with Peer(lambda _: {"result": True}) as agent:
        auth = Auth(api_keys={"p": KEY}, opa_url=agent.url, policy_timeout=DEADLINE)
        with serve(SocaityRouter(auth=auth, grace=1.0)) as url:
            headers = {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": "203.0.113.7"}
            assert httpx.get(f"{url}/jobs", headers=headers).status_code == 200
        assert json.loads(agent.bodies[0])["input"]["ip"] == seen


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1.2.3", "127.1", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST", "a.localhost."],
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "", "a" * 70])
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.1.1"], True),
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "10.0.0.1"], False),
        (["fe80::1%eth0"], False),
        ([], False),
    ],
)
def test_name_is_the_loopback_where_it_leads_only_there(
    addresses: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, *arguments: object, **options: object) -> list[tuple[object, ...]]:
        if not addresses:
            raise socket.gaierror(f"there is no {host}")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert is_loopback("machine.example") is expected


@pytest.mark.parametrize(
    ("host", "environment", "warns"),
    [
        ("0.0.0.0", {}, True),
        ("127.0.0.1", {}, False),
        ("0.0.0.0", {"AUTH_ENABLED": "on", "SOCAITY_API_KEYS": f"p:{KEY}"}, False),
        ("127.0.0.1", {"AUTH_ENABLED": "on", "SOCAITY_API_KEYS": f"p:{KEY}"}, False),
    ],
)
def test_open_server_is_warned_of(host: str, environment: dict[str, str], warns: bool) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "socaity.cli", "serve", "small_service:router", "--host", host, "--port", "0"],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = ""
        for line in server.stderr:
            said += line
            if re.search(r"Serving .* at http://", line):
                break
        expected = f"everybody who reaches {host} can use this service: authentication is off (AUTH_ENABLED"
        assert (expected in said) is warns
        assert (f"keys and tokens travel in the clear to {host}" in said) is (
            "AUTH_ENABLED" in environment and host == "0.0.0.0"
        )
        assert KEY not in said
    finally:
        server.kill()
        server.communicate(timeout=DEADLINE)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"AUTH_ENABLED": "true"}, "AUTH_SECRET is empty. Set AUTH_SECRET"),
        ({"AUTH_ENABLED": "ja"}, "AUTH_ENABLED is on (true, 1, yes, on) or off"),
        ({"AUTH_ENABLED": "1", "AUTH_SECRET": "s" * 32, "AUTH_ALGORITHM": "none"}, "not 'none'"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(environment: dict[str, str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "socaity.cli", "serve", "small_service:router", "--port", "0"],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("socaity serve: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "s" * 32 not in done.stderr


def test_server_process_with_keys_serves() -> None:
    environment = {"AUTH_ENABLED": "yes", "SOCAITY_API_KEYS": f"program:{KEY}"}
    with ServerProcess("small_service:router", env=environment) as server:
        assert httpx.get(f"{server.url}/jobs").status_code == 401
        answer = httpx.get(f"{server.url}/jobs", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200


def limited(monkeypatch: pytest.MonkeyPatch, **variables: str) -> tuple[SocaityRouter, Scaler]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    router, scaler = SocaityRouter(grace=1.0), Scaler()
    router.add_model(scaler, name="scale", max_batch_size=1)

    @router.add_route("/paint", queue_size=3)
    def paint(text: str) -> str:
        return text

    return router, scaler


def socket_of(url: str) -> socaity.Service:
    address = url.replace("http:", "ws:") + "/ws"
    return socaity.connect(address, transport="websocket", retry=1, progress=False)


def test_requests_of_an_address_are_counted_on_the_socket_too(monkeypatch: pytest.MonkeyPatch) -> None:
    router, _ = limited(monkeypatch, MAX_REQUESTS="3", REQUESTS_PERIOD_SECONDS="600")
    with serve(router) as url, socket_of(url) as service:
        assert service.scale([1, 2]).result(DEADLINE).tolist() == [2, 4]
        assert service.paint("a cat").result(DEADLINE) == "a cat"
        assert httpx.post(f"{url}/predict/scale", json={"x": [1, 2]}).status_code == 200
        for call in (lambda: service.scale([1, 2]), lambda: service.paint("a cat")):
            with pytest.raises(socaity.RateLimitError) as caught:
                call().result(DEADLINE)
            assert caught.value.code == "rate_limited"
            assert 0 < (caught.value.retry_after or 0) <= 600
        assert httpx.post(f"{url}/predict/scale", json={"x": [1, 2]}).status_code == 429
        with socket_of(url) as other:  # a new session is no new client
            with pytest.raises(socaity.RateLimitError):
                other.scale([1, 2]).result(DEADLINE)


def test_calls_on_the_socket_count_among_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    router, scaler = limited(monkeypatch, MAX_CONCURRENT_REQUESTS="1")
    scaler.gate = threading.Semaphore(0)
    with serve(router) as url, socket_of(url) as service, socket_of(url) as other:
        first = service.scale([1, 2])
        assert scaler.started.wait(DEADLINE)
        for one in (service, other):
            with pytest.raises(socaity.ServerError) as caught:
                one.scale([1, 2]).result(DEADLINE)
            assert (caught.value.status, caught.value.code) == (503, "too_many_requests")
        assert httpx.post(f"{url}/predict/scale", json={"x": [1, 2]}).status_code == 503
        scaler.gate.release(8)
        assert first.result(DEADLINE).tolist() == [2, 4]
        assert other.scale([1, 2]).result(DEADLINE).tolist() == [2, 4]
        assert httpx.post(f"{url}/predict/scale", json={"x": [1, 2]}).status_code == 200
