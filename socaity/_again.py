"""Making failed calls again: the steps that did not succeed, with the results of those that did."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any, TypeVar

from ._group import JobGroup
from ._job import Job, JobReference
from ._links import links_of
from ._parts import replaced
from ._references import call_with_jobs
from .exceptions import ConfigurationError

__all__ = ["retry", "retry_group"]

T = TypeVar("T")


def retry(job: Job[T]) -> Job[T]:
    """See `Job.retry`."""
    return _made_again(job, {})


def retry_group(group: JobGroup[T]) -> JobGroup[T]:
    """See `JobGroup.retry`."""
    if not group._is_fed:
        raise RuntimeError("the inputs of the map are still being read; wait for the group first")
    if all(job._error is None for job in group.jobs):
        return group
    made: dict[Job[Any], Job[Any]] = {}
    return JobGroup(_made_again(job, made) for job in group.jobs)


def _made_again(target: Job[T], made: dict[Job[Any], Job[Any]]) -> Job[T]:
    """A new job for `target` and for all before it that failed; each once, however many others need it."""
    # without recursion: a chain may have thousands of steps
    path = [target]
    while path:
        job = path[-1]
        before = [up for up in _needed(job) if up._error is not None and up not in made]
        if job._error is None or job in made:
            made.setdefault(job, job)
        elif before:
            path.extend(before)
            continue
        else:
            made[job] = _call_again(job, made)
        path.pop()
    return made[target]


def _needed(job: Job[Any]) -> tuple[Job[Any], ...]:
    """What has to be there before a job: not the steps that a pipeline makes itself."""
    return job.upstream if job._links is not None and job._links.arguments is not None else ()


def _call_again(job: Job[Any], made: Mapping[Job[Any], Job[Any]]) -> Job[Any]:
    anew = job._made_anew()
    if anew is not None:
        return anew
    links = links_of(job)
    if links.again is not None:
        return links.again()
    endpoint = job._endpoint
    service = endpoint.service
    service._check_open()
    if links.arguments is not None:

        def put(up: Job[Any], path: tuple[str | int, ...]) -> JobReference:
            return JobReference(made.get(up, up), path)

        again = call_with_jobs(endpoint, replaced(links.arguments, put))
        service._keep_time(again)
        return again
    if not endpoint.description.path:
        raise ConfigurationError(
            f"job {job.id} was attached to by its id, and its arguments are not known here; call the endpoint again"
        )
    again = Job(endpoint, job.arguments)
    again.context = copy_context()
    service._submit(again)
    service._keep_time(again)
    return again
