"""`HTTPConnection`: uvicorn's protocol for HTTP, with an end to what a client may send and to how long it may take.

An offer to speak something else (`Upgrade`, RFC 9110, 7.8) is taken only where a WebSocket is offered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sized
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["NEARLY", "HTTPConnection"]

_MAX_HEADERS = 64 * 1024
_HEAD_SECONDS = 30.0
"""How large the head of a request may be, and how long it may take to come, the first one from the connection on. As much may
be between the pieces of a body and behind them."""
_BODY_SECONDS = 60.0
"""How long a client may send nothing while the rest of a body is waited for."""
_LINGER_SECONDS = 5.0
"""How long a body may go on to come whose request has been answered already."""
_MOST_PIPELINED = 1024
"""Requests in one piece from the system that may wait for the one before them: each takes a hundred times the memory of its
bytes. No further piece is read while some wait."""
_TOO_LARGE_HEAD = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
NEARLY = 0.01
"""Some loops fire up to a millisecond early."""


class HTTPConnection(HttpToolsProtocol):
    """Connections above `most_connections`, sockets included, are answered with 503 and closed."""

    most_connections: int | None = None
    _is_between = True
    """The parser has seen whole requests only."""
    _answered_at = 0.0
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _has_body_come = False
    """In the last piece that the parser was given."""
    _body_timer: asyncio.TimerHandle | None = None
    _received_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        most = self.most_connections
        if most is not None and len(self.connections) > most:
            transport.write(_TOO_MANY)
            transport.close()
            return
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        was_in_head = self._is_in_head
        self._has_body_come = False
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        if self._waits_for_body:
            self._expect_body(len(data))
        elif was_in_head and self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEADERS:
                self._end_head()
                self.transport.write(_TOO_LARGE_HEAD)
                self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Behind the head of an offer the parser takes everything for the other language. Where that is not spoken, it reads the
        request again without the offer: else the body would be the next request."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as offer:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                    return
                data = self._without_offer() + data[offer.args[0] :]
                self.parser = HttpRequestParser(self)
                with contextlib.suppress(AttributeError):  # as uvicorn does
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _without_offer(self) -> bytes:
        """The head that was parsed last. Raises HttpParserError for one that is nothing without its offer."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise HttpParserError("this is no proxy")
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _should_upgrade(self) -> bool:
        # an answer to an earlier request would be written into the socket
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and super()._should_upgrade()

    @property
    def _is_in_head(self) -> bool:
        """Some of a head is here."""
        return self._head_timer is not None and not self._is_between

    @property
    def _waits_for_body(self) -> bool:
        """A head is here and its body is not, and the connection has not become a WebSocket."""
        transport: Any = self.transport
        return (
            not self._is_between
            and self._head_timer is None
            and transport is not None
            and not transport.is_closing()
            and transport.get_protocol() is self
        )

    def _expect_head(self) -> None:
        """A head is here within a time, and no larger than it may be."""
        self._head_bytes = 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._close_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _expect_body(self, size: int) -> None:
        """The rest of a body comes, within a time and with no end of something else: `size` bytes have come now."""
        now = self._received_at = self.loop.time()
        self._head_bytes = 0 if self._has_body_come else self._head_bytes + size
        is_answered = self.cycle is not None and self.cycle.response_complete
        if self._head_bytes > _MAX_HEADERS or (is_answered and now - self._answered_at > _LINGER_SECONDS):
            self.transport.close()
        elif self._body_timer is None:
            self._body_timer = self.loop.call_later(_BODY_SECONDS, self._look_for_body)

    def _look_for_body(self) -> None:
        self._body_timer = None
        if not self._waits_for_body:
            return
        # nothing comes either while the application does not read
        left = (
            _BODY_SECONDS if self.flow.read_paused else self._received_at + _BODY_SECONDS - self.loop.time()
        )
        if left > NEARLY:
            self._body_timer = self.loop.call_later(left, self._look_for_body)
        else:
            self.transport.close()

    def _close_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise _TooManyError
        self._is_between = False
        self._expect_head()
        super().on_message_begin()

    def send_400_response(self, msg: str) -> None:
        if self.pipeline:  # it would be taken for the answer to an earlier request
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_header(self, name: bytes, value: bytes) -> None:
        # What is behind a body is dropped: it would be added to the headers that have been looked at, without an end.
        if self._head_timer is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._begin_body()
        if not self.parser.should_upgrade() or self._should_upgrade():
            super().on_headers_complete()

    def _begin_body(self) -> None:
        """The head is here."""
        self._end_head()
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._has_body_come = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_between = True
        if not self.parser.should_upgrade():  # else nothing has begun
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answered_at = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().connection_lost(exc)
        self._unset_keepalive_if_required()


class _Flow(FlowControl):
    """Reads on when no request waits for another."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class _TooManyError(Exception):
    """Ends what the parser does with the rest."""
