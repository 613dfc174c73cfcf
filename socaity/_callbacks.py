"""`DoneCallback`: what `Job.add_done_callback` was given, called in the right place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._job import Job

__all__ = ["DoneCallback"]

logger = logging.getLogger(__name__)


class DoneCallback:
    """A waiter that gives the job to `function`, on socaity's thread.

    A callback of asyncio's own, as `asyncio.wait` has one, sets a future of the loop that runs here: it is called by that loop.
    Others are not: their loop may be the one of a notebook, whose cell blocks until the callback has been called.
    """

    __slots__ = ("function", "job", "loop")

    def __init__(self, job: Job[Any], function: Callable[[Any], object]) -> None:
        self.job = job
        self.function = function
        is_of_asyncio = getattr(function, "__module__", None) == "asyncio.tasks"
        self.loop = asyncio._get_running_loop() if is_of_asyncio else None

    def __call__(self) -> None:
        if self.loop is None:
            self._run()
            return
        try:
            self.loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            logger.debug("a loop that waited for job %s was closed", self.job.id)

    def _run(self) -> None:
        try:
            self.function(self.job)
        except Exception:
            logger.exception("a done callback of job %s raised", self.job.id)
