"""HTTP through httpx; the only file that imports it, and the one that turns its errors and answers into ours."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast

import httpx

from socaity.exceptions import (
    ConfigurationError,
    ConnectError,
    ProtocolError,
    SocaityError,
    TransportError,
    TransportTimeout,
    from_problem,
)
from socaity.protocol.messagepack import MalformedError, unpackb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from socaity.transport import Target

__all__ = ["MESSAGEPACK", "HTTPClient", "HTTPRequest", "HTTPResponse", "error_from_response"]

MESSAGEPACK = "application/vnd.socaity+msgpack"

KEEP_ALIVE = 4.5  # seconds; uvicorn closes after 5, and a request must not meet the closing
MAX_REDIRECTS = 5
_SAFE_METHODS = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPRequest:
    """One request. `url` is absolute; at most one of `content`, `form` (with `files`) is the body. A function as `content`
    gives its pieces anew for each try; say the `Content-Length` with it.

    `read_timeout` is how many seconds may pass without a byte of the answer.
    """

    method: str = "GET"
    url: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | Callable[[], AsyncIterator[bytes]] | None = None
    form: Mapping[str, str | list[str]] | None = None
    files: Sequence[tuple[str, tuple[str, Any, str]]] = ()
    read_timeout: float = 30.0


class HTTPResponse:
    """An answer whose body has not been read yet."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._reading: AsyncGenerator[bytes, None] | None = None

    @property
    def content_type(self) -> str:
        """The media type in lower case, without parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def encoding(self) -> str:
        """The character set of a text."""
        return self._response.charset_encoding or "utf-8"

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def retry_after(self) -> float | None:
        return parse_retry_after(self.headers.get("retry-after"))

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives, decompressed. Raises TransportError if it is cut."""
        self._reading = self._pieces()
        return self._reading

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        with _our_errors(self._response.request):
            async for piece in self._response.aiter_bytes():
                yield piece

    async def read(self) -> bytes:
        """The whole body."""
        with _our_errors(self._response.request):
            return await self._response.aread()

    async def document(self) -> Any:
        """The body as a value, from MessagePack or JSON; None if it is empty. Raises ProtocolError."""
        body = await self.read()
        if not body:
            return None
        try:
            return unpackb(body) if self.content_type == MESSAGEPACK else json.loads(body)
        except (ValueError, MalformedError) as exc:
            raise ProtocolError(
                f"{_place(self._response.request)} answered {self.status} with something that is not "
                f"{self.content_type or 'a document'}: {_excerpt(body)}"
            ) from exc

    async def aclose(self) -> None:
        """Drop what is left of the body. Whoever read it may have ended with an error, whose traceback would keep the
        reading alive, and open, to the end of the process."""
        try:
            if self._reading is not None:
                await self._reading.aclose()
        finally:
            await self._response.aclose()

    async def error(self, *, job_id: str | None = None) -> SocaityError:
        """The exception that this answer stands for."""
        body = await self.read()
        return error_from_response(
            self.status, self.headers, body, place=_place(self._response.request), job_id=job_id
        )


