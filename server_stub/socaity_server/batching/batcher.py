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
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError, ServerError

from .instance import Instance, Part
from .policy import Entry, WaitingRoom, row_slices

__all__ = ["Batcher", "Ticket"]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
OnDone: TypeAlias = Callable[[Arrays | None, BaseException | None], None]

_logger = logging.getLogger(__name__)
_NO_ARRAYS: Arrays = {}
_MEMORY = 0.9  # of the drain rate: an older batch counts 0.9 times the next one
_UNMEASURED_RETRY = 1.0


class Ticket(Entry):
    """A submitted call. Its outcome goes to `on_done`, once, unless it is cancelled first."""

    __slots__ = ("_room", "inputs", "on_done")

    def __init__(
        self,
        room: WaitingRoom[Ticket],
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
    ) -> None:
        # Not super().__init__: this runs once per call, and the extra call costs a tenth of it.
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.order = 0
        self.waiting = False
        self.bucket = None
        self.inputs = inputs
        self.on_done: OnDone | None = on_done
        self._room = room

    def cancel(self) -> None:
        """Take the call back: it does not run if it still waits, and `on_done` is not called any more."""
        self.on_done = None
        if self.waiting:
            self._room.discard(self)
            self.inputs = _NO_ARRAYS


class Batcher:
    """Batches the calls of one model. All methods belong to the loop thread of the first `submit`.

    `run` gets the inputs of a batch and gives its outputs, both with one row per row of the calls; it is called on
    `instances` dedicated threads at once. It must not write to its inputs: a batch of one call gets the caller's own
    arrays. With `max_batch_wait` (seconds) an idle instance waits that long for a fuller batch.

    A batch that raises is run again in halves, so that only the calls that fail alone get the error; `replay=False`
    turns that off for models with side effects. At most `queue_rows` rows wait; rows that run do not count.
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
        self._waiting: WaitingRoom[Ticket] = WaitingRoom(max_batch_size, max_batch_wait)
        self._instance_count = instances
        self._instances: list[Instance[Ticket]] = []
        self._free: list[Instance[Ticket]] = []
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

    def submit(self, inputs: Arrays, rows: int, on_done: OnDone) -> Ticket:
        """Ask for the outputs of `inputs`, whose first axes all have `rows` rows.

        `on_done(outputs, None)` or `on_done(None, error)` is called later on the loop thread, never from here. The
        outputs are views of the batch's. More than `max_batch_size` rows run in pieces and come back as one.

        Raises `ServerError` (503) with the code `queue_full` and an honest `retry_after`, or `unavailable` after
        `aclose`; `InvalidInputError` for rows that do not match or could never be queued.
        """
        loop = self._loop or self._start()
        if self._closed:
            raise self._unavailable()
        waiting = self._waiting
        if waiting.rows + rows > self.queue_rows:
            raise self._refusal(rows)
        key = _bucket_key(inputs, rows)
        arrived = time.monotonic() if self.max_batch_wait else 0.0
        if rows > self.max_batch_size:
            ticket: Ticket = _SplitTicket(waiting, key, inputs, rows, on_done, arrived)
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
            instance = Instance[Ticket](self._run, loop, self._finished, name=name, replay=self._replay)
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
            self._free.pop().start(batch, now)

    def _finished(self, instance: Instance[Ticket], parts: list[Part[Ticket]]) -> None:
        """Called by `instance` on the loop thread: start its next batch before handing out this one."""
        rows = sum(part.rows for part in parts)
        self._drained_rows = self._drained_rows * _MEMORY + rows
        self._drained_seconds = self._drained_seconds * _MEMORY + time.monotonic() - instance.started_at
        self._free.append(instance)
        if self._waiting.rows:
            self._dispatch()
        self._deliver(parts)

    def _deliver(self, parts: Iterable[Part[Ticket]]) -> None:
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


class _SplitTicket(Ticket):
    """A call of more rows than fit into a batch: waits in pieces, and answers when the last one is there."""

    __slots__ = ("_pieces", "_results")

    def __init__(
        self,
        room: WaitingRoom[Ticket],
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
    ) -> None:
        super().__init__(room, key, inputs, rows, on_done, arrived)
        self._pieces: list[Ticket] = []
        self._results: dict[int, Arrays] = {}
        for number, cut in enumerate(row_slices(rows, room.max_rows)):
            piece_inputs = {name: array[cut] for name, array in inputs.items()}
            piece = Ticket(room, key, piece_inputs, cut.stop - cut.start, self._receiver(number), arrived)
            self._pieces.append(piece)
            room.add(piece)

    def cancel(self) -> None:
        """Take back every piece."""
        self.on_done = None
        self._results.clear()
        for piece in self._pieces:
            piece.cancel()

    def _receiver(self, number: int) -> OnDone:
        return lambda outputs, error: self._receive(number, outputs, error)

    def _receive(self, number: int, outputs: Arrays | None, error: BaseException | None) -> None:
        on_done = self.on_done
        if on_done is None:
            return
        joined = None
        if outputs is not None:
            self._results[number] = outputs
            if len(self._results) < len(self._pieces):
                return
            try:
                joined = _concatenated([self._results[n] for n in range(len(self._pieces))])
            except (KeyError, ValueError) as exc:
                error = ServerError(f"The outputs of the pieces of a large call do not fit together: {exc}")
                error.__cause__ = exc
        self.cancel()
        on_done(joined, error)


def _concatenated(batches: list[Arrays]) -> Arrays:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def _bucket_key(inputs: Arrays, rows: int) -> Hashable:
    """Calls with the same key may be put together: the same names, dtypes and shapes apart from the rows."""
    if len(inputs) == 1:
        for name, array in inputs.items():
            shape = array.shape
            if shape and shape[0] == rows > 0:
                return (name, array.dtype, shape[1:])
    elif inputs and rows > 0 and all(array.shape[:1] == (rows,) for array in inputs.values()):
        return tuple(sorted((name, array.dtype, array.shape[1:]) for name, array in inputs.items()))
    shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items()) or "no inputs"
    raise InvalidInputError(f"Every input must have {rows} rows, and at least one; these are {shapes}.")
