"""What clients of the Open Inference Protocol are told of an error: an HTTP status and one sentence."""

from __future__ import annotations

import logging
from typing import NamedTuple

from socaity.exceptions import APIError, ConfigurationError, InvalidInputError, JobCancelled, JobFailed
from socaity.protocol.openinference.datatypes import TensorError

__all__ = ["CLIENT_GONE", "Failure", "failure_of", "forget_frames", "unsupported"]

_logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Nobody reads an answer of this status; it is for logs."""
_INTERNAL = "The server made an error; its log has more."


class Failure(NamedTuple):
    """`status` is that of HTTP, which gRPC maps further; `retry_after` is in seconds."""

    status: int
    message: str
    retry_after: float | None = None


def failure_of(error: BaseException) -> Failure:
    """Status and text of any error. The text of one that is not ours stays in the log."""
    if isinstance(error, TensorError):
        return Failure(400, str(error))
    if isinstance(error, InvalidInputError):
        # 422 is for arguments of functions; this protocol knows only 400
        return Failure(400 if error.status == 422 else error.status, str(error), error.retry_after)
    if isinstance(error, APIError):
        return Failure(error.status, str(error), error.retry_after)
    if isinstance(error, JobFailed):
        # not str(), which adds the traceback
        return Failure(504 if error.code == "timeout" else 500, Exception.__str__(error))
    if isinstance(error, JobCancelled):
        return Failure(CLIENT_GONE, "The call was cancelled.")
    if isinstance(error, NotImplementedError):
        return Failure(501, str(error) or "Not implemented.")
    if isinstance(error, ConfigurationError):
        return Failure(503, str(error))
    if isinstance(error, TimeoutError):
        return Failure(504, "The time that the call was allowed to take is over.")
    _logger.error("An Open Inference request failed", exc_info=error)
    return Failure(500, _INTERNAL)


def forget_frames(error: BaseException) -> None:
    """Let go of the frames that an error came through, when it has been answered: they refer to it, and to the request."""
    found: BaseException | None = error
    while found is not None:
        found.__traceback__ = None
        found = found.__cause__ or found.__context__


def unsupported(what: str) -> APIError:
    """501: a part of the protocol that this server does not have."""
    return APIError(
        f"This server does not have {what}; its metadata lists the extensions that it has.",
        status=501,
        code="not_implemented",
    )
