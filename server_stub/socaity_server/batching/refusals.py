"""What callers of a batcher are told when they get no answer: each says what happened and what to do."""

from __future__ import annotations

from socaity.exceptions import InvalidInputError, ServerError, SocaityError

__all__ = [
    "expired",
    "full",
    "internal",
    "is_callers_fault",
    "never_fits",
    "reason",
    "says_nothing",
    "stuck",
    "too_late",
    "too_slow",
    "unavailable",
]


def full(name: str, what: str, retry_after: float) -> ServerError:
    """503: nothing more may wait."""
    return ServerError(
        f"The queue of the model {name!r} is full: {what} wait.",
        status=503,
        code="queue_full",
        retry_after=retry_after,
    )


def never_fits(what: str, most: int, code: str) -> InvalidInputError:
    """413: larger than the whole queue."""
    return InvalidInputError(
        f"A call of {what} can never be queued (at most {most}); send fewer rows at once.",
        status=413,
        code=code,
    )


def too_late(name: str, wait: float, allowed: float, retry_after: float) -> ServerError:
    """503: the answer would not come in time."""
    return ServerError(
        f"The model {name!r} could answer in about {wait:.2g} s, and the call may take {max(allowed, 0.0):.2g} s; "
        "send fewer calls at once, or allow more time.",
        status=503,
        code="too_late",
        retry_after=max(retry_after, 0.001),
    )


def stuck(name: str, overdue: float) -> ServerError:
    """503: every instance runs a batch that was given up."""
    return ServerError(
        f"The model {name!r} hangs: every instance runs a batch that took longer than it may.",
        status=503,
        code="model_stuck",
        retry_after=max(overdue, 1.0),
    )


def unavailable(name: str) -> ServerError:
    """503: the model is going."""
    return ServerError(
        f"The model {name!r} is being unloaded.", status=503, code="unavailable", retry_after=1.0
    )


def expired(name: str) -> ServerError:
    """504: the deadline of the call has passed."""
    return ServerError(
        f"The time that the call of the model {name!r} was allowed to take is over.",
        status=504,
        code="deadline_exceeded",
    )


def too_slow(name: str, seconds: float) -> ServerError:
    """504: the batch was given up."""
    return ServerError(
        f"The model {name!r} ran for more than {seconds:g} s; set a longer `timeout` if that is usual for it.",
        status=504,
        code="timeout",
    )


def internal(name: str, exc: Exception) -> ServerError:
    """500: a mistake of ours."""
    error = ServerError(f"The batcher of the model {name!r} failed: {type(exc).__name__}.", code="internal")
    error.__cause__ = exc
    return error


def is_callers_fault(error: BaseException) -> bool:
    """A 4xx: it says nothing about the model."""
    return isinstance(error, SocaityError) and 400 <= getattr(error, "status", 500) < 500


def says_nothing(error: BaseException) -> bool:
    """It is no failure of the model: the caller's fault, or nobody ran it."""
    return is_callers_fault(error) or getattr(error, "code", None) == "model_unavailable"


def reason(error: BaseException) -> str:
    """Under which name `ModelStatistics.failures` counts it."""
    code = getattr(error, "code", None)
    if code == "deadline_exceeded":
        return "expired"
    if code in ("unavailable", "queue_full", "too_late", "model_stuck"):
        return "rejected"
    return "invalid" if is_callers_fault(error) else "model"
