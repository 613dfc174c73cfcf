"""A call leaves nothing behind that only the garbage collector can give back: neither memory that grows, nor its pauses."""

import gc
import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator

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


@socaity.pipeline
def steps(service: socaity.Service, row: object, number: int) -> object:
    made = service.digits(row)
    passed = service.pass_on(made, fails=number % 3 == 1)
    return service.pass_on([passed, made[0], number])


def run_pipelines(service: socaity.Service, server: ServerProcess) -> None:
    """Of jobs and direct calls; some fail, some are cancelled."""
    row = np.zeros(64, np.float32)

    def fails(number: int) -> object:
        """In a frame of its own, because an error keeps the frame that it was raised in."""
        return type(pipelines[number].exception(DEADLINE))

    pipelines = [steps(service, row, number) for number in range(CALLS // 10)]
    assert [fails(number) for number in range(3)] == [type(None), socaity.JobFailed, type(None)]
    for number in range(CALLS):
        last = service.pass_on(service.pass_on(service.digits(row), fails=number % 3 == 1))
        if number % 3 == 2:
            last.cancel()
        last.exception(DEADLINE)
        wrong = (
            service.digits(service.digits(row)) if number % 2 else service.digits(service.digits(row)["x"])
        )
        assert isinstance(wrong.exception(DEADLINE), socaity.SocaityError)
    made = service.pass_on.map(range(CALLS), concurrency=50)
    assert service.pass_on.map(made, concurrency=50).result(DEADLINE) == list(range(CALLS))
    for job in pipelines:
        job.exception(DEADLINE)


Use = Callable[[socaity.Service, ServerProcess], None]


@pytest.mark.parametrize("use", [call_by_socket, submit_jobs, run_pipelines])
def test_the_client_leaves_no_circles_behind(server: ServerProcess, use: Use) -> None:
    with socaity.connect(server.url, progress=False) as service:
        use(service, server)
        gc.collect()
        gc.garbage.clear()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            use(service, server)
            gc.collect()
        finally:
            gc.set_debug(0)
        found = Counter(type(one).__name__ for one in gc.garbage)
        gc.garbage.clear()
    # other tests of this process may have left something that ends only now
    assert sum(found.values()) < CALLS // 3, found


@pytest.mark.parametrize("use", [call_by_socket, submit_jobs, call_by_http, run_pipelines])
def test_calls_leave_no_circles_behind(server: ServerProcess, use: Use) -> None:
    with socaity.connect(server.url, progress=False) as service:
        use(service, server)  # what is made once is made
        service.watch_garbage().result(DEADLINE)
        use(service, server)
        found = service.garbage().result(DEADLINE)
    assert sum(found.values()) < NOISE, found
