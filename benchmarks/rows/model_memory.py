"""Memory: of our server with the digit network against Mosec's, of a request that waits, and over time under load.

Of all processes together. PSS counts pages that processes share once, RSS once for each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
from load.closed import post
from measurement import Measurement
from peers.contender import Contender, contender
from peers.forms import OURS
from peers.processes import resident
from process import need_linux

import socaity

ROW = "model_memory"
CONNECTIONS = 64
CALLS = 10_000
PAYLOAD = 64 * 4
WARM_SECONDS = 10
PIECE_SECONDS = 5


def run() -> Iterator[Measurement]:
    need_linux()
    theirs = []
    for name, text, options in (
        ("mosec", "mosec with its best options", {}),
        ("mosec", "mosec with one worker", {"num": 1}),
    ):
        with contender(name, "mlp", options=options) as one:
            post(one, connections=CONNECTIONS, seconds=2)
            rss, pss = resident(one.pids())
        theirs.append(pss)
        yield Measurement(ROW, f"{text}: PSS (RSS {rss / 1e6:.0f} MB)", pss / 1e6, "MB")
    with contender(OURS, "mlp") as one:
        post(one, connections=CONNECTIONS, seconds=2)
        rss, pss = resident(one.pids())
        yield Measurement(ROW, f"socaity: PSS (RSS {rss / 1e6:.0f} MB)", pss / 1e6, "MB", at_most=150)
        yield Measurement(ROW, "times mosec's PSS, best options", pss / theirs[0], "×", at_most=1)
        yield Measurement(ROW, "times mosec's PSS, one worker", pss / theirs[1], "×")
        yield from _over_time(one)
    with contender(OURS, "blocked") as one:
        each = _of_a_waiting_call(one)
    text = f"a waiting call, of {CALLS:,} on one socket, beyond its {PAYLOAD} bytes"
    yield Measurement(ROW, text, (each - PAYLOAD) / 1024, "KiB", at_most=4)


def _over_time(one: Contender) -> Iterator[Measurement]:
    seconds = 60 * float(os.environ.get("BENCHMARK_MINUTES", "1"))
    post(one, connections=CONNECTIONS, seconds=WARM_SECONDS)
    before, _ = resident(one.pids())
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        post(one, connections=CONNECTIONS, seconds=PIECE_SECONDS)
    grown = resident(one.pids())[0] - before
    yield Measurement(ROW, f"growth in {seconds / 60:g} min of load", grown / 2**20, "MiB", at_most=5)


def _of_a_waiting_call(one: Contender) -> float:
    """Bytes of resident memory of the server for each call that waits behind one that sleeps."""
    row = np.zeros(64, np.float32)
    with socaity.connect(one.origin, progress=False) as service:
        model = service[one.model.name]
        model(row).result(30)
        blocking = model(np.full(64, 3600, np.float32))
        warm = [model(row) for _ in range(500)]
        time.sleep(1.0)
        before, _ = resident(one.pids())
        jobs = [model(row) for _ in range(CALLS)]
        time.sleep(3.0)
        grown = resident(one.pids())[0] - before
        assert not any(job.done() for job in (blocking, *warm, *jobs))
    return grown / CALLS
