"""A thread that makes 20,000 calls and then reads 20,000 results."""

from __future__ import annotations

import time
from collections.abc import Iterator

import digits
from measurement import Measurement
from process import server
from rates import median

import socaity

CALLS = 20_000
ROUNDS = 7


def run() -> Iterator[Measurement]:
    row = digits.rows(1)[0]
    rates = []
    with server("service") as one, socaity.connect(one.url, progress=False) as service:
        model = service["digits"]
        for _ in range(ROUNDS + 1):
            start = time.perf_counter()
            jobs = [model(row) for _ in range(CALLS)]
            for job in jobs:
                job.result(60)
            rates.append(CALLS / (time.perf_counter() - start))
    yield Measurement(
        "socket_sync", "20,000 calls, then 20,000 results", median(rates[1:]), "/s", at_least=40_000
    )
