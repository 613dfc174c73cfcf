"""A bounded set of daemon threads that run the blocking functions of one route."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

__all__ = ["Work", "WorkerThreads"]


class Work:
    """One call on a worker thread."""

    __slots__ = ("function", "is_abandoned", "is_done", "is_started")

    def __init__(self, function: Callable[[], None]) -> None:
        self.function = function
        self.is_started = False
        self.is_done = False
        self.is_abandoned = False


class WorkerThreads:
    """At most `size` threads, started when they are needed and never waited for at exit.

    A thread cannot be stopped: `abandon` gives up on one that does not return, and another takes its place.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._idle = 0
        self._closed = False

    @property
    def threads(self) -> int:
        """How many threads work for this route, abandoned ones not counted."""
        return self._threads

    def submit(self, function: Callable[[], None]) -> Work:
        """Run `function` on a thread as soon as one is free. It must not raise."""
        work = Work(function)
        with self._lock:
            if self._closed:
                raise RuntimeError("The workers are closed.")
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self.size:
                self._start()
            self._queue.put(work)
        return work

    def withdraw(self, work: Work) -> bool:
        """Take back `work` that no thread has begun. False: one has, and counts until it returns."""
        with self._lock:
            if work.is_started:
                return False
            work.is_abandoned = True
            work.function = _nothing  # it may hold much, and stays in the queue until a thread comes to it
            return True

    def abandon(self, work: Work) -> None:
        """Give up on `work`: it does not start any more, or its thread no longer counts."""
        with self._lock:
            if work.is_done or work.is_abandoned:
                return
            work.is_abandoned = True
            if work.is_started:
                self._threads -= 1
                if not self._queue.empty() and not self._closed:
                    self._start()

    def close(self) -> None:
        """Let idle threads end; busy ones end after their function."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._queue.put(None)

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._loop, name=f"socaity-{self.name}", daemon=True).start()

    def _loop(self) -> None:
        while (work := self._queue.get()) is not None:
            with self._lock:
                work.is_started = not work.is_abandoned
            if work.is_started:
                work.function()
            with self._lock:
                work.is_done = True
                if work.is_started and work.is_abandoned:
                    return
                if self._queue.qsize() == 0:
                    self._idle += 1
            del work


def _nothing() -> None:
    pass
