"""One run of a user's function: on a worker thread or as a task, with its events, its timeout and its cancellation."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from contextvars import Context
from pathlib import Path
from typing import Any, TypeAlias

from socaity.exceptions import APIError, JobCancelled, JobFailed, SocaityError, from_problem, to_problem
from socaity.protocol.events import EventKind

from .media import BrokenMedia, Inputs, needs_time, read_files
from .model_slot import ABSENT_CODES
from .progress import Channel, JobProgress
from .route import Route
from .sparing_log import SparingLog
from .values import to_plain
from .workers import Work, WorkerThreads

__all__ = ["Emit", "Run", "Slots", "failure"]

Emit: TypeAlias = Callable[[EventKind, Any], Awaitable[bool]]

_logger = logging.getLogger(__name__)

_OURS = str(Path(__file__).parent)
_PROGRESS_INTERVAL = 0.05
_CHUNKS_PER_TURN = 64


class Slots:
    """How many runs of one route may go on at once: threads for blocking functions, a semaphore for async ones."""

    def __init__(self, route: Route) -> None:
        self.threads = WorkerThreads(route.name, route.concurrency)
        self.tasks = asyncio.Semaphore(route.concurrency)
        self.log = SparingLog(_logger)


class Run:
    """Runs a function once, for the job `job_id` if there is one. `emit` gets its progress, log lines and chunks, in order.

    `result` raises JobFailed (also `timeout` and `result_not_serialisable`) or JobCancelled. A thread cannot be stopped:
    after `cancel` the run lasts until the function notices or returns; after the timeout its thread is given up.
    """

    def __init__(
        self,
        route: Route,
        values: Mapping[str, Any],
        *,
        slots: Slots,
        emit: Emit,
        context: Context,
        job_id: str = "",
    ) -> None:
        self._route = route
        self._values = dict(values)
        self._slots = slots
        self._emit = emit
        self._context = context
        self._job_id = job_id
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._loop)
        self._progress: JobProgress | None = None
        if route.progress_name is not None:
            self._progress = self._values[route.progress_name] = JobProgress(self._channel)
        self._work: Work | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: JobProgress | None = None
        self._next_progress = 0.0
        self._flush: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Nobody wants the result any more. For the loop thread."""
        self._channel.put("cancel")

    async def result(self) -> Any:
        """Run, and give the result as a plain value (None after a stream). A failure is in the log."""
        try:
            if self._route.kind in ("plain", "generator"):
                return await self._supervise()
            async with self._slots.tasks:
                return await self._supervise()
        except JobFailed as exc:
            self._slots.log.failed(self._route.name, exc, self._job_id)
            raise

    async def _supervise(self) -> Any:
        timeout = self._route.timeout
        timer = None if timeout is None else self._loop.call_later(timeout, self._channel.put, "timeout")
        self._start()
        try:
            return await self._pump()
        except asyncio.CancelledError:
            self._stop()
            if self._work is not None:
                self._slots.threads.withdraw(self._work)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if self._flush is not None:
                self._flush.cancel()
            self._channel.close()
            self._work = self._task = None  # they refer to this run: a circle

    def _start(self) -> None:
        kind = self._route.kind
        if kind == "plain":
            self._work = self._slots.threads.submit(lambda: self._context.run(self._call))
        elif kind == "generator":
            self._work = self._slots.threads.submit(lambda: self._context.run(self._iterate))
        else:
            body = self._call_async() if kind == "async" else self._iterate_async()
            self._task = self._loop.create_task(body, context=self._context)

    def _stop(self) -> None:
        self._channel.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _pump(self) -> Any:
        """Publish what comes out of the function until it ends."""
        channel = self._channel
        is_cancelled = False
        while True:
            for kind, data in await channel.take():
                if kind == "progress":
                    self._pending = data
                elif kind == "log" or kind == "chunk":
                    await self._emit_progress(force=True)
                    await self._emit("log" if kind == "log" else "chunk", data)
                elif kind == "returned" or kind == "raised":
                    if is_cancelled:
                        raise JobCancelled("The job was cancelled.")
                    await self._emit_progress(force=True)
                    if kind == "returned":
                        return data
                    raise data
                elif kind == "awaits":
                    work = self._await(*data)
                    # a copy, because the thread may not have left the context yet
                    self._task = self._loop.create_task(work, context=self._context.copy())
                    if is_cancelled:
                        self._stop()
                elif kind == "cancel":
                    is_cancelled = True
                    self._stop()
                elif kind == "timeout":
                    self._give_up()
                elif kind == "flush":
                    # not compared with the clock again: the timers of uvloop may fire up to a millisecond early
                    await self._emit_progress(force=True)
            await self._emit_progress()

    async def _emit_progress(self, *, force: bool = False) -> None:
        """Publish the last progress; not more often than every 50 ms, so that a long job's record stays small."""
        progress = self._pending
        if progress is None:
            return
        now = self._loop.time()
        if not force and now < self._next_progress:
            if self._flush is None:
                self._flush = self._loop.call_at(self._next_progress, self._channel.put, "flush")
            return
        if self._flush is not None:
            self._flush.cancel()
        self._pending = self._flush = None
        self._next_progress = now + _PROGRESS_INTERVAL
        await self._emit("progress", progress._take())

    def _give_up(self) -> None:
        self._stop()
        if self._work is not None:
            self._slots.threads.abandon(self._work)
        raise JobFailed(f"The job ran longer than {self._route.timeout:g} seconds.", code="timeout")

    def _inputs(self) -> Any:
        """A context, plain and async, of the values for the function."""
        return Inputs(self._values) if self._route.takes_media else nullcontext(self._values)

    def _to_plain(self, value: Any) -> Any:
        return to_plain(read_files(value) if self._route.returns_files else value)

    async def _to_plain_async(self, value: Any) -> Any:
        if self._route.returns_files or needs_time(value):
            return await asyncio.to_thread(self._to_plain, value)
        return to_plain(value)

    def _call(self) -> None:
        try:
            with ExitStack() as stack:
                values = stack.enter_context(self._inputs())
                result = self._route.function(**values)
                if hasattr(type(result), "__await__"):
                    # the job of a pipeline, perhaps: no thread has to wait for it
                    self._channel.put("awaits", (result, stack.pop_all()))
                    return
                result = self._to_plain(result)
        except BaseException as exc:
            self._channel.put("raised", failure(exc))
        else:
            self._channel.put("returned", result)

    async def _await(self, awaitable: Awaitable[Any], inputs: ExitStack) -> None:
        try:
            with inputs:
                result = await self._to_plain_async(await self._wait_for(awaitable))
        except BaseException as exc:
            self._channel.put("raised", failure(exc))
        else:
            self._channel.put("returned", result)

    async def _wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """What it gives. The progress of a job is that of this run, and who stops waiting cancels it."""
        listen = getattr(awaitable, "add_progress_callback", None)
        if callable(listen):
            listen(self._pass_on)
        try:
            return await awaitable
        except asyncio.CancelledError:
            cancel = getattr(awaitable, "cancel", None)
            if callable(cancel):
                cancel()
            raise

    def _pass_on(self, job: Any) -> None:
        if self._progress is None:
            self._progress = JobProgress(self._channel)
        with suppress(JobCancelled):
            self._progress.progress, self._progress.message = job.progress.fraction, job.progress.message

    def _iterate(self) -> None:
        channel = self._channel
        try:
            with self._inputs() as values:
                generator = self._route.function(**values)
                try:
                    for chunk in generator:
                        if channel.is_cancelled:
                            break
                        channel.put("chunk", self._to_plain(chunk))
                        channel.wait_for_room()
                finally:
                    generator.close()
        except BaseException as exc:
            channel.put("raised", failure(exc))
        else:
            channel.put("returned")

    async def _call_async(self) -> None:
        try:
            async with self._inputs() as values:
                result = await self._route.function(**values)
                if hasattr(type(result), "__await__"):
                    result = await self._wait_for(result)
                result = await self._to_plain_async(result)
        except BaseException as exc:
            self._channel.put("raised", failure(exc))
        else:
            self._channel.put("returned", result)

    async def _iterate_async(self) -> None:
        channel = self._channel
        try:
            async with self._inputs() as values:
                generator = self._route.function(**values)
                try:
                    count = 0
                    async for chunk in generator:
                        channel.put("chunk", await self._to_plain_async(chunk))
                        count += 1
                        if count % _CHUNKS_PER_TURN == 0:
                            await asyncio.sleep(0)
                finally:
                    await generator.aclose()
        except BaseException as exc:
            channel.put("raised", failure(exc))
        else:
            channel.put("returned")


def failure(exc: BaseException) -> SocaityError:
    """What the caller gets to know of an exception in the user's function: type, text and the user's own frames.

    What the model repository says is an answer, with a status of its own, also to whoever called the function.
    """
    if isinstance(exc, JobFailed) and exc.code == "upstream_failed":  # of a call that it made, not its own
        return JobFailed(Exception.__str__(exc), remote_traceback=exc.remote_traceback)
    if isinstance(exc, JobFailed | JobCancelled):
        return exc
    if isinstance(exc, BrokenMedia):
        return exc.error
    if isinstance(exc, APIError) and exc.code in ABSENT_CODES:
        return from_problem(to_problem(exc))  # a copy without the frames, which refer to this one: a circle
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OURS):
        frame = frame.tb_next
    name = type(exc).__qualname__
    text = str(exc)
    return JobFailed(
        f"{name}: {text}" if text else name,
        error_type=name,
        remote_traceback="".join(traceback.format_exception(type(exc), exc, frame)),
    )
