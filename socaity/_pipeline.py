"""Many calls and many results: `map`, `gather` and `as_completed`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, Never, TypeVar, cast

from ._group import JobGroup, bound, interruptible
from ._job import Job, JobReference
from ._portal import Signal, _waiters_lock, portal
from ._scope import current
from .exceptions import InvalidInputError

if TYPE_CHECKING:
    from ._endpoint import Endpoint

__all__ = ["as_completed", "gather"]

T = TypeVar("T")


def gather(*jobs: Job[T] | JobGroup[T]) -> JobGroup[T]:
    """Several jobs, and the members of groups, as one group, whose result is the list of their results in order."""
    for one in jobs:
        if not isinstance(one, (Job, JobGroup)):
            raise TypeError(f"gather takes jobs and groups, not {_what(one, '; write gather(*jobs)')}")
    if all(isinstance(one, Job) or one._is_fed for one in jobs):
        return JobGroup(job for one in jobs for job in (one.jobs if isinstance(one, JobGroup) else (one,)))
    group: JobGroup[T] = JobGroup(is_fed=False)

    def jobs_in_order() -> Iterator[Job[T]]:
        for one in jobs:
            yield from one.members() if isinstance(one, JobGroup) else (one,)

    _feed(group, jobs_in_order, group._add)
    return group


class as_completed(Generic[T]):
    """The jobs in the order in which they end, for `for` and `async for`; every loop over it gets them all."""

    def __init__(self, jobs: Iterable[Job[T]] | JobGroup[T], *others: Never) -> None:
        if others:
            raise TypeError("as_completed takes one list of jobs, or a group: as_completed([job, another])")
        self._jobs: list[Job[T]] = []
        self._ready: list[Job[T]] = []
        self._signal: Signal | None = None
        self._generation = portal.generation
        self._group = cast("JobGroup[T]", jobs) if isinstance(jobs, JobGroup) else None
        if self._group is None:
            if isinstance(jobs, Job) or not isinstance(jobs, Iterable):
                raise TypeError(f"as_completed takes a list of jobs, or a group, not {jobs!r}")
            for job in cast("Iterable[Job[T]]", jobs):
                if not isinstance(job, Job):
                    raise TypeError(f"as_completed takes jobs, not {_what(job)}")
                self._add(job)
        else:
            self._group._follow(self._add)
            self._group._when_fed(self._tell)

    def __iter__(self) -> Iterator[Job[T]]:
        index = 0
        while self._is_more(index):
            signal = self._next_signal(index)
            if signal is not None:
                interruptible(self._jobs, "job.cancel()", signal.wait)
            else:
                yield self._ready[index]
                index += 1

    async def __aiter__(self) -> AsyncIterator[Job[T]]:
        index = 0
        while self._is_more(index):
            signal = self._next_signal(index)
            if signal is not None:
                await signal
            else:
                yield self._ready[index]
                index += 1

    def _add(self, job: Job[T]) -> None:
        self._jobs.append(job)
        job._when_ended(bound(self._put, job))

    def _is_more(self, index: int) -> bool:
        if index < len(self._jobs):
            return True
        return self._group is not None and self._group._is_more(index)

    def _put(self, job: Job[T]) -> None:
        self._ready.append(job)
        self._tell()

    def _tell(self) -> None:
        with _waiters_lock:
            signal, self._signal = self._signal, None
        if signal is not None:
            signal.set()

    def _next_signal(self, index: int) -> Signal | None:
        """A signal for the next job that ends, or None if number `index` has ended."""
        if len(self._ready) > index:
            return None
        if self._generation != portal.generation:
            self._end_left_behind()
        with _waiters_lock:
            signal = self._signal
            if signal is None:
                signal = self._signal = Signal()
        if len(self._ready) > index:
            return None
        if not self._is_more(index):  # the last member came before, and this look at it
            signal.set()
        return signal

    def _end_left_behind(self) -> None:
        """In the child of a fork the unfinished jobs of the parent end as JobLost."""
        self._generation = portal.generation
        self._signal = None
        missing = {id(job): job for job in self._jobs}
        for job in self._ready:
            missing.pop(id(job), None)
        for job in self._jobs:
            job._end_if_left_behind()
        self._ready += [job for job in self._jobs if id(job) in missing]


def _what(value: object, hint: str = "") -> str:
    """What stood in the place of a job, and how it is meant."""
    if isinstance(value, JobReference):
        return f"a part of one, {value!r}; give the job itself, and take the part of its result"
    return f"a {type(value).__name__}{hint}"


def map_endpoint(
    endpoint: Endpoint, inputs: tuple[Iterable[Any], ...], constant: Mapping[str, Any], concurrency: int
) -> JobGroup[Any]:
    """The work behind `Endpoint.map`: a thread reads the inputs, which may block, and keeps the window full."""
    if not inputs:
        raise InvalidInputError(f"{endpoint.name}.map() needs at least one iterable of inputs")
    if concurrency < 1:
        raise InvalidInputError(f"concurrency must be at least 1, got {concurrency}", parameter="concurrency")
    group: JobGroup[Any] = JobGroup(is_fed=False, window=concurrency)

    def rows() -> Iterator[tuple[Any, ...]]:
        # of a group the members, as they come, and not their results
        columns = [one.members() if isinstance(one, JobGroup) else one for one in inputs]
        return zip(*columns, strict=False)

    def add(values: tuple[Any, ...]) -> None:
        while group.unfinished >= concurrency:
            signal = group._next_room()
            if signal is not None:
                signal.wait()
        if not group._is_cancelled:
            group._add(call_or_fail(endpoint, values, dict(constant)))

    _feed(group, rows, add)
    return group


def _feed(group: JobGroup[Any], items: Callable[[], Iterator[T]], add: Callable[[T], None]) -> None:
    """Read on a thread what becomes members of a group; what raises there is the end of the group."""

    def feed() -> None:
        try:
            for item in items():
                add(item)
                if group._is_cancelled:
                    break
        except BaseException as exc:
            group._close(exc)
        else:
            group._close()
        finally:
            if scope is not None:
                scope.leave()

    scope = current.get()
    if scope is not None:
        scope.groups.append(group)
        scope.enter()
    context = copy_context()
    portal.run_in_thread(lambda: context.run(feed), "socaity-map")


def call_or_fail(endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
    """Call; what is refused at once becomes a job that has failed."""
    try:
        return endpoint(*args, **kwargs)
    except Exception as exc:  # a path that is not there, a closed service: the other rows go on
        from ._links import links_of
        from ._refusals import refuse

        job: Job[Any] = Job(endpoint, {})
        links_of(job).again = lambda: call_or_fail(endpoint, args, kwargs)
        refuse(job, exc)
        return job
