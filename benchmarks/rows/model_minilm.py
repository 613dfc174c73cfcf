"""Sentences of 3 to 120 words to vectors with MiniLM: requests per second against those of other servers.

All run the same Python function, which puts texts of about the same length together (see peers/inference.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from load.closed import rates_in_turns
from load.paired import ratio
from measurement import Measurement
from peers.forms import OURS
from rates import median

ROW = "model_minilm"
CONNECTIONS = 32


def run() -> Iterator[Measurement]:
    found = yield from rates_in_turns(ROW, "minilm", connections=CONNECTIONS)
    best = max((name for name in found if name != OURS), key=lambda name: median(found[name]))
    yield Measurement(ROW, f"times the best peer, {best}", ratio(found[OURS], found[best]), "×", at_least=1.3)
