"""The services that this one fetches results from: which addresses they have, and which of a caller's URLs are theirs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from socaity.exceptions import ConfigurationError, InvalidInputError
from socaity.protocol.origin import split_url

__all__ = ["Source", "read_origin", "read_origins", "read_source"]

_PATH = re.compile(r"(?:/(?!\.\.?/)[\w.~-]+)*/blobs/[0-9a-f]{64}", re.ASCII)
_TOKEN = re.compile(r"[\w-]{16,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one result can be had. `token` is the right to read it, and nothing else; it stays out of logs."""

    origin: str
    path: str
    token: str

    @property
    def is_secure(self) -> bool:
        """Whether to speak TLS."""
        return self.origin.startswith("https:")

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.origin.partition("://")[2].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Always said in an origin."""
        return int(self.origin.rpartition(":")[2])

    def __repr__(self) -> str:
        return f"Source({self.origin}{self.path})"


def read_origins(texts: str | Iterable[str]) -> tuple[str, ...]:
    """The origins in a text (separated by commas or spaces) or in several. Raises ConfigurationError."""
    if isinstance(texts, str):
        texts = texts.replace(",", " ").split()
    return tuple(dict.fromkeys(read_origin(text) for text in texts))


def read_origin(text: str) -> str:
    """`scheme://host:port` of an http(s) URL without path, lower case, with the port. Raises ConfigurationError."""
    parts = split_url(text.strip())
    if parts is None or parts[1] not in ("", "/"):
        raise ConfigurationError(
            f"{text!r} is not the address of a service to fetch from; write https://host or http://host:port, without a path."
        )
    return parts[0]


def read_source(
    url: object, token: object, sha256: str, allowed: Iterable[str], *, parameter: str = ""
) -> Source:
    """The source that a caller names, if it is at one of the `allowed` origins. Raises InvalidInputError `fetch_refused`."""
    parts = split_url(url)
    if parts is None or not _PATH.fullmatch(parts[1]) or not parts[1].endswith(f"/{sha256}"):
        raise _refused(
            f"an http(s) URL that ends in /blobs/{sha256}, without query, user or password, is needed",
            parameter,
        )
    origin, path = parts
    if origin not in allowed:
        raise _refused(
            f"this service does not fetch from {origin}; its operator can allow it (--fetch-from, SOCAITY_FETCH_FROM)",
            parameter,
        )
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise _refused("the token for it is missing or malformed", parameter)
    return Source(origin, path, token)


def _refused(why: str, parameter: str) -> InvalidInputError:
    where = f"Parameter {parameter!r}: " if parameter else ""
    return InvalidInputError(f"{where}{why}.", parameter=parameter or None, code="fetch_refused")
