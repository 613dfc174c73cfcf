"""`/blobs/{sha256}`: uploads, and results that other services may read with the token that they were given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import BinaryIO

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..dataplane import DataPlane
from ..fetching import TOKEN_HEADER
from .bodies import check_length, limited_stream
from .responses import value_response

__all__ = ["BlobRoutes"]

_CHUNK = 2**18


class BlobRoutes:
    """The handlers. Uploads are of `max_blob` bytes at most."""

    def __init__(self, dataplane: DataPlane, *, max_blob: int) -> None:
        self._dataplane = dataplane
        self._max_blob = max_blob

    async def put(self, request: Request) -> Response:
        """Take an upload, unless the bytes are here."""
        check_length(request.headers, self._max_blob)
        sha256 = request.path_params["sha256"]
        known = self._dataplane.blobs.size(sha256)
        if known is None:
            size = await self._dataplane.blobs.put(
                sha256, limited_stream(request, self._max_blob), max_size=self._max_blob
            )
            return value_response({"sha256": sha256, "size": size}, "", status=201)
        return value_response({"sha256": sha256, "size": known}, "")

    async def head(self, request: Request) -> Response:
        """Whether uploaded bytes are here."""
        size = self._dataplane.blobs.size(request.path_params["sha256"])
        if size is None:
            return Response(status_code=404)
        return Response(headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"})

    async def get(self, request: Request) -> Response:
        """The bytes of an upload, or of a published result to whom has its token."""
        sha256 = request.path_params["sha256"]
        token = request.headers.get(TOKEN_HEADER)
        if token is not None:
            return _streamed(sha256, *self._dataplane.publishing.open(sha256, token))
        file = self._dataplane.blobs.open(sha256)
        return _streamed(sha256, file, self._dataplane.blobs.size(sha256))


def _streamed(sha256: str, file: BinaryIO, size: int | None) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        with file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk

    headers = {"Content-Length": str(size), "ETag": f'"{sha256}"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(chunks(), media_type="application/octet-stream", headers=headers)
