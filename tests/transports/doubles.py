"""Doubles for tests of transports."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal

import uvicorn

from socaity.exceptions import SocaityError
from socaity.protocol.description import EndpointDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Target, Transport, error_from_event
from socaity_transports.http import HTTPTransport

_numbers = itertools.count(1)


class RecordedCall:
    """A call that keeps what a transport does with it; `await call.ended()` waits for its end."""

    def __init__(
        self, endpoint: EndpointDescription, arguments: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        self.id = f"{0xD0B1E:024x}{next(_numbers):08x}"
        self.endpoint = endpoint
        self.arguments: Mapping[str, Any] = {**(arguments or {}), **more}
        self.seq = 0
        self.is_done = False
        self.is_accepted = False
        self.context = None
        self.options = None
        self.time_left = None
        self.upstream = ()
        self.held = None
        self.number = 0
        self.events: list[JobEvent] = []
        self.value: Any = None
        self.error: SocaityError | None = None
        self._ended = asyncio.Event()

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    @property
    def chunks(self) -> list[Any]:
        return [event.data for event in self.events if event.kind == "chunk"]

    async def ended(self, timeout: float = 20.0) -> RecordedCall:
        async with asyncio.timeout(timeout):
            await self._ended.wait()
        return self

    async def result(self, timeout: float = 20.0) -> Any:
        await self.ended(timeout)
        if self.error is not None:
            raise self.error
        return self.value

    # -- the protocol `socaity.transport.Call` ----------------------------------------------------------------------

    def deliver(self, event: JobEvent) -> None:
        if self.is_done or (event.seq and event.seq <= self.seq):
            return
        self.seq = event.seq or self.seq
        self.is_accepted = True
        self.events.append(event)
        if event.kind == "result":
            self.succeed(event.data)
        elif event.kind == "error":
            self.fail(error_from_event(event, self.id))

    def accept(self) -> None:
        self.is_accepted = True

    def arguments_with(self, refer: Any) -> Mapping[str, Any]:
        return self.arguments

    def hold(self, held: Any) -> None:
        held.fetch(self)

    def explain(self, timing: Mapping[str, float]) -> None:
        self.timing = timing

    def succeed(self, value: Any) -> None:
        if not self.is_done:
            self.is_done, self.value = True, value
            self._ended.set()

    def fail(self, error: SocaityError) -> None:
        if not self.is_done:
            self.is_done, self.error = True, error
            self._ended.set()


@contextmanager
def served(app: Any, *, lifespan: Literal["on", "off"] = "off", ws: Any = "none") -> Iterator[str]:
    """An ASGI app on a free port of the loopback, served from a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(app, log_level="critical", ws=ws, lifespan=lifespan, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="loopback server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
        assert not thread.is_alive()


@asynccontextmanager
async def opened(target: str | Target, **options: Any) -> AsyncIterator[HTTPTransport]:
    """An HTTP transport that is closed at the end."""
    transport = HTTPTransport(Target(target) if isinstance(target, str) else target, **options)
    try:
        yield transport
    finally:
        await transport.aclose()


async def called(transport: Transport, name: str, /, **arguments: Any) -> RecordedCall:
    """A call of the endpoint `name` that has ended, by the way that the client takes."""
    description = await transport.describe()
    call = RecordedCall(next(e for e in description.endpoints if e.name == name), arguments)
    transport.start([call])
    return await call.ended()
