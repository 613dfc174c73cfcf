"""Why a job with others in its arguments was not run, and which refusals are none."""

from __future__ import annotations

import logging
from typing import Any

from ._job import Job
from ._links import arguments_of, links_of
from ._parts import jobs_in
from .exceptions import InvalidInputError, JobFailed, SocaityError

__all__ = ["not_run", "refuse", "refuse_not_run", "take_refusal"]

logger = logging.getLogger(__name__)

_TRIES = 3
_REFUSALS = frozenset({"unknown_call", "unknown_job", "upstream_failed"})
_NOT_PASSED = frozenset({"fetch_failed", "fetch_refused", "unknown_blob"})
"""A result of another service did not come, or not any more, but may be had in another way."""
_MAX_CHAIN = 600


def refuse(job: Job[Any], exc: BaseException) -> None:
    """End a job that was never sent."""
    error = exc if isinstance(exc, SocaityError) else None
    if error is None:
        error = InvalidInputError(f"{job._endpoint.name}: {exc.args[0] if exc.args else exc}")
        error.__cause__ = exc
    one: BaseException | None = exc
    while one is not None and one.__traceback__ is not None:
        one.__traceback__ = None  # its frames refer to the job, which has the error: a circle
        one = one.__cause__ or one.__context__
    job._accepted = True
    job._end_in(error)


def refuse_not_run(job: Job[Any], up: Job[Any]) -> None:
    if not job._ended:
        refuse(job, not_run(job, up))


def not_run(job: Job[Any], up: Job[Any]) -> JobFailed:
    """The error of a job whose argument `up` did not come, with the chain of those before it."""
    name, parameter = job._endpoint.name, parameter_of(job, up)
    error = up._error
    assert error is not None
    text = Exception.__str__(error)
    prefix = f"{up._endpoint.name} was not run: "
    if up.status == "cancelled":
        how = "was cancelled"
    elif text.startswith(prefix):
        how = "was not run: " + text.removeprefix(prefix)
    else:
        how = f"failed: {text}"
    if len(how) > _MAX_CHAIN:
        how = f"{how[: _MAX_CHAIN // 2]} … {how[-_MAX_CHAIN // 2 :]}"
    failed = JobFailed(
        f"{name} was not run: its argument {parameter!r} comes from {up._endpoint.name} (job {up.id}{_way(up, job)}), "
        f"which {how}",
        job_id=job.id,
        code="upstream_failed",
    )
    failed.__cause__ = error
    return failed


def _way(up: Job[Any], job: Job[Any]) -> str:
    """From which service to which, if they are two."""
    here, there = job._endpoint.service, up._endpoint.service
    places = [getattr(getattr(one, "_target", None), "place", None) for one in (there, here)]
    return f" at {places[0]}, for {places[1]}" if here is not there and None not in places else ""


def parameter_of(job: Job[Any], up: Job[Any]) -> str:
    """The first argument in which `up` stands."""
    arguments = arguments_of(job)
    return next((name for name, value in arguments.items() if up in jobs_in(value)), "?")


def take_refusal(job: Job[Any], error: SocaityError) -> SocaityError | None:
    """What the refusal of a job with upstream comes to; None: the job goes on, when its upstream does."""
    code = getattr(error, "code", None)
    links = links_of(job)
    crosses = links.crosses and not links.by_value and code in _NOT_PASSED
    if code not in _REFUSALS and not crosses:
        return error
    failed = next((up for up in job.upstream if up._error is not None), None)
    if failed is not None:
        return not_run(job, failed)
    if crosses:
        logger.info("job %s: %s; what it takes is sent through here", job.id, error)
        links.by_value = not links.may_fetch
        links.may_fetch = False
        _again(job)
        return None
    links.refusals += 1
    if links.by_value and all(up._ended for up in job.upstream):
        return error  # it had the values
    if links.refusals >= _TRIES or not any(up._held for up in job.upstream):
        links.by_value = True
    _again(job)
    return None


def _again(job: Job[Any]) -> None:
    """Send it once more, in another form."""
    if job._accepted:  # and ended there: that id is used up
        job._renew()
    job._held = True
    job._endpoint.service._outbox.put(job)
