"""By which names a service that only this machine reaches may be called.

A page of anywhere can have its own name point to 127.0.0.1 as soon as it is loaded (DNS rebinding): the browser then takes this
service for the page's own origin, and lets it read the answers. Only `Host` tells. An address in it cannot be rebound.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["AllowedHosts"]

_REMEMBERED = 256


class AllowedHosts:
    """Addresses and localhost are allowed besides `names`."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(name.lower().rstrip(".") for name in names)
        self._is_allowed = lru_cache(_REMEMBERED)(self._look_at)

    def refused(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The name by which a request calls us and may not, or None. A program may say none at all (HTTP/1.0)."""
        for name, value in headers:
            if name == b"host" and not self._is_allowed(value):
                return str(value[:100].decode("ascii", "replace"))
        return None

    def _look_at(self, header: bytes) -> bool:
        text = header.decode("latin-1").strip().lower()
        name = text.partition("]")[0][1:] if text.startswith("[") else text.partition(":")[0]
        name = name.rstrip(".")
        if not name or name == "localhost" or name.endswith(".localhost") or name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
