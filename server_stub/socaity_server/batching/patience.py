"""Whether an idle instance waits for a fuller batch: pure policy, the clock is passed in.

Waiting for one more row costs every row that waits the time until it comes; it saves the fixed part `a` of the service time
s(n) = a + b·n, which the two would else pay one after the other. So it pays while n · gap < a, with the mean gap between rows.
"""

from __future__ import annotations

import math
from typing import Any

from .cost import ArrivalRate, CostModel
from .policy import WaitingRoom

__all__ = ["Patience"]

_STALE = 4.0
"""So many usual gaps without a new row mean that the burst is over."""
_SHORTEST = 100e-6
_MARGIN = 0.001


class Patience:
    """Fed with arrivals; `pause` says how long to wait now, 0 for not at all.

    `longest` (seconds) bounds the wait of the oldest call; None leaves it to the measured service time alone.
    """

    def __init__(self, cost: CostModel, longest: float | None = None) -> None:
        self._cost = cost
        self._longest = math.inf if longest is None else longest
        self._rate = ArrivalRate()
        self._last = 0.0

    def arrived(self, rows: int, now: float) -> None:
        """A call of `rows` rows came."""
        self._last = now
        self._rate.arrived(rows, now)

    def pause(self, waiting: WaitingRoom[Any], enough: int, deadline: float, now: float) -> float:
        """Seconds until the next look, while a batch of `enough` rows is not there and waiting for it pays.

        `deadline` is the tightest one of the calls: the batch starts early enough for it.
        """
        fixed, gap = self._cost.fixed, self._rate.gap
        if not self._longest or not fixed:
            return 0.0
        rows = waiting.next_rows()
        if rows >= enough or not self._cost.worth_waiting(rows, gap):
            return 0.0
        quiet_at = self._last + max(_STALE * gap, _SHORTEST)
        oldest = waiting.oldest_arrival()
        assert oldest is not None
        end = min(
            quiet_at,
            oldest + min(fixed, self._longest),
            deadline - self._cost.seconds(rows + 1) - _MARGIN,
        )
        return max(end - now, 0.0)
