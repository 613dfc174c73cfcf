"""Three times more requests than our server can answer, each to be answered within half a second or refused.

The model is a forest of 4,000 trees in batches of 16: a quicker one is too quick for a generator in Python that shares the two
cores. What the server can do, its capacity, is measured just before, in a closed loop over the same connections.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import uvloop
from load.open_loop import Answers, Generator
from measurement import Measurement
from peers.contender import Contender, contender
from peers.forms import OURS
from peers.processes import resident
from rates import percentile

ROW = "model_overload"
HEADER = "X-Request-Timeout-Ms: 500\r\n"
CONNECTIONS = 1500
IN_FLIGHT = 64
CAPACITY_SECONDS = 4.0
NORMAL_SECONDS = 4.0
SECONDS, QUICK_SECONDS = 30.0, 5.0
FACTOR = 3.0
AFTER_SECONDS = 4.0
WINDOW = 0.25
BACK = 2.0
"""Recovered: the p99 of a window is at most so many times the one before the overload, and so are all later ones."""


def run() -> Iterator[Measurement]:
    with contender(OURS, "forest_large") as one:
        yield from uvloop.run(_measure(one))


async def _measure(one: Contender) -> list[Measurement]:
    seconds = QUICK_SECONDS if os.environ.get("BENCHMARK_QUICK") else SECONDS
    bodies = one.bodies.read_bytes().splitlines()
    async with Generator(one.url, bodies, connections=CONNECTIONS, headers=HEADER) as generator:
        await generator.closed_loop(IN_FLIGHT, 1.0)
        closed = await generator.closed_loop(IN_FLIGHT, CAPACITY_SECONDS)
        capacity = closed.per_second(CAPACITY_SECONDS, 200)
        normal = await generator.open_loop(capacity / 2, NORMAL_SECONDS)
        before, _ = resident(one.pids())
        flood = await generator.open_loop(FACTOR * capacity, seconds)
        after = await generator.open_loop(capacity / 2, AFTER_SECONDS)
        grown = resident(one.pids())[0] - before
    usual = percentile(normal.latencies(200), 99)
    refused = [
        answered - sent
        for sent, answered, status in zip(flood.sent, flood.answered, flood.status, strict=True)
        if status == 503
    ]
    found = [
        Measurement(ROW, f"capacity: closed loop, {IN_FLIGHT} in flight", capacity, "/s"),
        Measurement(ROW, "p99 at half of it", usual * 1e3, "ms"),
        Measurement(ROW, f"offered for {seconds:.0f} s", len(flood.due) / seconds, "/s"),
        Measurement(ROW, "how late the generator was, p99", flood.late() * 1e3, "ms"),
        Measurement(
            ROW,
            "answered, of the capacity",
            100 * flood.per_second(seconds, 200) / capacity,
            "%",
            at_least=90,
        ),
    ]
    for percent in (50, 99):
        value = percentile(flood.latencies(200), percent) * 1e3
        found.append(Measurement(ROW, f"answered within, p{percent}", value, "ms"))
    for percent in (50, 99):
        value = percentile(refused, percent) * 1e3 if refused else 0.0
        found.append(Measurement(ROW, f"refused (503) within, p{percent}", value, "ms", at_most=10))
    others = sum(status not in (200, 503) for status in flood.status)
    found += [
        Measurement(ROW, "too late (504) or otherwise failed", 100 * others / len(flood.status), "%"),
        Measurement(ROW, "without any answer", flood.lost, at_most=0),
        Measurement(ROW, "growth of the resident memory", grown / 2**20, "MiB", at_most=10),
        Measurement(
            ROW, f"until the p99 is normal (≤ {BACK:.0f} ×) again", _recovery(after, usual), "s", at_most=1
        ),
    ]
    return found


def _recovery(after: Answers, usual: float) -> float:
    """The seconds after which all windows have about the usual p99, and no refusals."""
    start, back = after.due[0] if after.due else 0.0, 0.0
    start = min(after.due, default=start)
    windows: dict[int, list[float]] = {}
    for due, answered, status in zip(after.due, after.answered, after.status, strict=True):
        latency = answered - due if status == 200 else float("inf")
        windows.setdefault(int((due - start) / WINDOW), []).append(latency)
    for number, latencies in sorted(windows.items()):
        if percentile(latencies, 99) > BACK * usual:
            back = (number + 1) * WINDOW
    return back
