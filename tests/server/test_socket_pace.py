"""A client that takes its answers slowly, or never, holds a bounded part of the server's memory; others never notice."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

import socaity
from socaity.protocol.frames import CALL, DESCRIBE, RESULT, FrameReader
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError, packb
from socaity_server import SocaityRouter
from socaity_server.frontends.socket_pace import Pace
from socaity_server.frontends.socket_session import Session
from tests.server.conftest import Gate, serve

DEADLINE = 20.0
MOST = 1_000_000
ANSWER = 100_000


@contextmanager
def slow_service(most: int = MOST) -> Iterator[tuple[str, SocaityRouter, Gate]]:
    router = SocaityRouter(grace=1.0)
    router.app._socket.max_unacknowledged = most
    gate = Gate()

    @router.add_route("/answer", max_batch_size=1)
    def answer(x: np.ndarray) -> np.ndarray:
        return np.zeros((len(x), ANSWER), np.uint8)

    @router.add_route("/grow", max_batch_size=8)
    def grow(x: np.ndarray) -> np.ndarray:
        return np.repeat(x, ANSWER, axis=-1)

    @router.add_route("/gated", max_batch_size=64)
    def gated(x: np.ndarray) -> np.ndarray:
        gate()
        return np.zeros((len(x), ANSWER), np.uint8)

    with serve(router) as url:
        yield url, router, gate
        gate.open()


@contextmanager
def open_socket(url: str) -> Iterator[ClientConnection]:
    place = url.replace("http", "ws", 1) + "/ws"
    with connect(
        place, subprotocols=[Subprotocol("socaity.v1")], compression=None, max_size=None, close_timeout=1
    ) as socket:
        yield socket


class Client:
    """Sends what it wants, and acknowledges only when it is told to."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        hello = {"protocol": "socaity.v1", "session": None, "received": 0}
        self.socket.send(msgpack.packb([0, 0, [[1, hello]]]))
        self.socket.recv(DEADLINE)
        self._reader = FrameReader()
        self._came: deque[list[Any]] = deque()
        self._seq = 0
        self.seen = 0

    def send(self, *messages: list[Any]) -> None:
        self._seq += 1
        self.socket.send(packb([self._seq, 0, list(messages)]))

    def acknowledge(self) -> None:
        self.socket.send(msgpack.packb([0, self.seen, []]))

    def receive(self) -> list[Any]:
        """The next message."""
        while not self._came:
            data = self.socket.recv(DEADLINE)
            assert isinstance(data, bytes)
            seq, _, messages = self._reader.read(data)
            self.seen = seq or self.seen
            self._came.extend(messages)
        return list(self._came.popleft())

    def result(self, n: int) -> Any:
        while True:
            message = self.receive()
            if message[:2] == [RESULT, n]:
                return message[2]


def only_session(router: SocaityRouter) -> Session:
    (session,) = router.app._socket.sessions.values()
    return session


def call(n: int, name: str = "answer") -> list[Any]:
    return [CALL, n, name, {"x": np.ones(1, np.uint8)}]


def test_what_is_asked_for_waits_while_answers_are_not_acknowledged() -> None:
    with slow_service() as (url, router, _), open_socket(url) as socket:
        client = Client(socket)
        for n in range(1, 11):  # as many answers as may be owed
            client.send(call(n))
            client.result(n)
        session = only_session(router)
        for n in range(11, 40):
            client.send(call(n))
        client.acknowledge()
        for n in range(11, 40):  # everything was read, so everything comes
            client.result(n)
            client.acknowledge()
        assert session.is_connected


@pytest.mark.anyio
async def test_frames_wait_unacknowledged_and_in_order() -> None:
    to_client: list[bytes] = []
    to_server: list[bytes] = []
    taken: list[Any] = []
    server = Link(on_unsendable=lambda *_: None, max_unacknowledged=1000)
    client = Link(on_unsendable=lambda *_: None)
    server.connect(to_client.append)
    client.connect(to_server.append)
    pace = Pace(server, (), take=lambda frame: taken.extend(server.receive(frame)), give_up=taken.clear)
    server.send([[RESULT, 1, "x" * 2000]])
    pace.sent(1, 0)
    assert pace.is_full
    for n in (1, 2):
        client.send([[DESCRIBE, n]])
        pace.hold_back(to_server.pop())
    assert (taken, server.received) == ([], 0)
    client.receive(to_client.pop())
    client.send([[DESCRIBE, 3]])  # acknowledges what was sent
    pace.hold_back(to_server.pop())
    assert taken == [[DESCRIBE, 1], [DESCRIBE, 2], [DESCRIBE, 3]]
    assert server.received == 3
    assert not pace.is_full
    client.disconnect()  # its timer
    server.disconnect()


