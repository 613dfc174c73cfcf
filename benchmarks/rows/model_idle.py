"""What our server with five models costs while nobody asks anything: processor time of all its processes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from measurement import Measurement
from peers.contender import contender
from peers.forms import OURS
from peers.processes import cpu_seconds
from process import need_linux

ROW = "model_idle"
SETTLE = 3.0
SECONDS = 20.0


def run() -> Iterator[Measurement]:
    need_linux()
    with contender(OURS, "five") as one:
        time.sleep(SETTLE)
        pids = one.pids()
        before = cpu_seconds(pids)
        time.sleep(SECONDS)
        used = (cpu_seconds(pids) - before) / SECONDS
        assert one.pids() == pids, "processes came or went"
    text = f"five models, {len(pids)} processes, {SECONDS:.0f} s without a request"
    yield Measurement(ROW, text, 100 * used, "% core", at_most=1)
