"""Many jobs as one: groups, `map`, and unfinished jobs as arguments."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _display
from ._job import Job, JobReference
from ._portal import Signal, Waitable, _waiters_lock, portal
from .exceptions import InvalidInputError, JobFailed, JobLost, SocaityError

if TYPE_CHECKING:
    from ._service import Endpoint

__all__ = ["JobGroup", "as_completed", "gather"]

T = TypeVar("T")
_TOLD_IDS = 3


class JobGroup(Waitable, Generic[T]):
    """Several jobs: `.result()`, `await`, and iteration over the results in order, each as soon as it is there.

    A member that fails cancels nothing; `result(return_exceptions=True)` keeps what succeeded.
    """

    __slots__ = (
        "_completed",
        "_display",
        "_feed_error",
        "_generation",
        "_is_cancelled",
        "_is_fed",
        "_members",
        "_room",
        "_window",
    )

    def __init__(self, jobs: Iterable[Job[T]] = (), *, is_fed: bool = True, window: int = 0) -> None:
        super().__init__()
        self._members: list[Job[T]] = []
        self._completed = 0
        self._generation = portal.generation
        self._is_fed = False
        self._is_cancelled = False
        self._feed_error: BaseException | None = None
        self._window = window
        self._room: Signal | None = None
        self._display: Any = None
        for job in jobs:
            self._add(job)
        if is_fed:
            self._close()

    @property
    def jobs(self) -> tuple[Job[T], ...]:
        """The members so far, in order."""
        return tuple(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def done(self) -> bool:
        """Whether every member has ended."""
        return self._ended

    def result(self, timeout: float | None = None, *, return_exceptions: bool = False) -> list[T]:
        """The results in order. Raises the first member's error, or TimeoutError; the members run on in any case."""
        if not self._ended:
            self._show()
            if not _interruptible(self._members, "group.cancel()", self._wait, timeout):
                raise TimeoutError(f"{self!r} after {timeout:g} s; the jobs run on")
        return self._collect(return_exceptions)

    def __await__(self) -> Generator[Any, Any, list[T]]:
        if not self._ended:
            self._show()
            yield from self._wait_async()
        return self._collect(False)

    def __iter__(self) -> Iterator[T]:
        index = 0
        while True:
            while index < len(self._members):
                job = self._members[index]
                if not job._ended:
                    job._show()
                    _interruptible(self._members, "group.cancel()", job._wait, None)
                yield job.result()
                index += 1
            if not self._is_more(index):
                return
            signal = self._next_room(index)
            if signal is not None:
                _interruptible(self._members, "group.cancel()", signal.wait)

    async def __aiter__(self) -> AsyncIterator[T]:
        index = 0
        while True:
            while index < len(self._members):
                yield await self._members[index]
                index += 1
            if not self._is_more(index):
                return
            signal = self._next_room(index)
            if signal is not None:
                await signal

    def cancel(self) -> bool:
        """Cancel every member that has not ended, and start no more; False if all have ended."""
        self._is_cancelled = True
        return any([job.cancel() for job in list(self._members)])

    def __repr__(self) -> str:
        return f"<JobGroup {self._completed} of {len(self._members)} ended>"

    # -- growing -----------------------------------------------------------------------------------------------------

    def _add(self, job: Job[T]) -> None:
        self._members.append(job)
        job._when_ended(self._member_ended)
        if self._is_cancelled:  # it was started while the others were cancelled
            job.cancel()
        if self._window == 0 or self._room is None:
            return
        self._signal_room()

    def _close(self, error: BaseException | None = None) -> None:
        self._feed_error = error
        self._is_fed = True
        self._signal_room()
        self._check_end()

    def _member_ended(self) -> None:
        with _waiters_lock:  # a member may end on the portal while another, ended before, is added here
            self._completed += 1
        if self._room is not None and self.unfinished <= self._window // 2:
            self._signal_room()
        if self._is_fed:
            self._check_end()

    def _check_end(self) -> None:
        if not self._ended and self._completed == len(self._members):
            if self._display is not None:
                self._display.update(self)  # its line is closed before the waiting code goes on and prints
            self._end()

    @property
    def unfinished(self) -> int:
        """How many members have not ended."""
        return len(self._members) - self._completed

    def _next_room(self, index: int | None = None) -> Signal | None:
        self._end_if_left_behind()
        with _waiters_lock:
            signal = self._room
            if signal is None:
                signal = self._room = Signal()
        if index is None:
            return None if self.unfinished <= self._window // 2 else signal
        return None if self._is_fed or len(self._members) > index else signal

    def _signal_room(self) -> None:
        with _waiters_lock:  # the feeding thread and the portal both come here
            signal, self._room = self._room, None
        if signal is not None:
            signal.set()

    def _is_more(self, index: int) -> bool:
        if not self._is_fed or index < len(self._members):
            return True
        if self._feed_error is not None:
            raise self._feed_error
        return False

    def _collect(self, return_exceptions: bool) -> list[T]:
        if self._feed_error is not None:
            raise self._feed_error
        if return_exceptions:
            return [cast(T, job._value if job._error is None else job._error) for job in self._members]
        failed = [index for index, job in enumerate(self._members) if job._error is not None]
        if failed:
            error = cast(SocaityError, self._members[failed[0]]._error).with_traceback(None)
            notes = getattr(error, "__notes__", ())
            note = (
                f"member {failed[0]} of {len(self._members)}; {len(failed)} failed; "
                "the others are in group.result(return_exceptions=True)"
            )
            if note not in notes:
                error.add_note(note)
            raise error
        return [job._value for job in self._members]

    def _show(self) -> None:
        self._end_if_left_behind()
        if self._display is not None or self._ended:
            return
        # the members of a map may be still to come; the display then asks again
        if not self._members or self._members[0]._endpoint.service.shows_progress:
            _display.begin(self)

    def _when_ended(self, function: Callable[[], None]) -> None:
        self._end_if_left_behind()
        super()._when_ended(function)

    def _end_if_left_behind(self) -> None:
        """In the child of a fork the members of the parent end as JobLost, and no more of them come."""
        if self._ended or self._generation == portal.generation:
            return
        self._waiters = self._room = self._display = None  # threads, loops and lines of the parent
        for job in self._members:
            job._end_if_left_behind()
        self._completed = len(self._members)
        if not self._is_fed:
            self._feed_error = JobLost("the inputs of the map are read in the parent process")
            self._is_fed = True
        self._end()


