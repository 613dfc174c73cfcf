"""`Watches`: the jobs that one session follows, and their events as messages."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from socaity.protocol.events import JobEvent
from socaity.protocol.frames import EVENT, HELD

from .timing import JobTimes

if TYPE_CHECKING:
    from ..dataplane import DataPlane
    from .call_results import CallResults

__all__ = ["Watches"]


class Watches:
    """The watches by the number under which the client knows them. `explained`: when (`perf_counter`) the jobs came of which it
    wants to know where the time goes."""

    def __init__(
        self,
        dataplane: DataPlane,
        results: CallResults,
        post: Callable[[list[Any]], None],
        *,
        explained: dict[int, float],
    ) -> None:
        self._dataplane = dataplane
        self._results = results
        self._post = post
        self._explained = explained
        self._open: dict[int, Callable[[], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, n: int, job_id: str, after: int, *, has_ended: bool = False) -> None:
        """Send the events of a job after number `after`. Raises NotFoundError."""
        ended = False
        came = self._explained.pop(n, None) if self._explained else None
        times = None if came is None else JobTimes(came)

        def sink(event: JobEvent) -> None:
            nonlocal ended
            timing = [] if times is None else times.note(event, time.perf_counter())
            if event.is_terminal and not has_ended and self._keep_result(n, job_id, event, timing):
                ended = True
                self._open.pop(n, None)
                return
            if event.seq > after or event.is_terminal:  # who has seen the end and asks again gets it again
                self._post([EVENT, n, *event, *timing])
            if event.is_terminal:
                ended = True
                self._open.pop(n, None)

        unwatch = self._dataplane.watch(job_id, sink, after=0 if has_ended else after)
        if not ended:
            self._open[n] = unwatch

    def drop(self, n: int) -> None:
        """Send no more of it."""
        unwatch = self._open.pop(n, None)
        if unwatch is not None:
            unwatch()

    def close(self) -> None:
        """Send no more of any."""
        for unwatch in self._open.values():
            unwatch()
        self._open.clear()

    def _keep_result(self, n: int, job_id: str, event: JobEvent, timing: list[Any]) -> bool:
        """Tell the client that the result of a job is there; it stays with the job, because another step takes it."""
        size = self._results.job_ended(job_id, event.data, event.kind == "result")
        if size:
            self._post([HELD, n, event.seq, size, *timing])
        return size > 0
