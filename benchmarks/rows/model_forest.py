"""A random forest of 100 trees, one row a request as JSON: against other servers, and against the model alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import joblib
import numpy as np
from load.closed import rates_in_turns
from load.paired import ratio
from measurement import Measurement
from models.files import model
from peers.contender import inputs
from peers.forms import OURS
from rates import median

ROW = "model_forest"
CONNECTIONS = 64
BATCH = 64
BARE_SECONDS = 2.0
TARGETS = {"mosec": 1.0, "litserve": 6.0}


def run() -> Iterator[Measurement]:
    forest = joblib.load(model("forest").file)
    forest.n_jobs = 1
    batch = np.array(inputs("forest")[:BATCH], np.float32)
    bare: list[float] = []
    found = yield from rates_in_turns(
        ROW,
        "forest",
        connections=CONNECTIONS,
        each_round=lambda: bare.append(_rows_per_second(forest, batch)),
    )
    yield Measurement(ROW, f"forest.predict, batches of {BATCH}, one process, rows/s", median(bare), "/s")
    for name, its in found.items():
        if name != OURS:
            yield Measurement(ROW, f"times {name}", ratio(found[OURS], its), "×", at_least=TARGETS.get(name))
    yield Measurement(ROW, "share of the bare model's rows", 100 * ratio(found[OURS], bare), "%", at_least=70)


def _rows_per_second(forest: object, batch: np.ndarray) -> float:  # type: ignore[type-arg]
    forest.predict(batch)  # type: ignore[attr-defined]
    start = time.perf_counter()
    rows = 0
    while time.perf_counter() < start + BARE_SECONDS:
        forest.predict(batch)  # type: ignore[attr-defined]
        rows += len(batch)
    return rows / (time.perf_counter() - start)
