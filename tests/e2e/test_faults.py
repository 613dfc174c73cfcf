"""Connections that break and servers that die: resumed without loss or repeat, or lost with a clear error, never a hang."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

import socaity
from socaity.transport import Target, Transport
from socaity_transports._watch import WatchTimes
from socaity_transports.auto import DetectingTransport
from socaity_transports.http import HTTPTransport
from socaity_transports.websocket import WebSocketTransport
from tests.e2e.servers import DEADLINE, CuttingProxy, ServerProcess

WIRES = ["websocket", "http"]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[CuttingProxy]:
    with CuttingProxy(server.port) as cutting:
        yield cutting


def connected(url: str, wire: str) -> socaity.Service:
    target = url.replace("http://", "ws://") if wire == "websocket" else url
    return socaity.connect(target, transport=wire, progress=False)


def wait_for_progress(job: socaity.Job[object]) -> None:
    """Until the job says that it is at its gate; told by its events, not by looking again and again."""
    reached = threading.Event()

    class Watcher:
        def update(self, changed: socaity.Job[object]) -> None:
            if changed.progress.message or changed.done():
                reached.set()

    job._display = Watcher()
    if job.progress.message:
        return
    assert reached.wait(DEADLINE)


@pytest.mark.parametrize("wire", WIRES)
def test_running_job_is_reattached_after_the_connection_broke(
    server: ServerProcess, proxy: CuttingProxy, wire: str
) -> None:
    with connected(proxy.url, wire) as service, connected(server.url, "websocket") as direct:
        job = service.wait_at(f"reattach-{wire}")
        wait_for_progress(job)
        proxy.cut()
        direct.open_gate(f"reattach-{wire}").result(DEADLINE)
        assert job.result(DEADLINE) == f"reattach-{wire}"
        assert direct.runs(f"reattach-{wire}").result(DEADLINE) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_stream_resumes_without_loss_or_repeat(server: ServerProcess, proxy: CuttingProxy, wire: str) -> None:
    with connected(proxy.url, wire) as service, connected(server.url, "websocket") as direct:
        gate = f"stream-{wire}"
        stream = iter(service.count(400, gate=gate, gate_at=200))
        chunks = [next(stream) for _ in range(200)]
        proxy.cut()
        direct.open_gate(gate).result(DEADLINE)
        chunks.extend(stream)
        assert chunks == list(range(400))


def test_stream_survives_connections_that_break_again_and_again(
    server: ServerProcess, proxy: CuttingProxy
) -> None:
    proxy.cut_after(2000, 2500, 3000, 4000, 5000)
    with connected(proxy.url, "websocket") as service:
        assert service.count(3000).result(DEADLINE) == list(range(3000))
    assert proxy.connections > 1


def test_large_array_survives_a_broken_connection(server: ServerProcess, proxy: CuttingProxy) -> None:
    x = np.arange(4_000_000, dtype=np.float32)
    with connected(proxy.url, "websocket") as service:
        job = service.double(x)
        proxy.cut()
        np.testing.assert_array_equal(job.result(DEADLINE), x * 2)


def test_many_calls_survive_a_broken_connection(server: ServerProcess, proxy: CuttingProxy) -> None:
    with connected(proxy.url, "websocket") as service:
        rows = np.random.default_rng(0).random((5000, 64), dtype=np.float32) * 16
        expected = service.digits(rows).result(DEADLINE)
        group = service.digits.map(rows)
        iterator = iter(group)
        first = [next(iterator) for _ in range(10)]
        proxy.cut()
        results = first + list(iterator)
        np.testing.assert_allclose(np.stack(results), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wire", WIRES)
def test_job_of_a_killed_and_restarted_server_is_lost(wire: str) -> None:
    with ServerProcess() as server, connected(server.url, wire) as service:
        job = service.wait_at("never")
        stream = service.count(400, gate="never", gate_at=200)
        wait_for_progress(job)
        reader = iter(stream)
        seen = [next(reader) for _ in range(200)]
        server.kill()
        server.start()
        with pytest.raises(socaity.JobLost):
            job.result(DEADLINE)
        with pytest.raises(socaity.JobLost):
            seen.extend(reader)
        assert seen == list(range(200))
        assert service.open_gate("other").result(DEADLINE) is True


def impatient_socket(target: Target) -> Transport:
    return WebSocketTransport(replace(target, url=target.url.replace("http://", "ws://")), reconnect_for=0.5)


def impatient_http(target: Target) -> Transport:
    return HTTPTransport(target, times=WatchTimes(give_up=0.5))


@pytest.mark.parametrize("wire", [impatient_socket, impatient_http])
def test_job_of_a_server_that_does_not_come_back_is_lost(wire: Callable[[Target], Transport]) -> None:
    with ServerProcess() as server, socaity.connect(server.url, transport=wire, progress=False) as service:
        job = service.wait_at("never")
        wait_for_progress(job)
        server.kill()
        with pytest.raises(socaity.JobLost):
            job.result(DEADLINE)


def test_idempotent_calls_are_sent_again_to_a_restarted_server() -> None:
    with ServerProcess() as server, connected(server.url, "websocket") as service:
        assert service.double(np.ones(3)).result(DEADLINE).tolist() == [2, 2, 2]
        server.kill()
        job = service.double(np.ones(3))
        server.start()
        assert job.result(DEADLINE).tolist() == [2, 2, 2]


def test_submit_waits_for_a_server_that_is_started_later() -> None:
    with ServerProcess() as server:
        service = connected(server.url, "websocket").refresh()
        service.close()
        server.kill()
        late = socaity.connect(
            f"ws://127.0.0.1:{server.port}", progress=False, retry=socaity.RetryPolicy(attempts=50)
        )
        with pytest.raises(socaity.ConnectError, match="is the server running"):
            late.refresh()
        server.start()
        assert late.double(np.ones(2)).result(DEADLINE).tolist() == [2, 2]
        late.close()


def test_argument_that_cannot_be_sent_fails_alone(server: ServerProcess) -> None:
    with connected(server.url, "websocket") as service:
        waiting = service.wait_at("poison")
        with pytest.raises(socaity.InvalidInputError):
            service.echo({"a": {(1, 2): 3}}).result(DEADLINE)
        service.open_gate("poison").result(DEADLINE)
        assert waiting.result(DEADLINE) == "poison"


def test_more_answers_than_fit_into_the_window_all_arrive(server: ServerProcess) -> None:
    with connected(server.url, "websocket") as service:
        group = service.blob.map(range(600), size=200_000)
        assert [len(value) for value in group] == [200_000] * 600


@pytest.mark.parametrize("in_process", [False, True])
def test_result_larger_than_the_client_takes_fails_alone(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, in_process: bool
) -> None:
    from tests.e2e.fault_service import router

    monkeypatch.setattr("socaity_transports._session.MAX_FRAME", 100_000)
    service = socaity.connect(router, progress=False) if in_process else connected(server.url, "websocket")
    with service:
        with pytest.raises(socaity.JobFailed, match="100000"):
            service.blob(1, size=200_000).result(DEADLINE)
        assert len(service.blob(1, size=50_000).result(DEADLINE)) == 50_000


def test_cancel_just_before_closing_arrives(server: ServerProcess) -> None:
    with socaity.connect(server.url, progress=False) as service:
        job = service.wait_at("closing")
        wait_for_progress(job)
        job.cancel()
    with socaity.connect(server.url, progress=False) as service:
        with pytest.raises(socaity.JobCancelled):
            service.job(job.id).result(DEADLINE)
        service.open_gate("closing").result(DEADLINE)


def test_a_call_while_the_server_is_away_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with ServerProcess() as server, connected(server.url, "websocket") as service:
        wire = service._wire()
        assert isinstance(wire, WebSocketTransport)
        assert service.double(np.ones(3)).result(DEADLINE).tolist() == [2, 2, 2]
        told = threading.Event()
        note = wire._note_trouble

        def note_and_tell(error: socaity.SocaityError) -> None:
            note(error)
            told.set()

        wire._note_trouble = note_and_tell  # type: ignore[method-assign]
        server.kill()
        job = service.double(np.ones(3))
        assert told.wait(DEADLINE)
        with pytest.raises(TimeoutError, match=r"is lost and is being made again \(.*Connect call failed"):
            job.result(0)
        server.start()
        assert job.result(DEADLINE).tolist() == [2, 2, 2]
        assert wire.trouble is None
        warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len([text for text in warned if "is lost; trying for 60 s to make it again" in text]) == 1


def test_a_detected_socket_says_so_as_well() -> None:
    with ServerProcess() as server, socaity.connect(server.url, progress=False) as service:
        assert service.double(np.ones(3)).result(DEADLINE).tolist() == [2, 2, 2]
        wire = service._wire()
        assert isinstance(wire, DetectingTransport)
        assert isinstance(wire._inner, WebSocketTransport)
        wire._inner.trouble = "the connection is lost"
        job = service.wait_at("never")
        with pytest.raises(TimeoutError, match="after 0 s; the connection is lost"):
            job.result(0)
        wire._inner.trouble = None
        job.cancel()
