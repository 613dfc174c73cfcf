"""What gRPC says of an exception: its status, a message, and when another try is worth it."""

from __future__ import annotations

import math
from typing import NamedTuple

import grpc

from ...openinference.failures import failure_of

__all__ = ["Refusal", "refusal_of"]

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_TRY_AGAIN = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
_CODE = "socaity-code"
"""Our word for what went wrong, which says more than a status."""
_PUSHBACK = "grpc-retry-pushback-ms"
_NEVER = "-1"
"""Tells a client that tries again by itself that this will not become better."""
_LONGEST = 4096
"""Characters of a message: it travels in a header, and clients refuse long ones."""


class Refusal(NamedTuple):
    """How a call ends that failed. `metadata` are the trailing headers."""

    code: grpc.StatusCode
    message: str
    metadata: tuple[tuple[str, str], ...] = ()


def refusal_of(error: BaseException) -> Refusal:
    """The status of an exception. One that is not ours is logged, and its text, which may be secret, is not told."""
    status, message, retry_after = failure_of(error)
    code = _CODES.get(status)
    if code is None:
        code = grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL
    metadata: tuple[tuple[str, str], ...] = ()
    word = getattr(error, "code", None)
    if isinstance(word, str) and word.isascii() and word.isprintable():
        metadata = ((_CODE, word),)
    if retry_after is not None and code in _TRY_AGAIN:
        metadata += ((_PUSHBACK, str(max(math.ceil(retry_after * 1000), 1))),)
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        metadata += ((_PUSHBACK, _NEVER),)
    return Refusal(code, _message(message), metadata)


def _message(text: str) -> str:
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    # names that clients sent may hold what cannot be written
    return short.encode("utf-8", "replace").decode()
