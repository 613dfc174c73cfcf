"""`KeySet`: the public keys of an issuer (JWKS, RFC 7517), fetched when they are needed and again when they may have changed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from socaity.exceptions import ServerError

from .asymmetric import read_jwk

__all__ = ["KeySet"]

_logger = logging.getLogger(__name__)

TTL = 300.0
"""Seconds after which the keys are fetched again, beside the requests."""
LONGEST = 3600.0
"""Seconds for which keys are used that could not be fetched again."""
COOLDOWN = 10.0
"""Seconds between two fetches because of keys that nobody knows: anybody can make up a `kid`."""
_AFTER_FAILURE = 1.0
_DEADLINE = 5.0
_MAX_BYTES = 256 * 1024
_MAX_KEYS = 100


class KeySet:
    """The keys at `url`. `generation` counts how often they have changed. `clock` as `time.monotonic`."""

    def __init__(
        self,
        url: str,
        *,
        deadline: float = _DEADLINE,
        cooldown: float = COOLDOWN,
        ttl: float = TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self.place = f"{parts.hostname}{parts.path}"
        self.generation = 0
        self._url = url
        self._deadline = deadline
        self._cooldown = cooldown
        self._ttl = ttl
        self._clock = clock
        self._document: Any = None
        self._keys: list[tuple[str | None, str | None, str, Any]] = []
        self._fetched_at: float | None = None
        self._tried_at = -1e9
        self._has_failed = False
        self._running: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"KeySet({self.place}, {len(self._keys)} keys)"

    @property
    def is_usable(self) -> bool:
        """There are keys, and they are not too old. Keys that have aged are fetched again in the background."""
        if self._fetched_at is None:
            return False
        age = self._clock() - self._fetched_at
        if age > self._ttl and self._clock() - self._tried_at > self._cooldown:
            self._fetch()
        return age <= LONGEST

    def find(self, kid: str | None, algorithm: str) -> Any | None:
        """The key of that id that signs with `algorithm`; without an id the only one that does."""
        found = [
            key
            for known, alg, family, key in self._keys
            if (kid is None or known == kid)
            and alg in (None, algorithm)
            and family == _family(algorithm)
            and key is not None
        ]
        return found[0] if len(found) == 1 or (found and kid is not None) else None

    async def refresh(self, *, unknown: bool) -> None:
        """Fetch the keys, unless that has just been done in vain. `unknown`: because of a key that is not among them.

        Raises ServerError `keys_unreachable` where there are none to go on with.
        """
        wait = self._cooldown if unknown and not self._has_failed else _AFTER_FAILURE
        if self._running is not None or self._clock() - self._tried_at >= wait:
            await asyncio.shield(self._fetch())
        if not self.is_usable:
            raise ServerError(
                "The keys of the issuer of tokens cannot be fetched now; try again.",
                status=503,
                code="keys_unreachable",
                retry_after=_AFTER_FAILURE,
            )

    async def aclose(self) -> None:
        """End a fetch that runs."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _fetch(self) -> asyncio.Task[None]:
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._bring())
            self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._running is task:
            self._running = None

    async def _bring(self) -> None:
        import httpx

        from .decision_client import DecisionClient

        self._tried_at = self._clock()
        client = DecisionClient(self._url)
        try:
            async with asyncio.timeout(self._deadline):
                status, body = await client.fetch("GET", limit=_MAX_BYTES)
            if status != 200:
                raise ValueError(f"HTTP {status}")
            self._take(json.loads(body))
        except (httpx.HTTPError, TimeoutError, OSError, ValueError, RecursionError) as exc:
            self._has_failed = True
            why = str(exc) if type(exc) is ValueError else type(exc).__name__
            _logger.warning("the keys at %s could not be fetched: %s", self.place, why)
        else:
            self._has_failed = False
            self._fetched_at = self._clock()
        finally:
            await client.aclose()

    def _take(self, document: Any) -> None:
        """Raises ValueError for what is no key set. Keys of a kind that is not known are left out."""
        listed = document.get("keys") if isinstance(document, Mapping) else None
        if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
            raise ValueError("it is not a key set")
        if document == self._document:
            return
        self._document = document
        self._keys = [key for one in listed if (key := read_jwk(one)) is not None]
        self.generation += 1
        _logger.info("%d keys of %s are known", len(self._keys), self.place)


def _family(algorithm: str) -> str:
    return {"RS": "RSA", "PS": "RSA", "ES": "EC"}.get(algorithm[:2], "OKP")
