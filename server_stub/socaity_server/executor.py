"""Runs the jobs of the local routes: leases them queue by queue and keeps their leases alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple, TypeAlias

from socaity.exceptions import JobCancelled, SocaityError, to_problem

from .jobs.backend import Executor, JobBackend, Lease
from .route import Route
from .running import Run, Slots

__all__ = ["LocalExecutor", "PreparedJob"]

_logger = logging.getLogger(__name__)


class PreparedJob(NamedTuple):
    """What a lease needs to run. `arguments` is a coroutine function where something has to be waited for first."""

    arguments: Mapping[str, Any] | Callable[[], Awaitable[Mapping[str, Any]]]
    context: Context


Prepare: TypeAlias = Callable[[Route, Lease], PreparedJob]
CallBatched: TypeAlias = Callable[[Route, Mapping[str, Any]], Awaitable[Any]]


class LocalExecutor(Executor):
    """Leases and runs the jobs of one route, `concurrency` at once."""

    def __init__(
        self,
        route: Route,
        backend: JobBackend,
        slots: Slots,
        *,
        prepare: Prepare,
        call_batched: CallBatched,
        heartbeat_interval: float = 10.0,
    ) -> None:
        self.route = route
        self._backend = backend
        self._slots = slots
        self._prepare = prepare
        self._call_batched = call_batched
        self._interval = heartbeat_interval
        self._free = route.concurrency if route.kind != "batched" else route.max_batch_size * 2
        self._room = asyncio.Event()
        self._leases: dict[Lease, asyncio.Task[None]] = {}
        self._feeder: asyncio.Task[None] | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._beats: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._leases)

    def start(self) -> None:
        """Begin to lease jobs."""
        loop = asyncio.get_running_loop()
        self._feeder = loop.create_task(self._feed(), name=f"socaity-queue-{self.route.name}")

    async def run(self, leases: Sequence[Lease]) -> None:
        await asyncio.gather(*[self._launch(lease) for lease in leases])

    async def aclose(self, grace: float) -> None:
        """Lease no more; wait `grace` seconds for the running jobs, then cancel them."""
        await _end(self._feeder)
        if self._leases and grace > 0:
            await asyncio.wait(list(self._leases.values()), timeout=grace)
        for lease in list(self._leases):
            await self._backend.cancel(lease.job_id)
        if self._leases:
            await asyncio.wait(list(self._leases.values()), timeout=1.0)
        for task in list(self._leases.values()):
            await _end(task)
        if self._beat is not None:
            self._beat.cancel()
        await _end(self._beats)

    async def _feed(self) -> None:
        while True:
            await self._wait_for_room()
            for lease in await self._backend.lease(self.route.name, self._free):
                self._launch(lease)

    async def _wait_for_room(self) -> None:
        while self._free <= 0:
            self._room.clear()
            await self._room.wait()

    def _launch(self, lease: Lease) -> asyncio.Task[None]:
        self._free -= 1
        loop = asyncio.get_running_loop()
        task = self._leases[lease] = loop.create_task(self._run(lease))
        if self._beat is None:
            self._beat = loop.call_later(self._interval, self._start_beat)
        return task

    def _give_back(self) -> None:
        self._free += 1
        self._room.set()

    async def _run(self, lease: Lease) -> None:
        job = _RunningJob(lease)
        lease.on_lost(job.cancel)
        try:
            result = await self._result(lease, job)
        except asyncio.CancelledError:
            if not job.is_lost:
                raise
        except Exception as exc:
            if not isinstance(exc, SocaityError):
                _logger.exception("job %s could not be run", lease.job_id)
            exc.__traceback__ = None  # its frames refer to it: a circle
            await lease.fail(to_problem(exc))
        else:
            await lease.succeed(result)
        finally:
            job.task = job.run = (
                None  # the lease refers to the job: a circle that only the garbage collector would undo
            )
            del self._leases[lease]
            self._give_back()

    async def _result(self, lease: Lease, job: _RunningJob) -> Any:
        arguments, context = self._prepare(self.route, lease)
        if callable(arguments):
            # Whoever waits for another job must not keep it from running.
            self._give_back()
            try:
                arguments = await arguments()
                await self._wait_for_room()
            finally:
                self._free -= 1
            await lease.begin()
        if self.route.kind == "batched":
            return await self._call_batched(self.route, arguments)
        run = job.run = Run(
            self.route, arguments, slots=self._slots, emit=lease.emit, context=context, job_id=lease.job_id
        )
        if job.is_lost:
            raise JobCancelled("The job was cancelled.")
        return await run.result()

    def _start_beat(self) -> None:
        self._beat = None
        self._beats = asyncio.get_running_loop().create_task(self._heartbeat())

    async def _heartbeat(self) -> None:
        """One beat for all leases; the next one is due while there are any."""
        for lease in list(self._leases):
            await lease.heartbeat()
        if self._leases and self._beat is None:
            self._beat = asyncio.get_running_loop().call_later(self._interval, self._start_beat)


class _RunningJob:
    """What to stop when the lease is lost."""

    __slots__ = ("is_lost", "run", "task")

    def __init__(self, lease: Lease) -> None:
        self.task: asyncio.Task[Any] | None = asyncio.current_task()
        self.run: Run | None = None
        self.is_lost = False

    def cancel(self) -> None:
        self.is_lost = True
        if self.run is not None:
            self.run.cancel()
        elif self.task is not None:
            self.task.cancel()


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
