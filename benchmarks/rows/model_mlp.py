"""The digit network, one row a request as JSON: requests per second against those of other servers."""

from __future__ import annotations

from collections.abc import Iterator

from load.closed import measurements, rates, rates_in_turns
from load.paired import contenders, ratio
from measurement import Measurement
from peers.forms import OURS

ROW = "model_mlp"
CONNECTIONS = 64
TARGETS = {"mosec": 1.3, "litserve": 15.0, "mlserver": 8.0}


def run() -> Iterator[Measurement]:
    with contenders("mlp") as servers:
        found = rates_in_turns(servers, connections=CONNECTIONS)
    yield from measurements(ROW, found)
    per_second = rates(found)
    for name, its in per_second.items():
        if name != OURS:
            times = ratio(per_second[OURS], its)
            yield Measurement(ROW, f"times {name}", times, "×", at_least=TARGETS.get(name))
