"""Streams that are quicker than their reader: they wait, and nothing else waits behind them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket
from websockets.typing import Subprotocol

import socaity
from socaity.protocol.frames import CANCEL, DESCRIBE, EVENT, RESULT, SUBMIT
from tests.e2e.servers import DEADLINE, ServerProcess

MOST_UNREAD = 256 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("stream_service:router") as process:
        yield process


class RawClient:
    """A client that acknowledges only when it is told to."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.received = self.bytes = 0
        socket.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        assert self.read()[0][0] == 16

    def send(self, *message: Any) -> None:
        self._socket.send(msgpack.packb([next(self._numbers), 0, [list(message)]]))

    def acknowledge(self) -> None:
        self._socket.send(msgpack.packb([0, self.received, []]))

    def read(self) -> list[Any]:
        frame = self._socket.recv(DEADLINE)
        self.bytes += len(frame)
        number, _, messages = msgpack.unpackb(frame)
        self.received = max(self.received, number)
        return messages

    def until(self, op: int, n: int) -> list[Any]:
        """All messages up to the answer to a request."""
        messages: list[Any] = []
        while not any(one[:2] == [op, n] for one in messages):
            messages += self.read()
        return messages


@pytest.fixture
def raw(server: ServerProcess) -> Iterator[RawClient]:
    url = server.url.replace("http", "ws") + "/ws"
    with open_websocket(url, subprotocols=[Subprotocol("socaity.v1")], max_size=None) as socket:
        yield RawClient(socket)


def test_stream_waits_for_a_reader_and_a_cancel_passes_it(raw: RawClient) -> None:
    job_id = "5" * 32
    raw.send(SUBMIT, 7, "burst", {"number": 100_000}, job_id)
    while raw.bytes < MOST_UNREAD:
        raw.read()
    raw.send(DESCRIBE, 8)
    raw.until(RESULT, 8)
    assert raw.bytes < 2 * MOST_UNREAD
    raw.acknowledge()
    more = raw.bytes + MOST_UNREAD
    while raw.bytes < more:  # it goes on where it was
        raw.read()
    raw.send(CANCEL, 9, job_id)
    messages = raw.until(RESULT, 9)
    while not any(one[0] == EVENT and one[3] == "error" for one in messages):
        messages += raw.read()
    assert raw.bytes < 4 * MOST_UNREAD
    chunks = [one[2] for one in messages if one[0] == EVENT and one[3] == "chunk"]
    assert all(after == before + 1 for before, after in itertools.pairwise(chunks))
    [error] = [one for one in messages if one[0] == EVENT and one[3] == "error"]
    assert error[4]["code"] == "cancelled"
    raw.acknowledge()
    raw.send(DESCRIBE, 10)
    rest = raw.until(RESULT, 10)
    assert [one for one in rest if one[0] == EVENT] == []


def test_streams_side_by_side_arrive_whole_and_in_order(server: ServerProcess) -> None:
    with socaity.connect(server.url, progress=False) as service:
        jobs = [service.burst(60_000) for _ in range(3)]
        for job in jobs:
            assert list(itertools.islice(job, 60_000)) == list(range(60_000))
        assert all(job.cancel() for job in jobs)
        assert {type(job.exception(DEADLINE)) for job in jobs} == {socaity.JobCancelled}
