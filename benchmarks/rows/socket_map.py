"""`.map` over 100,000 rows."""

from __future__ import annotations

import time
from collections.abc import Iterator

import digits
from measurement import Measurement
from process import server
from rates import median

import socaity

ROWS = 100_000
ROUNDS = 3


def run() -> Iterator[Measurement]:
    rows = digits.rows(ROWS)
    rates = []
    with server("service") as one, socaity.connect(one.url, progress=False) as service:
        model = service["digits"]
        model.map(rows[:5000]).result(60)
        for _ in range(ROUNDS):
            start = time.perf_counter()
            results = model.map(rows).result(120)
            rates.append(ROWS / (time.perf_counter() - start))
            assert len(results) == ROWS
    yield Measurement("socket_map", ".map over 100,000 rows", median(rates), "/s", at_least=40_000)
