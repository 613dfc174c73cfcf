"""Requests at a constant rate, whether or not the server keeps up, and a closed loop over the same connections.

Coordinated omission is avoided: request number i is due at i / rate, and its latency counts from then, also when it had to
wait for a free connection or when the generator was late. How late requests were sent is measured, too (`late`). A
millisecond of it is how exactly the loop sleeps; more says that all connections were busy, or that the generator had too
little of a processor: it needs 10 to 20 µs for a request, and keeps up with 40,000 a second where the server leaves it one.
"""

from __future__ import annotations

import asyncio
import gc
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rates import percentile

_TICK = 0.001
"""uvloop counts in whole milliseconds: less would be a busy loop."""
_CONNECT_AT_ONCE = 64
_DRAIN_SECONDS = 10.0


@dataclass
class Answers:
    """By request: when it was due, sent and answered (seconds of the monotonic clock), and the status."""

    due: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    answered: array[float] = field(default_factory=lambda: array("d"))
    status: array[int] = field(default_factory=lambda: array("i"))
    lost: int = 0
    """Requests without an answer."""

    def latencies(self, *statuses: int) -> list[float]:
        """From the moment when a request was due, of those with such a status."""
        return [
            answered - due
            for due, answered, status in zip(self.due, self.answered, self.status, strict=True)
            if status in statuses
        ]

    def late(self, percent: float = 99) -> float:
        """How late requests were sent, in seconds."""
        return percentile([sent - due for due, sent in zip(self.due, self.sent, strict=True)], percent)

    def per_second(self, seconds: float, *statuses: int) -> float:
        return sum(one in statuses for one in self.status) / seconds


class _Connection(asyncio.Protocol):
    """One request at a time over HTTP/1.1; answers must have a Content-Length."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._data = b""
        self._due = self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, request: bytes, due: float) -> None:
        self._due, self._sent = due, time.monotonic()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._data + data if self._data else data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            self._data = data
            return
        at = data.lower().find(b"content-length:", 0, head)
        if at < 0:
            raise ValueError(f"an answer without Content-Length: {data[:200]!r}")
        length = int(data[at + 15 : data.find(b"\r\n", at)])
        if len(data) < head + 4 + length:
            self._data = data
            return
        self._data = b""
        answers = self._generator.answers
        answers.due.append(self._due)
        answers.sent.append(self._sent)
        answers.answered.append(time.monotonic())
        answers.status.append(int(data[9:12]))
        self._generator.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._generator.lost(self)

    @property
    def due(self) -> float:
        return self._due

    def close(self) -> None:
        self._transport.close()


class Generator:
    """`async with Generator(url, bodies, connections=…) as generator:`; then `open_loop` and `closed_loop`, in turn."""

    def __init__(self, url: str, bodies: Sequence[bytes], *, connections: int, headers: str = "") -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._requests = [
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in bodies
        ]
        self._count = connections
        self._all: set[_Connection] = set()
        # In turn, not the last one first: servers close connections that are not used for some seconds.
        self._free: deque[_Connection] = deque()
        self._waiting: deque[float] = deque()
        self._number = 0
        self._is_closing = False
        self._repeats = False
        self.answers = Answers()

    async def __aenter__(self) -> Generator:
        await self._connect()
        gc.collect()
        gc.freeze()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_closing = True
        for connection in self._all:
            connection.close()
        await asyncio.sleep(0.05)

    async def open_loop(self, rate: float, seconds: float) -> Answers:
        """`rate` requests a second; returns when all are answered, or ten seconds after the last was due."""
        await self._connect()
        self.answers = Answers()
        start = time.monotonic()
        total, made = int(rate * seconds), 0
        while made < total:
            due = min(total, int((time.monotonic() - start) * rate) + 1)
            while made < due:
                self._waiting.append(start + made / rate)
                made += 1
            self._send_waiting()
            await asyncio.sleep(max(_TICK, start + made / rate - time.monotonic()))
        await self._drain(total)
        return self.answers

    async def closed_loop(self, in_flight: int, seconds: float) -> Answers:
        """So many connections send their next request when they have the answer; those after `seconds` do not count."""
        await self._connect()
        self.answers = Answers()
        self._repeats = True
        self._waiting.extend([time.monotonic()] * in_flight)
        self._send_waiting()
        await asyncio.sleep(seconds)
        self._repeats = False
        found, self.answers = self.answers, Answers()
        await self._drain(in_flight)
        return found

    def is_free(self, connection: _Connection) -> None:
        self._free.append(connection)
        if self._repeats:
            self._waiting.append(time.monotonic())
        if self._waiting:
            self._send_waiting()

    def lost(self, connection: _Connection) -> None:
        """The server has closed it."""
        if self._is_closing:
            return
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        else:  # it was closed as idle while the request was on its way; every client tries that again
            self._waiting.appendleft(connection.due)
            self._send_waiting()

    async def _connect(self) -> None:
        """Make those that are missing: servers close connections that are idle for some seconds."""
        loop = asyncio.get_running_loop()
        while len(self._all) < self._count:
            made = await asyncio.gather(
                *[
                    loop.create_connection(lambda: _Connection(self), self._host, self._port)
                    for _ in range(min(_CONNECT_AT_ONCE, self._count - len(self._all)))
                ]
            )
            self._all.update(connection for _, connection in made)
            self._free.extend(connection for _, connection in made)

    def _send_waiting(self) -> None:
        while self._waiting and self._free:
            self._number = (self._number + 1) % len(self._requests)
            self._free.popleft().send(self._requests[self._number], self._waiting.popleft())

    async def _drain(self, total: int) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        while len(self.answers.status) < total and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.answers.lost += total - len(self.answers.status)
