"""Runs calls of one model together: collects them on the event loop, runs the batch on a thread, hands out the rows.

Work-conserving: a free instance starts at the end of the loop turn with whatever has arrived, so that an idle server
adds no delay and batches grow exactly when load grows. Everything but the model itself happens on the loop thread, and
nothing of it is a task, a future or a lock per call.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterable

from socaity.exceptions import InvalidInputError, ServerError

from .instance import Instance, Part
from .policy import WaitingRoom
from .ticket import Arrays, OnDone, SplitTicket, Ticket, bucket_key

__all__ = ["Batcher", "Ticket"]

_logger = logging.getLogger(__name__)
_MEMORY = 0.9  # of the drain rate: an older batch counts 0.9 times the next one
_UNMEASURED_RETRY = 1.0


class Batcher:
    """Batches the calls of one model. All methods belong to the loop thread of the first `submit`.

    `run` gets the inputs of a batch and gives its outputs, both with one row per row of the calls; it is called on
    `instances` dedicated threads at once. It must not write to its inputs: a batch of one call gets the caller's own
    arrays. With `max_batch_wait` (seconds) an idle instance waits that long for a fuller batch;
    event loops count in milliseconds, so that less than one may be none.

    A batch that raises is run again in halves, so that only the calls that fail alone get the error; `replay=False`
    turns that off for models with side effects. With `inline` a model whose batches take some microseconds runs on the
    loop thread (`InlinePolicy`). At most `queue_rows` rows wait; rows that run do not count.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        *,
        max_batch_size: int,
        max_batch_wait: float = 0.0,
        queue_rows: int = 65536,
        instances: int = 1,
        name: str,
        replay: bool = True,
        inline: bool = False,
        after_batch: Callable[[], None] | None = None,
    ) -> None:
        if instances < 1:
            raise ValueError(f"instances must be at least 1, not {instances}.")
        if queue_rows < 1:
            raise ValueError(f"queue_rows must be at least 1, not {queue_rows}.")
        self.name = name
        self.max_batch_size = max_batch_size
        self.max_batch_wait = max_batch_wait
        self.queue_rows = queue_rows
        self.after_batch = after_batch
        """Called once after the last `on_done` of a batch: the place to flush what they wrote."""
        self._run = run
        self._replay = replay
        self._inline = inline
        self._waiting: WaitingRoom[Ticket] = WaitingRoom(max_batch_size, max_batch_wait)
        self._instance_count = instances
        self._instances: list[Instance] = []
        self._free: list[Instance] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatch_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._drained_rows = 0.0
        self._drained_seconds = 0.0

    @property
    def depth(self) -> int:
        """The rows that wait for an instance."""
        return self._waiting.rows

    def submit(self, inputs: Arrays, rows: int, on_done: OnDone, key: Hashable = None) -> Ticket:
        """Ask for the outputs of `inputs`, whose first axes all have `rows` rows.

        `on_done(outputs, None)` or `on_done(None, error)` is called later on the loop thread, never from here. The
        outputs are views of the batch's. `key`, where the caller knows it, spares looking at the inputs: calls of one
        key have the same names, dtypes and shapes apart from the rows. More than `max_batch_size` rows run in pieces and
        come back as one.

        Raises `ServerError` (503) with the code `queue_full` and an honest `retry_after`, or `unavailable` after
        `aclose`; `InvalidInputError` for rows that do not match or could never be queued.
        """
        loop = self._loop or self._start()
        if self._closed:
            raise self._unavailable()
        waiting = self._waiting
        if waiting.rows + rows > self.queue_rows:
            raise self._refusal(rows)
        if key is None:
            key = bucket_key(inputs, rows)
        arrived = time.monotonic() if self.max_batch_wait else 0.0
        if rows > self.max_batch_size:
            ticket: Ticket = SplitTicket(waiting, key, inputs, rows, on_done, arrived)
        else:
            ticket = Ticket(waiting, key, inputs, rows, on_done, arrived)
            waiting.add(ticket)
        if self._free and not self._dispatch_scheduled and (self._timer is None or waiting.has_full_batch):
            self._dispatch_scheduled = True
            loop.call_soon(self._dispatch_soon)
        return ticket

    async def aclose(self, timeout: float = 10.0) -> None:
        """Refuse the calls that wait, let those that run finish for at most `timeout` seconds, and end the threads."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = self._waiting.take_all()
        if waiting:
            self._deliver([Part(waiting, None, self._unavailable())])
        for instance in self._instances:
            instance.stop()
        try:
            async with asyncio.timeout(timeout):
                for instance in self._instances:
                    await instance.stopped.wait()
        except TimeoutError:
            _logger.warning(
                "The model %s still runs %s s after it was closed; its calls fail.", self.name, timeout
            )
        for instance in self._instances:
            if instance.stopped.is_set():
                instance.join()
            elif instance.batch:
                self._deliver([Part(instance.batch, None, self._unavailable())])

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.get_running_loop()
        for number in range(self._instance_count):
            name = f"{self.name}-{number}"
            instance = Instance(
                self._run, loop, self._finished, name=name, replay=self._replay, inline=self._inline
            )
            self._instances.append(instance)
        self._free = list(self._instances)
        return loop

    def _dispatch_soon(self) -> None:
        self._dispatch_scheduled = False
        self._dispatch()

    def _dispatch(self, at: float = 0.0) -> None:
        """Give every free instance the batch that is due, and set the timer for one that is not yet.

        `at` is the time that the timer was set for: some loops fire up to a millisecond early.
        """
        loop, waiting = self._loop, self._waiting
        assert loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and waiting.rows:
            now = max(time.monotonic(), at)
            batch = waiting.take(now)
            if not batch:
                due_at = waiting.due_at()
                assert due_at is not None
                self._timer = loop.call_later(due_at - now, self._dispatch, due_at)
                return
            instance = self._free.pop()
            if not instance.policy.is_inline:
                instance.start(batch, now)
                continue
            # one batch a turn, so that the loop gets to its sockets in between
            parts = instance.run_inline(batch, now)
            self._count(instance, parts)
            if waiting.rows and not self._dispatch_scheduled:
                self._dispatch_scheduled = True
                loop.call_soon(self._dispatch_soon)
            self._deliver(parts)
            return

    def _finished(self, instance: Instance, parts: list[Part]) -> None:
        """Called by `instance` on the loop thread: start its next batch before handing out this one."""
        self._count(instance, parts)
        if self._waiting.rows:
            self._dispatch()
        self._deliver(parts)

    def _count(self, instance: Instance, parts: list[Part]) -> None:
        rows = sum(part.rows for part in parts)
        self._drained_rows = self._drained_rows * _MEMORY + rows
        self._drained_seconds = self._drained_seconds * _MEMORY + time.monotonic() - instance.started_at
        self._free.append(instance)

    def _deliver(self, parts: Iterable[Part]) -> None:
        for tickets, outputs, error in parts:
            items = list(outputs.items()) if outputs is not None else []
            start = 0
            for ticket in tickets:
                end = start + ticket.rows
                on_done = ticket.on_done
                if on_done is not None:
                    ticket.on_done = None
                    try:
                        if error is None:
                            on_done({name: array[start:end] for name, array in items}, None)
                        else:
                            on_done(None, error)
                    except Exception:  # one caller's mistake must not reach the others
                        _logger.exception("A callback for a result of the model %s raised.", self.name)
                start = end
        if self.after_batch is not None:
            try:
                self.after_batch()
            except Exception:
                _logger.exception("The after_batch hook of the model %s raised.", self.name)

    def _refusal(self, rows: int) -> Exception:
        if rows > self.queue_rows:
            return InvalidInputError(
                f"A call of {rows} rows can never be queued (at most {self.queue_rows}); send fewer rows at once.",
                status=413,
                code="too_many_rows",
            )
        return ServerError(
            f"The queue of the model {self.name!r} is full: {self.depth} of {self.queue_rows} rows wait.",
            status=503,
            code="queue_full",
            retry_after=self._seconds_to_drain(),
        )

    def _seconds_to_drain(self) -> float:
        """When all that runs and waits now will be done, at the rate of the last batches.

        A batch that runs for longer than that has made the rate stale: then at least as long again.
        """
        now = time.monotonic()
        running = [instance for instance in self._instances if instance.batch]
        overdue = max((now - instance.started_at for instance in running), default=0.0)
        if not self._drained_seconds:
            return max(_UNMEASURED_RETRY, overdue)
        rows = self._waiting.rows + sum(ticket.rows for instance in running for ticket in instance.batch)
        rate = self._instance_count * self._drained_rows / self._drained_seconds
        return max(rows / rate, overdue)

    def _unavailable(self) -> ServerError:
        return ServerError(f"The model {self.name!r} is being unloaded.", status=503, code="unavailable")
