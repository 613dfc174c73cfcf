"""Who offers to speak something else than HTTP (`Upgrade`), and no WebSocket, is answered as if nothing had been offered: what
follows is never read as anything but the body that it is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from socaity_server import SocaityRouter
from socaity_server.frontends.http import SocaityApp
from tests.server.conftest import serve
from tests.server.test_models_http import Scaler

DEADLINE = 20
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
FOO = b"connection: upgrade\r\nUPGRADE: foo\r\n"
SOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
LAST = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    router = SocaityRouter(grace=1.0)
    router.add_model(Scaler(), name="scale")

    @router.add_route("/echo")
    async def echo(x: list[int]) -> list[int]:
        return x

    with serve(router) as url:
        yield int(url.rpartition(":")[2])


def request(path: str, body: bytes, offer: bytes, *, method: bytes = b"POST", chunked: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\n%sContent-Type: application/json\r\n%s\r\n\r\n"
    if chunked:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return head % (method, path.encode(), offer, length) + body


def answers(port: int, *pieces: bytes) -> list[tuple[int, bytes]]:
    """Status and body of everything that is answered until the connection ends."""
    found = []
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            connection.sendall(piece)
        file = connection.makefile("rb")
        while line := file.readline():
            length = 0
            while field := file.readline().strip().lower():
                if field.startswith(b"content-length:"):
                    length = int(field.partition(b":")[2])
            found.append((int(line.split()[1]), file.read(length)))
    return found


@pytest.mark.parametrize("offer", [H2C, FOO], ids=["h2c", "foo"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.parametrize(("path", "result"), [("/echo", [1, 2]), ("/predict/scale", [2, 4])])
def test_offer_is_ignored_and_the_request_served(
    port: int, path: str, result: list[int], chunked: bool, offer: bytes
) -> None:
    whole = request(path, b'{"x": [1, 2]}', offer, chunked=chunked)
    head = whole.index(b"\r\n\r\n") + 4
    for pieces in (
        [whole],
        [whole[:head], whole[head:]],
        [whole[at : at + 1] for at in range(len(whole))],
        [whole + whole, whole[: head + 1], whole[head + 1 :]],
    ):
        *served, last = answers(port, *pieces, LAST)
        assert last[0] == 404
        assert len(served) == b"".join(pieces).count(b"POST")
        assert {(status, tuple(json.loads(body))) for status, body in served} == {(200, tuple(result))}


@pytest.mark.parametrize("offer", [b"", H2C, FOO], ids=["none", "h2c", "foo"])
@pytest.mark.parametrize("path", ["/echo", "/predict/scale", "/health", "/nothing"])
def test_body_is_no_request(port: int, path: str, offer: bytes) -> None:
    hidden = b"GET /jobs?limit=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    whole = request(path, hidden, offer)
    head = whole.index(b"\r\n\r\n") + 4
    for pieces in ([whole], [whole[:head], whole[head:]]):
        found = answers(port, *pieces, LAST)
        assert [status for status, _ in found][1:] == [404]
        assert found[0][0] in (400, 404, 405)


def test_body_is_no_request_where_the_application_is_another() -> None:
    """One of one's own class has to see every request, and the short way is not for it."""
    router = SocaityRouter(grace=1.0)
    router.app.__class__ = type("Wrapped", (SocaityApp,), {})
    with serve(router) as url:
        test_body_is_no_request(int(url.rpartition(":")[2]), "/health", H2C)


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_body_of_a_handshake_is_no_request(port: int, method: bytes) -> None:
    whole = request("/ws", b"GET /jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", SOCKET, method=method)
    head = whole.index(b"\r\n\r\n") + 4
    for pieces in ([whole], [whole[:head], whole[head:]]):
        try:
            found = answers(port, *pieces)
        except ConnectionError:  # closed before everything was sent
            continue
        assert [status for status, _ in found] == [400]


def test_handshake_waits_for_no_answer_to_an_earlier_request(port: int) -> None:
    """That answer would be written into the socket."""
    handshake = b"GET /ws HTTP/1.1\r\nHost: localhost\r\n" + SOCKET + b"\r\n"
    for path, offered in (("/echo", handshake), ("/predict/scale", handshake)):
        found = answers(port, request(path, b'{"x": [1, 2]}', b"") + offered + LAST)
        assert [status for status, _ in found] == [200, 404, 404]


def test_tunnel_is_refused(port: int) -> None:
    assert [status for status, _ in answers(port, b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n")] == [400]
