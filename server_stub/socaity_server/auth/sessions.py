"""`Sessions`: people who have logged in with a browser, known by a random word that their cookie has."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from .principal import Principal

__all__ = ["Sessions"]

TTL = 12 * 3600.0
"""Seconds from the login on, or until the token ends that was given there."""
_MOST = 1000


class Sessions:
    """In the memory of this process: they end with it. `clock` as `time.time`."""

    def __init__(self, *, ttl: float = TTL, clock: Callable[[], float] = time.time) -> None:
        self._ttl = ttl
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()

    def open(self, principal: Principal) -> tuple[str, float]:
        """The word for the cookie, and the seconds for which it is known."""
        now = self._clock()
        until = now + self._ttl
        if principal.expires_at is not None:
            until = min(until, principal.expires_at)
        while len(self._known) >= _MOST:
            self._known.popitem(last=False)
        word = secrets.token_urlsafe(32)
        # what has been opened with it, as a socket, ends with it
        self._known[_hash(word)] = (replace(principal, expires_at=until), until)
        return word, max(until - now, 0.0)

    def find(self, word: str) -> Principal | None:
        """Who it is; None for a word that is not known (any more)."""
        digest = _hash(word)
        found = self._known.get(digest)
        if found is None:
            return None
        principal, until = found
        if until <= self._clock():
            del self._known[digest]
            return None
        return principal

    def close(self, word: str) -> None:
        """Log out."""
        self._known.pop(_hash(word), None)


def _hash(word: str) -> bytes:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
