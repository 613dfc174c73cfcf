"""Which pages may call: those of this origin, and those that the operator has named (CORS). Programs send no `Origin`, browsers
always do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Scope, Send

__all__ = ["AllowedOrigins", "is_cross_origin", "is_own_page"]

_SAFE_METHODS = frozenset({"GET", "HEAD"})
_OTHER_SITES = frozenset({b"cross-site", b"same-site"})
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADERS = (
    "Accept, Authorization, Content-Type, Idempotency-Key, Inference-Header-Content-Length, Last-Event-ID, Prefer, X-API-Key, "
    "X-Explain, X-Priority, X-Request-Timeout-Ms, traceparent, tracestate"
)
_EXPOSED = "Content-Disposition, Inference-Header-Content-Length, Location, Preference-Applied, Retry-After, X-Explain"
_SECONDS = "600"
"""For which a browser may remember the answer to a preflight."""


def is_cross_origin(scope: Mapping[str, Any]) -> bool:
    """True for an `Origin` that is neither the host of the request nor one that the operator has named (`null` included); also
    without one, which is how browsers follow links and load images, where they say that another site or origin asks."""
    origin = _header(scope, b"origin")
    if origin is None:
        return _header(scope, b"sec-fetch-site") in _OTHER_SITES
    if origin.partition(b"://")[2] == _header(scope, b"host"):
        return False
    return origin.lower() not in scope.get("socaity.origins", ())


def is_own_page(scope: Mapping[str, Any]) -> bool:
    """Whether a browser says that a page of this very origin asks, or its user: only then a cookie counts."""
    origin, host = _header(scope, b"origin"), _header(scope, b"host")
    if origin is not None and origin.partition(b"://")[2] != host:
        return False
    site = _header(scope, b"sec-fetch-site")
    if site is not None and site not in (b"same-origin", b"none"):
        return False
    # A browser says nothing only where a user has typed the address, or for what a page cannot read.
    return origin is not None or (scope["type"] == "http" and scope["method"] in _SAFE_METHODS)


class AllowedOrigins:
    """Cross-Origin Resource Sharing for pages of some origins, without cookies."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = frozenset(origin.encode() for origin in origins)

    def preflight(self, scope: Scope) -> Response | None:
        """The answer to a browser that asks before a request, if it is that; of another origin one without permission."""
        origin = _header(scope, b"origin")
        if (
            scope["method"] != "OPTIONS"
            or origin is None
            or _header(scope, b"access-control-request-method") is None
        ):
            return None
        headers = {"Vary": "Origin"}
        if origin.lower() in self.origins:
            headers |= {
                "Access-Control-Allow-Origin": origin.decode("latin-1"),
                "Access-Control-Allow-Methods": _METHODS,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": _SECONDS,
            }
        return Response(None, 204, headers)

    def sender(self, scope: Scope, send: Send) -> Send:
        """A `send` that lets the page read the answer."""
        origin = _header(scope, b"origin")
        allowed = origin is not None and origin.lower() in self.origins

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"vary", b"Origin")]
                if allowed:
                    headers += [
                        (b"access-control-allow-origin", origin),
                        (b"access-control-expose-headers", _EXPOSED.encode()),
                    ]
                message = {**message, "headers": headers}
            await send(message)

        return send_with_headers


def _header(scope: Mapping[str, Any], wanted: bytes) -> bytes | None:
    found = None
    for name, value in scope["headers"]:
        if name == wanted:
            found = value
    return found