class HTTPClient:
    """A client of one service: its address, its key, and as many connections as there are requests at a time."""

    def __init__(self, target: Target) -> None:
        self.base = _base_url(target)
        self._origin = _origin(httpx.URL(self.base))
        self._connect_timeout = target.timeout
        self._has_secrets = bool(target.all_headers()) or bool(httpx.URL(self.base).userinfo)
        self._client = httpx.AsyncClient(
            transport=_ConnectionStack(self.base) if target.app is None else _ASGITransport(target.app),
            headers={"User-Agent": "socaity", **target.all_headers()},
        )

    @property
    def place(self) -> str:
        """The address without credentials, for messages."""
        url = httpx.URL(self.base)
        return f"{url.scheme}://{url.netloc.decode()}{url.path.rstrip('/')}"

    @property
    def is_closed(self) -> bool:
        return self._client.is_closed

    def is_same_origin(self, url: str) -> bool:
        return _origin(httpx.URL(url)) == self._origin

    @asynccontextmanager
    async def stream(self, request: HTTPRequest) -> AsyncIterator[HTTPResponse]:
        """Send a request; the body is read inside the block, what is left of it is dropped at the end.

        Raises ConnectError if nothing was sent, TransportTimeout, ProtocolError or TransportError.
        """
        response = HTTPResponse(await self._send(request))
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _send(self, request: HTTPRequest) -> httpx.Response:
        if self.is_closed:
            raise ConnectError(f"The connection to {self.place} has been closed; nothing was sent")
        method, url, with_body = request.method, request.url, True
        params: list[tuple[str, str | int | float | bool | None]] | None = list(request.params) or None
        for _ in range(MAX_REDIRECTS + 1):
            content = request.content if with_body else None
            try:
                built = self._client.build_request(
                    method,
                    url,
                    params=params,
                    headers=dict(request.headers),
                    content=content() if callable(content) else content,
                    data=request.form if with_body else None,
                    files=list(request.files) or None if with_body else None,
                    timeout=httpx.Timeout(request.read_timeout, connect=self._connect_timeout, pool=None),
                )
            except (httpx.InvalidURL, UnicodeError) as exc:
                raise ConfigurationError(f"{url!r} or a header of the request cannot be sent: {exc}") from exc
            with _our_errors(built):
                response = await self._client.send(built, stream=True)
            if not response.has_redirect_location:
                return response
            await response.aclose()
            target = built.url.join(response.headers["location"])
            self._check_redirect(built, response.status_code, target)
            url, params = str(target), None
            if response.status_code == 303 and method not in _SAFE_METHODS:
                method, with_body = "GET", False
        raise ProtocolError(f"{_place(built)} redirects more than {MAX_REDIRECTS} times")

    def _check_redirect(self, request: httpx.Request, status: int, target: httpx.URL) -> None:
        origin, here = _origin(target), _origin(request.url)
        is_upgrade = here[0] == "http" and origin[0] == "https" and here[1] == origin[1]
        if origin != here and not is_upgrade and self._has_secrets:
            raise ProtocolError(
                f"{_place(request)} redirects to another host ({origin[1]}); the key and headers were not sent there. "
                "Connect to that address if you trust it."
            )
        if status in (301, 302) and request.method not in _SAFE_METHODS:
            raise ProtocolError(
                f"{_place(request)} has moved to {target.copy_with(userinfo=b'', query=None)} ({status}), which a "
                f"{request.method} does not follow; connect to the new address"
            )


def error_from_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    place: str = "the service",
    job_id: str | None = None,
) -> SocaityError:
    """The exception for an error response: problem documents, FastAPI's `detail`, `{"error": …}`, or plain text."""
    problem = _problem(status, headers, body, place)
    return from_problem(problem, job_id=job_id)


def _problem(status: int, headers: Mapping[str, str], body: bytes, place: str) -> dict[str, Any]:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    document: Any = None
    with suppress(ValueError, MalformedError):
        document = unpackb(body) if kind == MESSAGEPACK else json.loads(body)
    is_problem = isinstance(document, dict) and isinstance(document.get("code"), str) and "status" in document
    if (kind == "application/problem+json" and isinstance(document, dict)) or is_problem:
        problem: dict[str, Any] = dict(document)
        # The words of a job's end are ours; in the document of someone else they would mean something different.
        problem.setdefault("code", _code(status))
        if not isinstance(problem.get("detail"), str):
            problem.update(_from_detail(problem.get("detail")))
    else:
        problem = {"code": _code(status), **_message_of(document)}
        if "detail" not in problem:
            text = body.decode("utf-8", "replace").strip() if kind.startswith("text/plain") else ""
            problem["detail"] = f"{place} answered {status}" + (f": {text[:500]}" if text else "")
    problem["status"] = status if not isinstance(problem.get("status"), int) else problem["status"]
    if not isinstance(problem.get("retry_after"), (int, float)):
        problem["retry_after"] = parse_retry_after(headers.get("retry-after"))
    request_id = problem.get("request_id") or headers.get("x-request-id") or headers.get("request-id")
    problem["request_id"] = request_id
    return problem


