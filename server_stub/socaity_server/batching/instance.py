"""One instance of a model: a thread that runs one batch at a time and reports back to the loop, once per batch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from socaity.exceptions import InvalidInputError, ServerError

from .inline import InlinePolicy
from .ticket import Arrays, BatchRun, Part, Ticket

__all__ = ["Instance"]

_logger = logging.getLogger(__name__)


class Instance:
    """A dedicated thread for `run`. `finished(instance, parts)` is called on `loop` after every batch.

    The thread is a daemon: a model that never returns must not keep the process alive.
    """

    def __init__(
        self,
        run: Callable[[Arrays], Arrays],
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[Instance, list[Part]], None],
        *,
        name: str,
        replay: bool,
        inline: bool = False,
        join: Callable[[Sequence[Ticket]], Arrays] | None = None,
    ) -> None:
        self.policy = InlinePolicy(is_allowed=inline)
        self.batch: list[Ticket] = []
        self.started_at = self._opened = 0.0
        self.is_given_up = False
        """Nobody waits for the batch that runs any more."""
        self.seconds = 0.0
        """How long the last batch took, halves that were run again not counted."""
        self.stopped = asyncio.Event()
        self._run = run
        self._loop = loop
        self._finished = finished
        self._replay = replay
        self._join = join or _joined_inputs
        self._queue: queue.SimpleQueue[list[Ticket] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def start(self, batch: list[Ticket], now: float, *, opened: float) -> None:
        """Run `batch`, for which it waited since `opened`; the instance must be free."""
        self.batch = batch
        self.started_at = now
        self._opened = opened
        self.is_given_up = False
        self._queue.put(batch)

    def run_inline(self, batch: list[Ticket], now: float) -> list[Part]:
        """Run `batch` here and now, on the loop thread."""
        self.started_at = self._opened = now
        parts = self._run_batch(batch)
        self.policy.ran_inline(time.monotonic() - now)
        return parts

    def stop(self) -> None:
        """End the thread after the batch it runs; `stopped` is set then."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the last instructions of a thread that has stopped."""
        self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while self._work_once():
            pass
        self._tell(self.stopped.set)

    def _work_once(self) -> bool:
        # A function of its own, so that an idle thread keeps no arrays alive.
        batch = self._queue.get()
        if batch is not None:
            began, busy = time.monotonic(), time.thread_time()
            parts = self._run_batch(batch)
            self._tell(self._report, parts, time.thread_time() - busy, time.monotonic() - began)
        return batch is not None

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        # A loop that was closed before its batchers takes no more calls: there is nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    def _report(self, parts: list[Part], busy: float, elapsed: float) -> None:
        self.batch = []
        self.policy.ran_on_thread(busy, elapsed)
        self._finished(self, parts)

    def _run_batch(self, tickets: list[Ticket]) -> list[Part]:
        started = time.monotonic()
        self.seconds = 0.0
        parts = self._outcome(tickets, started)
        if not self.seconds:
            self.seconds = time.monotonic() - started
        return parts

    def _outcome(self, tickets: list[Ticket], started: float) -> list[Part]:
        """Run `tickets` together, and in halves if that fails."""
        rows = sum([ticket.rows for ticket in tickets])
        error: Exception
        try:
            outputs = self._run(self._join(tickets))
        except BaseException as exc:
            # The edge: an error that got past it would leave the calls waiting for ever.
            error = _as_error(exc)
            may_replay = self._replay or isinstance(exc, InvalidInputError)  # refused before it ran
            may_replay = may_replay and not self.is_given_up
            if len(tickets) > 1 and may_replay and not _killed_its_process(exc):
                if not self.seconds:
                    self.seconds = time.monotonic() - started
                _logger.debug(
                    "A batch of %d calls raised %s; running its halves.", len(tickets), type(exc).__name__
                )
                wanted = [ticket for ticket in tickets if ticket.on_done is not None]
                middle = (len(wanted) + 1) // 2
                halves = [half for half in (wanted[:middle], wanted[middle:]) if half]
                if halves:
                    return [part for half in halves for part in self._outcome(half, time.monotonic())]
        else:
            wrong = _what_is_wrong(outputs, rows)
            if wrong is None:
                return [Part(tickets, outputs, None, rows, self._ran(started, tickets, rows))]
            error = ServerError(wrong, code="model_error")
        return [Part(tickets, None, error, rows, self._ran(started, tickets, rows))]

    def _ran(self, started: float, tickets: Sequence[Ticket], rows: int) -> BatchRun:
        return BatchRun(self._opened, started, time.monotonic(), len(tickets), rows)


def _joined_inputs(tickets: Sequence[Ticket]) -> Arrays:
    if len(tickets) == 1:
        return tickets[0].inputs
    return {name: np.concatenate([ticket.inputs[name] for ticket in tickets]) for name in tickets[0].inputs}


def _killed_its_process(exc: BaseException) -> bool:
    """Running the halves of such a batch would only kill the next process."""
    return isinstance(exc, ServerError) and exc.code == "worker_died"


def _as_error(exc: BaseException) -> Exception:
    if isinstance(exc, Exception):
        return exc
    # SystemExit and its like must not stop the loop when the caller raises them there.
    error = ServerError(f"The model tried to end its thread with {type(exc).__name__}.", code="model_error")
    error.__cause__ = exc
    return error


def _what_is_wrong(outputs: object, rows: int) -> str | None:
    """Why `outputs` cannot be handed out to calls of `rows` rows, or None."""
    if not isinstance(outputs, dict) or not outputs:
        returned = "an empty dict" if isinstance(outputs, dict) else type(outputs).__name__
        return f"The model must return a dict of arrays, but returned {returned}."
    for name, array in outputs.items():
        if not isinstance(array, np.ndarray):
            return f"The model's output {name!r} must be an array, not {type(array).__name__}."
        if array.shape[:1] != (rows,):
            return (
                f"The model got {rows} rows, but its output {name!r} has the shape {array.shape}. "
                "Its first axis must be the batch; otherwise turn batching off for this model."
            )
    return None
