"""Plain counters and histograms of what the server does. Written on the loop thread only, read by whoever shows them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

__all__ = ["Histogram", "ModelStatistics"]

# Of the first seed, in its unit; 0.1 ms and 0.5 ms are ours, because most calls of small models end below 1 ms.
LATENCY_BOUNDS = tuple(ms / 1000 for ms in (0.1, 0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000))
SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """`counts[i]` values were at most `bounds[i]` and above the bound before; the last count has no bound."""

    __slots__ = ("bounds", "count", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.sum += value

    def quantile(self, share: float) -> float | None:
        """About the value that `share` (0 to 1) of the values do not exceed; None before the first one."""
        if not self.count:
            return None
        wanted = share * self.count
        seen = 0
        for number, count in enumerate(self.counts):
            if count and seen + count >= wanted:
                if number == len(self.bounds):
                    return self.bounds[-1]
                lower = self.bounds[number - 1] if number else 0.0
                return lower + (self.bounds[number] - lower) * (wanted - seen) / count
            seen += count
        return self.bounds[-1]


class ModelStatistics:
    """What one model did since the server started, over all its versions. Times are in seconds.

    `failures` counts calls by reason: `rejected` (queue, deadline or breaker: not run), `expired` (deadline passed),
    `cancelled` (the client went away), `model` (the model raised). Calls with bad input are `invalid`.
    """

    __slots__ = (
        "batch_rows",
        "batches",
        "by_size",
        "compute_seconds",
        "failed_seconds",
        "failures",
        "last_batch_at",
        "latency",
        "queue_seconds",
        "rows",
        "succeeded",
    )

    def __init__(self) -> None:
        self.succeeded = 0
        self.failures: Counter[str] = Counter()
        self.rows = 0
        self.batches = 0
        self.queue_seconds = 0.0
        """Of all calls together, before their batch began."""
        self.compute_seconds = 0.0
        """Of all batches together."""
        self.latency = Histogram(LATENCY_BOUNDS)
        """From the arrival of a call in the batcher to its outcome, failures included."""
        self.failed_seconds = 0.0
        """What of `latency` failures took."""
        self.batch_rows = Histogram(SIZE_BOUNDS)
        self.by_size: dict[int, list[float]] = {}
        """How many batches of so many rows succeeded, and the seconds that they ran."""
        self.last_batch_at: float | None = None
        """When the last batch ended, in seconds since the epoch."""

    def ran(self, rows: int, seconds: float) -> None:
        """A batch has succeeded, or the half of one that was run again."""
        entry = self.by_size.get(rows)
        if entry is None:
            entry = self.by_size[rows] = [0, 0.0]
        entry[0] += 1
        entry[1] += seconds
