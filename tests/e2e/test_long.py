"""Long rounds of faults; only with --long."""

from __future__ import annotations

import random

import numpy as np
import pytest

import socaity
from tests.e2e.servers import DEADLINE, CuttingProxy, ServerProcess

pytestmark = pytest.mark.long


@pytest.mark.timeout(300)
def test_streams_and_calls_survive_thirty_rounds_of_random_cuts() -> None:
    chance = random.Random(7)
    with ServerProcess() as server:
        for _ in range(30):
            with CuttingProxy(server.port) as proxy:
                proxy.cut_after(*[chance.randrange(800, 60_000) for _ in range(6)])
                with socaity.connect(proxy.url.replace("http", "ws"), progress=False) as service:
                    stream = service.count(2000)
                    rows = np.arange(64 * 200, dtype=np.float32).reshape(200, 64) % 17
                    group = service.digits.map(rows)
                    assert stream.result(DEADLINE) == list(range(2000))
                    assert len(group.result(DEADLINE)) == 200


@pytest.mark.timeout(300)
def test_twenty_thousand_jobs_with_cancels_end_exactly_once() -> None:
    chance = random.Random(11)
    ended: list[str] = []
    with ServerProcess() as server, socaity.connect(server.url, progress=False) as service:
        jobs = [service.echo(number) for number in range(20_000)]
        for job in jobs:
            job.add_done_callback(lambda one: ended.append(one.id))
        for job in chance.sample(jobs, 2000):
            job.cancel()
        values = socaity.gather(*jobs).result(120, return_exceptions=True)
    assert sorted(ended) == sorted(job.id for job in jobs)
    for number, value in enumerate(values):
        assert value == number or isinstance(value, socaity.JobCancelled)
