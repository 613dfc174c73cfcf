"""A SocaityRouter or any ASGI app of this process, without a socket: the same frames, handed over in memory.

The app runs on socaity's own loop, its lifespan included. One that does not speak our protocol is called over HTTP, in
memory as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Self

from socaity.exceptions import ConfigurationError, ConnectError, NotFoundError, ProtocolError, SocaityError
from socaity.protocol.description import PROTOCOL, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Blob, Call, Exchange, Target, Transport, open_transport

from ._exchange import SocketExchange
from ._session import ClientSession

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
_LIFESPAN_DEADLINE = 60.0


class InProcessTransport(Transport):
    """Calls the app of a target directly."""

    def __init__(self, target: Target) -> None:
        app = target.app
        if app is None:
            raise ConfigurationError("pass the app itself: socaity.connect(router)")
        self._target = target
        # a middleware has an `app` too, and must not be passed by
        self._app: ASGIApp = app if callable(app) else app.app
        self._lifespan: _Lifespan | None = None
        self._session = ClientSession(wanted=self._ensure_open, timeout=target.timeout)
        self._exchange = SocketExchange(self._session, None)
        self._http: Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._socket: asyncio.Task[None] | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._early: list[tuple[Call, bool]] = []
        self._is_open = False

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    @property
    def takes_references(self) -> bool:
        return self._http is None and self._session.takes_references

    @property
    def exchange(self) -> Exchange | None:
        return self._exchange if self._http is None else None

    async def describe(self) -> ServiceDescription:
        await self._open()
        return await (self._session.describe() if self._http is None else self._http.describe())

    def start(self, calls: Sequence[Call]) -> None:
        if not self._is_open:
            self._early.extend((call, False) for call in calls)
            self._ensure_open()
        elif self._http is None:
            self._session.start(calls)
        else:
            self._http.start(calls)

    def attach(self, call: Call) -> None:
        if not self._is_open:
            self._early.append((call, True))
            self._ensure_open()
        elif self._http is None:
            self._session.attach(call)
        else:
            self._http.attach(call)

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        if self._http is None:
            raise NotImplementedError("events are pushed to the call; use start() and attach()")
        return self._http.watch(job_id, after=after)

    async def cancel(self, job_id: str) -> None:
        await self._open()
        try:
            await (self._session.cancel(job_id) if self._http is None else self._http.cancel(job_id))
        except NotFoundError:
            logger.debug("job %s had ended before it could be cancelled", job_id)

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        await self._open()
        if self._http is not None:
            await self._http.upload(blob, progress=progress)
            return
        raise NotImplementedError("the bytes are in this process already")

    async def aclose(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        self._session.give_up(ConnectError("the service was closed here"))
        if self._http is not None:
            await self._http.aclose()
        if self._socket is not None:
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
            await asyncio.wait([self._socket], timeout=1.0)
            self._socket.cancel()
        if self._lifespan is not None:
            await self._lifespan.release()

    # -- opening -----------------------------------------------------------------------------------------------------

    def _ensure_open(self) -> None:
        if self._opening is None and not self._is_open:
            self._opening = asyncio.get_running_loop().create_task(self._open_and_start())

    async def _open(self) -> None:
        if not self._is_open:
            self._ensure_open()
            assert self._opening is not None
            await asyncio.shield(self._opening)

    async def _open_and_start(self) -> None:
        try:
            self._lifespan = await _Lifespan.enter(self._app)
            if not await self._open_socket():
                self._http = open_transport(self._target, name="http")
            self._is_open = True
        except SocaityError as exc:
            early, self._early = self._early, []
            for call, _ in early:
                call.fail(exc)
            raise
        finally:
            self._opening = None
        early, self._early = self._early, []
        for call, is_attach in early:
            if is_attach:
                self.attach(call)
        self.start([call for call, is_attach in early if not is_attach and not call.is_done])

    async def _open_socket(self) -> bool:
        """Open our socket to the app; False if it has none."""
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def send(message: Message) -> None:
            kind = message["type"]
            if kind == "websocket.accept":
                if not answered.done():
                    answered.set_result(message.get("subprotocol") == PROTOCOL)
            elif kind == "websocket.send" and message.get("bytes") is not None:
                self._session.receive(message["bytes"])
            elif not answered.done():
                answered.set_result(False)
            elif kind == "websocket.close":
                self._session.give_up(
                    ProtocolError(f"the app closed its socket: {message.get('reason') or 'no reason given'}")
                )

        async def serve() -> None:
            try:
                await self._app(_socket_scope(self._target), self._inbox.get, send)
            except SocaityError as exc:
                self._session.give_up(exc)
            except Exception as exc:  # an app without a socket may raise anything
                logger.debug("the app has no socket: %s", exc)
            if not answered.done():
                answered.set_result(False)
            elif self._session.is_open:
                self._session.give_up(ProtocolError("the app closed its socket"))

        self._inbox.put_nowait({"type": "websocket.connect"})
        self._socket = asyncio.get_running_loop().create_task(serve())
        if not await answered:
            self._inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
            return False
        self._session.connect(
            lambda data: self._inbox.put_nowait({"type": "websocket.receive", "bytes": data})
        )
        return True


def _socket_scope(target: Target) -> MutableMapping[str, Any]:
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in target.all_headers().items()],
        "client": ("inprocess", 0),
        "server": ("inprocess", 0),
        "subprotocols": [PROTOCOL],
        "state": {},
        "extensions": {},
    }


class _Lifespan:
    """The lifespan of an app, started by the first service that uses it and ended by the last."""

    _running: dict[int, _Lifespan] = {}  # noqa: RUF012 - one app has one lifespan, whoever connects to it

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._users = 0
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._run())

    @classmethod
    async def enter(cls, app: ASGIApp) -> _Lifespan:
        """Start the app or join it. Raises ConnectError if it does not start."""
        lifespan = cls._running.get(id(app))
        if lifespan is None or lifespan._task.get_loop() is not asyncio.get_running_loop():
            lifespan = cls._running[id(app)] = cls(app)
        lifespan._users += 1
        try:
            async with asyncio.timeout(_LIFESPAN_DEADLINE):
                await asyncio.shield(lifespan._started)
        except BaseException as exc:
            await lifespan.release()
            if isinstance(exc, TimeoutError):
                raise ConnectError(f"the app did not start within {_LIFESPAN_DEADLINE:g} s") from exc
            raise
        return lifespan

    async def release(self) -> None:
        self._users -= 1
        if self._users:
            return
        self._running.pop(id(self._app), None)
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait([self._task], timeout=5.0)
        self._task.cancel()

    async def _run(self) -> None:
        async def send(message: Message) -> None:
            if self._started.done():
                return
            if message["type"] == "lifespan.startup.complete":
                self._started.set_result(None)
            elif message["type"] == "lifespan.startup.failed":
                self._started.set_exception(
                    ConnectError(f"the app did not start: {message.get('message') or 'no reason given'}")
                )

        self._inbox.put_nowait({"type": "lifespan.startup"})
        scope: MutableMapping[str, Any] = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {},
        }
        try:
            await self._app(scope, self._inbox.get, send)
        except Exception as exc:  # an app without a lifespan may raise anything
            logger.debug("the app has no lifespan: %s", exc)
        if not self._started.done():
            self._started.set_result(None)


__all__ = ["InProcessTransport"]
