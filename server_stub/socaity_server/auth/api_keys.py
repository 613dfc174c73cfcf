"""`APIKeys`: the keys of programs, of which only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable, Mapping

from socaity.exceptions import ConfigurationError

from .principal import Principal

__all__ = ["APIKeys", "read_api_keys"]

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"[\w.@-]{1,64}")
_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")
_SHORTEST = 16


class APIKeys:
    """`keys`: pairs of a name and a key, or `sha256:` and the hash of one in hex. A name may have several, to change them."""

    def __init__(self, keys: Iterable[tuple[str, str]] | Mapping[str, str]) -> None:
        self._known: list[tuple[bytes, Principal]] = []
        for name, key in keys.items() if isinstance(keys, Mapping) else keys:
            digest = _digest_of(name, key)
            if any(hmac.compare_digest(digest, other) for other, _ in self._known):
                raise ConfigurationError(f"The API key of {name!r} is there twice; every key has one name.")
            self._known.append((digest, Principal(name, "key")))

    def __len__(self) -> int:
        return len(self._known)

    def __repr__(self) -> str:
        return f"APIKeys({', '.join(sorted({principal.name for _, principal in self._known}))})"

    def find(self, key: str) -> Principal | None:
        """Whose key it is. Looks at all of them, so that the time says nothing."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        found = None
        for known, principal in self._known:
            if hmac.compare_digest(known, digest):
                found = principal
        return found


def read_api_keys(text: str, *, source: str) -> tuple[tuple[str, str], ...]:
    """`name:key` or `name:sha256:HEX`, separated by commas or lines; lines that begin with # say nothing.

    Raises ConfigurationError, which names the place and never the key.
    """
    keys = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    for number, entry in enumerate(entries, 1):
        name, colon, key = entry.partition(":")
        if not colon or not _NAME.fullmatch(name) or not key.strip():
            raise ConfigurationError(
                f"Entry {number} of {source} is not written name:key or name:sha256:HASH "
                "(a name has up to 64 letters, digits and . _ - @)."
            )
        keys.append((name, key.strip()))
    return tuple(keys)


def _digest_of(name: str, key: str) -> bytes:
    if key.startswith("sha256:"):
        if not _HASH.fullmatch(key):
            raise ConfigurationError(
                f"The API key of {name!r} begins with sha256: and is not followed by 64 hex digits."
            )
        return bytes.fromhex(key.removeprefix("sha256:"))
    if not key:
        raise ConfigurationError(f"The API key of {name!r} is empty.")
    if len(key) < _SHORTEST:
        _logger.warning("the API key of %r has fewer than %d characters and can be guessed", name, _SHORTEST)
    return hashlib.sha256(key.encode()).digest()
