"""`Fetcher`: brings results from the services that the operator named into the blobs of this one, and nothing else.

One GET of one path for one hash: no redirects, no proxies of the environment, no cookies, a size limit and one deadline for
all of it. What comes is kept only if it has the hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator
from typing import Any

import h11

from socaity.exceptions import InvalidInputError, JobFailed

from .jobs.backend import BlobStore
from .origins import Source

__all__ = ["TOKEN_HEADER", "Fetcher"]

logger = logging.getLogger(__name__)

TOKEN_HEADER = "socaity-token"  # noqa: S105 - the name of a header
"""Says which published result may be read; the key of a service is never sent."""
AT_ONCE = 8
"""Fetches of one service that go on at the same time."""
_READ = 2**18
_MAX_HEAD = 16 * 1024


class Fetcher:
    """Fetches of one service into its blobs. `deadline`: seconds for one fetch, from the connection to its last byte."""

    def __init__(self, *, deadline: float) -> None:
        self.deadline = deadline
        self._room = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, asyncio.Lock] = {}
        self._contexts: list[ssl.SSLContext] = []

    async def fetch(self, source: Source, sha256: str, size: int, blobs: BlobStore) -> None:
        """Have the bytes in `blobs`, unless they are there already. Raises JobFailed `fetch_failed`, with the reason."""
        lock = self._running.setdefault(sha256, asyncio.Lock())
        try:
            async with lock:  # several calls may take the same result: it travels once
                if blobs.size(sha256) is None:
                    async with self._room:
                        await self._bring(source, sha256, size, blobs)
        finally:
            if not lock.locked():
                self._running.pop(sha256, None)

    async def _bring(self, source: Source, sha256: str, size: int, blobs: BlobStore) -> None:
        why: str
        try:
            async with asyncio.timeout(self.deadline), contextlib.aclosing(self._body(source, size)) as body:
                await blobs.put(sha256, body, max_size=size)
            logger.info("a result of %d bytes was fetched from %s", size, source.origin)
            return
        except TimeoutError:
            why = f"it did not come within {self.deadline:g} s"
        except InvalidInputError as exc:
            why = {
                "hash_mismatch": "what came has another hash",
                "too_large": f"it is larger than {size} bytes",
            }.get(exc.code or "", str(exc))
        except _Unusable as exc:
            why = str(exc)
        except h11.RemoteProtocolError as exc:
            why = f"what answered does not speak HTTP properly: {exc}"
        except OSError as exc:
            why = f"it cannot be reached: {exc.strerror or exc or type(exc).__name__}"
        logger.info("a result could not be fetched from %s: %s", source.origin, why)
        # not in the block, so that the error has no other behind it, whose frames refer to it
        raise JobFailed(
            f"a result could not be fetched from the service at {source.origin}: {why}", code="fetch_failed"
        )

    async def _body(self, source: Source, size: int) -> AsyncGenerator[bytes, None]:
        reader, writer = await asyncio.open_connection(
            source.host, source.port, ssl=self._context() if source.is_secure else None, limit=_READ
        )
        try:
            wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
            writer.write(_request(wire, source))
            await writer.drain()
            _check_head(await _event(wire, reader), source, size)
            while isinstance(event := await _event(wire, reader), h11.Data):
                yield bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise _Unusable("the connection broke")
        finally:
            writer.transport.abort()

    def _context(self) -> ssl.SSLContext:
        if not self._contexts:
            self._contexts.append(ssl.create_default_context())
        return self._contexts[0]


class _Unusable(Exception):
    """The other service answered, but not with the result."""


def _request(wire: h11.Connection, source: Source) -> bytes:
    headers = [
        ("Host", source.origin.partition("://")[2]),
        ("Accept", "application/octet-stream"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
        (TOKEN_HEADER, source.token),
    ]
    request = h11.Request(method="GET", target=source.path, headers=headers)
    return (wire.send(request) or b"") + (wire.send(h11.EndOfMessage()) or b"")


async def _event(wire: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while True:
        event = wire.next_event()
        if isinstance(event, h11.InformationalResponse):
            continue
        if event is not h11.NEED_DATA:
            return event
        data = await reader.read(_READ)
        try:
            wire.receive_data(data)
            if not data:
                return wire.next_event()
        except h11.RemoteProtocolError:
            if not data:
                raise _Unusable("the connection broke") from None
            raise


def _check_head(response: Any, source: Source, size: int) -> None:
    if not isinstance(response, h11.Response):
        raise _Unusable("the connection broke")
    status = response.status_code
    if 300 <= status < 400:
        raise _Unusable(f"it answered with a redirect (HTTP {status}), which is not followed")
    if status in (401, 403):
        raise _Unusable(
            f"it refused (HTTP {status}); GET /blobs must be let through to it with a {TOKEN_HEADER} header"
        )
    if status == 404:
        raise _Unusable("it is not published there (any more)")
    if status != 200:
        raise _Unusable(f"it answered with HTTP {status}")
    length = next((value for name, value in response.headers if name == b"content-length"), None)
    if length is not None and int(length) != size:
        raise _Unusable(f"it has {int(length)} bytes instead of {size}")
