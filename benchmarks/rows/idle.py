"""What a connection on which nothing happens costs, in CPU time of both sides."""

from __future__ import annotations

import time
from collections.abc import Iterator

from measurement import Measurement
from process import cpu_seconds, need_linux, server

import socaity

SECONDS = 20.0
SETTLE = 2.0


def run() -> Iterator[Measurement]:
    need_linux()
    with server("service") as one, socaity.connect(one.url, progress=False):
        time.sleep(SETTLE)
        before, server_before = cpu_seconds(), cpu_seconds(one.pid)
        time.sleep(SECONDS)
        mine = (cpu_seconds() - before) / SECONDS
        its = (cpu_seconds(one.pid) - server_before) / SECONDS
    yield Measurement("idle", f"client, connected for {SECONDS:.0f} s", 100 * mine, "% core", at_most=1)
    yield Measurement("idle", f"server, connected for {SECONDS:.0f} s", 100 * its, "% core", at_most=1)
