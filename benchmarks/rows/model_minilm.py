"""Sentences of 3 to 120 words to vectors with MiniLM: requests per second against those of other servers.

All, ours too, run the same Python function, which puts texts of about the same length together (see peers/inference.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from load.closed import measurements, rates, rates_in_turns
from load.paired import contenders, ratio
from measurement import Measurement
from peers.forms import OURS
from rates import median

ROW = "model_minilm"
CONNECTIONS = 32
TARGET = 1.3


def run() -> Iterator[Measurement]:
    with contenders("minilm") as servers:
        found = rates_in_turns(servers, connections=CONNECTIONS)
    yield from measurements(ROW, found)
    per_second = rates(found)
    theirs = {name: its for name, its in per_second.items() if name != OURS}
    best = max(theirs, key=lambda name: median(theirs[name]))
    for name, its in theirs.items():
        times = ratio(per_second[OURS], its)
        text = f"times {name}, the best peer" if name == best else f"times {name}"
        yield Measurement(ROW, text, times, "×", at_least=TARGET if name == best else None)
