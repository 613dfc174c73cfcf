"""A server that answers wrongly: each call ends with a reason, and nobody connects again and again without a pause."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

import socaity
from socaity.transport import Target, Transport
from socaity_transports.websocket import WebSocketTransport
from tests.e2e.servers import DEADLINE

DESCRIPTION = {"title": "wrong", "endpoints": [{"name": "ask", "path": "/ask"}]}
Answer = Callable[[int], list[Any] | None]


class WrongServer:
    """Speaks the protocol until a call comes, then answers with what the test wants."""

    def __init__(
        self, answer: Answer, *, refuse: tuple[int, ...] = (), description: Any = DESCRIPTION
    ) -> None:
        self._answer = answer
        self._refuse = refuse
        self._description = description
        self.handshakes = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve()), daemon=True
        )
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)
        self._loop.close()

    async def _serve(self) -> None:
        options: dict[str, Any] = {
            "subprotocols": [Subprotocol("socaity.v1")],
            "process_request": self._handshake,
        }
        async with serve(self._handle, "127.0.0.1", 0, close_timeout=0.1, **options) as server:
            self.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
            self._ready.set()
            await self._stop.wait()

    def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.handshakes += 1
        return connection.respond(503, "busy") if self.handshakes in self._refuse else None

    async def _handle(self, connection: ServerConnection) -> None:
        seq = 0
        async for data in connection:
            for message in msgpack.unpackb(data, strict_map_key=False)[2]:
                if message[0] == 1:
                    welcome = {
                        "session": f"s{self.handshakes}",
                        "resumed": False,
                        "received": 0,
                        "max_body": 2**20,
                    }
                    await connection.send(msgpack.packb([0, 0, [[16, welcome]]]))
                    continue
                answer = [17, message[1], self._description] if message[0] == 6 else self._answer(message[1])
                seq += 1
                if answer is not None:
                    await connection.send(msgpack.packb([seq, 0, [answer]]))
                if (
                    message[0] in (3, 4)
                    and answer is not None
                    and answer[0] == 19
                    and answer[3:4] == ["status"]
                ):
                    connection.transport.abort()


@contextmanager
def connected(server: WrongServer) -> Iterator[socaity.Service]:
    def open_wire(target: Target) -> Transport:
        return WebSocketTransport(target, reconnect_for=5.0)

    try:
        with socaity.connect(server.url, transport=open_wire, progress=False, retry=1) as service:
            yield service
    finally:
        server.close()


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: [17],
        lambda n: [17, n, "a", "b"],
        lambda n: [18, n, "boom"],
        lambda n: [19, n, 1],
        lambda n: [19, n, "one", "status", {}],
        lambda n: [19, n, 1, "nothing known", {}],
        lambda n: [19, n, 1, "status", None],
        lambda n: [19, n, 1, "status", {"status": "sleeping"}],
        lambda n: [19, n, 1, "progress", 7],
        lambda n: [19, n, 5, "chunk", 7],
        lambda n: [21, {"detail": "I do not like you"}],
        lambda n: [21],
    ],
)
def test_wrong_answer_ends_the_call_with_a_reason(answer: Answer) -> None:
    server = WrongServer(answer)
    with connected(server) as service:
        job = service.ask()
        with pytest.raises((socaity.TransportError, socaity.JobLost)):
            job.result(DEADLINE)
    assert server.handshakes < 20


def test_description_that_is_none_is_a_protocol_error() -> None:
    server = WrongServer(lambda n: None, description={"nonsense": 1})
    try:
        with pytest.raises(socaity.ProtocolError):
            socaity.connect(server.url, progress=False).refresh()
    finally:
        server.close()


def test_proxy_that_is_not_ready_is_waited_for() -> None:
    events = iter([[19, 0, 1, "status", {"status": "running"}], [19, 0, 2, "result", "done"]])

    def answer(n: int) -> list[Any]:
        event = next(events)
        event[1] = n
        return event

    server = WrongServer(answer, refuse=(2, 3))
    with connected(server) as service:
        assert service.ask().result(DEADLINE) == "done"
    assert server.handshakes == 4
