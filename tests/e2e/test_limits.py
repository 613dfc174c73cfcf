"""Too large, malformed, not ours: a clear error for the one, and everybody else goes on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_websocket
from websockets.typing import Subprotocol

import socaity
from tests.e2e.servers import DEADLINE, ServerProcess

PROTOCOL = Subprotocol("socaity.v1")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("small_service:router") as process:
        yield process


@pytest.fixture
def service(server: ServerProcess) -> Iterator[socaity.Service]:
    with socaity.connect(server.url, progress=False) as connected:
        yield connected


@pytest.mark.parametrize("argument", [np.zeros(1_000_000, np.uint8), "x" * 1_000_000], ids=["array", "text"])
@pytest.mark.parametrize("wire", ["websocket", "http"])
def test_oversize_arguments_are_refused_and_other_calls_go_on(
    server: ServerProcess, wire: str, argument: object
) -> None:
    url = server.url.replace("http", "ws") if wire == "websocket" else server.url
    with socaity.connect(url, transport=wire, progress=False) as service:
        waiting = service.wait_at(f"gate-{wire}-{type(argument).__name__}")
        with pytest.raises(socaity.InvalidInputError, match="large") as caught:
            service.size(argument).result(DEADLINE)
        assert caught.value.status == 413
        assert caught.value.code == "too_large"
        service.open_gate(f"gate-{wire}-{type(argument).__name__}").result(DEADLINE)
        assert waiting.result(DEADLINE) is True


def test_server_refuses_oversize_buffers_itself(server: ServerProcess, service: socaity.Service) -> None:
    with open_websocket(server.url.replace("http", "ws") + "/ws", subprotocols=[PROTOCOL]) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        assert msgpack.unpackb(raw.recv(DEADLINE))[2][0][0] == 16
        header = msgpack.packb(["uint8", [10_000_000]])
        reference = msgpack.ExtType(2, (1).to_bytes(8, "big") + bytes([len(header)]) + header)
        raw.send(msgpack.packb([1, 0, [[7, 1, 10_000_000, b"x" * 1000]]]))
        raw.send(msgpack.packb([2, 0, [[3, 1, "size", {"x": reference}, "0" * 32]]]))
        answer = msgpack.unpackb(raw.recv(DEADLINE))[2][0]
        assert answer[:2] == [18, 1]
        assert answer[2]["status"] == 413
    assert service.size("abc").result(DEADLINE) == 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"no frame at all",
        msgpack.packb([1, 0, [[99, 1]]]),
        msgpack.packb([1, 0, [["x"]]]),
        msgpack.packb([1, 0, [[2, 1]]]),
        msgpack.packb([1, 0, [[2, 1, "size", [1]]]]),
        msgpack.packb([1, 0, [[2, "x", "size", {}]]]),
        msgpack.packb([1, 5, []]),
        msgpack.packb([7, 0, []]),
        msgpack.packb([1, 0, [[2, 1, "size", {"x": msgpack.ExtType(1, b"\xff")}]]]),
        msgpack.packb([1, 0, [[3, {}, "size", {}, "0" * 32]]]),
        b"\x93\x01\x00" + b"\x91" * 2000 + b"\x90",
    ],
)
def test_malformed_frame_ends_its_connection_with_a_reason(
    server: ServerProcess, service: socaity.Service, garbage: bytes
) -> None:
    with open_websocket(server.url.replace("http", "ws") + "/ws", subprotocols=[PROTOCOL]) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        raw.recv(DEADLINE)
        raw.send(garbage)
        goodbye = msgpack.unpackb(raw.recv(DEADLINE))[2][0]
        assert goodbye[0] == 21
        assert goodbye[1]["code"] == "malformed"
        assert goodbye[1]["detail"]
        with pytest.raises(ConnectionClosed):
            raw.recv(DEADLINE)
    assert service.size("abc").result(DEADLINE) == 3


def test_page_of_another_origin_may_not_open_the_socket(server: ServerProcess) -> None:
    from websockets.exceptions import InvalidStatus

    url = server.url.replace("http", "ws") + "/ws"
    with (
        pytest.raises(InvalidStatus),
        open_websocket(url, subprotocols=[PROTOCOL], origin="https://evil.example"),
    ):  # type: ignore[arg-type]
        pass


def test_host_that_accepts_and_says_nothing_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(socaity.TransportTimeout, match=r"0\.3 s"):
            socaity.connect(url, timeout=0.3, progress=False).refresh()


def test_host_that_speaks_something_else_is_a_protocol_error() -> None:
    def babble(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=babble, args=(listener,), daemon=True).start()
        port = listener.getsockname()[1]
        for scheme in ("ws", "http"):
            with pytest.raises(socaity.ProtocolError):
                socaity.connect(f"{scheme}://127.0.0.1:{port}", timeout=5, progress=False).refresh()
        listener.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_raw(server: ServerProcess) -> Iterator[Any]:
    with open_websocket(server.url.replace("http", "ws") + "/ws", subprotocols=[PROTOCOL]) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        raw.recv(DEADLINE)
        yield raw


def test_call_of_an_endpoint_that_is_no_model_says_to_submit(server: ServerProcess) -> None:
    with open_raw(server) as raw:
        raw.send(msgpack.packb([1, 0, [[2, 1, "size", {"x": "abc"}]]]))
        answer = msgpack.unpackb(raw.recv(DEADLINE))[2][0]
        assert answer[:2] == [18, 1]
        assert answer[2]["code"] == "not_direct"


def test_job_id_of_another_form_is_refused(server: ServerProcess) -> None:
    with open_raw(server) as raw:
        raw.send(msgpack.packb([1, 0, [[3, 1, "size", {"x": "abc"}, "my own id"]]]))
        answer = msgpack.unpackb(raw.recv(DEADLINE))[2][0]
        assert answer[:2] == [18, 1]
        assert answer[2]["code"] == "malformed"


def test_watch_of_an_ended_job_gives_its_end_again(server: ServerProcess) -> None:
    job_id = "a" * 32
    with open_raw(server) as raw:
        raw.send(msgpack.packb([1, 0, [[3, 1, "size", {"x": "abc"}, job_id]]]))
        events = []
        while not events or events[-1][3] != "result":
            events.extend(msgpack.unpackb(raw.recv(DEADLINE))[2])
        raw.send(msgpack.packb([2, 0, [[4, 2, job_id, events[-1][2]]]]))
        again = msgpack.unpackb(raw.recv(DEADLINE))[2]
        assert again == [[19, 2, *events[-1][2:]]]