def _message_of(document: Any) -> dict[str, Any]:
    if isinstance(document, str) and document:
        return {"detail": document[:2000]}
    if not isinstance(document, dict):
        return {}
    if "detail" in document:
        return _from_detail(document["detail"])
    error = document.get("error")
    if isinstance(error, dict):  # OpenAI, Anthropic and many others
        found = {"detail": error.get("message"), "parameter": error.get("param")}
        return {key: value for key, value in found.items() if isinstance(value, str)}
    for text in (error, document.get("message"), document.get("title")):
        if isinstance(text, str) and text:
            return {"detail": text}
    return {}


def _from_detail(detail: Any) -> dict[str, Any]:
    """FastAPI: a text, or a list of what is wrong with which argument."""
    if isinstance(detail, str):
        return {"detail": detail}
    if isinstance(detail, dict):
        return {"detail": detail["message"] if isinstance(detail.get("message"), str) else json.dumps(detail)}
    errors = [item for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []
    if not errors:
        return {"detail": json.dumps(detail)} if detail else {}
    lines, parameter = [], None
    for item in errors:
        where = item.get("loc")
        names = [str(part) for part in where] if isinstance(where, list) else []
        names = names[1:] if names and names[0] in ("body", "query", "path", "header", "cookie") else names
        parameter = parameter or ".".join(names) or None
        lines.append(f"{'.'.join(names) or 'the request'}: {item.get('msg') or 'is not valid'}")
    return {"detail": "; ".join(lines), "parameter": parameter}


def _code(status: int) -> str:
    known = {
        401: "unauthenticated",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        408: "request_timeout",
    }
    known |= {
        409: "conflict",
        413: "too_large",
        415: "unsupported_media_type",
        429: "rate_limited",
        503: "unavailable",
    }
    return known.get(status) or (
        "invalid_input" if status < 500 else "internal" if status == 500 else "server_error"
    )


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """Seconds from a Retry-After header, which is a number or a date; None if it is missing or neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max(0.0, moment.timestamp() - (time.time() if now is None else now))


@contextmanager
def _our_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as exc:
        raise ConnectError(
            f"No connection to {_place(request)}: {_text(exc)}; nothing was sent. Is the server running there?"
        ) from _without_frames(exc)
    except httpx.TimeoutException as exc:
        raise TransportTimeout(
            f"{_place(request)} did not answer in time ({type(exc).__name__})"
        ) from _without_frames(exc)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise ConfigurationError(
            f"{_place(request)} is not an address of a service: {_text(exc)}"
        ) from _without_frames(exc)
    except (httpx.DecodingError, httpx.LocalProtocolError) as exc:
        raise ProtocolError(f"{_place(request)}: {_text(exc)}") from _without_frames(exc)
    except (httpx.TransportError, httpx.StreamError) as exc:
        raise TransportError(
            f"The connection to {_place(request)} broke: {_text(exc)}{_other_protocol(request, exc)}"
        ) from _without_frames(exc)


def _without_frames(exc: Exception) -> Exception:
    """Type and text say all: whoever reads the traceback would have seventy lines of the insides of httpx before our sentence."""
    exc.__cause__ = None
    exc.__suppress_context__ = True
    return exc.with_traceback(None)


def _other_protocol(request: httpx.Request, exc: Exception) -> str:
    """What the address should perhaps begin with, where the other side seems to speak something else."""
    text, scheme = _text(exc), request.url.scheme
    if isinstance(exc, httpx.RemoteProtocolError) and text.startswith("illegal"):
        return f". Does gRPC answer there? Its addresses begin with oip+grpc{scheme.removeprefix('http')}://"
    if (
        isinstance(exc, httpx.RemoteProtocolError)
        and scheme == "http"
        and "without sending a response" in text
    ):
        return " Where it speaks TLS, its address begins with https://"
    return ""


def _text(exc: Exception) -> str:
    return str(exc) or type(exc).__name__


def _place(request: httpx.Request) -> str:
    url = request.url
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"


def _excerpt(body: bytes) -> str:
    return repr(body[:80].decode("utf-8", "replace"))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _base_url(target: Target) -> str:
    if target.app is not None and target.scheme not in ("http", "https"):
        return "http://inprocess"
    try:
        url = httpx.URL(target.url)
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"{target.place} is not a URL") from exc
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"{target.place} is not an address like http://host:8000")
    return str(url.copy_with(query=None, fragment=None)).rstrip("/")


class _ConnectionStack(httpx.AsyncBaseTransport):
    """Connections to one host, the last used one first, without a limit.

    The pool of httpcore looks at every connection for every request, which with 1,000 held streams costs more than the
    requests themselves. Here each connection is a pool of its own, and taking one always costs the same.
    """

    def __init__(self, base: str) -> None:
        self._proxy = _environment_proxy(httpx.URL(base))
        self._contexts: dict[bool, ssl.SSLContext] = {}
        self._idle: dict[str, deque[tuple[float, httpx.AsyncHTTPTransport]]] = {
            "http": deque(),
            "https": deque(),
        }
        self._lent: set[httpx.AsyncHTTPTransport] = set()
        self._dropped: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        scheme = request.url.scheme
        if scheme not in self._idle:
            raise httpx.UnsupportedProtocol(f"the scheme {scheme!r} is not http or https", request=request)
        idle = self._idle[scheme]
        wire = idle.pop()[1] if idle else self._connection(scheme)
        self._lent.add(wire)
        try:
            response = await wire.handle_async_request(request)
        except BaseException:
            self.drop(wire)
            raise
        stream = cast("httpx.AsyncByteStream", response.stream)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Borrowed(stream, self, scheme, wire),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._closing is not None:
            await self._closing
        await self._close_idle(float("inf"))
        # An iteration that somebody gave up may end only after us.
        while self._lent:
            await self._lent.pop().aclose()
        await asyncio.gather(*self._dropped, return_exceptions=True)

    def _connection(self, scheme: str) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._context(scheme == "https" or self._proxy is not None),
            proxy=self._proxy,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE),
            socket_options=_keep_alive_options(),
        )

    def _context(self, is_used: bool) -> ssl.SSLContext:
        """One for all connections. Loading the certificates takes longer than a request, so only where they are used;
        the other context trusts nobody.
        """
        if is_used not in self._contexts:
            self._contexts[is_used] = _trusting() if is_used else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return self._contexts[is_used]

    def give_back(self, scheme: str, wire: httpx.AsyncHTTPTransport) -> None:
        """The request of this connection is over."""
        if self._is_closed:
            return  # it has been closed with the others
        self._lent.discard(wire)
        self._idle[scheme].append((time.monotonic(), wire))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(2 * KEEP_ALIVE, self._tick)

    def drop(self, wire: httpx.AsyncHTTPTransport) -> None:
        """The request of this connection did not end in order: whoever got it next might wait for it for ever."""
        if self._is_closed:
            return  # it has been closed with the others
        self._lent.discard(wire)
        closing = asyncio.get_running_loop().create_task(wire.aclose())
        self._dropped.add(closing)
        closing.add_done_callback(self._dropped.discard)

    def _tick(self) -> None:
        """Connections that nobody used for a while would be closed by the other side and kept open by us."""
        loop = asyncio.get_running_loop()
        self._closing = loop.create_task(self._close_idle(time.monotonic() - KEEP_ALIVE))
        self._timer = loop.call_later(2 * KEEP_ALIVE, self._tick) if any(self._idle.values()) else None

    async def _close_idle(self, before: float) -> None:
        for idle in self._idle.values():
            while idle and idle[0][0] < before:
                await idle.popleft()[1].aclose()


def _trusting() -> ssl.SSLContext:
    """Raises ConfigurationError where the certificates that the environment names cannot be read."""
    try:
        return httpx.create_ssl_context()
    except OSError as exc:  # an ssl.SSLError is one as well
        variable = next((one for one in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(one)), None)
        if variable is None:
            raise
        raise ConfigurationError(
            f"{variable} names {os.environ[variable]}, which cannot be read as certificates: {exc.strerror or exc}"
        ) from exc


class _Borrowed(httpx.AsyncByteStream):
    """The body of a response; its connection goes back to the stack when it is closed."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        stack: _ConnectionStack,
        scheme: str,
        wire: httpx.AsyncHTTPTransport,
    ) -> None:
        self._stream, self._stack, self._scheme = stream, stack, scheme
        self._wire: httpx.AsyncHTTPTransport | None = wire

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece

    async def aclose(self) -> None:
        wire, self._wire = self._wire, None
        if wire is None:
            return
        try:
            await self._stream.aclose()
        except BaseException:
            self._stack.drop(wire)
            raise
        self._stack.give_back(self._scheme, wire)


