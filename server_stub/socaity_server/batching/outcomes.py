"""Hands out what a batch gave, row by row, and counts it."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Iterable

from ..statistics import ModelStatistics
from .padding import Padding
from .refusals import reason
from .ticket import Part, Piece, Ticket

__all__ = ["Outcomes"]

_logger = logging.getLogger(__name__)


class Outcomes:
    """Calls `on_done` of every ticket of a batch that still wants its outcome. For the loop thread."""

    def __init__(self, name: str, statistics: ModelStatistics, padding: Padding | None) -> None:
        self.name = name
        self.statistics = statistics
        self._padding = padding

    def deliver(self, parts: Iterable[Part], now: float) -> None:
        """Outputs are handed out as views, errors to each call of their part."""
        statistics = self.statistics
        latency = statistics.latency
        counts, bounds = latency.counts, latency.bounds
        cut = None if self._padding is None else self._padding.cut
        for part in parts:
            outputs, error, started = part.outputs, part.error, part.started
            items = [] if outputs is None else list(outputs.items())
            queued, start = 0.0, 0
            for ticket in part.tickets:
                end = start + ticket.rows
                on_done = ticket.on_done
                if on_done is not None:
                    ticket.on_done = None
                    ticket.part = part
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
                    try:
                        if error is not None:
                            on_done(None, error)
                        elif cut is None:
                            on_done({name: array[start:end] for name, array in items}, None)
                        else:
                            on_done(
                                {name: cut(name, array[start:end], ticket) for name, array in items}, None
                            )
                    except Exception:  # one caller's mistake must not reach the others
                        _logger.exception("A callback for a result of the model %s raised.", self.name)
                start = end
            statistics.queue_seconds += queued

    def count(self, ticket: Ticket, error: BaseException | None, now: float | None = None) -> None:
        """A call has its outcome."""
        statistics = self.statistics
        statistics.latency.observe((time.monotonic() if now is None else now) - ticket.arrived)
        if error is None:
            statistics.succeeded += 1
        else:
            statistics.failures[reason(error)] += 1
