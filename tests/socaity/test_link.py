"""A Link brings every message once and in order, whatever the connections below it swallow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socaity.protocol import frames, link
from socaity.protocol.frames import BUFFER, CALL, CANCEL, EVENT, PUBLISH, RESULT, SUBMIT
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError


@contextmanager
def small_limits() -> Iterator[None]:
    """A few bytes are large, and a window holds a few pieces."""
    with (
        mock.patch.multiple(frames, LARGE=64, PIECE=48),
        mock.patch.multiple(link, FRAME_SIZE=200, WINDOW=150, ACK_BYTES=200, ACK_FRAMES=5),
    ):
        yield


class Side:
    """One end: its Link, what is on the wire to it and what has come out."""

    def __init__(self, **options: Any) -> None:
        self.refused: list[Any] = []
        self.link = Link(
            on_unsendable=lambda message, error: self.refused.append((message, error)), **options
        )
        self.coming: deque[bytes] = deque()
        self.got: list[Any] = []
        self.sent: list[Any] = []

    def send(self, messages: list[Any]) -> None:
        self.sent.extend(messages)
        self.link.send(messages)

    def take(self, count: int) -> None:
        for _ in range(min(count, len(self.coming))):
            messages = self.link.receive(self.coming.popleft())
            self.got.extend(message for message in messages if message[0] != BUFFER)


class Pair:
    """Two ends and the connection between them."""

    def __init__(self) -> None:
        self.sides = [Side(), Side()]
        self.connect()

    def connect(self) -> None:
        for side, other in (self.sides, self.sides[::-1]):
            side.link.connect(other.coming.append)
        received = [side.link.received for side in self.sides]
        self.sides[0].link.resume(received[1])
        self.sides[1].link.resume(received[0])

    def disconnect(self) -> None:
        for side in self.sides:
            side.link.disconnect()
            side.coming.clear()

    def settle(self) -> None:
        """Deliver all there is, and let the acknowledgements that wait for their time go."""
        for _ in range(10_000):
            for side in self.sides:
                side.take(len(side.coming))
            if not any(side.coming for side in self.sides):
                if all(side.link.is_idle for side in self.sides):
                    return
                for side in self.sides:
                    side.link._ack_late()
        raise AssertionError("it does not come to rest")


def plain(message: Any) -> Any:
    return [item.tolist() if isinstance(item, np.ndarray) else item for item in message]


def check(pair: Pair) -> None:
    """Each message once; those of one call in order; small ones in order among themselves."""
    for side, other in (pair.sides, pair.sides[::-1]):
        sent, got = [plain(one) for one in side.sent], [plain(one) for one in other.got]
        assert sorted(sent, key=repr) == sorted(got, key=repr)
        for n in {one[1] for one in sent}:
            assert [one for one in sent if one[1] == n] == [one for one in got if one[1] == n]


def run(body: Callable[[], None]) -> None:
    async def main() -> None:
        with small_limits():
            body()

    asyncio.run(asyncio.wait_for(main(), 30))


burst = st.lists(st.tuples(st.integers(1, 6), st.sampled_from([0, 3, 30, 100, 1000])), min_size=1, max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), burst),
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 8)),
        st.tuples(st.just("break"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("away"), st.integers(0, 1), burst),
        st.tuples(st.just("late"), st.integers(0, 1), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(steps)
def test_every_message_arrives_once_and_in_order(steps: list[Any]) -> None:
    def body() -> None:
        pair = Pair()
        number = iter(range(10**6))

        def messages(burst: list[tuple[int, int]]) -> list[Any]:
            return [[RESULT, n, next(number), np.arange(size, dtype=np.uint8)] for n, size in burst]

        for kind, index, argument in steps:
            side = pair.sides[index]
            if kind == "send":
                side.send(messages(argument))
            elif kind == "take":
                side.take(argument)
            elif kind == "late":
                side.link._ack_late()
            else:
                pair.disconnect()
                if kind == "away":
                    side.send(messages(argument))
                pair.connect()
        pair.settle()
        check(pair)

    run(body)


def test_small_messages_of_other_calls_pass_large_ones() -> None:
    def body() -> None:
        pair = Pair()
        client, server = pair.sides
        client.send([[RESULT, 1, np.zeros(10_000, np.uint8)]])
        client.send([[RESULT, 2, "small"]])
        server.take(10)
        assert [message[1] for message in server.got] == [2]
        pair.settle()
        assert [message[1] for message in server.got] == [2, 1]

    run(body)


def test_later_events_of_a_call_do_not_pass_its_large_one() -> None:
    def body() -> None:
        pair = Pair()
        server, client = pair.sides
        server.send([[EVENT, 7, 1, "chunk", np.zeros(10_000, np.uint8)], [EVENT, 7, 2, "result", None]])
        server.send([[EVENT, 7, 3, "log", np.zeros(500, np.uint8)], [EVENT, 8, 1, "result", None]])
        pair.settle()
        assert [message[1:3] for message in client.got] == [[8, 1], [7, 1], [7, 2], [7, 3]]
        server.send([[EVENT, 7, 4, "result", None]])
        pair.settle()
        assert client.got[-1][2] == 4

    run(body)


def test_a_cancel_does_not_pass_the_submit_of_its_job() -> None:
    def body() -> None:
        pair = Pair()
        client, server = pair.sides
        client.send([[SUBMIT, 1, "ask", {"x": np.zeros(10_000, np.uint8)}, "an id"]])
        client.send([[CANCEL, 2, "an id"], [CANCEL, 3, 99]])
        pair.settle()
        assert [message[:2] for message in server.got] == [[CANCEL, 3], [SUBMIT, 1], [CANCEL, 2]]

    run(body)


def test_a_slow_reader_costs_a_window_and_not_the_array() -> None:
    def body() -> None:
        pair = Pair()
        client, server = pair.sides
        client.send([[RESULT, 1, np.zeros(100_000, np.uint8)]])
        assert sum(map(len, server.coming)) < 500
        pair.settle()
        assert server.got[0][2].shape == (100_000,)

    run(body)


class Odd:
    """Claims to be an array and raises when asked."""

    shape = (1,)
    dtype = None

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("on another device")


@pytest.mark.parametrize("value", [object(), {1j}, 2**70, "\ud800", Odd(), np.array([object()])])
def test_what_cannot_be_sent_is_told_and_holds_up_nothing(value: Any) -> None:
    def body() -> None:
        pair = Pair()
        client, server = pair.sides
        client.link.send([[RESULT, 1, "a"], [RESULT, 2, value], [RESULT, 3, np.zeros(500)], [RESULT, 4, "b"]])
        pair.settle()
        assert [message[1] for message, _ in client.refused] == [2]
        assert sorted(message[1] for message in server.got) == [1, 3, 4]

    run(body)


def test_more_than_the_other_side_takes_is_told_before_it_is_sent() -> None:
    def body() -> None:
        pair = Pair()
        client, server = pair.sides
        client.link.max_message = 1000
        client.link.send([[RESULT, 1, "x" * 2000], [RESULT, 2, np.zeros(2000)], [RESULT, 3, "ok"]])
        pair.settle()
        assert sorted(message[1] for message, _ in client.refused) == [1, 2]
        assert [message[1] for message in server.got] == [3]

    run(body)


def test_frames_that_are_never_acknowledged_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socaity.protocol.link.PATIENCE", 0.0)

    def body() -> None:
        side = Side(max_unacknowledged=1000)
        side.send([[RESULT, 1, "x" * 600]])
        assert not side.link.is_overdue
        side.send([[RESULT, 2, "x" * 600]])
        assert side.link.is_overdue

    run(body)


@pytest.mark.parametrize(
    "frame",
    [
        [2, 0, []],  # a frame is missing
        [1, 5, []],  # acknowledges what was never sent
        [1, 0],
        [-1, 0, []],
        [1.0, 0, []],
        ["1", 0, []],
        [1, -1, []],
        [1, 0, {}],
        [1, 0, [5]],
        [1, 0, [[]]],
        [1, 0, [["a"]]],
        {},
    ],
)
def test_a_frame_that_cannot_be_is_malformed(frame: Any) -> None:
    def body() -> None:
        with pytest.raises(MalformedError):
            Side().link.receive(msgpack.packb(frame))

    run(body)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_frame_are_malformed(data: bytes) -> None:
    def body() -> None:
        for start in (b"", b"\x93\x01\x00", b"\x93\x01\x00\x91\x94\x07"):
            with suppress(MalformedError):
                Side().link.receive(start + data)

    run(body)


def test_an_acknowledgement_goes_alone_after_a_while() -> None:
    async def main() -> None:
        with mock.patch.object(link, "ACK_DELAY", 0.0):
            client, server = Side(), Side()
            client.link.connect(server.coming.append)
            server.link.connect(client.coming.append)
            client.send([[RESULT, 1, None]])
            server.take(1)
            while not client.coming:
                await asyncio.sleep(0)
            client.take(1)
            assert client.link.is_idle

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_call_does_not_pass_the_large_call_that_it_refers_to() -> None:
    def body() -> None:
        pair = Pair()
        large = [CALL, 1, "make", {"x": np.zeros(4000, np.uint8)}]
        taking = [CALL, 2, "take", {"value": [{"a": {"$call": 1, "path": ["b"]}}]}]
        job = [SUBMIT, 3, "make", {"x": np.zeros(4000, np.uint8)}, "id"]
        of_job = [SUBMIT, 4, "take", {"value": {"$job": "id"}}, "other"]
        apart = [CALL, 5, "else", {"value": {"$call": 9}}]
        published = [[PUBLISH, 6, 1, []], [PUBLISH, 7, "id", []]]
        pair.sides[0].send([large, taking, job, of_job, apart, *published])
        pair.settle()
        order = [message[1] for message in pair.sides[1].got]
        assert sorted(order) == [1, 2, 3, 4, 5, 6, 7]
        assert order.index(1) < order.index(6)
        assert order.index(3) < order.index(7)
        assert order.index(1) < order.index(2)
        assert order.index(3) < order.index(4)
        assert order[0] == 5

    run(body)
