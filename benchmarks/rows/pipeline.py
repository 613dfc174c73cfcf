"""Five steps over a long way: how many round trips they cost, and what an intermediate result costs on the client's wire."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measurement import Measurement
from rates import median, percentile

import socaity

sys.path.append(str(Path(__file__).resolve().parents[2]))
from tests.e2e.servers import DelayingProxy, ServerProcess

STEPS = 5
STEP = 0.001
RUNS = 100
ROUND_TRIP = 2 * DelayingProxy.delay
MEGABYTES = 20


def run() -> Iterator[Measurement]:
    name = "pipeline"
    with (
        ServerProcess("pipeline_service:router") as server,
        DelayingProxy(server.port) as proxy,
        socaity.connect(proxy.url, progress=False) as far,
    ):
        yield Measurement(name, "round trip of the link", ROUND_TRIP * 1e3, "ms")
        for endpoint, kind, first in (("add_one", "jobs", 1), ("next", "batched calls", np.float64(1))):
            times = [_chain(far[endpoint], first) for _ in range(RUNS)]
            yield Measurement(
                name,
                f"five {kind} of 1 ms, each the argument of the next, p50",
                median(times) * 1e3,
                "ms",
                at_most=(1.5 * ROUND_TRIP + STEPS * STEP) * 1e3,
            )
            yield Measurement(name, "the same, p99", percentile(times, 99) * 1e3, "ms")
        one_by_one = [_one_by_one(far["add_one"]) for _ in range(5)]
        yield Measurement(name, "the same jobs, each waited for", median(one_by_one) * 1e3, "ms")
        before = proxy.up + proxy.down
        made = far["large"](MEGABYTES)
        assert far["size"](made).result(60) == MEGABYTES * 1_000_000
        yield Measurement(
            name,
            "bytes on the client's wire for an intermediate of 20 MB",
            (proxy.up + proxy.down - before) / 1e3,
            "kB",
            at_most=10,
        )


def _chain(step: socaity.Endpoint, value: object) -> float:
    start = time.perf_counter()
    job = step(value)
    for _ in range(STEPS - 1):
        job = step(job)
    assert job.result(60) == STEPS + 1
    return time.perf_counter() - start


def _one_by_one(step: socaity.Endpoint) -> float:
    start = time.perf_counter()
    value = 1
    for _ in range(STEPS):
        value = step(value).result(60)
    assert value == STEPS + 1
    return time.perf_counter() - start
