"""A random forest of 100 trees, one row a request as JSON: against other servers, and against the model alone.

Our server does not call `forest.predict` for such small batches: it asks the trees itself and gets the same bits (see
`socaity_server/runtimes/forest.py`). So the ratios to the peers, and the share of the bare model, are of two things: how the
rows are brought together, and this. What of it is the server alone is measured, too: Mosec with our way of asking the trees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from load.closed import measurements, rates, rates_in_turns
from load.paired import contenders, ratio
from measurement import Measurement
from models.files import model
from peers.contender import inputs
from peers.forms import OURS
from rates import median

import socaity_server
from socaity_server.runtimes.forest import quick_forest

ROW = "model_forest"
CONNECTIONS = 64
BATCH = 64
BARE_SECONDS = 1.5
TARGETS = {"mosec": 1.0, "litserve": 6.0}
QUICK = str(Path(socaity_server.__file__).parent / "runtimes" / "forest.py")


def run() -> Iterator[Measurement]:
    forest = joblib.load(model("forest").file)
    forest.n_jobs = 1
    batch = np.array(inputs("forest")[:BATCH], np.float32)
    bare: list[float] = []
    with contenders("forest") as servers:
        found = rates_in_turns(
            servers,
            connections=CONNECTIONS,
            each_round=lambda: bare.append(_rows_per_second(forest.predict, batch)),
        )
    yield from measurements(ROW, found)
    yield Measurement(ROW, f"forest.predict alone, batches of {BATCH}, rows/s", median(bare), "/s")
    per_second = rates(found)
    for name, its in per_second.items():
        if name != OURS:
            times = ratio(per_second[OURS], its)
            yield Measurement(ROW, f"times {name}", times, "×", at_least=TARGETS.get(name))
    share = 100 * ratio(per_second[OURS], bare)
    yield Measurement(ROW, "share of forest.predict alone", share, "%", at_least=70)

    quick = quick_forest(forest, "predict")
    if quick is not None:
        with contenders("forest", (OURS, "mosec"), options={"quick": QUICK}) as servers:
            per_second = rates(rates_in_turns(servers, connections=CONNECTIONS))
        alone = _rows_per_second(quick, batch)
        yield Measurement(ROW, f"our way of asking the trees alone, batches of {BATCH}", alone, "/s")
        yield Measurement(ROW, "mosec with our way of asking the trees", median(per_second["mosec"]), "/s")
        times = ratio(per_second[OURS], per_second["mosec"])
        yield Measurement(ROW, "times mosec with our way of asking the trees", times, "×")


def _rows_per_second(predict: Callable[[Any], Any], batch: np.ndarray[Any, Any]) -> float:
    """In this process, on one thread."""
    predict(batch)
    start = time.perf_counter()
    rows = 0
    while time.perf_counter() < start + BARE_SECONDS:
        predict(batch)
        rows += len(batch)
    return rows / (time.perf_counter() - start)
