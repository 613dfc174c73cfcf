"""What goes on at the service when we stop, leave or come back: jobs by their id, and streams that are cancelled."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import socaity
from socaity import JobCancelled, JobLost, JobStatus, NotFoundError
from socaity_server import SocaityRouter
from tests.e2e.servers import DEADLINE
from tests.server.conftest import serve

WIRES = ["websocket", "http"]


class Remote:
    """A service in this process, and what the test sees of its inside."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.runs = 0
        self.is_stopped = threading.Event()
        self.router = SocaityRouter(provider="fastapi", environment="localhost", result_ttl=3600.0)
        self.url = ""

        @self.router.add_route("/wait", queue_size=10)
        def wait(text: str) -> str:
            self.runs += 1
            assert self.gate.wait(DEADLINE)
            return text

        @self.router.add_route("/endless")
        def endless() -> Iterator[int]:
            number = 0
            try:
                while True:
                    yield number
                    number += 1
            finally:
                self.is_stopped.set()

        @self.router.add_route("/quick", queue_size=10)
        def quick() -> str:
            return "quick"

    def connect(self, wire: str) -> socaity.Service:
        url = self.url.replace("http:", "ws:") if wire == "websocket" else self.url
        return socaity.connect(url, transport=wire, progress=False)


@pytest.fixture
def remote() -> Iterator[Remote]:
    remote = Remote()
    with serve(remote.router) as remote.url:
        yield remote
        remote.gate.set()


@pytest.mark.parametrize("wire", WIRES)
def test_a_job_goes_on_when_we_leave_and_is_found_again_by_its_id(remote: Remote, wire: str) -> None:
    with remote.connect(wire) as service:
        job = service.wait("still here")
        assert service.quick().result(DEADLINE) == "quick"  # the submit before it has arrived as well
    error = job.exception(DEADLINE)
    assert isinstance(error, JobLost)
    assert error.job_id == job.id
    with remote.connect(wire) as again:
        found = again.job(job.id)
        remote.gate.set()
        assert found.result(DEADLINE) == "still here"
    assert remote.runs == 1


@pytest.mark.parametrize("wire", WIRES)
def test_cancelling_a_stream_stops_it_at_the_service(remote: Remote, wire: str) -> None:
    with remote.connect(wire) as service:
        job = service.endless()
        chunks = iter(job)
        assert [next(chunks) for _ in range(3)] == [0, 1, 2]
        assert job.cancel()
        with pytest.raises(JobCancelled):
            for _ in chunks:
                pass
        assert job.status is JobStatus.CANCELLED
        assert remote.is_stopped.wait(DEADLINE)


@pytest.mark.parametrize("wire", WIRES)
def test_readers_of_a_stream_that_somebody_else_cancelled_do_not_hang(remote: Remote, wire: str) -> None:
    with remote.connect(wire) as service, remote.connect("websocket") as other:
        job = service.endless()
        chunks = iter(job)
        next(chunks)
        elsewhere = other.job(job.id)
        elsewhere.cancel()
        for reader in (chunks, iter(elsewhere)):
            with pytest.raises(JobCancelled):
                for _ in reader:
                    pass


@pytest.mark.parametrize("wire", WIRES)
def test_a_job_whose_time_is_over_is_not_found_at_once(wire: str) -> None:
    router = SocaityRouter(provider="fastapi", environment="localhost", result_ttl=0.05)

    @router.add_route("/quick", queue_size=10)
    def quick() -> str:
        return "quick"

    with serve(router) as url:
        url = url.replace("http:", "ws:") if wire == "websocket" else url
        with socaity.connect(url, transport=wire, progress=False) as service:
            job = service.quick()
            assert job.result(DEADLINE) == "quick"
            error: Any = None
            deadline = time.monotonic() + DEADLINE
            while error is None:
                asked = time.monotonic()
                assert asked < deadline
                error = service.job(job.id).exception(DEADLINE)
            assert isinstance(error, NotFoundError)
            assert job.result() == "quick"  # what has arrived stays


@pytest.mark.parametrize("is_new", [True, False])
def test_what_was_called_before_closing_runs(remote: Remote, is_new: bool) -> None:
    service = remote.connect("websocket")
    if not is_new:
        assert service.quick().result(DEADLINE) == "quick"
    with service:
        jobs = [service.wait(str(number)) for number in range(5)]
    errors = [job.exception(DEADLINE) for job in jobs]
    assert {type(error) for error in errors} == {JobLost}
    assert "nobody listens to it any more: the service was closed here" in str(errors[0])
    remote.gate.set()
    with remote.connect("websocket") as again:
        assert [again.job(job.id).result(DEADLINE) for job in jobs] == list("01234")


def test_closing_does_not_wait_for_a_service_that_is_not_there() -> None:
    service = socaity.connect("ws://127.0.0.1:9", progress=False, retry=1)
    job = service.job("0" * 32)
    began = time.monotonic()
    service.close()
    assert time.monotonic() - began < 10
    assert job.exception(DEADLINE) is not None
