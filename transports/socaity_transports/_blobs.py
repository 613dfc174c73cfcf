"""Uploads to our server: `HEAD /blobs/{sha256}`, then `PUT` in pieces if it is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from socaity.exceptions import InvalidInputError, SocaityError, TransportError

if TYPE_CHECKING:
    from socaity.transport import Blob, Target

    from ._httpx import HTTPClient

__all__ = ["BlobUploads", "http_url", "upload_blob"]

AT_ONCE = 4
"""Uploads of one wire that go on at the same time."""
_ANSWER_TIMEOUT = 60.0
"""Seconds that the server may take when it has got all: it looks at the hash and moves the file."""


async def upload_blob(
    client: HTTPClient, base: str, blob: Blob, *, progress: Callable[[int], None], timeout: float
) -> None:
    """Have the bytes at `base`, unless they are there. Raises APIError, TransportError, and OSError of the reading."""
    from ._httpx import HTTPRequest  # the socket needs no HTTP library before the first upload

    url = f"{base}/blobs/{blob.sha256}"
    async with client.stream(HTTPRequest(method="HEAD", url=url, read_timeout=timeout)) as answer:
        if answer.is_success:
            progress(blob.size)
            return
        if answer.status not in (404, 405):
            raise await answer.error()
    request = HTTPRequest(
        method="PUT",
        url=url,
        headers={"Content-Type": "application/octet-stream", "Content-Length": str(blob.size)},
        content=lambda: _pieces(blob, progress),
        read_timeout=max(timeout, _ANSWER_TIMEOUT),
    )
    async with client.stream(request) as answer:
        if answer.is_success:
            progress(blob.size)
            return
        error = await answer.error()
    if isinstance(error, InvalidInputError) and error.status == 413:
        raise _too_large(error, blob.size)
    raise error


def _too_large(error: SocaityError, size: int) -> InvalidInputError:
    return InvalidInputError(f"an upload of {size} bytes was refused: {error}", status=413, code="too_large")


async def _pieces(blob: Blob, progress: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The pieces, each read on a thread while the one before is sent."""
    pieces = blob.pieces()
    sent = 0
    following = asyncio.ensure_future(asyncio.to_thread(next, pieces, b""))
    try:
        while piece := await following:
            following = asyncio.ensure_future(asyncio.to_thread(next, pieces, b""))
            sent += len(piece)
            if sent > blob.size:
                break
            yield piece
            progress(sent)
    finally:
        # a generator that still runs on its thread cannot be closed
        with suppress(asyncio.CancelledError, OSError):
            await following
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    if sent != blob.size:
        raise TransportError(f"the file changed while it was sent: {sent} bytes instead of {blob.size}")


class BlobUploads:
    """Uploads for a wire that is no HTTP itself, to the service that it leads to. Opens a connection when it is needed."""

    def __init__(self, target: Target) -> None:
        """`target` may be `ws://host:port/path/ws`, whose blobs are at `http://host:port/path/blobs`."""
        self._target = target if target.app is not None else replace(target, url=http_url(target.url))
        self._client: HTTPClient | None = None
        self._room = asyncio.Semaphore(AT_ONCE)

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        """See `Transport.upload`."""
        if self._client is None:
            from ._httpx import HTTPClient

            self._client = HTTPClient(self._target)
        async with self._room:
            await upload_blob(
                self._client, self._client.base, blob, progress=progress, timeout=self._target.timeout
            )

    async def aclose(self) -> None:
        """Close its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def http_url(url: str) -> str:
    """The URL of the service whose socket is at `url`."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in ("ws", "wss"):
        return url
    rest = rest.partition("?")[0].partition("#")[0].rstrip("/").removesuffix("/ws")
    return f"{'https' if scheme.lower() == 'wss' else 'http'}://{rest}"
