"""A short way through uvicorn for calls of models: no task, scope, future or ASGI message per request.

Half of the time of a small prediction over HTTP is the machinery around it. A plain JSON call of a model needs none of that:
its body goes to the batcher when it is complete, and the answer is written where the batch ends. Everything else, and every
request with anything special about it, takes uvicorn's own way to the application.

Clients send the same head again and again. One that the parser has read and found plain is remembered, byte by byte; a request
that is exactly such a head and its body, with nothing before or after it, is not parsed again.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from .bodies import too_large
from .hosts import AllowedHosts
from .responses import PROBLEM, problem_parts

try:
    from .http_connection import NEARLY, HTTPConnection
except ImportError:  # without httptools uvicorn speaks HTTP in Python, and its own way is the only one
    HTTPConnection = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from .lite import ModelHandler

__all__ = ["quick_protocol"]

_JSON = b"application/json"
_PROBLEM_TYPE = b"content-type: %s\r\n" % PROBLEM.encode()
# A request with one of these is not plain.
_SPECIAL = frozenset(
    {
        b"authorization",
        b"cookie",
        b"expect",
        b"idempotency-key",
        b"origin",
        b"prefer",
        b"sec-fetch-site",
        b"traceparent",
        b"upgrade",
        b"x-explain",
        b"x-priority",
    }
)
_STATUS_LINES = {200: b"HTTP/1.1 200 OK\r\n"}
_END = b"\r\n\r\n"
_MAX_HEADS = 1024
_MAX_HEAD = 4096
"""Bytes of a head that is remembered, and how many are: four megabytes at most."""
_MOST_DIGITS = 16


def quick_protocol(
    handlers: Mapping[bytes, ModelHandler],
    *,
    hosts: AllowedHosts | None = None,
    max_connections: int | None = None,
) -> Any:
    """The protocol for `uvicorn.Config(http=…)`; `handlers` by path, and may change while it serves. Without httptools:
    what uvicorn chooses itself. Only requests to one of the `hosts` take the short way. Connections above `max_connections`,
    sockets included, are answered with 503 and closed."""
    if HTTPConnection is None:
        return "auto"

    class QuickProtocol(_QuickProtocol):
        quick_handlers = handlers
        allowed_hosts = hosts
        most_connections = max_connections
        known_heads: ClassVar[dict[bytes, _Head]] = {}

    return QuickProtocol


class _Head(NamedTuple):
    """What the parser made of a plain request line and its headers."""

    url: bytes
    length: int
    """Of the body."""
    timeout: bytes | None
    """X-Request-Timeout-Ms."""


if HTTPConnection is not None:

    class _QuickProtocol(HTTPConnection):
        quick_handlers: Mapping[bytes, ModelHandler]
        allowed_hosts: AllowedHosts | None
        known_heads: ClassVar[dict[bytes, _Head]]
        _chunk: bytes | None = None
        """What the parser was given at once, while it has found the beginning of one request in it."""
        _quick: _QuickCycle | None = None
        """The last request that took the short way."""

        def data_received(self, data: bytes) -> None:
            if self._is_between:
                cycle: Any = self.cycle
                if (cycle is None or cycle.response_complete) and not self.flow.write_paused:
                    end = data.find(_END) + 4
                    head = self.known_heads.get(data[:end])
                    if (
                        head is not None
                        and len(data) == end + head.length
                        and (handler := self.quick_handlers.get(head.url)) is not None
                        and self._take_known(handler, head, data[end:])
                    ):
                        return
                self._chunk = data
            super().data_received(data)
            self._chunk = None

        def _take_known(self, handler: ModelHandler, head: _Head, body: bytes) -> bool:
            """Run a request that needs no parser; False: it is not for the short way after all."""
            cycle = _QuickCycle(self, handler, head.timeout, keep_alive=True)
            previous, self.cycle = self.cycle, cycle  # type: ignore[assignment]
            cycle.body = body
            if len(body) <= handler.max_body and cycle.run():
                self._quick = cycle
                if self._head_timer is not None:
                    self._end_head()
                return True
            self.cycle = previous
            return False

        def on_message_begin(self) -> None:
            if not self._is_between:
                self._chunk = None  # two requests in one piece
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            handler = self.quick_handlers.get(self.url)
            if (
                handler is not None
                and (self.cycle is None or self.cycle.response_complete)
                and not self.flow.write_paused  # the long way waits for a client that does not read
                and self.parser.get_method() == b"POST"
                and _is_plain(self.headers)
                and (self.allowed_hosts is None or self.allowed_hosts.refused(self.headers) is None)
                and self.parser.get_http_version() == "1.1"
                and self.limit_concurrency is None
            ):
                self._begin_body()
                fits = _fits(_value(self.headers, b"content-length"), handler.max_body)
                self._quick = self.cycle = _QuickCycle(  # type: ignore[assignment]
                    self,
                    handler,
                    _value(self.headers, b"x-request-timeout-ms"),
                    keep_alive=fits and self.parser.should_keep_alive(),
                )
                if not fits:
                    self._quick.refuse(too_large(handler.max_body))
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            cycle: Any = self.cycle
            if type(cycle) is not _QuickCycle:
                super().on_body(body)
                return
            self._has_body_come = True
            if not cycle.response_complete:
                cycle.take(body)

        def on_message_complete(self) -> None:
            cycle: Any = self.cycle
            if type(cycle) is not _QuickCycle or self.parser.should_upgrade():
                super().on_message_complete()
                return
            self._is_between = True
            if not cycle.response_complete:
                if cycle.run():
                    self._remember(cycle)
                else:
                    self._take_the_long_way(bytes(cycle.body))

        def connection_lost(self, exc: Exception | None) -> None:
            cycle: Any = self.cycle
            if self._quick is not None:  # others may wait behind it
                self._quick.disconnected = True
                self._quick.cancel()
                self._quick = None
            super().connection_lost(exc)
            if cycle is None or cycle.response_complete or type(cycle) is _QuickCycle:
                # What refers to each other in a circle would stay until the garbage collector looks, which is seldom.
                self.cycle = self.flow = self.transport = None  # type: ignore[assignment]

        def answered(self) -> None:
            """A cycle of ours has written its answer to a connection that stays open."""
            if self.pipeline:
                self.on_response_complete()
                return
            self.server_state.total_requests += 1
            self._answered_at = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._look_later(self.timeout_keep_alive)

        def _look_later(self, seconds: float) -> None:
            self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def timeout_keep_alive_handler(self) -> None:
            # Quick requests do not make and cancel a timer each: one looks now and then when the last answer was.
            self.timeout_keep_alive_task = None
            if self.cycle is not None and not self.cycle.response_complete:
                return  # its answer looks again
            left = self._answered_at + self.timeout_keep_alive - self.loop.time()
            if left > NEARLY:
                self._look_later(left)
            else:
                super().timeout_keep_alive_handler()

        def _remember(self, cycle: _QuickCycle) -> None:
            """Know the head of this request again, if it came in one piece with its body and nothing else."""
            chunk = self._chunk
            if chunk is None or not cycle.keep_alive:
                return
            end = chunk.find(_END) + 4
            length = _value(self.headers, b"content-length")
            # Without the field the body came in chunks. A head is the same bytes with the same length of body.
            if length is None or not length.isdigit() or len(chunk) != end + int(length) or end > _MAX_HEAD:
                return
            heads = self.known_heads
            if len(heads) >= _MAX_HEADS:
                heads.clear()
            heads[chunk[:end]] = _Head(self.url, int(length), cycle.timeout)

        def _take_the_long_way(self, body: bytes) -> None:
            """Give a request whose body has come to the application, as if nothing had been."""
            self.cycle = None  # type: ignore[assignment]
            super().on_headers_complete()
            super().on_body(body)
            super().on_message_complete()


class _Nothing:
    def set(self) -> None: ...


class _QuickCycle:
    """One request. Has what uvicorn's protocol asks of its own cycles."""

    __slots__ = (
        "_form",
        "_handler",
        "_protocol",
        "_ticket",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
        "timeout",
    )

    message_event = _Nothing()

    def __init__(
        self, protocol: Any, handler: ModelHandler, timeout: bytes | None, *, keep_alive: bool
    ) -> None:
        self.body: bytes | bytearray = b""
        self.timeout = timeout
        self.disconnected = False
        self.keep_alive = keep_alive
        self.response_complete = False
        self._handler = handler
        self._protocol = protocol
        self._ticket: Any = None

    def take(self, body: bytes) -> None:
        """A piece of the body has come."""
        if not self.body:
            self.body = body
        elif type(self.body) is bytes:
            self.body = bytearray(self.body + body)
        else:
            self.body += body
        if len(self.body) > self._handler.max_body:
            self.keep_alive = False  # the rest of the body is on its way still
            self.refuse(too_large(self._handler.max_body))

    def run(self) -> bool:
        """The body is complete. False: this is not for the short way."""
        try:
            call = self._handler.call_plain(self.body, self.timeout, self._done)
        except Exception as error:  # the edge: whatever it is, the client gets an answer
            self.refuse(error)
            return True
        if call is None:
            return False
        self._ticket, self._form = call
        return True

    def cancel(self) -> None:
        """The client has gone."""
        if self._ticket is not None and not self.response_complete:
            self._ticket.cancel()

    def _done(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self.refuse(error)
            return
        try:
            body = self._handler.encode_plain(result, self._form)
        except Exception as exc:  # a result that has no form in JSON
            self.refuse(exc)
            return
        self._write(_STATUS_LINES[200], b"content-type: application/json\r\n", body)

    def refuse(self, error: BaseException) -> None:
        """Answer with a problem document."""
        status, named, body = problem_parts(error)
        line = _STATUS_LINES.get(status)
        if line is None:
            line = _STATUS_LINES[status] = b"HTTP/1.1 %d %s\r\n" % (status, _phrase(status))
        headers = _PROBLEM_TYPE
        for name, value in named.items():
            headers += b"%s: %s\r\n" % (name.lower().encode(), value.encode())
        self._write(line, headers, body)

    def _write(self, line: bytes, headers: bytes, body: bytes) -> None:
        protocol = self._protocol
        transport = protocol.transport
        self.response_complete = True
        if self.disconnected or transport.is_closing():
            return
        defaults = protocol.server_state.default_headers
        if defaults:
            headers += b"".join([b"%s: %s\r\n" % (name, value) for name, value in defaults])
        if self.keep_alive:
            transport.write(b"%s%scontent-length: %d\r\n\r\n%s" % (line, headers, len(body), body))
            protocol.answered()
        else:
            transport.write(
                b"%s%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (line, headers, len(body), body)
            )
            transport.close()
            protocol.on_response_complete()


def _is_plain(headers: list[tuple[bytes, bytes]]) -> bool:
    """JSON is sent and expected, and nothing special is asked for."""
    is_json = False
    for name, value in headers:
        if name == b"content-type":
            is_json = value == _JSON
        elif name in _SPECIAL or (name == b"accept" and b"socaity" in value):
            return False
    return is_json


def _fits(length: bytes | None, most: int) -> bool:
    return length is None or (len(length) < _MOST_DIGITS and length.isdigit() and int(length) <= most)


def _value(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    """The value of the last header of that name."""
    found = None
    for name, value in headers:
        if name == wanted:
            found = value
    return found


def _phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()
