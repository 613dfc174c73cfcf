"""Bodies of Open Inference requests: read with one copy at most, unpacked within a limit; answers packed on request."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any, TypeAlias

import numpy as np
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from socaity.exceptions import InvalidInputError

__all__ = ["pack", "packing_of", "read_body", "too_large"]

Buffer: TypeAlias = bytes | memoryview

_ALIGNMENT = 64
_MANY_BYTES = 64 * 1024
"""From there on packing and unpacking happen on a thread."""
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_LEVEL = 1
"""Numbers do not get much smaller with more effort."""


async def read_body(
    receive: Receive, *, limit: int, coding: bytes, length: bytes, header_length: int
) -> Buffer:
    """The whole body, unpacked; raises InvalidInputError 400, 413 and 415, and ClientDisconnect.

    A body that comes in pieces is put together so that what is behind the first `header_length` bytes, the data of the first
    tensor, can be used in place.
    """
    if length.isdigit() and int(length[:19]) > limit:
        raise too_large(int(length[:19]), limit)
    message = await receive()
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise too_large(size, limit)
        pieces.append(piece)
        if not message.get("more_body"):
            break
        message = await receive()
    body: Buffer = pieces[0] if len(pieces) == 1 else _joined(pieces, size, header_length)
    name = coding.strip().lower()
    if name in (b"", b"identity"):
        return body
    if name.decode("latin-1") not in _WINDOW:
        raise InvalidInputError(
            f"Content-Encoding is gzip or deflate here, not {name.decode('latin-1')[:40]!r}.",
            status=415,
            code="unsupported_encoding",
        )
    if len(body) < _MANY_BYTES:
        return _unpacked(body, name.decode(), limit)
    return await asyncio.to_thread(_unpacked, body, name.decode(), limit)


def packing_of(accept_encoding: bytes) -> str | None:
    """How an answer is to be packed: only where nothing else is accepted. Clients that name several codings by habit want the
    answer soon, and some of them cannot unpack all that they name."""
    name = accept_encoding.strip().lower().decode("latin-1")
    return name if name in _WINDOW else None


async def pack(pieces: list[Buffer], coding: str) -> bytes:
    """The pieces of an answer as one packed body."""
    if sum(map(len, pieces)) < _MANY_BYTES:
        return _packed(pieces, coding)
    return await asyncio.to_thread(_packed, pieces, coding)


def too_large(size: int, limit: int) -> InvalidInputError:
    """413, in words that clients know."""
    return InvalidInputError(
        f"The request of {size} bytes exceeds the maximum allowed input size of {limit} bytes; send less at once, or start the "
        "server with a larger max_body.",
        status=413,
        code="too_large",
    )


def _joined(pieces: list[bytes], size: int, header_length: int) -> memoryview:
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    address: int = memory.__array_interface__["data"][0]
    start = -(address + header_length) % _ALIGNMENT
    view = memoryview(memory)[start : start + size]  # type: ignore[arg-type]
    position = 0
    for piece in pieces:
        view[position : position + len(piece)] = piece
        position += len(piece)
    return view.toreadonly()


def _unpacked(body: Buffer, coding: str, limit: int) -> bytes:
    unpacker: Any = zlib.decompressobj(_WINDOW[coding])
    found: list[bytes] = []
    size = 0
    data: Any = body
    try:
        while True:
            piece = unpacker.decompress(data, limit - size + 1)
            found.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(size, limit)
            if unpacker.eof:
                data = unpacker.unused_data
                if not data or coding == "deflate":
                    break
                unpacker = zlib.decompressobj(_WINDOW[coding])  # gzip may have several members
            elif unpacker.unconsumed_tail:
                data = unpacker.unconsumed_tail
            else:
                raise zlib.error("it is cut off")
    except zlib.error as exc:
        raise InvalidInputError(
            f"The body is not {coding}: {exc}.", status=400, code="malformed_body"
        ) from exc
    if unpacker.unused_data and coding == "deflate":
        raise InvalidInputError(
            "There are bytes behind the deflated body.", status=400, code="malformed_body"
        )
    return b"".join(found)


def _packed(pieces: list[Buffer], coding: str) -> bytes:
    if coding == "gzip":
        return gzip.compress(b"".join(pieces), _LEVEL, mtime=0)
    packer = zlib.compressobj(_LEVEL)
    return b"".join([*[packer.compress(piece) for piece in pieces], packer.flush()])
