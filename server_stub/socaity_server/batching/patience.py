"""Whether an idle instance waits for a fuller batch: pure policy, the clock is passed in.

Waiting for one more row costs every row that waits the time until it comes; it saves the fixed part `a` of the service time
s(n) = a + b·n, which the two would else pay one after the other. So it pays while n · gap < a, with the mean gap between rows.
"""

from __future__ import annotations

import math
from typing import Any

from .cost import CostModel
from .policy import WaitingRoom

__all__ = ["Patience"]

_WEIGHT = 0.05
_LARGEST_STEP = 8.0
"""A gap counts as so many usual ones at most, so that a pause between two bursts does not hide how dense the bursts are."""
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
        self._gap = 0.0
        self._last = 0.0

    def arrived(self, rows: int, now: float) -> None:
        """A call of `rows` rows came."""
        usual = self._gap
        gap = (now - self._last) / rows
        self._last = now
        if usual:
            self._gap = usual + (min(gap, _LARGEST_STEP * usual + 1e-6) - usual) * _WEIGHT
        elif gap < 1.0:
            self._gap = gap + 1e-9

    def pause(self, waiting: WaitingRoom[Any], enough: int, deadline: float, now: float) -> float:
        """Seconds until the next look, while a batch of `enough` rows is not there and waiting for it pays.

        `deadline` is the tightest one of the calls: the batch starts early enough for it.
        """
        fixed = self._cost.fixed
        if not self._longest or not fixed or not self._gap:
            return 0.0
        rows = waiting.next_rows()
        if rows >= enough or rows * self._gap >= fixed:
            return 0.0
        quiet_at = self._last + max(_STALE * self._gap, _SHORTEST)
        oldest = waiting.oldest_arrival()
        assert oldest is not None
        end = min(
            quiet_at,
            oldest + min(fixed, self._longest),
            deadline - self._cost.seconds(rows + 1) - _MARGIN,
        )
        return max(end - now, 0.0)
