"""Runs calls of one model together: collects them on the event loop, runs the batch on a thread, hands out the rows.

Work-conserving: a free instance starts at the end of the loop turn with whatever has arrived, so that an idle server
adds no delay and batches grow exactly when load grows. Everything but the model itself happens on the loop thread, and
nothing of it is a task, a future or a lock per call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence

from socaity.exceptions import SocaityError

from ..statistics import ModelStatistics
from .admission import predicted_wait, retry_after
from .caution import Caution
from .cost import CostModel
from .instance import Instance
from .outcomes import Outcomes
from .padding import Padding
from .patience import Patience
from .policy import WaitingRoom
from .refusals import (
    expired,
    full,
    internal,
    never_fits,
    says_nothing,
    stuck,
    too_late,
    too_slow,
    unavailable,
)
from .ticket import (
    Arrays,
    ArraysTicket,
    BatchRun,
    OnDone,
    Part,
    Present,
    SplitTicket,
    Ticket,
    bucket_key,
    slices,
    text_bytes,
)

__all__ = ["Batcher", "Ticket"]

_logger = logging.getLogger(__name__)
_UNMEASURED_RETRY = 1.0
_SWEEP_INTERVAL = 0.01
"""Seconds between two looks for calls whose deadline has passed: each looks at all of them."""


class Batcher:
    """Batches the calls of one model. All methods belong to the loop thread of the first `submit`.

    `run` gets the inputs of a batch and gives its outputs, both with one row per row of the calls; it is called on
    `instances` dedicated threads at once. It must not write to its inputs: a batch of one call gets the caller's own
    arrays. An idle instance waits for a fuller batch only while the measured service time says that this pays
    (`Patience`), and never longer than `max_batch_wait` seconds (0: never).

    A batch has at most `max_batch_size` rows; while more than that waits, up to `rush_batch_size`. With `preferred_sizes` it
    is cut at one of them. A batch that raises is run again in halves, so that only the calls that fail alone get the error;
    `replay=False` turns that off for models with side effects. With `inline` a model whose batches take some microseconds
    runs on the loop thread (`InlinePolicy`). At most `queue_rows` rows and `queue_bytes` bytes wait; what runs does not
    count. A batch that takes longer than `run_timeout` seconds is given up: its calls are answered, and `interrupt`, where
    there is one, is called.

    With `has_text` inputs may be arrays of objects, whose texts are counted.

    `on_batch(succeeded, failed, seconds, usual)` is told of every batch: its calls by outcome (those with wrong input are
    neither), how long it took, how long one of its size takes usually (0: not known).
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        *,
        max_batch_size: int,
        rush_batch_size: int | None = None,
        preferred_sizes: Sequence[int] = (),
        max_batch_wait: float | None = 0.0,
        queue_rows: int = 65536,
        queue_bytes: int = 2**30,
        run_timeout: float = math.inf,
        instances: int = 1,
        name: str,
        replay: bool = True,
        inline: bool = False,
        padding: Padding | None = None,
        statistics: ModelStatistics | None = None,
        cost: CostModel | None = None,
        on_batch: Callable[[int, int, float, float], None] | None = None,
        interrupt: Callable[[], object] | None = None,
        present: Present = slices,
        has_text: bool = False,
    ) -> None:
        _check("instances", instances, 1)
        _check("queue_rows", queue_rows, 1)
        _check("max_batch_wait", 0.0 if max_batch_wait is None else max_batch_wait, 0)
        self.name = name
        self.max_batch_size = max_batch_size
        self.rush_batch_size = max(rush_batch_size or 0, max_batch_size)
        self.queue_rows = queue_rows
        self.queue_bytes = queue_bytes
        self.instance_count = instances
        self.statistics = statistics or ModelStatistics()
        self.cost = cost or CostModel()
        self._run = run
        self._run_timeout = run_timeout
        self._replay = replay
        self._inline = inline
        self._padding = padding
        self._present = present
        self._has_text = has_text
        self._outcomes = Outcomes(name, self.statistics, padding, present)
        self._on_batch = on_batch
        self._interrupt = interrupt
        self._waiting: WaitingRoom[Ticket] = WaitingRoom(self.rush_batch_size, preferred=preferred_sizes)
        self._patience = Patience(self.cost, max_batch_wait)
        self._may_wait = True
        self._opened: float | None = None
        """Since when a free instance waits for a fuller batch."""
        """Batches may wait for more rows: not those that run on the loop, for which nothing needs to be learned."""
        self._row_seconds = self.batch_seconds = 0.0
        self._note_cost()
        self._caution = Caution()
        self._given_up: set[Instance] = set()
        self._instances: list[Instance] = []
        self._free: list[Instance] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatch_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._idle: asyncio.Event | None = None
        self._closed = False

    # What waits and runs

    @property
    def depth(self) -> int:
        """The rows that wait for an instance."""
        return self._waiting.rows

    @property
    def queued_calls(self) -> int:
        """The calls that wait; a call in pieces counts once for each."""
        return self._waiting.count

    @property
    def queued_bytes(self) -> int:
        """What the inputs of the calls that wait hold."""
        return self._waiting.size

    @property
    def running_rows(self) -> int:
        """The rows in the batches that run."""
        return sum(ticket.rows for instance in self._instances for ticket in instance.batch)

    @property
    def busy_instances(self) -> int:
        """The instances that run a batch."""
        return sum(bool(instance.batch) for instance in self._instances)

    @property
    def is_idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not self._waiting.rows and not self.busy_instances

    # Calls

    def submit(
        self,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        key: Hashable = None,
        *,
        deadline: float = math.inf,
        max_wait: float = math.inf,
        priority: int = 0,
        single: bool = False,
        as_arrays: bool = False,
    ) -> Ticket:
        """Ask for the outputs of `inputs`, whose first axes all have `rows` rows.

        `on_done(outputs, None)` or `on_done(None, error)` is called later on the loop thread, never from here. The
        outputs are views of the batch's, in the form that `present` gives them, which is told whether they are of a
        `single` item; with `as_arrays` they are arrays by name, all with a batch axis. `key`, where the caller knows it,
        spares looking at the inputs: calls of one
        key have the same names, dtypes and shapes apart from the rows. More than a batch of rows runs in pieces and
        comes back as one.

        After `deadline` (of `time.monotonic`) the call fails with ServerError 504 `deadline_exceeded`. Each level of
        `priority` overtakes some of the calls that came earlier.

        Raises `ServerError` (503) with an honest `retry_after` and the code `queue_full`; `too_late` where the answer
        would come after the deadline, or later than `max_wait` seconds from now; `unavailable` after `aclose`.
        Raises `InvalidInputError` for rows that do not match or could never be queued.
        """
        loop = self._loop or self._start()
        if self._closed:
            raise unavailable(self.name)
        waiting = self._waiting
        size = 0
        for array in inputs.values():
            size += array.nbytes
        if self._has_text:
            size += text_bytes(inputs)
        if waiting.rows + rows > self.queue_rows or waiting.size + size > self.queue_bytes:
            self.statistics.failures["rejected"] += 1
            raise self._refusal(rows, size)
        if key is None:
            key = (bucket_key if self._padding is None else self._padding.key)(inputs, rows)
        now = time.monotonic()
        if self._given_up and self.is_stuck:
            self.statistics.failures["rejected"] += 1
            raise stuck(self.name, self._residual(now)[1])
        if self._may_wait:
            self._patience.arrived(rows, now)
        if waiting.rows and (deadline != math.inf or max_wait != math.inf):
            allowed = min(deadline - now, max_wait)
            # Who has more time than all that waits can take needs no closer look.
            most = (waiting.rows + rows) * self._row_seconds + self.batch_seconds
            if most * self._caution.factor > allowed:
                self._check_time(rows, allowed, now)
        if rows > waiting.max_rows:
            ticket: Ticket = SplitTicket(
                self,
                key,
                inputs,
                rows,
                on_done,
                now,
                deadline,
                priority,
                size,
                room=waiting,
                present=slices if as_arrays else self._present,
            )
        else:
            kind = ArraysTicket if as_arrays else Ticket
            ticket = kind(self, key, inputs, rows, on_done, now, deadline, priority, size, single)
            waiting.add(ticket)
        is_urgent = deadline < self._sweep_at  # a pause may have been meant for calls with more time
        if is_urgent:
            self._sweep_no_later_than(deadline)
        if (
            self._free
            and not self._dispatch_scheduled
            and (self._timer is None or is_urgent or waiting.rows >= self._patience.wanted)
        ):
            self._dispatch_scheduled = True
            loop.call_soon(self._dispatch_soon)
        return ticket

    def discard(self, ticket: Ticket) -> None:
        """Called by a ticket that does not wait any more."""
        self._waiting.discard(ticket)
        self._tell_if_idle()

    def cancelled(self, ticket: Ticket) -> None:
        """Called by a ticket whose caller has gone."""
        self.statistics.failures["cancelled"] += 1

    def ended(self, ticket: Ticket, error: BaseException | None) -> None:
        """Called by a ticket in pieces that has its outcome."""
        self._outcomes.count(ticket, error)

    def seconds_to_drain(self) -> float:
        """When all that runs and waits now will be done, by the measured service time.

        A batch that runs for longer than usual has made that stale: then at least as long again.
        """
        residual, overdue = self._residual(time.monotonic())
        wait = predicted_wait(
            self._waiting.rows, residual, 0, self.cost, self.instance_count, self.rush_batch_size
        )
        return max(wait, overdue)

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing waits or runs. False: after `timeout` seconds something still did."""
        if self.is_idle:
            return True
        idle = self._idle = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await idle.wait()
        except TimeoutError:
            return False
        return True

    def refuse_waiting(self) -> None:
        """Answer all that waits: it will not be run here any more."""
        self._fail(self._waiting.take_all(), unavailable(self.name))

    async def aclose(self, timeout: float = 10.0) -> None:
        """Refuse the calls that wait, let those that run finish for at most `timeout` seconds, and end the threads."""
        self._closed = True
        for timer in (self._timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._sweep_timer = None
        self._fail(self._waiting.take_all(), unavailable(self.name))
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
                self._fail(instance.batch, unavailable(self.name))

    # Batches

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.get_running_loop()
        for number in range(self.instance_count):
            instance = Instance(
                self._run,
                loop,
                self._finished,
                name=f"{self.name}-{number}",
                replay=self._replay,
                inline=self._inline,
                join=None if self._padding is None else self._padding.join,
            )
            self._instances.append(instance)
        self._free = list(self._instances)
        return loop

    def _dispatch_later(self) -> None:
        """Dispatch in the next turn of the loop."""
        if not self._dispatch_scheduled and self._loop is not None:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch_soon)

    def _dispatch_soon(self) -> None:
        self._dispatch_scheduled = False
        self._dispatch()

    def _timer_fired(self) -> None:
        self._timer = None
        self._dispatch()

    def _dispatch(self) -> None:
        """Give every free instance a batch, unless waiting for a fuller one pays."""
        try:
            self._dispatch_batches()
        except Exception as exc:  # the edge of the loop: callers must not wait for ever for a mistake of ours
            _logger.exception("The batcher of the model %s failed; the calls that waited fail.", self.name)
            self._fail(self._waiting.take_all(), internal(self.name, exc))

    def _dispatch_batches(self) -> None:
        loop, waiting = self._loop, self._waiting
        assert loop is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._free and waiting.rows:
            now = time.monotonic()
            if now >= self._sweep_at:
                self._sweep(now)
                continue
            instance = self._free[-1]
            is_inline = instance.policy.is_inline
            if not is_inline:
                pause = self._patience.pause(waiting, self.max_batch_size, self._sweep_at, now)
                if pause > 0:
                    if self._opened is None:
                        self._opened = now
                    self._timer = loop.call_later(pause, self._timer_fired)
                    return
            limit = self.rush_batch_size if waiting.rows > self.max_batch_size else self.max_batch_size
            if self._sweep_at != math.inf:
                self._drop_late(limit, now)
                if not waiting.rows:
                    return
            batch = waiting.take(limit)
            self._free.pop()
            opened, self._opened = self._opened, None
            if not is_inline:
                self._note_start(batch, now)
                instance.start(batch, now, opened=now if opened is None else opened)
                continue
            # one batch a turn, so that the loop gets to its sockets in between
            self._finished_inline(instance, instance.run_inline(batch, now))
            return

    def _drop_late(self, limit: int, now: float) -> None:
        """Answer the calls for which the next batch would come too late, so that it has only others. Where that is all of them
        they run nevertheless: else nothing would be learned of a model that has become quicker."""
        waiting = self._waiting
        oldest = waiting.oldest()
        end = now + self.cost.seconds(min(limit, waiting.rows))
        if oldest is None or oldest.deadline > end:
            return
        late = waiting.take_expired(end)
        if not waiting.rows:
            for ticket in late:
                if ticket.deadline > now:
                    waiting.add(ticket)
            late = [ticket for ticket in late if ticket.deadline <= now]
        if late:
            self._caution.some_were_late()
            self._fail(late, expired(self.name))

    def _note_start(self, batch: list[Ticket], now: float) -> None:
        end = now + self._run_timeout
        if end < self._sweep_at:
            self._sweep_no_later_than(end)

    def _finished_inline(self, instance: Instance, parts: list[Part]) -> None:
        try:
            self._count_batch(instance, parts)
        finally:
            if self._waiting.rows:
                self._dispatch_later()
            self._deliver(parts)

    def _finished(self, instance: Instance, parts: list[Part]) -> None:
        """Called by `instance` on the loop thread: start its next batch before handing out this one."""
        try:
            try:
                self._count_batch(instance, parts)
            except BaseException:
                self._dispatch_later()
                raise
            waiting = self._waiting.rows
            if waiting and not self._closed:
                rows = sum([part.rows for part in parts])
                if self._patience.expects(rows, waiting, self.max_batch_size):
                    self._dispatch_later()
                else:
                    self._dispatch()
        finally:
            self._deliver(parts)

    def _count_batch(self, instance: Instance, parts: list[Part]) -> None:
        self._free.append(instance)
        was_given_up = instance in self._given_up
        self._given_up.discard(instance)
        self._may_wait = not instance.policy.is_inline
        seconds = instance.seconds
        first = parts[0]
        rows = first.run.rows if len(parts) == 1 else sum([part.rows for part in parts])
        usual = self.cost.seconds(rows)
        succeeded = failed = 0
        for part in parts:
            if part.error is None:
                succeeded += len(part.tickets)
            elif not says_nothing(part.error):
                failed += len(part.tickets)
        if len(parts) == 1 and first.error is None:  # what was refused, or run again in halves, says nothing
            # what it takes from here, the ways to the thread and back included: that is what others wait for
            self.cost.observe(rows, max(time.monotonic() - instance.started_at, seconds))
            self._note_cost()
            self._caution.batch_ended()
        statistics = self.statistics
        statistics.batches += 1
        statistics.rows += rows
        statistics.compute_seconds += seconds
        statistics.batch_rows.observe(rows)
        statistics.last_batch_at = time.time()
        for part in parts:
            if part.error is None:
                statistics.ran(part.rows, part.run.ended - part.run.started)
        if self._on_batch is not None and not was_given_up:  # which it was told then
            self._on_batch(succeeded, failed, seconds, usual)

    def _note_cost(self) -> None:
        """What a row and a batch take at most."""
        self._row_seconds = self.cost.seconds(1)
        self.batch_seconds = self.cost.seconds(self.rush_batch_size)

    def _deliver(self, parts: list[Part]) -> None:
        now = time.monotonic()
        if self._may_wait:
            self._patience.answered(sum([part.rows for part in parts]), now)
        self._outcomes.deliver(parts, now)
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self._idle is not None and self.is_idle:
            self._idle.set()

    def _fail(self, tickets: Sequence[Ticket], error: SocaityError) -> None:
        if tickets:
            now = time.monotonic()
            rows = sum(ticket.rows for ticket in tickets)
            self._deliver([Part(tickets, None, error, rows, BatchRun(now, now, now, 0, 0))])

    # Deadlines

    def _sweep_no_later_than(self, at: float) -> None:
        assert self._loop is not None
        self._sweep_at = at
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        self._sweep_timer = self._loop.call_later(max(at - time.monotonic(), 0.0), self._sweep_now)

    def _sweep_now(self) -> None:
        # not compared with the clock again: some loops fire up to a millisecond early
        self._sweep(max(time.monotonic(), self._sweep_at))

    def _sweep(self, now: float) -> None:
        """Answer the calls whose time is up, whether they wait or run, and look when to look again."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        late = self._waiting.take_expired(now)
        earliest = min((ticket.deadline for ticket in self._waiting), default=math.inf)
        given_up: list[Ticket] = []
        for instance in self._instances:
            if not instance.batch:
                continue
            end = instance.started_at + self._run_timeout
            for ticket in instance.batch:
                if ticket.on_done is None:
                    continue
                if ticket.deadline <= now:
                    late.append(ticket)
                elif end <= now:
                    given_up.append(ticket)
                else:
                    earliest = min(earliest, ticket.deadline)
            if end <= now:
                self._give_up_on(instance, now)
            elif not instance.is_given_up:
                earliest = min(earliest, end)
        self._sweep_at = math.inf
        if earliest != math.inf and not self._closed:
            self._sweep_no_later_than(max(earliest, now + _SWEEP_INTERVAL))
        if late:
            self._caution.some_were_late()
        self._fail(late, expired(self.name))
        self._fail(given_up, too_slow(self.name, self._run_timeout))

    def _give_up_on(self, instance: Instance, now: float) -> None:
        if instance.is_given_up:
            return
        instance.is_given_up = True
        self._given_up.add(instance)
        _logger.error(
            "A batch of the model %s runs for more than %s s; its calls fail.", self.name, self._run_timeout
        )
        if self._on_batch is not None:
            calls = sum(ticket.on_done is not None for ticket in instance.batch)
            self._on_batch(0, max(calls, 1), now - instance.started_at, 0.0)
        if self._interrupt is not None:
            self._interrupt()

    # Admission

    def _check_time(self, rows: int, allowed: float, now: float) -> None:
        """Raises ServerError where the answer would come later than `allowed` seconds from now."""
        residual, _ = self._residual(now)
        state = (residual, rows, self.cost, self.instance_count, self.rush_batch_size)
        wait = predicted_wait(self._waiting.rows, *state) * self._caution.factor
        if wait <= allowed:
            return
        self.statistics.failures["rejected"] += 1
        later = retry_after(self._waiting.rows, *state, allowed=allowed / self._caution.factor)
        raise too_late(self.name, wait, allowed, later)

    @property
    def is_stuck(self) -> bool:
        """Every instance runs a batch that was given up."""
        return bool(self._given_up) and len(self._given_up) == self.instance_count

    def _residual(self, now: float) -> tuple[float, float]:
        """What is left of the batches that run, added up, and by how much the latest of them is overdue; seconds."""
        residual = overdue = 0.0
        for instance in self._instances:
            if instance.batch:
                left = self.cost.seconds(sum([ticket.rows for ticket in instance.batch]))
                left -= now - instance.started_at
                residual += max(left, 0.0)
                overdue = max(overdue, -left)
        return residual, overdue

    def _refusal(self, rows: int, size: int) -> Exception:
        if rows > self.queue_rows:
            return never_fits(f"{rows} rows", self.queue_rows, "too_many_rows")
        if size > self.queue_bytes:
            return never_fits(f"{size} bytes", self.queue_bytes, "too_large")
        what = f"{self.depth} of {self.queue_rows} rows"
        if self._waiting.rows + rows <= self.queue_rows:
            what = f"{self.queued_bytes} of {self.queue_bytes} bytes"
        wait = self.seconds_to_drain()
        return full(self.name, what, wait if self.cost.is_measured else max(_UNMEASURED_RETRY, wait))

    def __iter__(self) -> Iterator[Ticket]:
        """The calls that wait."""
        return iter(self._waiting)


def _check(name: str, value: float, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")
