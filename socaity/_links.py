"""`Links`: what ties a job to those whose results it takes, and to those that take its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._parts import jobs_in
from ._portal import _waiters_lock

if TYPE_CHECKING:
    from ._crossing import Passage, Path
    from ._job import Job
    from ._waiting import Waiting

__all__ = ["Links", "arguments_of", "forget_depth", "forget_past", "link", "links_of", "release"]

_MAX_DEPTH = 1000
"""Steps behind one another that are remembered; a loop that feeds a result back for ever must not keep all of them."""


class Links:
    """What ties a job to others: `arguments`, which hold jobs, and how many unfinished jobs take its result. And what only few
    jobs have, so that the others stay small."""

    __slots__ = (
        "again",
        "arguments",
        "by_value",
        "crosses",
        "dependents",
        "depth",
        "due",
        "is_counted",
        "is_seen",
        "key",
        "listeners",
        "may_fetch",
        "passages",
        "refusals",
        "timing",
        "waiting",
    )

    def __init__(self) -> None:
        self.arguments: Mapping[str, Any] | None = None
        self.dependents = 0
        self.is_counted = False
        """It is among the `dependents` of its upstream."""
        self.depth = 0
        self.by_value = False
        """References were refused."""
        self.crosses = False
        """Results of other services pass to its own without being values here."""
        self.may_fetch = True
        """Its service has not failed to fetch them itself."""
        self.passages: dict[tuple[object, Path, bool], Passage] | None = None
        """How its own result, or parts of it, come to other services."""
        self.refusals = 0
        self.waiting: Waiting | None = None
        self.key: bytes | None = None
        """The key under which the job is memoised."""
        self.again: Callable[[], Job[Any]] | None = None
        """How to make this call once more, where the arguments alone do not say it."""
        self.is_seen = False
        """Somebody has seen its error."""
        self.due: float | None = None
        """When the service expects it to end, by the clock here."""
        self.timing: Mapping[str, float] | None = None
        self.listeners: tuple[Callable[[Job[Any]], object], ...] = ()
        """Who is told of its progress."""


def links_of(job: Job[Any]) -> Links:
    """The links of a job, made if there are none."""
    return job._more()


def link(job: Job[Any]) -> None:
    """Note what the arguments of a job need."""
    links = links_of(job)
    found = {id(up): up for up in jobs_in(arguments_of(job))}
    release(job)
    every = [links_of(up) for up in found.values()]
    depth = 1 + max((one.depth for one in every), default=0)
    with _waiters_lock:
        job.upstream = tuple(found.values())
        links.depth = depth
        links.is_counted = True
        for one in every:
            one.dependents += 1


def release(job: Job[Any]) -> None:
    """The job does not need its upstream any more."""
    links = job._links
    if links is None:
        return
    waiting, links.waiting = links.waiting, None
    if waiting is not None:
        waiting.job = None
    if not links.is_counted:
        return
    with _waiters_lock:
        if links.is_counted:
            links.is_counted = False
            for up in job.upstream:
                if up._links is not None:
                    up._links.dependents -= 1


def forget_past(job: Job[Any]) -> None:
    """Of a very long chain that went well nobody needs the beginning."""
    if job._error is None and forget_depth(job):
        links_of(job).arguments = None
        job.upstream = ()


def forget_depth(job: Job[Any]) -> bool:
    """Whether it is so deep in a chain that it does not keep what was before it; the count begins anew."""
    links = job._links
    if links is None or not links.depth or links.depth % _MAX_DEPTH:
        return False
    links.depth = 0
    return True


def arguments_of(job: Job[Any]) -> Mapping[str, Any]:
    """The arguments with the jobs in them."""
    arguments = links_of(job).arguments
    return {} if arguments is None else arguments
