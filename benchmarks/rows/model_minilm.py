"""Sentences of 3 to 120 words to vectors with MiniLM: requests per second against those of other servers.

All run the same Python function (peers/inference.py), twice: the peers as they are quickest, which is when the function takes
the texts of a batch one by one; and when it fills them up to the longest one, as one would write it. Ours fills up in both
cases, and puts texts of about the same length together.
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
    for options, how, target in ((None, "", TARGET), ({"chunk": 0}, ", filling up", None)):
        with contenders("minilm", options=options) as servers:
            found = rates_in_turns(servers, connections=CONNECTIONS)
        yield from measurements(ROW, found, how)
        per_second = rates(found)
        theirs = {name: its for name, its in per_second.items() if name != OURS}
        best = max(theirs, key=lambda name: median(theirs[name]))
        for name, its in theirs.items():
            text = f"times {name}{how}{', the best peer' if name == best else ''}"
            yield Measurement(
                ROW, text, ratio(per_second[OURS], its), "×", at_least=target if name == best else None
            )
