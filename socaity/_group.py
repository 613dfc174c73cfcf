"""A JobGroup: many jobs as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import _display
from ._job import Job, Notice
from ._portal import Signal, Waitable, _waiters_lock, portal
from .exceptions import JobLost, SocaityError

if TYPE_CHECKING:
    pass

__all__ = ["JobGroup"]

T_co = TypeVar("T_co", covariant=True)
_TOLD_IDS = 3


class JobGroup(Waitable, Generic[T_co]):
    """Several jobs: `.result()`, `await`, and iteration over the results in order, each as soon as it is there.

    A member that fails cancels nothing; `result(return_exceptions=True)` keeps what succeeded.
    """

    __slots__ = (
        "_completed",
        "_display",
        "_fed",
        "_feed_error",
        "_followers",
        "_generation",
        "_is_cancelled",
        "_is_fed",
        "_is_looked_at",
        "_members",
        "_room",
        "_window",
        "_with_values",
    )

    def __init__(self, jobs: Iterable[Job[T_co]] = (), *, is_fed: bool = True, window: int = 0) -> None:
        super().__init__()
        self._members: list[Job[T_co]] = []
        self._completed = self._with_values = 0
        self._is_looked_at = False
        """Somebody wants the results; until then they may stay at the service."""
        self._fed: list[Callable[[], None]] = []
        self._followers: list[Callable[[Job[T_co]], None]] = []
        """Told of every member that comes."""
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
    def jobs(self) -> tuple[Job[T_co], ...]:
        """The members so far, in order."""
        return tuple(self._members)

    def members(self) -> Iterator[Job[T_co]]:
        """The members in order, each as soon as its call was made: for no result, but for a `map` that reads its inputs still,
        this waits."""
        index = 0
        while True:
            while index < len(self._members):
                yield self._members[index]
                index += 1
            if not self._is_more(index):
                return
            signal = self._next_room(index)
            if signal is not None:
                interruptible(self._members, "group.cancel()", signal.wait)

    def __len__(self) -> int:
        return len(self._members)

    def done(self) -> bool:
        """Whether every member has ended."""
        return self._ended or (self._is_fed and self._completed == len(self._members))

    def result(self, timeout: float | None = None, *, return_exceptions: bool = False) -> list[T_co]:
        """The results in order. Raises the first member's error, or TimeoutError; the members run on in any case."""
        if not self._ended:
            self._look()
            if not interruptible(self._members, "group.cancel()", self._wait_shown, timeout):
                waiting = [job._endpoint.service._trouble for job in self._members if not job.done()]
                why = next(filter(None, waiting), "the jobs run on")
                raise TimeoutError(f"{self!r} after {timeout:g} s; {why}")
        return self._collect(return_exceptions)

    def _wait_shown(self, timeout: float | None) -> bool:
        self._show()
        return self._wait(timeout)

    def __await__(self) -> Generator[Any, Any, list[T_co]]:
        if not self._ended:
            self._show()
            self._look()
            yield from self._wait_async()
        return self._collect(False)

    def __iter__(self) -> Iterator[T_co]:
        self._look()
        index = 0
        while True:
            while index < len(self._members):
                job = self._members[index]
                if not job._ended:
                    interruptible(self._members, "group.cancel()", job._shown, job._wait, None)
                yield job.result()
                index += 1
            if not self._is_more(index):
                return
            signal = self._next_room(index)
            if signal is not None:
                interruptible(self._members, "group.cancel()", signal.wait)

    async def __aiter__(self) -> AsyncIterator[T_co]:
        self._look()
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

    def cancel(self, *, upstream: bool = True) -> bool:
        """Cancel every member that has not ended, and start no more; False if all have ended. As `Job.cancel`."""
        self._is_cancelled = True
        return any([job.cancel(upstream=upstream) for job in list(self._members)])

    def retry(self) -> JobGroup[T_co]:
        """The same group with its failed members, and what failed before them, made again; itself if none failed.

        Raises RuntimeError while a `map` is still reading its inputs.
        """
        from ._again import retry_group

        return retry_group(self)

    def __copy__(self) -> JobGroup[T_co]:
        return self

    def __deepcopy__(self, memo: object) -> JobGroup[T_co]:
        return self

    def __repr__(self) -> str:
        return f"<JobGroup {self._completed} of {len(self._members)} ended>"

    def _repr_html_(self) -> str:
        from ._view import html_of_group

        return html_of_group(self)

    def _ipython_display_(self) -> None:
        from ._live_view import show

        show(self)

    # -- growing -----------------------------------------------------------------------------------------------------

    def _add(self, job: Job[Any]) -> None:
        with _waiters_lock:
            self._members.append(job)
            is_looked_at = self._is_looked_at
            followers = tuple(self._followers) if self._followers else ()
        if is_looked_at:
            job._when_ended(self._member_done_and_ended)
        else:
            job._add_notice(Notice(self._member_done, wants=True))
        if self._is_cancelled:  # it was started while the others were cancelled
            job.cancel()
        for follow in followers:
            follow(job)
        if self._room is not None:
            self._signal_room()

    def _close(self, error: BaseException | None = None) -> None:
        self._feed_error = error
        with _waiters_lock:
            self._is_fed = True
            fed, self._fed = self._fed, []
        self._signal_room()
        for function in fed:
            portal.call_soon(function)
        self._check_end()

    def _when_fed(self, function: Callable[[], None]) -> None:
        """Call `function` on the loop when all members are there."""
        with _waiters_lock:
            if not self._is_fed:
                self._fed.append(function)
                return
        portal.call_soon(function)

    def _member_done(self) -> None:
        with _waiters_lock:  # a member may end on the portal while another, ended before, is added here
            self._completed += 1
        if self._room is not None and self.unfinished <= self._window // 2:
            self._signal_room()
        if self._is_fed:
            self._check_end()

    def _member_ended(self) -> None:
        with _waiters_lock:
            self._with_values += 1
        if self._is_fed:
            self._check_end()

    def _member_done_and_ended(self) -> None:
        with _waiters_lock:
            self._with_values += 1
            self._completed += 1
        if self._room is not None and self.unfinished <= self._window // 2:
            self._signal_room()
        if self._is_fed:
            self._check_end()

    def _check_end(self) -> None:
        number = len(self._members)
        if not self._ended and self._completed == number and self._with_values == number:
            if self._display is not None:
                self._display.update(self)  # its line is closed before the waiting code goes on and prints
            self._end()

    def _look(self) -> None:
        """From now on the results are wanted here."""
        with _waiters_lock:
            if self._is_looked_at:
                return
            self._is_looked_at = True
            members = list(self._members)
        for job in members:
            job._when_ended(self._member_ended)
        if self._is_fed:
            self._check_end()

    @property
    def unfinished(self) -> int:
        """How many members have not ended."""
        return len(self._members) - self._completed

    def _follow(self, function: Callable[[Job[T_co]], None]) -> None:
        """Call `function` with every member, those to come included."""
        with _waiters_lock:
            self._followers.append(function)
            members = list(self._members)
        for job in members:
            function(job)

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

    def _collect(self, return_exceptions: bool) -> list[T_co]:
        self._is_looked_at = True
        if self._feed_error is not None:
            raise self._feed_error
        for job in self._members:
            if job._error is not None:
                job._seen_error()
        if return_exceptions:
            return [cast(T_co, job._value if job._error is None else job._error) for job in self._members]
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
        self._look()
        super()._when_ended(function)

    def _end_if_left_behind(self) -> None:
        """In the child of a fork the members of the parent end as JobLost, and no more of them come."""
        if self._ended or self._generation == portal.generation:
            return
        self._waiters = self._room = self._display = None  # threads, loops and lines of the parent
        for job in self._members:
            job._end_if_left_behind()
        self._completed = self._with_values = len(self._members)
        if not self._is_fed:
            self._feed_error = JobLost("the inputs of the map are read in the parent process")
            self._is_fed = True
        self._end()


def interruptible(jobs: list[Job[Any]], stop: str, wait: Callable[..., bool], *args: Any) -> bool:
    """Wait; Ctrl-C says how to wait again for what is unfinished."""
    try:
        return wait(*args)
    except KeyboardInterrupt:
        unfinished = [job for job in jobs if not job._ended]
        told = [again for job in unfinished[:_TOLD_IDS] if (again := job._keep_for_later()) is not None]
        again = ", ".join(told) + (", …" if len(unfinished) > len(told) else "")
        if not told:  # pipelines, which no service knows
            again = stop.replace("cancel", "result")
        _display.tell(
            f"Stopped waiting; {len(unfinished)} of {len(jobs)} jobs run on. To wait again: {again}; to stop them: {stop}"
        )
        raise


def bound(function: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: function(argument)
