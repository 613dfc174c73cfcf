"""How a caller wants to be answered: `?sync=true`, `Prefer: respond-async, wait=N` (RFC 7240), `Idempotency-Key`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.requests import Request

from socaity.exceptions import InvalidInputError

__all__ = ["Preferences", "seconds"]

_LONGEST_WAIT = 3600.0
_LONGEST_KEY = 255


@dataclass(frozen=True, slots=True)
class Preferences:
    """`wait` in seconds (None: not asked for)."""

    sync: bool = False
    respond_async: bool = False
    wait: float | None = None
    key: str | None = None

    @classmethod
    def read(cls, request: Request) -> Preferences:
        """From a request; raises InvalidInputError for a wait that is no number and a key that is too long."""
        respond_async, wait = False, None
        for header in request.headers.getlist("prefer"):
            for token in header.split(","):
                name, _, value = token.partition(";")[0].strip().partition("=")
                if name.strip().lower() == "respond-async":
                    respond_async = True
                elif name.strip().lower() == "wait":
                    wait = seconds(value.strip().strip('"'), "Prefer: wait")
        key = request.headers.get("idempotency-key")
        if key is not None:
            # The header field is a quoted string in the draft and bare in practice.
            key = key.strip().strip('"')
            if not key or len(key) > _LONGEST_KEY:
                raise InvalidInputError(f"An Idempotency-Key has 1 to {_LONGEST_KEY} characters.", status=400)
        return cls(
            sync=request.query_params.get("sync", "").lower() in ("1", "true", "yes"),
            respond_async=respond_async,
            wait=wait,
            key=key,
        )

    @property
    def applied(self) -> str | None:
        """What the answer says of the preferences that were honoured."""
        parts = ["respond-async"] if self.respond_async else []
        if self.wait is not None:
            parts.append(f"wait={self.wait:g}")
        return ", ".join(parts) or None


def seconds(text: str | None, what: str) -> float | None:
    """A number of seconds from 0 to an hour."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or value < 0:
        raise InvalidInputError(
            f"{what} is a number of seconds, not {text!r}.", status=400, code="invalid_wait"
        )
    return min(value, _LONGEST_WAIT)
