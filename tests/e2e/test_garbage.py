"""A call leaves nothing behind that only the garbage collector can give back: neither memory that grows, nor its pauses."""

import http.client
import json
from collections.abc import Iterator

import numpy as np
import pytest

import socaity
from tests.e2e.servers import DEADLINE, ServerProcess

CALLS = 300
NOISE = 20
"""Objects that one connection more or less, or a timer, may leave: far fewer than one for each call."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("garbage_service:router") as process:
        yield process


def call_by_socket(service: socaity.Service, server: ServerProcess) -> None:
    row = np.zeros(64, np.float32)
    jobs = [service.digits(row) for _ in range(CALLS)]
    assert all(len(job.result(DEADLINE)) == 10 for job in jobs)


def submit_jobs(service: socaity.Service, server: ServerProcess) -> None:
    jobs = [service.work(number) for number in range(CALLS)]
    assert [job.result(DEADLINE) for job in jobs] == list(range(CALLS))


def call_by_http(service: socaity.Service, server: ServerProcess) -> None:
    body = json.dumps({"features": [[0.0] * 64]})
    for _ in range(CALLS // 10):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        for _ in range(10):
            connection.request("POST", "/predict/digits", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert (answer.status, len(json.load(answer)["predictions"][0])) == (200, 10)
        connection.close()


@pytest.mark.parametrize("use", [call_by_socket, submit_jobs, call_by_http])
def test_calls_leave_no_circles_behind(server: ServerProcess, use: object) -> None:
    assert callable(use)
    with socaity.connect(server.url, progress=False) as service:
        use(service, server)  # what is made once is made
        service.watch_garbage().result(DEADLINE)
        use(service, server)
        found = service.garbage().result(DEADLINE)
    assert sum(found.values()) < NOISE, found
