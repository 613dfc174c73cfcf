"""`Principal`: who makes a request, and `Credentials`: what a request brings to show it. Secrets stay out of every `repr`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from socaity.exceptions import AuthenticationError

__all__ = ["ANONYMOUS", "EXEMPT", "Credentials", "Principal", "RequestContext"]


@dataclass(frozen=True, slots=True)
class Principal:
    """`kind` is `key` (an API key), `user` (a token), `anonymous`, or `exempt` (the action needs nobody).

    `expires_at` (seconds of `time.time`, leeway included) is when the token ends that it was identified by.
    """

    name: str
    kind: str
    roles: tuple[str, ...] = ()
    expires_at: float | None = None
    owner: str = field(init=False)
    """Whom jobs belong to: a key and a user of one name are not the same."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "owner", f"{self.kind}:{self.name}")

    @property
    def has_expired(self) -> bool:
        """Whether its token has run out."""
        return self.expires_at is not None and time.time() >= self.expires_at


ANONYMOUS = Principal("anonymous", "anonymous")
EXEMPT = Principal("", "exempt")


@dataclass(frozen=True, slots=True)
class RequestContext:
    """What else is known of a request. `peer` is the address of the client, `method` and `path` are those of HTTP or gRPC."""

    peer: str = ""
    method: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The values of the headers `authorization` and `x-api-key`, and of the cookie of a page's session."""

    authorization: str | None = None
    api_key: str | None = None
    session: str | None = None

    @classmethod
    def of_headers(
        cls,
        headers: Mapping[str, str] | Iterable[tuple[bytes | str, bytes | str]],
        *,
        session: str | None = None,
    ) -> Credentials:
        """From headers or gRPC metadata, whose names are in lower case. Raises AuthenticationError where one comes twice."""
        found: dict[str, str] = {}
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            if name in _NAMES:
                key = _NAMES[name]
                if key in found:
                    raise AuthenticationError(f"There are several {key} headers; send one.")
                found[key] = value.decode("latin-1") if isinstance(value, bytes) else value
        return cls(found.get("authorization"), found.get("x-api-key"), session)

    def __repr__(self) -> str:
        given = [name for name in self.__slots__ if getattr(self, name) is not None]
        return f"Credentials({', '.join(given) or 'none'})"


_NAMES: dict[bytes | str, str] = {
    b"authorization": "authorization",
    "authorization": "authorization",
    b"x-api-key": "x-api-key",
    "x-api-key": "x-api-key",
}
