"""Percentiles, and rates that are measured in turns so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

median = statistics.median


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def per_second(call: Callable[[], Awaitable[object]], *, in_flight: int, seconds: float) -> float:
    """How many calls end per second with `in_flight` tasks that call one after another."""
    import asyncio

    ended = 0
    start = time.perf_counter()
    stop_at = start + seconds

    async def work() -> None:
        nonlocal ended
        while time.perf_counter() < stop_at:
            await call()
            ended += 1

    await asyncio.gather(*[work() for _ in range(in_flight)])
    return ended / (time.perf_counter() - start)