def gather(*jobs: Job[T]) -> JobGroup[T]:
    """Several jobs as one group, whose result is the list of their results."""
    return JobGroup(jobs)


class as_completed(Generic[T]):
    """The jobs in the order in which they end, for `for` and `async for`; every loop over it gets them all."""

    def __init__(self, jobs: Iterable[Job[T]]) -> None:
        self._jobs = list(jobs)
        self._ready: list[Job[T]] = []
        self._signal: Signal | None = None
        self._generation = portal.generation
        for job in self._jobs:
            job._when_ended(_bound(self._put, job))

    def __iter__(self) -> Iterator[Job[T]]:
        index = 0
        while index < len(self._jobs):
            signal = self._next_signal(index)
            if signal is not None:
                _interruptible(self._jobs, "job.cancel()", signal.wait)
            else:
                yield self._ready[index]
                index += 1

    async def __aiter__(self) -> AsyncIterator[Job[T]]:
        index = 0
        while index < len(self._jobs):
            signal = self._next_signal(index)
            if signal is not None:
                await signal
            else:
                yield self._ready[index]
                index += 1

    def _put(self, job: Job[T]) -> None:
        self._ready.append(job)
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
        return None if len(self._ready) > index else signal

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


def _interruptible(jobs: list[Job[Any]], stop: str, wait: Callable[..., bool], *args: Any) -> bool:
    """Wait; Ctrl-C says how to wait again for what is unfinished."""
    try:
        return wait(*args)
    except KeyboardInterrupt:
        unfinished = [job for job in jobs if not job._ended]
        told = unfinished[:_TOLD_IDS]
        for job in told:
            job._endpoint.service._interrupted[job.id] = job
        again = ", ".join(f"service.job({job.id!r})" for job in told)
        _display.tell(
            f"Stopped waiting; {len(unfinished)} of {len(jobs)} jobs run on. To wait again: {again}"
            f"{', …' if len(unfinished) > len(told) else ''}; to stop them: {stop}"
        )
        raise


