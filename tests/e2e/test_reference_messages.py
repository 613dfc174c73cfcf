"""References and held results as a client of another make would use them: frame by frame."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from socaity.protocol.frames import (
    CALL,
    CANCEL,
    ERROR,
    FETCH,
    GOODBYE,
    HELD,
    PUBLISH,
    RELEASE,
    RESULT,
    SUBMIT,
)
from socaity.protocol.messagepack import pack_plain
from tests.e2e.servers import DEADLINE, ServerProcess

JOB = f"{7:032x}"
OTHER = f"{8:032x}"


class Client:
    """Sends messages and reads those of one number."""

    def __init__(self, socket: ClientConnection, *, holds: bool = True, acknowledges: bool = True) -> None:
        self._socket = socket
        self._acknowledges = acknowledges
        self._seq = 0
        hello = {"protocol": "socaity.v1", "session": None, "received": 0, "holds": holds}
        socket.send(pack_plain([0, 0, [[1, hello]]]))
        self.welcome = self._read()[0][1]
        self._came: list[list[Any]] = []

    def send(self, *messages: list[Any]) -> None:
        self._seq += 1
        self._socket.send(pack_plain([self._seq, 0, list(messages)]))

    def last_of(self, n: int) -> list[Any]:
        """The last message of call or job n."""
        while True:
            for message in self._came:
                is_last = message[0] in (RESULT, ERROR, HELD) or message[3:4] in (["result"], ["error"])
                if message[1] == n and is_last:
                    return message
            self._came += self._read()

    def goodbye(self) -> str:
        try:
            while True:
                for message in self._read():
                    if message[0] == GOODBYE:
                        return str(message[1]["detail"])
        except ConnectionClosed:
            return ""

    def _read(self) -> list[list[Any]]:
        data = self._socket.recv(DEADLINE)
        assert isinstance(data, bytes)
        seq, _, messages = msgpack.unpackb(
            data, ext_hook=lambda code, rest: (code, rest), strict_map_key=False
        )
        if seq and self._acknowledges:
            self._socket.send(pack_plain([0, seq, []]))
        return list(messages)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("pipeline_service:router") as process:
        yield process


@pytest.fixture
def socket(server: ServerProcess) -> Iterator[ClientConnection]:
    url = f"{server.url.replace('http', 'ws')}/ws"
    with connect(url, subprotocols=["socaity.v1"], compression=None) as opened:  # type: ignore[list-item]
        yield opened


def test_the_server_says_that_it_knows_references(socket: ClientConnection) -> None:
    assert Client(socket).welcome["references"] is True


def test_a_call_takes_the_result_of_one_in_the_same_frame(socket: ClientConnection) -> None:
    client = Client(socket, acknowledges=False)
    client.send(
        [SUBMIT, 1, "echo", {"value": {"a": [1.0, 2.0]}}, JOB],
        [CALL, 2, "next", {"x": {"$job": JOB, "path": ["a", 1]}}],
        [CALL, 3, "next", {"x": {"$call": 2}}],
        [SUBMIT, 4, "echo", {"value": [{"$call": 3}, {"$call": 2}, {"$job": JOB}]}, OTHER],
    )
    assert client.last_of(4)[3:] == ["result", [4.0, 3.0, {"a": [1.0, 2.0]}]]
    assert client.last_of(3) == [RESULT, 3, 4.0]
    # sent and not acknowledged: it may still be referred to
    client.send([CALL, 5, "next", {"x": {"$call": 2}}])
    assert client.last_of(5) == [RESULT, 5, 4.0]


@pytest.mark.parametrize("holds", [True, False])
def test_a_large_result_is_held_and_fetched_and_released(
    server: ServerProcess, socket: ClientConnection, holds: bool
) -> None:
    client = Client(socket, holds=holds)
    client.send(
        [CALL, 1, "held_at", {"x": 1.0}],
        [CALL, 2, "total", {"x": {"$call": 1}}],
        [SUBMIT, 3, "open_gate", {"name": "direct"}, f"{9 + holds:032x}"],
    )
    assert client.last_of(2) == [RESULT, 2, 1_000_000.0]
    if not holds:
        assert client.last_of(1)[0] == RESULT
        return
    assert client.last_of(1) == [HELD, 1, 0, 8_000_000]
    client.send([FETCH, 4, 1], [CALL, 5, "total", {"x": {"$call": 1}}], [RELEASE, 1], [FETCH, 6, 1])
    assert client.last_of(5)[2] == 1_000_000.0
    assert client.last_of(6)[2]["code"] == "unknown_call"
    assert client.last_of(4)[0] == RESULT
    client.send([CALL, 7, "total", {"x": {"$call": 1}}])
    assert client.last_of(7)[2]["code"] == "unknown_call"


def test_what_is_not_known_is_refused(socket: ClientConnection) -> None:
    client = Client(socket)
    deep: Any = {"$call": 99}
    for _ in range(100):
        deep = [deep]
    client.send(
        [CALL, 1, "next", {"x": {"$call": 99}}],
        [SUBMIT, 2, "echo", {"value": [{"$call": 99}]}, f"{20:032x}"],
        [SUBMIT, 3, "echo", {"value": {"$job": "never"}}, f"{21:032x}"],
        [CALL, 4, "next", {"x": {"$job": "never"}}],
        [SUBMIT, 5, "echo", {"value": deep}, f"{22:032x}"],
        [CALL, 6, "next", {"x": {"$call": True}}],
        [CALL, 7, "next", {"x": {"$call": 1, "path": 5}}],
        [SUBMIT, 8, "echo", {"value": {"$job": JOB, "path": [[0, 0]]}}, f"{23:032x}"],
        [CALL, 9, "next", {"x": {"$job": JOB, "path": [True]}}],
    )
    codes = [client.last_of(n)[2]["code"] for n in range(1, 10)]
    assert codes[:4] == ["unknown_call", "unknown_call", "unknown_job", "unknown_job"]
    assert codes[4] in ("too_deep", "invalid_input")
    assert codes[5:] == ["invalid_input"] * 4
    client.send([CALL, 10, "next", {"x": 1.0}])
    assert client.last_of(10) == [RESULT, 10, 2.0]


def test_a_call_that_was_not_run_says_why(socket: ClientConnection) -> None:
    client = Client(socket)
    client.send(
        [CALL, 1, "broken", {"x": 1.0}],
        [CALL, 2, "next", {"x": {"$call": 1}}],
        [CALL, 3, "next", {"x": {"$call": 2}}],
        [CALL, 4, "held_at", {"x": 1.0}],
        [CALL, 5, "next", {"x": {"$call": 4, "path": [10_000_000]}}],
    )
    problem = client.last_of(3)[2]
    assert problem["code"] == "upstream_failed"
    assert problem["detail"] == (
        "next was not run: its argument 'x' comes from the call 2, which was not run: its argument 'x' comes from "
        "the call 1, which failed: ValueError: boom"
    )
    client.send([CANCEL, 6, 4], [SUBMIT, 7, "open_gate", {"name": "direct"}, f"{30:032x}"])
    assert client.last_of(5)[2]["detail"].endswith(("which was cancelled", "whose result has no [10000000]"))


def test_results_are_published_on_demand(server: ServerProcess, socket: ClientConnection) -> None:
    client = Client(socket)
    assert client.welcome["publishes"] is True
    assert client.welcome["fetches"] == []
    large, small, failed = f"{50:032x}", f"{51:032x}", f"{52:032x}"
    client.send(
        [SUBMIT, 1, "large_parts", {"megabytes": 1, "gate": "published"}, large],
        [PUBLISH, 2, large, []],
        [PUBLISH, 3, large, ["parts", 2]],
        [PUBLISH, 4, large, ["note"]],
        [PUBLISH, 5, large, ["no such part"]],
        [SUBMIT, 6, "echo", {"value": 1}, small],
        [PUBLISH, 7, small, []],
        [CALL, 8, "next", {"x": 1.0}],
        [PUBLISH, 9, 8, []],
        [PUBLISH, 10, True, [{}, [[]]]],
        [PUBLISH, 11, "never", []],
        [SUBMIT, 12, "fail", {}, failed],
        [PUBLISH, 13, failed, []],
        [SUBMIT, 14, "open_gate", {"name": "published"}, f"{53:032x}"],
    )
    whole, part = client.last_of(2)[2], client.last_of(3)[2]
    assert client.last_of(1)[0] == HELD
    assert whole["size"] > 3_000_000 > part["size"] > 1_000_000
    assert client.last_of(4) == [RESULT, 4, {"value": "three"}]
    assert client.last_of(5)[2]["code"] == "upstream_failed"
    assert client.last_of(7) == [RESULT, 7, None]
    assert client.last_of(9) == [RESULT, 9, None]
    assert client.last_of(10)[2]["code"] == "invalid_input"
    assert client.last_of(11)[2]["code"] == "unknown_job"
    assert "which failed: ValueError: boom" in client.last_of(13)[2]["detail"]
    asked = urllib.request.Request(
        f"{server.url}/blobs/{part['sha256']}", headers={"Socaity-Token": part["token"]}
    )
    with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
        data = answer.read()
    assert hashlib.sha256(data).hexdigest() == part["sha256"]
    assert len(data) == part["size"]


def test_a_call_that_refers_keeps_its_timeout(socket: ClientConnection) -> None:
    client = Client(socket)
    client.send(
        [SUBMIT, 1, "at_gate", {"x": 1.0, "gate": "never in time"}, f"{40:032x}"],
        [CALL, 2, "next", {"x": {"$job": f"{40:032x}"}}, {"timeout": 0.05}],
    )
    assert client.last_of(2)[2]["code"] == "deadline_exceeded"
    client.send([CANCEL, 3, f"{40:032x}"])
    assert client.last_of(3)[0] == RESULT


@pytest.mark.parametrize(
    "message",
    [
        [FETCH, 1],
        [FETCH, 1, "x"],
        [RELEASE],
        [RELEASE, "x"],
        [SUBMIT, 1, "echo", {}, JOB, 5],
        [PUBLISH, 1, 1],
        [PUBLISH, 1, 1.5, []],
        [PUBLISH, 1, 1, "path"],
    ],
)
def test_what_is_not_in_the_protocol_ends_the_connection(
    socket: ClientConnection, message: list[Any]
) -> None:
    client = Client(socket)
    client.send(message)
    assert "socaity.v1" in client.goodbye()
