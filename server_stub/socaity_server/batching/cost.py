"""How long a batch takes, by its rows: an online fit of s(n) = a + b·n. Pure; the times are passed in.

The fit is least squares with weights that fall off exponentially with age, kept as weighted means (n, s, n², n·s), so that a
batch costs the same however many came before (P. C. Young, *Recursive Estimation and Time-Series Analysis*, 2011). Three things
are not as in the textbook:

- Errors are relative to the time, as those of a computer are: a batch weighs (s(typical)/s(n))².
- Batches of one size say nothing about how their time divides into a and b. As far as the sizes do not spread, the ratio of
  before is kept and only the level is fitted; before anything is known a = 0, which never makes anybody wait.
- One batch counts as a few times its prediction at most: a garbage collection or a busy neighbour is not the model.
"""

from __future__ import annotations

import math

__all__ = ["ArrivalRate", "CostModel"]

_WEIGHT = 0.05
_WARM_UP = 8
_OUTLIER = 3.0
"""So many times the prediction is the most that a batch counts as; a model that did become slower is followed in steps."""
_COLD = 1 / 3
_SPREAD = 0.01
"""Trust in the ratio of before, as a share of the mean of n²."""
_LEAST_WEIGHT, _MOST_WEIGHT = 1e-4, 1e2
_LARGEST_STEP = 8.0
_SMALLEST_STEP = 1e-6


class CostModel:
    """`fixed` (a) and `per_row` (b) are in seconds and never negative; both are 0.0 until something is known.

    With `fixed` or `per_row`, from a measurement at load, the fit starts there (both 0: nothing was measured).
    Raises ValueError for ones that are no times.
    """

    __slots__ = ("_count", "_n", "_nn", "_ns", "_s", "fixed", "is_measured", "per_row")

    def __init__(self, fixed: float | None = None, per_row: float | None = None) -> None:
        for name, value in (("fixed", fixed), ("per_row", per_row)):
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a time in seconds, not {value}.")
        self.fixed = fixed or 0.0
        self.per_row = per_row or 0.0
        self.is_measured = self.fixed + self.per_row > 0
        self._count = 0
        self._n = self._s = self._nn = self._ns = 0.0

    def seconds(self, rows: float) -> float:
        """What a batch of `rows` rows takes; 0.0 while nothing is known."""
        return self.fixed + self.per_row * rows

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of `rows` rows took `seconds`. What cannot be a measurement is ignored."""
        if rows < 1 or not 0.0 <= seconds < math.inf:
            return
        self.is_measured = True
        count = self._count
        if not count and (self.fixed or self.per_row):
            # As if batches of this size had come before, so that nothing looks like a spread that is only a change of level.
            self._count = count = _WARM_UP
            self._remember(rows, self.fixed + self.per_row * rows)
        mean_rows, mean_seconds = self._n, self._s
        if mean_seconds <= 0.0 or (
            # More rows take no less time than fewer do: the batches before were those of a cold model.
            count < _WARM_UP and rows >= mean_rows and seconds < _COLD * mean_seconds
        ):
            self._count = 1
            self._remember(rows, seconds)
            self._solve()
            return
        fixed, per_row = self.fixed, self.per_row
        predicted = fixed + per_row * rows
        if count >= _WARM_UP and seconds > _OUTLIER * predicted > 0.0:
            seconds = _OUTLIER * predicted
        weight = 1.0
        if predicted > 0.0:
            weight = (fixed + per_row * mean_rows) / predicted
            weight = min(max(weight * weight, _LEAST_WEIGHT), _MOST_WEIGHT)
        gain = _WEIGHT if count >= 1 / _WEIGHT else 1 / (count + 1)
        gain = gain * weight / (1.0 - gain + gain * weight)
        self._count = count + 1
        self._n = mean_rows + gain * (rows - mean_rows)
        self._s = mean_seconds + gain * (seconds - mean_seconds)
        self._nn += gain * (rows * rows - self._nn)
        self._ns += gain * (rows * seconds - self._ns)
        self._solve()

    def worth_waiting(self, rows: int, gap: float) -> bool:
        """Whether waiting for one more row pays for `rows` that wait, with `gap` seconds between arriving rows.

        They wait `rows` · `gap` in all, and spare the fixed part of a batch.
        """
        return rows * gap < self.fixed

    def _remember(self, rows: int, seconds: float) -> None:
        self._n, self._s, self._nn, self._ns = float(rows), seconds, float(rows * rows), rows * seconds

    def _solve(self) -> None:
        n, s, nn = self._n, self._s, self._nn
        before = self.fixed + self.per_row * n
        ratio = self.per_row * s / before if before > 0.0 else s / n
        trust = _SPREAD * nn
        slope = (self._ns - n * s + trust * ratio) / (nn - n * n + trust)
        if slope <= 0.0:
            self.fixed, self.per_row = s, 0.0
        elif slope * n >= s:
            self.fixed, self.per_row = 0.0, self._ns / nn
        else:
            self.fixed, self.per_row = s - slope * n, slope


class ArrivalRate:
    """`gap`: mean seconds between arriving rows, the recent ones weighing more; inf before the second call.

    A gap counts as a few usual ones at most, so that a pause between two bursts does not hide how dense the bursts are.
    """

    __slots__ = ("_last", "gap")

    def __init__(self) -> None:
        self.gap = math.inf
        self._last: float | None = None

    def arrived(self, rows: int, now: float) -> None:
        """A call of `rows` rows came at `now` (seconds of any monotonic clock)."""
        last, self._last = self._last, now
        if last is None or rows < 1:
            return
        gap, usual = max(now - last, 0.0) / rows, self.gap
        if usual == math.inf:
            self.gap = gap
        else:
            self.gap = usual + (min(gap, _LARGEST_STEP * usual + _SMALLEST_STEP) - usual) * _WEIGHT
