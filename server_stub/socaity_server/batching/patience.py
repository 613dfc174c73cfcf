"""Whether an idle instance waits for a fuller batch: pure policy, the clock is passed in.

Calls that go together pay the fixed part `a` of the service time s(n) = a + b·n once. Two things are known of calls to come:

* Rows arrive every `gap` seconds. Waiting for one more costs the n rows that wait n · gap, and saves a: it pays while
  n · gap < a, until the burst is over.
* Clients that wait for their answers come back with their next calls: of the rows that were answered last, about a share
  comes back within a usual time T. Let m of them be missing. Then n rows wait T longer and m rows do not wait for a whole
  batch: it pays while T · (n + m) < a · m. Without that a server splits its clients into groups that take turns, and pays `a`
  for each.

Both are learned from arrivals and answers alone, whether anybody waited or not.
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
_WEIGHT = 0.2
_MOST = 0.9
"""This share of the expected rows makes the return complete: nobody waits for the last straggler."""
_LATE = 1.5
_MANY = 0.5


class Patience:
    """Fed with arrivals and answers; `pause` says how long to wait now, 0 for not at all.

    `longest` (seconds) bounds the wait for a fuller batch; None leaves it to the measured service time alone.
    """

    def __init__(self, cost: CostModel, longest: float | None = None) -> None:
        self.wanted = math.inf
        """With so many rows the wait is over."""
        self._cost = cost
        self._longest = math.inf if longest is None else longest
        self._rate = ArrivalRate()
        self._last = 0.0
        self._share = 0.0
        self._seconds = math.inf
        self._answered_at = -math.inf
        self._answered = 0
        self._returned = 0
        self._complete_after: float | None = None

    def arrived(self, rows: int, now: float) -> None:
        """A call of `rows` rows came."""
        self._last = now
        self._rate.arrived(rows, now)
        self._returned += rows
        if (
            self._complete_after is None
            and self._returned >= _MOST * max(self._share, _MANY) * self._answered
        ):
            self._complete_after = now - self._answered_at

    def answered(self, rows: int, now: float) -> None:
        """`rows` rows were answered: their clients may come back."""
        self._learn(now)
        self._answered_at, self._answered, self._returned = now, rows, 0
        self._complete_after = None

    def expects(self, answered: int, waiting: int, enough: int) -> bool:
        """Whether the clients of the rows that are answered now are worth being waited for, while others wait: then they
        should have their answers before the next batch starts."""
        missing = min(self._share * answered, enough - waiting)
        return (
            bool(self._longest)
            and self._share >= _MANY
            and missing >= 1
            and self._seconds * (waiting + missing) < self._cost.fixed * missing
        )

    def pause(self, waiting: WaitingRoom[Any], enough: int, deadline: float, now: float) -> float:
        """Seconds until the next look, while a batch of `enough` rows is not there and waiting for it pays.

        `deadline` is the tightest one of the calls: the batch starts early enough for it.
        """
        self.wanted = math.inf
        fixed = self._cost.fixed
        if not self._longest or not fixed:
            return 0.0
        rows = waiting.next_rows()
        if rows >= enough:
            return 0.0
        self.wanted = enough
        until = max(self._burst_ends(rows, fixed), self._all_are_back(rows, enough, fixed, now))
        if until <= now:
            return 0.0
        head = waiting.oldest()
        assert head is not None
        oldest: float = head.arrived
        end = min(
            until,
            max(oldest, self._answered_at) + min(fixed, self._longest),
            deadline - self._cost.seconds(rows + 1) - _MARGIN,
        )
        return max(end - now, 0.0)

    def _burst_ends(self, rows: int, fixed: float) -> float:
        gap = self._rate.gap
        if not self._cost.worth_waiting(rows, gap):
            return 0.0
        if self._share >= _MANY and self._returned >= self._share * self._answered:
            return 0.0  # all that were expected are here
        return self._last + max(_STALE * gap, _SHORTEST)

    def _all_are_back(self, rows: int, enough: int, fixed: float, now: float) -> float:
        missing = min(self._share * self._answered - self._returned, enough - rows)
        if self._share < _MANY or missing < 1:
            return 0.0
        until = self._answered_at + _LATE * self._seconds + _SHORTEST
        left = until - now
        if left <= 0 or left * (rows + missing) >= fixed * missing:
            return 0.0
        self.wanted = min(rows + math.ceil(missing), enough)
        return until

    def _learn(self, now: float) -> None:
        """From what came back after the answers before these."""
        if not self._answered:
            return
        share = min(self._returned / self._answered, 1.0)
        seconds = self._complete_after
        if seconds is None:
            seconds = max(now - self._answered_at, self._cost.fixed)
        self._share += (share - self._share) * _WEIGHT
        self._seconds = (
            seconds if self._seconds == math.inf else self._seconds + (seconds - self._seconds) * _WEIGHT
        )