@pytest.mark.anyio
async def test_large_arrays_that_wait_to_be_sent_count() -> None:
    server = Link(on_unsendable=lambda *_: None)
    server.connect([].append)
    array = np.zeros(16 * 1024 * 1024, np.uint8)
    server.send([[RESULT, 1, array]])
    assert array.nbytes < server.backlog < array.nbytes + 10_000
    client = Link(on_unsendable=lambda *_: None)
    to_client: deque[bytes] = deque()
    server.connect(to_client.append)
    server.resume(0)
    client.connect([].append)
    while to_client:
        client.receive(to_client.popleft())
        server.take_ack(msgpack.packb([0, client.received, []]))
    assert server.backlog == 0
    assert server.is_idle
    client.disconnect()
    server.disconnect()


@pytest.mark.parametrize(
    "frame", [b"", b"\x91\x01", b"\xc1\xc1\xc1\xc1", [1, 5, []], [1, -1, []], [1, "x", []], [1, 0]]
)
def test_a_frame_without_its_numbers_is_malformed(frame: Any) -> None:
    link = Link(on_unsendable=lambda *_: None)
    with pytest.raises(MalformedError):
        link.take_ack(frame if isinstance(frame, bytes) else msgpack.packb(frame))


def test_slow_acknowledgements_bound_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    """One frame acknowledged now and then, and calls without an end: the session is given up."""
    with (
        slow_service() as (url, router, _),
        caplog.at_level(logging.WARNING),
        open_socket(url) as socket,
    ):
        client = Client(socket)
        client.send(call(1))
        client.result(1)
        session = only_session(router)
        most, x = 0, np.zeros(50_000, np.uint8)
        with suppress(ConnectionClosed):
            for n in range(2, 5000):  # far more than lies on the way
                if session.is_expired:
                    break
                client.socket.send(packb([n, n // 1000, [[CALL, n, "answer", {"x": x}]]]))
                most = max(most, session._link.backlog)
        assert 0 < most < 6 * MOST
        assert session.is_expired
        assert not router.app._socket.sessions
        assert "did not acknowledge" in caplog.text
        with socaity.connect(url, progress=False) as service:
            assert service.answer(np.float32([1])).result(DEADLINE).nbytes == ANSWER


def test_far_too_many_answers_at_once_end_the_session() -> None:
    with slow_service() as (url, router, gate), open_socket(url) as socket:
        client = Client(socket)
        client.send(*[call(n, "gated") for n in range(1, 65)])
        gate.wait_entered()
        session = only_session(router)
        gate.open()
        with pytest.raises(ConnectionClosed):
            while True:
                client.receive()
        assert session.is_expired
        assert not router.app._socket.sessions


def test_a_client_that_reads_nothing_keeps_no_answers_when_it_is_given_up() -> None:
    """Nor with its connection, which would wait for it to read on."""
    with slow_service(16_000_000) as (url, router, gate), open_socket(url) as socket:
        client = Client(socket)
        client.send(*[call(n, "gated") for n in range(1, 801)])  # more than the system keeps
        gate.wait_entered()
        session = weakref.ref(only_session(router))
        gate.open()
        sessions = router.app._socket.sessions
        until(lambda: not sessions)
        # what the system had taken comes still, and then the end: nothing waits for the client to read
        came = 0
        with suppress(ConnectionClosed):
            while True:
                came += len(socket.recv(DEADLINE))
        assert came < 800 * ANSWER
        until(lambda: gc.collect() >= 0 and session() is None)


def until(is_true: Callable[[], object]) -> None:
    """The server has the machine between two looks: collecting garbage takes long in a process with many tests."""
    deadline, pause = time.monotonic() + DEADLINE, threading.Event()
    while not is_true():
        assert time.monotonic() < deadline
        pause.wait(0.05)


def test_a_client_that_reads_gets_everything(caplog: pytest.LogCaptureFixture) -> None:
    """Many times what may be owed, as fast as it goes."""
    with slow_service(16_000_000) as (url, _, _), caplog.at_level(logging.WARNING):
        with socaity.connect(url, progress=False) as service:
            x = np.ones(1, np.uint8)
            jobs = [service.grow(x) if n % 2 else service.answer(x) for n in range(1000)]
            for n, job in enumerate(jobs):
                assert job.result(DEADLINE).nbytes == ANSWER, n
        assert "did not acknowledge" not in caplog.text


def test_calls_that_run_for_long_keep_nobody_from_going_on() -> None:
    """Who has taken all answers may send, whatever is expected of what runs."""
    with slow_service() as (url, router, gate), open_socket(url) as socket:
        client = Client(socket)
        for n in range(1, 10):
            client.send(call(n))
            client.result(n)
        client.send(*[call(n, "gated") for n in range(10, 40)])
        gate.wait_entered()
        client.acknowledge()
        client.send([DESCRIBE, 100])
        assert client.result(100)["instance"]
        assert only_session(router).is_connected


def test_the_first_message_of_a_connection_is_short() -> None:
    with slow_service() as (url, router, _), open_socket(url) as socket:
        hello = {"protocol": "socaity.v1", "session": None, "received": 0, "more": [[]] * 100_000}
        socket.send(msgpack.packb([0, 0, [[1, hello]]]))
        goodbye = msgpack.unpackb(socket.recv(DEADLINE))[2][0]
        assert "65536 bytes" in goodbye[1]["detail"]
        assert not router.app._socket.sessions
