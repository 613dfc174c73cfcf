"""`CallThreads`: the threads on which the calls of a handler run, and which of these run on though nobody waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

from ..workers import Work, WorkerThreads

__all__ = ["CallThreads"]

T = TypeVar("T")


class CallThreads:
    """At most `size` calls run at once; a thread that works for longer than `timeout` seconds is given up.

    A thread cannot be stopped. One that nobody waits for still counts: else callers who go early could start ever more.
    """

    def __init__(self, name: str, size: int, *, timeout: float) -> None:
        self._threads = WorkerThreads(name, size)
        self._timeout = timeout
        self._left: dict[asyncio.Future[Any], asyncio.TimerHandle] = {}

    @property
    def left(self) -> int:
        """Calls that run on though their callers have gone."""
        return len(self._left)

    async def run(self, function: Callable[[], T]) -> T:
        """The result of `function`. Who is cancelled takes back what has not begun; what has begun runs on."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = copy_context()
        began: float | None = None

        def work() -> None:
            nonlocal began
            began = time.monotonic()
            result, error = None, None
            try:
                result = context.run(function)
            except BaseException as exc:  # for the one who waits; no future takes a StopIteration
                is_usual = isinstance(exc, Exception) and not isinstance(exc, StopIteration)
                error = exc if is_usual else RuntimeError(f"it raised {type(exc).__name__}")
            try:
                loop.call_soon_threadsafe(self._ended, future, result, error)
            except RuntimeError:  # the loop is closed
                self._left.pop(future, None)

        given = self._threads.submit(work)
        try:
            return await future
        except asyncio.CancelledError:
            # a future that has a result was not cancelled with its task
            if future.cancelled() and not self._threads.withdraw(given):
                now = time.monotonic()
                left = self._timeout - (now - (began or now))
                self._left[future] = loop.call_later(max(left, 0.0), self._give_up, future, given)
            raise

    def _ended(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            timer = self._left.pop(future, None)
            if timer is not None:
                timer.cancel()
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _give_up(self, future: asyncio.Future[Any], work: Work) -> None:
        """Another thread takes the place of one that does not return."""
        self._left.pop(future, None)
        self._threads.abandon(work)
