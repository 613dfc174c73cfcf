"""Origins: scheme, host and port of a URL in one spelling, by which services know each other."""

from __future__ import annotations

import re

__all__ = ["origin_of", "split_url"]

_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(
    r"(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_MAX_URL = 2000


def split_url(url: object) -> tuple[str, str] | None:
    """The origin (lower case, with the port) and the rest of an http(s) URL that is plain ASCII and has neither user nor
    password; None for everything else."""
    if not isinstance(url, str) or len(url) > _MAX_URL or not url.isascii() or not url.isprintable():
        return None
    scheme, mark, rest = url.partition("://")
    end = re.search(r"[/?#]", rest)
    authority = rest[: end.start()] if end else rest
    found = _AUTHORITY.fullmatch(authority.lower())
    default = _PORTS.get(scheme.lower())
    if not mark or default is None or found is None:
        return None
    port = int(found["port"] or default)
    if not 0 < port < 65536:
        return None
    return f"{scheme.lower()}://{found['host']}:{port}", rest[len(authority) :]


def origin_of(url: object) -> str | None:
    """The origin of an http(s) URL; None if it is none."""
    parts = split_url(url)
    return None if parts is None else parts[0]
