"""Hands out what a batch gave, row by row, and counts it."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

from ..sparing_log import SparingLog
from ..statistics import ModelStatistics
from .padding import Padding
from .refusals import reason
from .ticket import Arrays, Part, Piece, Present, Ticket, slices

__all__ = ["Outcomes"]

_logger = logging.getLogger(__name__)


class Outcomes:
    """Calls `on_done` of every ticket of a batch that still wants its outcome. For the loop thread."""

    def __init__(
        self, name: str, statistics: ModelStatistics, padding: Padding | None, present: Present
    ) -> None:
        self.name = name
        self.statistics = statistics
        self._log = SparingLog(_logger)
        self._padding = padding
        self._present = present

    def deliver(self, parts: Iterable[Part], now: float) -> None:
        """Outputs are handed out as `present` gives them, errors to each call of their part."""
        statistics = self.statistics
        latency = statistics.latency
        counts, bounds = latency.counts, latency.bounds
        for part in parts:
            outputs, error, run = part.outputs, part.error, part.run
            started = run.started
            give = None if outputs is None or self._padding is not None else self._present(outputs)
            queued, start = 0.0, 0
            for ticket in part.tickets:
                end = start + ticket.rows
                on_done = ticket.on_done
                if on_done is not None:
                    ticket.on_done = None
                    ticket.run = run
                    queued += started - ticket.arrived
                    if type(ticket) is not Piece:
                        if error is None:  # the same as `count`, without its calls
                            statistics.succeeded += 1
                            took = now - ticket.arrived
                            latency.sum += took
                            latency.count += 1
                            counts[bisect_left(bounds, took)] += 1
                        else:
                            self.count(ticket, error, now)
                    answer, fault = None, error
                    if error is None:
                        try:
                            if give is not None and type(ticket) is Ticket:
                                answer = give(start, end, ticket.single)
                            else:
                                answer = self._cut(outputs or {}, ticket, start, end)
                        except Exception as exc:  # this row has no form that can be sent
                            fault = exc
                            self._log.failed(self.name, exc)
                    try:
                        on_done(answer, fault)
                    except Exception:  # one caller's mistake must not reach the others
                        _logger.exception("A callback for a result of the model %s raised.", self.name)
                start = end
            statistics.queue_seconds += queued

    def _cut(self, outputs: Arrays, ticket: Ticket, start: int, end: int) -> Any:
        """The answer of a piece, of a call that was filled up, or of one that wants arrays."""
        rows = slices(outputs)(start, end, False)
        if self._padding is not None:
            rows = {name: self._padding.cut(name, array, ticket) for name, array in rows.items()}
        if type(ticket) is not Ticket:
            return rows
        return self._present(rows)(0, ticket.rows, ticket.single)

    def count(self, ticket: Ticket, error: BaseException | None, now: float | None = None) -> None:
        """A call has its outcome."""
        statistics = self.statistics
        took = (time.monotonic() if now is None else now) - ticket.arrived
        statistics.latency.observe(took)
        if error is None:
            statistics.succeeded += 1
        else:
            why = reason(error)
            statistics.failures[why] += 1
            statistics.failed_seconds += took
            if why == "model":
                self._log.failed(self.name, error)
