"""What an unfinished job costs the client: 10,000 of them, accepted by the server and running."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator

from measurement import Measurement
from process import give_back_memory, need_linux, rss, server

import socaity
from socaity.protocol.events import JobStatus

JOBS = 10_000
FAR = 3600.0


def run() -> Iterator[Measurement]:
    need_linux()
    for text, how in (("resident", _resident), ("by tracemalloc", _traced)):
        with server("service") as one, socaity.connect(one.url, progress=False) as service:
            warm = _start(service, 500)
            grown = how(service)
            assert not any(job.done() for job in warm)
        yield Measurement("memory", f"of an unfinished job, {text}", grown / JOBS / 1024, "KiB", at_most=6)


def _resident(service: socaity.Service) -> int:
    give_back_memory()
    before = rss()
    jobs = _start(service, JOBS)
    give_back_memory()
    grown = rss() - before
    assert not any(job.done() for job in jobs)
    return grown


def _traced(service: socaity.Service) -> int:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    jobs = _start(service, JOBS)
    give_back_memory()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert not any(job.done() for job in jobs)
    return grown


def _start(service: socaity.Service, count: int) -> list[socaity.Job[float]]:
    endpoint = service["finish_at"]
    moment = time.monotonic() + FAR
    jobs = [endpoint(moment) for _ in range(count)]
    deadline = time.monotonic() + 60
    while any(job.status is JobStatus.QUEUED for job in jobs):
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not start all jobs")
        time.sleep(0.1)
    time.sleep(1.0)  # the last acknowledgements
    return jobs