def _bound(function: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: function(argument)


def map_endpoint(
    endpoint: Endpoint, inputs: tuple[Iterable[Any], ...], constant: Mapping[str, Any], concurrency: int
) -> JobGroup[Any]:
    """The work behind `Endpoint.map`: a thread reads the inputs, which may block, and keeps the window full."""
    if not inputs:
        raise InvalidInputError(f"{endpoint.name}.map() needs at least one iterable of inputs")
    if concurrency < 1:
        raise InvalidInputError(f"concurrency must be at least 1, got {concurrency}", parameter="concurrency")
    group: JobGroup[Any] = JobGroup(is_fed=False, window=concurrency)

    def feed() -> None:
        try:
            for values in zip(*inputs, strict=False):
                while group.unfinished >= concurrency:
                    signal = group._next_room()
                    if signal is not None:
                        signal.wait()
                if group._is_cancelled:
                    break
                group._add(_call_or_fail(endpoint, values, dict(constant)))
        except BaseException as exc:  # the caller's iterable raised: that is the end of the group
            group._close(exc)
        else:
            group._close()

    context = copy_context()
    portal.run_in_thread(lambda: context.run(feed), "socaity-map")
    return group


def _call_or_fail(endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
    try:
        return endpoint(*args, **kwargs)
    except Exception as exc:  # a path that is not there, a closed service: the other rows go on
        job: Job[Any] = Job(endpoint, {})
        _refuse(job, exc)
        return job


def _refuse(job: Job[Any], exc: Exception) -> None:
    """End a job that was never sent."""
    error = exc
    if not isinstance(error, SocaityError):
        error = InvalidInputError(f"{job._endpoint.name}: {exc.args[0] if exc.args else exc}")
        error.__cause__ = exc
    job._accepted = True
    job.fail(error)


def call_with_jobs(endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
    """A call whose arguments hold jobs: sent when they have ended."""
    upstream = list({id(job): job for job in _jobs_in((args, kwargs))}.values())
    job: Job[Any] = Job(endpoint, {})
    job.context = copy_context()  # the wire may not be open yet
    job._held = True

    def send() -> None:
        for one in upstream:
            if one._error is not None:
                error = JobFailed(
                    f"an argument of {endpoint.name} came from {one!r}: {Exception.__str__(one._error)}",
                    job_id=job.id,
                )
                error.__cause__ = one._error
                _refuse(job, error)
                return
        try:
            job.arguments = endpoint._bind(_resolved(args), _resolved(kwargs))
        except Exception as exc:  # the edge of the loop: results and arguments are of the user's own types
            _refuse(job, exc)
        else:
            endpoint.service._start([job])

    JobGroup(upstream)._when_ended(lambda: portal.call_soon(send))
    return job


def _jobs_in(value: Any) -> Iterator[Job[Any]]:
    if isinstance(value, Job):
        yield value
    elif isinstance(value, JobReference):
        yield value.job
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _jobs_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _jobs_in(item)


def _resolved(value: Any) -> Any:
    if isinstance(value, Job):
        return value._value
    if isinstance(value, JobReference):
        return value.resolve(value.job._value)
    if isinstance(value, (list, tuple)):
        items = [_resolved(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    return value
