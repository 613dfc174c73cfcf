"""`Publishing`: results that other services may read for a while, each by its hash and a token of its own."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from socaity.exceptions import JobFailed, NotFoundError
from socaity.protocol.messagepack import packb

from .jobs.blobs import DirectoryBlobStore

__all__ = ["Publication", "Publishing"]

TTL = 600.0
"""Seconds for which a result is published."""
MAX_TOTAL = 2**30
"""Bytes on the disk; above that the results that were read least recently go."""
_MAX_TOKENS = 10_000
_AT_ONCE = 2
_PIECE = 2**20


@dataclass(frozen=True, slots=True)
class Publication:
    """A result as bytes: MessagePack with tensors. `token` is the right to read it until `until` (monotonic)."""

    sha256: str
    size: int
    token: str
    until: float

    def to_wire(self, now: float) -> dict[str, Any]:
        """What the client of the result is told."""
        return {"sha256": self.sha256, "size": self.size, "token": self.token, "seconds": self.until - now}


class Publishing:
    """The published results of one service, in a temporary folder of their own: what was uploaded is not among them."""

    def __init__(
        self, *, ttl: float = TTL, max_total: int = MAX_TOTAL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ttl = ttl
        self._max_total = max_total
        self._clock = clock
        self._files = DirectoryBlobStore(max_total=max_total)
        self._tokens: OrderedDict[str, Publication] = OrderedDict()
        self._uses: Counter[str] = Counter()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def add(self, value: Any) -> Publication:
        """Publish a plain value. Raises JobFailed if it is larger than all that may be published."""
        async with self._room:  # each has its bytes in memory until they are on the disk
            data = await asyncio.to_thread(packb, value)
            if len(data) > self._max_total:
                raise JobFailed(
                    f"the result has {len(data)} bytes, too many to be published", code="too_large"
                )
            sha256 = await asyncio.to_thread(_hash, data)
            await self._files.put(sha256, _pieces(data), max_size=len(data))
        await self._drop_old()
        publication = Publication(sha256, len(data), secrets.token_urlsafe(24), self._clock() + self._ttl)
        self._tokens[publication.token] = publication
        self._uses[sha256] += 1
        return publication

    def open(self, sha256: str, token: str) -> tuple[BinaryIO, int]:
        """A published result and its size. Raises NotFoundError, which does not say what of it is wrong."""
        publication = self._tokens.get(token)
        if publication is None or publication.sha256 != sha256 or publication.until <= self._clock():
            raise NotFoundError(f"There is no blob {sha256} (any more).", code="blob_not_found")
        return self._files.open(sha256), publication.size

    async def close(self) -> None:
        """Forget everything."""
        self._tokens.clear()
        self._uses.clear()
        self._files.close()

    async def _drop_old(self) -> None:
        now = self._clock()
        while self._tokens:
            first = next(iter(self._tokens.values()))
            if first.until > now and len(self._tokens) < _MAX_TOKENS:
                return
            del self._tokens[first.token]
            self._uses[first.sha256] -= 1
            if not self._uses[first.sha256]:
                del self._uses[first.sha256]
                await self._files.delete(first.sha256)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(data), _PIECE):
        yield bytes(view[start : start + _PIECE])
