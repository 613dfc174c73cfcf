"""From the end of a job at the server to `result()` returning, with 1,000 jobs in flight, one thread waiting for each.

The clock is the monotonic one, which all processes of a Linux machine share.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator

from measurement import Measurement
from process import server
from rates import percentile

import socaity

JOBS = 1000
SUBMIT_SECONDS = 4.0
SPREAD_SECONDS = 4.0


def run() -> Iterator[Measurement]:
    for transport, text, most in (("websocket", "socket", 0.0), ("http", "HTTP", 3.0)):
        with server("service", "--count") as one:
            url = one.url.replace("http", "ws", 1) if transport == "websocket" else one.url
            with socaity.connect(url, transport=transport, progress=False) as service:
                service["finish_at"](time.monotonic()).result(60)
                before = _requests(one.url)
                delays, late = _delays(service)
                requests = _requests(one.url) - before
        for percent in (50, 99):
            target = 25.0 if percent == 99 else None
            value = percentile(delays, percent) * 1e3
            yield Measurement(
                "completion", f"{text}: end of the job to result(), p{percent}", value, "ms", at_most=target
            )
        yield Measurement("completion", f"{text}: requests per job", requests / JOBS, at_most=most)
        if late:
            yield Measurement("completion", f"{text}: jobs that ended before all were submitted", late)


def _delays(service: socaity.Service) -> tuple[list[float], int]:
    """The delays of all jobs, which end at even distances, and how many ended before all were submitted."""
    delays: list[float] = []
    endpoint = service["finish_at"]
    first = time.monotonic() + SUBMIT_SECONDS

    def wait(job: socaity.Job[float]) -> None:
        ended = job.result(120)
        delays.append(time.monotonic() - ended)

    threads = []
    for index in range(JOBS):
        job = endpoint(first + SPREAD_SECONDS * index / JOBS)
        thread = threading.Thread(target=wait, args=(job,))
        thread.start()
        threads.append(thread)
    late = len(delays)
    for thread in threads:
        thread.join(120)
    assert len(delays) == JOBS
    return delays, late


def _requests(url: str) -> int:
    with urllib.request.urlopen(url + "/requests", timeout=10) as response:
        return int(response.read())
