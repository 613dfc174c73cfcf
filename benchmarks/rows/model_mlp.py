"""The digit network, one row a request as JSON: requests per second against those of other servers."""

from __future__ import annotations

from collections.abc import Iterator

from load.closed import rates_in_turns
from load.paired import ratio
from measurement import Measurement
from peers.forms import OURS

ROW = "model_mlp"
CONNECTIONS = 64
TARGETS = {"mosec": 1.3, "litserve": 15.0, "mlserver": 8.0}


def run() -> Iterator[Measurement]:
    found = yield from rates_in_turns(ROW, "mlp", connections=CONNECTIONS)
    for name, its in found.items():
        if name != OURS:
            yield Measurement(ROW, f"times {name}", ratio(found[OURS], its), "×", at_least=TARGETS.get(name))
