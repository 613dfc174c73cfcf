"""Many jobs on one WebSocket: the fast path to our own server.

The connection is driven by the sans-I/O core of `websockets` in an asyncio Protocol: a frame that arrives is handed on in
the same loop turn, without a task or a queue between.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Self, cast

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from socaity.exceptions import (
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    NotFoundError,
    ProtocolError,
    SocaityError,
    TransportTimeout,
)
from socaity.protocol.description import PROTOCOL, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Blob, Call, Exchange, Target, Transport

from ._blobs import BlobUploads
from ._exchange import SocketExchange
from ._session import ClientSession

logger = logging.getLogger(__name__)

MAX_MESSAGE = 256 * 1024 * 1024
_LAST_CALLS = 2.0
"""Seconds that closing waits for the server to take the jobs that were called before."""
PING_INTERVAL = 20.0
"""Seconds without a byte from the server after which it is asked for a sign of life; twice that is a lost connection."""
RECONNECT_FOR = 60.0
"""Seconds for which a lost connection is tried to be made again before its jobs are given up."""


_LONG_LIFE = 1.0
"""Seconds after which a connection was a good one."""


class WebSocketTransport(Transport):
    """`ws://` and `wss://`: connects when there is something to say, and again as long as somebody waits."""

    uses_context = False

    def __init__(self, target: Target, *, reconnect_for: float = RECONNECT_FOR) -> None:
        self._target = target
        self._reconnect_for = reconnect_for
        url = target.url
        if "/" not in url.partition("://")[2]:
            url += "/ws"
        try:
            self._uri = parse_uri(url)
        except InvalidURI as exc:
            raise ConfigurationError(f"{target.place} is no WebSocket URL") from exc
        self._session: ClientSession | None = None
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._closed = False
        self._uploads: BlobUploads | None = None
        self._exchange: SocketExchange | None = None
        self._short_lives = 0
        self._trouble_since = 0.0
        self.trouble: str | None = None
        """What keeps calls from the server just now; None while nothing is known that does."""

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    @property
    def session(self) -> ClientSession:
        if self._session is None:
            self._session = ClientSession(wanted=self._ensure_connection, timeout=self._target.timeout)
        return self._session

    @property
    def takes_references(self) -> bool:
        return self._session is not None and self._session.takes_references

    @property
    def exchange(self) -> Exchange:
        if self._exchange is None:
            self._exchange = SocketExchange(self.session, self._target)
        return self._exchange

    async def describe(self) -> ServiceDescription:
        return await self.session.describe()

    def start(self, calls: Sequence[Call]) -> None:
        self.session.start(calls)

    def attach(self, call: Call) -> None:
        self.session.attach(call)

    async def submit(self, call: Call) -> None:
        self.session.start([call])

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        raise NotImplementedError("the socket pushes events to the call; use start() and attach()")

    async def cancel(self, job_id: str) -> None:
        try:
            await self.session.cancel(job_id)
        except NotFoundError:
            logger.debug("job %s had ended before it could be cancelled", job_id)

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        if self._uploads is None:
            self._uploads = BlobUploads(self._target)
        await self._uploads.upload(blob, progress=progress)

    async def aclose(self) -> None:
        if self._session is not None and self._session.has_untaken_jobs:
            # Requests are worked off in the order in which they come: at the answer the jobs called before are taken.
            with suppress(SocaityError, TimeoutError):
                async with asyncio.timeout(_LAST_CALLS):
                    await self._session.describe()
        self._closed = True
        if self._uploads is not None:
            await self._uploads.aclose()
        if self._exchange is not None:
            await self._exchange.aclose()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        connection, self._connection = self._connection, None
        if self._session is not None:
            self._session.give_up(
                ConnectError("the service was closed here"), because="nobody listens to it any more"
            )
        if connection is not None:
            await connection.aclose()

    # -- the connection ----------------------------------------------------------------------------------------------

    def _ensure_connection(self) -> None:
        if self._connection is None and self._connecting is None and not self._closed:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        """Make a connection; the first time one try, after a loss as many as fit in RECONNECT_FOR."""
        session = self.session
        lost_at = time.monotonic()
        attempt = self._short_lives
        try:
            if attempt:
                await asyncio.sleep(_delay(attempt))
            while True:
                try:
                    async with asyncio.timeout(self._target.timeout):
                        connection = await self._open_connection()
                    break
                except TimeoutError:
                    error: SocaityError = TransportTimeout(
                        f"{self._target.place} did not answer within {self._target.timeout:g} s"
                    )
                except SocaityError as exc:
                    error = exc
                attempt += 1
                worth_it = isinstance(error, (ConnectError, TransportTimeout)) and session.is_known
                if not worth_it or time.monotonic() - lost_at > self._reconnect_for:
                    self._connecting = None
                    session.give_up(error)
                    return
                self._note_trouble(error)
                await asyncio.sleep(_delay(attempt))
            self._connection = connection
            session.connect(connection.send)
            connection.watch_welcome(self._target.timeout)
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # the edge of the task: nobody may wait for ever
            logger.exception("connecting failed")
            self._connecting = None
            session.give_up(ProtocolError(f"connecting failed: {type(exc).__name__}: {exc}"))
        finally:
            self._connecting = None
            self.trouble = None

    def _note_trouble(self, error: SocaityError) -> None:
        if self.trouble is None:
            logger.warning(
                "the connection to %s is lost; trying for %g s to make it again (%s)",
                self._target.place,
                self._reconnect_for,
                error,
            )
        self.trouble = f"the connection to {self._target.place} is lost and is being made again ({error})"

    async def _open_connection(self) -> _Connection:
        loop = asyncio.get_running_loop()
        uri = self._uri
        context = ssl.create_default_context() if uri.secure else None
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(uri, self._target, self),
                uri.host,
                uri.port,
                ssl=context,
                server_hostname=uri.host if context is not None else None,
            )
        except OSError as exc:
            raise ConnectError(
                f"cannot connect to {self._target.place} ({exc.strerror or exc}); is the server running there?"
            ) from exc
        try:
            await connection.handshake
        except BaseException:
            connection.abort()
            raise
        return connection

    def _on_lost(self, connection: _Connection, reason: SocaityError | None) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        session = self.session
        was_open = session.is_open
        session.disconnect()
        if self._closed:
            return
        if isinstance(reason, ProtocolError) and was_open:
            session.drop_unanswered(reason)
        elif reason is not None and not (
            session.is_known and isinstance(reason, TransportTimeout | ConnectError)
        ):
            session.give_up(
                reason
            )  # it answered, but does not speak our protocol: another try would not help
            return
        if self._note_life(connection.age):
            session.give_up(
                reason or ConnectError(f"connections to {self._target.place} break again and again")
            )
        elif session.has_work:
            logger.info("a connection was lost; connecting again")
            self._ensure_connection()

    def _note_life(self, age: float) -> bool:
        """Count connections that broke at once; True if there has been nothing else for as long as we try."""
        now = time.monotonic()
        if age > _LONG_LIFE:
            self._short_lives = 0
            return False
        if not self._short_lives:
            self._trouble_since = now
        self._short_lives += 1
        return now - self._trouble_since > self._reconnect_for


def _delay(attempt: int) -> float:
    """Full-jitter back-off in seconds."""
    return random.uniform(0, min(2.0, 0.05 * 2.0 ** min(attempt, 10)))


class _Connection(asyncio.Protocol):
    """One WebSocket connection: bytes to messages and back."""

    def __init__(self, uri: WebSocketURI, target: Target, owner: WebSocketTransport) -> None:
        self._ws = ClientProtocol(uri, subprotocols=[Subprotocol(PROTOCOL)], max_size=MAX_MESSAGE)
        self._target = target
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.handshake: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._fragments: list[bytes] = []
        self._reason: SocaityError | None = None
        self._heard = 0.0
        self._made_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._welcome_timer: asyncio.TimerHandle | None = None

    @property
    def age(self) -> float:
        """Seconds since the connection was made."""
        return self._loop.time() - self._made_at

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = self._ws.connect()
        request.headers.update(Headers(self._target.all_headers()))
        self._ws.send_request(request)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._ws.receive_data(data)
        self._heard = self._loop.time()
        self._handle_events()

    def eof_received(self) -> None:
        self._ws.receive_eof()
        self._handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._welcome_timer):
            if timer is not None:
                timer.cancel()
        error = self._reason or ConnectError(f"the connection to {self._target.place} was lost")
        if not self.handshake.done():
            self.handshake.set_exception(error)
        self.handshake.exception()
        if not self._closed.done():
            self._closed.set_result(None)
        self._owner._on_lost(self, self._reason)

    # -- WebSocket -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        if self._ws.state is State.OPEN:
            self._ws.send_binary(data)
            self._flush()

    def _flush(self) -> None:
        if self._transport is None:
            return
        for data in self._ws.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._close_write()

    def _close_write(self) -> None:
        assert self._transport is not None
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _handle_events(self) -> None:
        for event in self._ws.events_received():
            if isinstance(event, Frame):
                self._handle_frame(event)
            else:
                self._handle_response()
        self._flush()
        if self._ws.close_expected() and self._transport is not None:
            self._loop.call_later(1.0, self._transport.abort)

    def _handle_response(self) -> None:
        error = self._ws.handshake_exc
        if error is None:
            self._heard = self._loop.time()
            self._timer = self._loop.call_later(PING_INTERVAL, self._check_life)
            if not self.handshake.done():
                self.handshake.set_result(None)
            return
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status in (401, 403):
            self._fail(self._refusal(status, response))
        elif status is not None and (status in (408, 425, 429) or status >= 500):
            self._fail(ConnectError(f"{self._target.place} is not ready (HTTP {status})"))
        elif isinstance(error, InvalidHandshake):
            self._fail(ProtocolError(f"{self._target.place} does not speak {PROTOCOL}: {error}"))
        else:
            self._fail(ConnectError(f"the handshake with {self._target.place} failed: {error}"))

    def _refusal(self, status: int, response: Any) -> SocaityError:
        """Why the server does not let us in; what stands between us and it may refuse without a reason."""
        place, body = self._target.place, bytes(response.body or b"")
        if body:
            from ._httpx import error_from_response  # httpx takes as long to import as all of the rest

            return error_from_response(status, response.headers, body, place=place)
        has_key = any(name.lower() == "authorization" for name in self._target.all_headers())
        text = (
            f"{place} refused the key (HTTP {status})"
            if has_key
            else f"{place} wants to know who you are; no api_key was given to connect() (HTTP {status})"
        )
        return AuthenticationError(text, status=status)

    def _handle_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY or (frame.opcode is Opcode.CONT and self._fragments):
            if not frame.fin or self._fragments:
                self._fragments.append(bytes(frame.data))
                if not frame.fin:
                    return
                data = b"".join(self._fragments)
                self._fragments = []
            else:
                data = cast(bytes, frame.data)
            try:
                self._owner.session.receive(data)
            except ProtocolError as exc:
                self._fail(exc)
            if self._welcome_timer is not None and self._owner.session.is_open:
                self._welcome_timer.cancel()
                self._welcome_timer = None
        elif frame.opcode is Opcode.TEXT:
            self._fail(ProtocolError(f"{self._target.place} sent text where {PROTOCOL} has binary frames"))

    def watch_welcome(self, timeout: float) -> None:
        """A server that accepts the connection and then says nothing is not one of ours."""
        if not self._owner.session.is_open:
            self._welcome_timer = self._loop.call_later(
                timeout,
                self._fail,
                TransportTimeout(f"{self._target.place} did not say hello within {timeout:g} s"),
            )

    def _check_life(self) -> None:
        silent = self._loop.time() - self._heard
        if silent > 2 * PING_INTERVAL:
            logger.info("%s gave no sign of life for %.0f s", self._target.place, silent)
            self.abort()
            return
        if silent >= PING_INTERVAL - 1.0 and self._ws.state is State.OPEN:
            self._ws.send_ping(b"")
            self._flush()
        self._timer = self._loop.call_later(PING_INTERVAL, self._check_life)

    def _fail(self, reason: SocaityError) -> None:
        if self._reason is None:
            self._reason = reason
        if not self.handshake.done():
            self.handshake.set_exception(reason)
            self.handshake.exception()
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def aclose(self) -> None:
        if self._ws.state is State.OPEN:
            self._ws.send_close(1000)
            self._flush()
        await asyncio.wait([self._closed], timeout=1.0)
        self.abort()


__all__ = ["WebSocketTransport"]
