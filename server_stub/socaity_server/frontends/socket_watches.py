"""`Watches`: the jobs that one session follows, and their events as messages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from socaity.exceptions import SocaityError, to_problem
from socaity.protocol.events import JobEvent
from socaity.protocol.frames import ERROR, EVENT, HELD

from .timing import JobTimes

if TYPE_CHECKING:
    from ..dataplane import DataPlane
    from .call_results import CallResults

__all__ = ["Watches"]

_AT_ONCE = 1024
"""Chunks that are handed over between two looks at what the client has acknowledged."""


class Watches:
    """The watches by the number under which the client knows them. `explained`: when (`perf_counter`) the jobs came of which it
    wants to know where the time goes.

    Streams can be quicker than their reader. `has_room` says whether the client has taken most of what it was sent; while it
    has not, chunks stay with their jobs, until `go_on`. So nothing waits behind a stream, such as the answer to its cancel.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        results: CallResults,
        post: Callable[[list[Any]], None],
        *,
        explained: dict[int, float],
        has_room: Callable[[], bool],
    ) -> None:
        self.dataplane = dataplane
        self.results = results
        self.post = post
        self._explained = explained
        self._has_room = has_room
        self._open: dict[int, _Watch] = {}
        self._paused: dict[int, _Watch] = {}
        self.handed_over = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    @property
    def is_paused(self) -> bool:
        return bool(self._paused)

    def add(self, n: int, job_id: str, after: int, *, has_ended: bool = False) -> None:
        """Send the events of a job after number `after`. Raises NotFoundError."""
        came = self._explained.pop(n, None) if self._explained else None
        watch = _Watch(self, n, job_id, after, None if came is None else JobTimes(came), has_ended=has_ended)
        self._open[n] = watch
        try:
            watch.begin()
        except BaseException:
            self._open.pop(n, None)
            raise

    def drop(self, n: int) -> None:
        """Send no more of it."""
        self._paused.pop(n, None)
        watch = self._open.pop(n, None)
        if watch is not None:
            watch.unwatch()

    def close(self) -> None:
        """Send no more of any."""
        for n in list(self._open):
            self.drop(n)

    def go_on(self) -> None:
        """What was handed over has been sent, or some of it acknowledged."""
        while self._paused and self.takes_chunk():
            n, watch = next(iter(self._paused.items()))
            del self._paused[n]
            try:
                watch.begin()
            except SocaityError as exc:  # the job has expired meanwhile
                self.drop(n)
                self.post([ERROR, n, to_problem(exc)])

    def takes_chunk(self) -> bool:
        """Whether one more chunk may be handed over now."""
        if self.handed_over >= _AT_ONCE or not self._has_room():
            return False
        self.handed_over += 1
        return True

    def paused(self, watch: _Watch) -> None:
        self._paused[watch.n] = watch

    def ended(self, n: int) -> None:
        self._open.pop(n, None)


class _Watch:
    """One job, as far as its events were sent."""

    def __init__(
        self, watches: Watches, n: int, job_id: str, after: int, times: JobTimes | None, *, has_ended: bool
    ) -> None:
        self.n = n
        self._watches = watches
        self._job_id = job_id
        self._after = after
        self._read = 0 if has_ended else after
        """The number of the last event that was looked at. Who has seen the end and asks again gets it again."""
        self._had_ended = has_ended
        self._times = times
        self._is_paused = self._is_over = False
        self._stop: Callable[[], None] | None = None

    def begin(self) -> None:
        """Send what has come since, and then what comes. Raises NotFoundError."""
        self.unwatch()
        watches, self._is_paused = self._watches, False
        stop = watches.dataplane.watch(self._job_id, self._take, after=self._read)
        if self._is_paused:
            stop = watches.dataplane.watch(self._job_id, self._take_cancel, after=sys.maxsize)
        if not self._is_over:
            self._stop = stop

    def unwatch(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _take_cancel(self, event: JobEvent) -> None:
        """While chunks wait: of a job that was cancelled nobody reads the rest."""
        if event.kind == "error" and event.data.get("code") == "cancelled":
            self._watches.drop(self.n)
            self._watches.post([EVENT, self.n, *event])

    def _take(self, event: JobEvent) -> bool:
        watches = self._watches
        if event.kind == "chunk" and event.seq > self._after and not watches.takes_chunk():
            self._is_paused = True
            watches.paused(self)
            if self._stop is not None:  # a live event, and no replay
                self._stop = watches.dataplane.watch(self._job_id, self._take_cancel, after=sys.maxsize)
            return False
        self._read = event.seq
        timing = [] if self._times is None else self._times.note(event, time.perf_counter())
        if event.is_terminal:
            self._is_over = True
            self._stop = None  # it refers to this: a circle
            watches.ended(self.n)
            if not self._had_ended and self._keep_result(event, timing):
                return True
        if event.seq > self._after or event.is_terminal:
            watches.post([EVENT, self.n, *event, *timing])
        return True

    def _keep_result(self, event: JobEvent, timing: list[Any]) -> bool:
        """Tell the client that the result of a job is there; it stays with the job, because another step takes it."""
        size = self._watches.results.job_ended(self._job_id, event.data, event.kind == "result")
        if size:
            self._watches.post([HELD, self.n, event.seq, size, *timing])
        return size > 0
