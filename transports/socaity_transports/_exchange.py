"""`SocketExchange`: results of a service behind a socket for other services, and those of others for it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from socaity.exceptions import ProtocolError, TransportError
from socaity.protocol.origin import origin_of
from socaity.transport import Published, SmallPart

from ._blobs import http_url

if TYPE_CHECKING:
    import asyncio

    from socaity.transport import Call, Target

    from ._httpx import HTTPClient
    from ._session import ClientSession

__all__ = ["SocketExchange"]

TOKEN_HEADER = "Socaity-Token"  # noqa: S105 - the name of a header
_READ_TIMEOUT = 30.0
_SHA256 = re.compile(r"[0-9a-f]{64}")
"""Becomes a part of URLs, also of the other service: nothing else may."""


class SocketExchange:
    """Asks for publications over the socket, and reads them over HTTP. See `socaity.transport.Exchange`."""

    def __init__(self, session: ClientSession, target: Target | None) -> None:
        """Without a target the service is in this process: nobody else can reach it."""
        self._session = session
        self._target = None if target is None else replace(target, url=http_url(target.url))
        self._client: HTTPClient | None = None

    @property
    def takes_published(self) -> bool:
        # a service in this process takes no uploads, so it must fetch
        return self._session.publishes and (self._target is not None or bool(self._session.fetches))

    def fetches(self, url: str) -> bool:
        return origin_of(url) in self._session.fetches

    def publish(
        self, call: Call, path: Sequence[str | int]
    ) -> Awaitable[Published | SmallPart | None] | None:
        if self._target is None:
            return None
        answer = self._session.publish(call, path)
        return None if answer is None else self._read(answer, self._target.place)

    async def _read(self, answer: asyncio.Future[Any], url: str) -> Published | SmallPart | None:
        found = await answer
        if found is None:
            return None
        if isinstance(found, Mapping):
            if "value" in found:
                return SmallPart(found["value"])
            sha256, size, token, seconds = map(found.get, ("sha256", "size", "token", "seconds"))
            base = found.get("at", url)
            if (
                isinstance(sha256, str)
                and _SHA256.fullmatch(sha256)
                and isinstance(token, str)
                and isinstance(base, str)
                and type(size) is int
                and isinstance(seconds, int | float)
            ):
                return Published(sha256, size, f"{base.rstrip('/')}/blobs/{sha256}", token, float(seconds))
        raise ProtocolError(
            f"the service published a result in a way that is not in the protocol: {found!r:.200}"
        )

    async def download(self, published: Published) -> AsyncIterator[bytes]:
        from ._httpx import (  # the socket needs no HTTP library before the first download
            HTTPClient,
            HTTPRequest,
        )

        if self._target is None:
            raise TransportError("the service is in this process and answers no HTTP")
        if self._client is None:
            self._client = HTTPClient(self._target)
        request = HTTPRequest(
            url=f"{self._client.base}/blobs/{published.sha256}",
            headers={TOKEN_HEADER: published.token},
            read_timeout=_READ_TIMEOUT,
        )
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await response.error()
            async for piece in response.pieces():
                yield piece

    async def aclose(self) -> None:
        """Close its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()
