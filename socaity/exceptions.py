"""Every error of socaity, in one tree.

SocaityError
├── ConfigurationError (ValueError)      a wrong key, an unknown scheme, a missing extra
├── TransportError                       we could not talk
│   ├── ConnectError                     nothing was sent: it is safe to try again
│   ├── TransportTimeout (TimeoutError)  no answer within the deadline
│   └── ProtocolError                    the other side does not speak the protocol
├── APIError                             the service said no: .status .code .retry_after .request_id
│   ├── AuthenticationError              401, 403
│   ├── NotFoundError                    404
│   ├── InvalidInputError                400, 409, 413, 415, 422; .parameter
│   ├── RateLimitError                   429
│   └── ServerError                      5xx
└── JobError                             accepted, did not succeed: .job_id .logs
    ├── JobFailed                        .code .error_type .remote_traceback
    ├── JobCancelled
    └── JobLost                          nobody knows any more how it ended

On the wire an error is a problem document (RFC 9457) with a stable `code`; `to_problem` and `from_problem` convert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "APIError",
    "AuthenticationError",
    "ConfigurationError",
    "ConnectError",
    "InvalidInputError",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobLost",
    "NotFoundError",
    "ProtocolError",
    "RateLimitError",
    "ServerError",
    "SocaityError",
    "TransportError",
    "TransportTimeout",
    "from_problem",
    "to_problem",
]


class SocaityError(Exception):
    """The root: catch this to catch everything that socaity raises on purpose."""


class ConfigurationError(SocaityError, ValueError):
    """Something was set up wrongly: an unknown scheme, a wrong key, a missing extra."""


class TransportError(SocaityError):
    """The service could not be talked to."""


class ConnectError(TransportError):
    """No connection could be made; nothing was sent."""


class TransportTimeout(TransportError, TimeoutError):
    """The other side did not answer within the deadline."""


class ProtocolError(TransportError):
    """The other side answered, but not in the protocol that was expected."""


class APIError(SocaityError):
    """The service refused the request.

    `status` is the HTTP status (or its equivalent), `code` a stable word such as `queue_full`,
    `retry_after` the seconds after which the service says that another try is worth it.
    """

    default_status = 500
    default_code = "api_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = self.default_status if status is None else status
        self.code = self.default_code if code is None else code
        self.retry_after = retry_after
        self.request_id = request_id


class AuthenticationError(APIError):
    """The key is missing, wrong, or not allowed to do this."""

    default_status = 401
    default_code = "unauthenticated"


class NotFoundError(APIError):
    """There is no such endpoint, job or blob (any more)."""

    default_status = 404
    default_code = "not_found"


class InvalidInputError(APIError):
    """An argument is wrong; `parameter` names it where it is known. Raised by the client before anything is sent."""

    default_status = 422
    default_code = "invalid_input"

    def __init__(
        self,
        message: str,
        *,
        parameter: str | None = None,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, retry_after=retry_after, request_id=request_id)
        self.parameter = parameter


class RateLimitError(APIError):
    """Too many requests; try again after `retry_after` seconds."""

    default_status = 429
    default_code = "rate_limited"


class ServerError(APIError):
    """The service is full, starting, stopping or broken."""

    default_status = 500
    default_code = "internal"


class JobError(SocaityError):
    """The job was accepted and did not succeed."""

    default_code = "job_failed"

    def __init__(
        self, message: str, *, job_id: str | None = None, logs: Sequence[str] = (), code: str | None = None
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.logs = tuple(logs)
        self.code = self.default_code if code is None else code


class JobFailed(JobError):
    """The remote function raised, ran out of time, or gave something that cannot be sent.

    `error_type` is the name of the remote exception class and `remote_traceback` its traceback, where the service
    gives them.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str | None = None,
        logs: Sequence[str] = (),
        code: str | None = None,
        error_type: str | None = None,
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, logs=logs, code=code)
        self.error_type = error_type
        self.remote_traceback = remote_traceback

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\nOn the server:\n{self.remote_traceback}" if self.remote_traceback else text


class JobCancelled(JobError):
    """The job was cancelled."""

    default_code = "cancelled"


class JobLost(JobError):
    """The service no longer knows the job, or went away for good; how the job ended is unknown."""

    default_code = "job_lost"


_JOB_CODES: dict[str, type[JobError]] = {"cancelled": JobCancelled, "job_lost": JobLost}
_FAILED_CODES = {"job_failed", "timeout", "result_not_serialisable", "stream_too_large", "upstream_failed"}


def from_problem(problem: Mapping[str, Any], *, job_id: str | None = None) -> SocaityError:
    """The exception that a problem document describes."""
    code = str(problem.get("code") or "api_error")
    message = str(problem.get("detail") or problem.get("title") or code)
    logs = [str(line) for line in logs] if isinstance(logs := problem.get("logs"), (list, tuple)) else []
    if code in _JOB_CODES:
        return _JOB_CODES[code](message, job_id=job_id, logs=logs, code=code)
    if code in _FAILED_CODES:
        return JobFailed(
            message,
            job_id=job_id,
            logs=logs,
            code=code,
            error_type=problem.get("error_type"),
            remote_traceback=problem.get("traceback"),
        )
    status = int(_number(problem.get("status")) or 500)
    kwargs: dict[str, Any] = {
        "status": status,
        "code": code,
        "retry_after": _number(problem.get("retry_after")),
        "request_id": problem.get("request_id"),
    }
    if status in (401, 403):
        return AuthenticationError(message, **kwargs)
    if status == 404:
        return NotFoundError(message, **kwargs)
    if status == 429:
        return RateLimitError(message, **kwargs)
    if 400 <= status < 500:
        return InvalidInputError(message, parameter=problem.get("parameter"), **kwargs)
    return ServerError(message, **kwargs)


def _number(value: Any) -> float | None:
    """A number of 0 or more, or None for what is none: a problem document may come from any server."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 <= number < float("inf") else None


def to_problem(error: BaseException) -> dict[str, Any]:
    """The problem document of an exception; an exception that is not ours becomes `internal` without its text.

    The text of a foreign exception may hold secrets, so only the edge that ran the user's own function may publish it
    (as `JobFailed`).
    """
    problem: dict[str, Any]
    if isinstance(error, APIError):
        problem = {
            "title": type(error).__name__,
            "status": error.status,
            "detail": str(error),
            "code": error.code,
        }
        if error.retry_after is not None:
            problem["retry_after"] = error.retry_after
        if error.request_id is not None:
            problem["request_id"] = error.request_id
        if isinstance(error, InvalidInputError) and error.parameter is not None:
            problem["parameter"] = error.parameter
    elif isinstance(error, JobError):
        detail = Exception.__str__(error)
        problem = {"title": type(error).__name__, "status": 500, "detail": detail, "code": error.code}
        if error.logs:
            problem["logs"] = list(error.logs)
        if isinstance(error, JobFailed):
            if error.error_type is not None:
                problem["error_type"] = error.error_type
            if error.remote_traceback is not None:
                problem["traceback"] = error.remote_traceback
    else:
        problem = {
            "title": "Internal error",
            "status": 500,
            "detail": "The server made an error.",
            "code": "internal",
        }
    problem["type"] = "about:blank"
    return problem