def _environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment or the system names for this host (HTTP_PROXY, NO_PROXY and so on)."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{url.host}:{url.port}" if url.port else url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _keep_alive_options() -> list[tuple[int, int, int]]:
    """A host that went away is noticed in about a minute even while nothing is expected from it."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class _ASGITransport(httpx.AsyncBaseTransport):
    """Requests to an ASGI app in this process. Bodies stream, which those of `httpx.ASGITransport` do not."""

    def __init__(self, app: Any) -> None:
        self._app = app if callable(app) else app.app
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _Exchange(request)
        task = asyncio.get_running_loop().create_task(exchange.run(self._app))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            timeouts = request.extensions.get("timeout") or {}
            async with asyncio.timeout(timeouts.get("read")):
                await exchange.started.wait()
        except TimeoutError as exc:
            exchange.hang_up()
            raise httpx.ReadTimeout("the app did not start to answer", request=request) from exc
        except BaseException:
            exchange.hang_up()
            raise
        return httpx.Response(exchange.status, headers=exchange.headers, stream=exchange)

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Exchange(httpx.AsyncByteStream):
    """One request and its response, from both sides of the ASGI interface."""

    def __init__(self, request: httpx.Request) -> None:
        self._request = request
        self._timeout: float | None = (request.extensions.get("timeout") or {}).get("read")
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=8)
        self._gone = asyncio.Event()
        self._is_whole = False
        self._body_sent = False
        self.started = asyncio.Event()
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []

    async def run(self, app: Any) -> None:
        url = self._request.url
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self._request.method,
            "headers": [(name.lower(), value) for name, value in self._request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.partition(b"?")[0],
            "query_string": url.query,
            "server": (url.host, url.port or 80),
            "client": ("inprocess", 0),
            "root_path": "",
            "state": {},
        }
        try:
            await app(scope, self._receive, self._send)
        except Exception:  # the app has logged it; to the caller it is what a server would make of it
            if not self.started.is_set():
                self.headers = [(b"content-type", b"text/plain; charset=utf-8")]
                self._pieces.put_nowait(b"Internal Server Error")
                self._is_whole = True
        finally:
            self.started.set()
            await self._put(None)

    async def _receive(self) -> dict[str, Any]:
        if not self._body_sent:
            self._body_sent = True
            return {"type": "http.request", "body": await self._request.aread(), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._gone.is_set():
            raise OSError("the client has gone")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.started.set()
            body = bytes(message.get("body", b""))
            if body and self._request.method != "HEAD":
                await self._put(body)
            if not message.get("more_body", False):
                self._is_whole = True
                await self._put(None)

    async def _put(self, piece: bytes | None) -> None:
        """Wait until the reader has room, or has gone."""
        if self._gone.is_set() or not self._pieces.full():
            if not self._pieces.full():
                self._pieces.put_nowait(piece)
            return
        put, gone = asyncio.ensure_future(self._pieces.put(piece)), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait((put, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            put.cancel()
            gone.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    piece = await self._pieces.get()
            except TimeoutError as exc:
                raise httpx.ReadTimeout("the app sent nothing", request=self._request) from exc
            if piece is None:
                break
            yield piece
        if not self._is_whole:
            raise httpx.RemoteProtocolError("the app ended in the middle of the body", request=self._request)

    def hang_up(self) -> None:
        self._gone.set()

    async def aclose(self) -> None:
        self.hang_up()
