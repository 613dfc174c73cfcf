"""A short way through uvicorn for calls of models: no task, scope, future or ASGI message per request.

Half of the time of a small prediction over HTTP is the machinery around it. A plain JSON call of a model needs none of that:
its body goes to the batcher when it is complete, and the answer is written where the batch ends. Everything else, and every
request with anything special about it, takes uvicorn's own way to the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from socaity.exceptions import SocaityError

from .bodies import too_large
from .responses import problem_response

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
except ImportError:  # without httptools uvicorn speaks HTTP in Python, and its own way is the only one
    HttpToolsProtocol = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from .lite import ModelHandler

__all__ = ["quick_protocol"]

_JSON = b"application/json"
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


def quick_protocol(handlers: Mapping[bytes, ModelHandler]) -> Any:
    """The protocol for `uvicorn.Config(http=…)`; `handlers` by path, and may change while it serves. Without httptools:
    what uvicorn chooses itself."""
    if HttpToolsProtocol is None:
        return "auto"

    class QuickProtocol(_QuickProtocol):
        quick_handlers = handlers

    return QuickProtocol


if HttpToolsProtocol is not None:

    class _QuickProtocol(HttpToolsProtocol):
        quick_handlers: Mapping[bytes, ModelHandler]

        def on_headers_complete(self) -> None:
            handler = self.quick_handlers.get(self.url)
            if (
                handler is not None
                and (self.cycle is None or self.cycle.response_complete)
                and self.parser.get_method() == b"POST"
                and _is_plain(self.headers)
                and not self.parser.should_upgrade()
                and self.parser.get_http_version() == "1.1"
                and self.limit_concurrency is None
            ):
                self.cycle = _QuickCycle(self, handler)  # type: ignore[assignment]
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            cycle: Any = self.cycle
            if type(cycle) is not _QuickCycle:
                super().on_body(body)
            elif not cycle.response_complete:
                cycle.take(body)

        def on_message_complete(self) -> None:
            cycle: Any = self.cycle
            if type(cycle) is not _QuickCycle:
                super().on_message_complete()
            elif not cycle.response_complete and not cycle.run():
                self._take_the_long_way(cycle.body)

        def connection_lost(self, exc: Exception | None) -> None:
            cycle: Any = self.cycle
            if type(cycle) is _QuickCycle:
                cycle.cancel()
            super().connection_lost(exc)

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
        "_handler",
        "_protocol",
        "_ticket",
        "body",
        "disconnected",
        "keep_alive",
        "response_complete",
    )

    message_event = _Nothing()

    def __init__(self, protocol: Any, handler: ModelHandler) -> None:
        self.body = b""
        self.disconnected = False
        self.keep_alive: bool = protocol.parser.should_keep_alive()
        self.response_complete = False
        self._handler = handler
        self._protocol = protocol
        self._ticket: Any = None

    def take(self, body: bytes) -> None:
        """A piece of the body has come."""
        self.body = self.body + body if self.body else body
        if len(self.body) > self._handler.max_body:
            self.keep_alive = False  # the rest of the body is on its way still
            self._refuse(too_large(self._handler.max_body))

    def run(self) -> bool:
        """The body is complete. False: this is not for the short way."""
        try:
            ticket = self._handler.call_plain(self.body, self._protocol.headers, self._done)
        except SocaityError as error:
            self._refuse(error)
            return True
        if ticket is None:
            return False
        self._ticket = ticket
        return True

    def cancel(self) -> None:
        """The client has gone."""
        if self._ticket is not None and not self.response_complete:
            self._ticket.cancel()

    def _done(self, result: Any, error: BaseException | None) -> None:
        if error is not None:
            self._refuse(error)
            return
        try:
            body = self._handler.encode_plain(result)
        except Exception as exc:  # a result that has no form in JSON
            self._refuse(exc)
            return
        self._write(_STATUS_LINES[200], b"content-type: application/json\r\n", body)

    def _refuse(self, error: BaseException) -> None:
        response = problem_response(error)
        line = _STATUS_LINES.get(response.status_code)
        if line is None:
            line = _STATUS_LINES[response.status_code] = b"HTTP/1.1 %d %s\r\n" % (
                response.status_code,
                _phrase(response.status_code),
            )
        headers = b"".join(
            b"%s: %s\r\n" % (name, value) for name, value in response.raw_headers if name != b"content-length"
        )
        self._write(line, headers, bytes(response.body))

    def _write(self, line: bytes, headers: bytes, body: bytes) -> None:
        protocol = self._protocol
        transport = protocol.transport
        self.response_complete = True
        if self.disconnected or transport.is_closing():
            return
        parts = [line]
        for name, value in protocol.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        parts += (headers, b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        parts.append(body)
        transport.write(b"".join(parts))
        if not self.keep_alive:
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


def _phrase(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode()
