"""Pipelines over two servers: what goes from one to the other, and what goes over the wires of the client."""

from __future__ import annotations

import logging
import socket
import time
import tracemalloc
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import socaity
from socaity import JobCancelled, JobFailed, JobLost
from socaity.protocol.messagepack import unpackb
from socaity_server import SocaityRouter
from tests.e2e.servers import DEADLINE, CuttingProxy, ServerProcess
from tests.e2e.untrusted_source import UntrustedSource, whole

MEGABYTE = 1_000_000


class Two(NamedTuple):
    """Two services as a client sees them, over wires on which the bytes are counted."""

    first: socaity.Service
    second: socaity.Service
    wires: tuple[CuttingProxy, CuttingProxy]

    @property
    def counted(self) -> int:
        return sum(wire.up + wire.down for wire in self.wires)


def let_go(service: socaity.Service, gate: str) -> None:
    """Open a gate at which a step waits, when all that was said before has arrived."""
    service.add_one(1).result(DEADLINE)
    service.open_gate(gate).result(DEADLINE)


def open_wires(*services: socaity.Service) -> None:
    """What a wire can pass on is known when it is open; a call before that takes what it needs as a value."""
    for service in services:
        service.add_one(1).result(DEADLINE)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def server(port: int, *arguments: str) -> ServerProcess:
    process = ServerProcess("pipeline_service:router", *arguments)
    process._port = port
    return process


@pytest.fixture(scope="module")
def first() -> Iterator[ServerProcess]:
    """Makes results; is reached by others past the wire of the client."""
    port = free_port()
    with server(port, "--public-url", f"http://127.0.0.1:{port}") as process:
        yield process


@pytest.fixture(scope="module")
def allowing(first: ServerProcess) -> Iterator[ServerProcess]:
    """Fetches from the first."""
    with server(0, "--fetch-from", first.url) as process:
        yield process


@pytest.fixture(scope="module")
def other() -> Iterator[ServerProcess]:
    """Fetches from nobody."""
    with server(0) as process:
        yield process


def two(first: ServerProcess, second: ServerProcess, **options: Any) -> Iterator[Two]:
    with (
        CuttingProxy(first.port) as wire,
        CuttingProxy(second.port) as other_wire,
        socaity.connect(wire.url, progress=False, **options) as one,
        socaity.connect(other_wire.url, progress=False) as another,
    ):
        open_wires(one, another)
        yield Two(one, another, (wire, other_wire))


@pytest.fixture
def allowed(first: ServerProcess, allowing: ServerProcess) -> Iterator[Two]:
    yield from two(first, allowing)


@pytest.fixture
def not_allowed(first: ServerProcess, other: ServerProcess) -> Iterator[Two]:
    yield from two(first, other)


def test_a_large_result_goes_from_service_to_service(allowed: Two) -> None:
    before = allowed.counted
    made = allowed.first.large(20, gate="large")
    taken = allowed.second.size(made)
    let_go(allowed.first, "large")
    assert taken.result(DEADLINE) == 20 * MEGABYTE
    assert made.done()
    assert allowed.counted - before < 10_000
    assert made.result(DEADLINE).nbytes == 20 * MEGABYTE
    assert allowed.counted - before > 20 * MEGABYTE


def test_a_direct_call_takes_it_and_gives_it(allowed: Two) -> None:
    before = allowed.counted
    taken = allowed.second.total(allowed.first.held_at(np.float64(2)))
    let_go(allowed.first, "direct")
    assert taken.result(DEADLINE) == 2 * MEGABYTE
    assert allowed.counted - before < 10_000


def test_parts_and_branches_travel_alone(allowed: Two) -> None:
    before = allowed.counted
    made = allowed.first.large_parts(5, gate="parts")
    taken = [allowed.second.size(made["parts"][n]) for n in (0, 1)]
    both = allowed.second.size({"a": made["parts"][0], "b": [made["parts"][2], 1]})
    note = allowed.second.echo(made["note"])
    let_go(allowed.first, "parts")
    assert [one.result(DEADLINE) for one in taken] == [5 * MEGABYTE] * 2
    assert both.result(DEADLINE) == 10 * MEGABYTE + 1
    assert note.result(DEADLINE) == "three"
    assert allowed.counted - before < 20_000


def test_a_held_result_is_taken_later(allowed: Two) -> None:
    made = allowed.first.large(8, gate="later")
    there = allowed.first.size(made)
    let_go(allowed.first, "later")
    assert there.result(DEADLINE) == 8 * MEGABYTE
    before = allowed.counted
    assert allowed.second.size(made).result(DEADLINE) == 8 * MEGABYTE
    assert allowed.second.echo(allowed.second.size(made)).result(DEADLINE) == 8 * MEGABYTE
    assert allowed.counted - before < 10_000


def test_small_results_and_streams_are_values(allowed: Two) -> None:
    assert allowed.second.add_one(allowed.first.add_one(1)).result(DEADLINE) == 3
    assert allowed.second.join(allowed.first.words("a b"), by="-").result(DEADLINE) == "a-b"
    rows = allowed.second.add_one.map(allowed.first.add_one.map(range(200)))
    assert rows.result(DEADLINE) == list(range(2, 202))


def test_there_and_back(allowed: Two, first: ServerProcess) -> None:
    made = allowed.first.large(3)
    again = allowed.second.echo(made)
    # the second publishes as well, and the first does not fetch: it comes through here
    assert allowed.first.size(again).result(DEADLINE) == 3 * MEGABYTE


def test_without_leave_it_goes_through_the_client(not_allowed: Two) -> None:
    before = not_allowed.counted
    made = not_allowed.first.large(20, gate="carried 1")
    taken = not_allowed.second.size(made)
    let_go(not_allowed.first, "carried 1")
    assert taken.result(DEADLINE) == 20 * MEGABYTE
    counted = not_allowed.counted - before
    assert 40 * MEGABYTE <= counted < 41 * MEGABYTE
    assert not made._ended  # in pieces: it never was a value here
    # the second has it now
    again = not_allowed.counted
    assert not_allowed.second.size(made).result(DEADLINE) == 20 * MEGABYTE
    assert not_allowed.counted - again < 10_000


# -- what goes wrong between them --------------------------------------------------------------------------------------


class Recording(CuttingProxy):
    """Keeps what goes over it."""

    def __init__(self, port: int) -> None:
        self.said = bytearray()
        super().__init__(port)

    async def _pass_on(self, writer: Any, data: bytes) -> None:
        self.said += data
        await super()._pass_on(writer, data)


@pytest.fixture
def astray(
    caplog: pytest.LogCaptureFixture,
) -> Iterator[tuple[UntrustedSource, ServerProcess, ServerProcess]]:
    """The first says that it is reached where somebody else answers, and the second fetches there."""
    caplog.set_level(logging.INFO, "socaity")
    with UntrustedSource() as source:
        with (
            ServerProcess("pipeline_service:router", "--public-url", f"{source.url}/base") as first,
            ServerProcess("pipeline_service:router", "--fetch-from", source.url) as second,
        ):
            yield source, first, second


def test_what_cannot_be_fetched_is_carried_and_no_key_leaves(
    astray: tuple[UntrustedSource, ServerProcess, ServerProcess], caplog: pytest.LogCaptureFixture
) -> None:
    source, first, second = astray
    source.how = whole(b"lies")
    with (
        CuttingProxy(first.port) as wire,
        Recording(second.port) as other_wire,
        socaity.connect(wire.url, progress=False, api_key="sesame-1", headers={"X-Key": "sesame-2"}) as one,
        socaity.connect(other_wire.url, progress=False) as another,
    ):
        open_wires(one, another)
        made = one.large(8, gate="astray")
        taken = [another.size(made) for _ in range(3)]
        let_go(one, "astray")
        assert [step.result(DEADLINE) for step in taken] == [8 * MEGABYTE] * 3
        assert not made._ended
        assert wire.down > 8 * MEGABYTE
        told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
        assert len([text for text in told if "could not be fetched" in text and source.url in text]) == 3
        assert 1 <= (asked := len(source.heads)) <= 3
        assert wire.down < 10 * MEGABYTE  # once for all three
        assert source.heads[0].startswith(b"GET /base/blobs/")
        assert b"sesame" not in source.heads[0]
        assert b"sesame" not in other_wire.said
        # the second has it now
        assert another.size(made).result(DEADLINE) == 8 * MEGABYTE
        assert len(source.heads) == asked


def test_a_service_that_nobody_reaches_is_no_obstacle(first: ServerProcess) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        ServerProcess("pipeline_service:router", "--public-url", nobody) as one_server,
        ServerProcess("pipeline_service:router", "--fetch-from", nobody) as other_server,
        socaity.connect(one_server.url, progress=False) as one,
        socaity.connect(other_server.url, progress=False) as another,
    ):
        open_wires(one, another)
        made = [one.large(2, gate="unreached"), one.large(3, gate="unreached")]
        taken, direct = another.size(made), another.total(one.held_at(np.float64(1)))
        let_go(one, "unreached")
        let_go(one, "direct")
        assert taken.result(DEADLINE) == 5 * MEGABYTE
        assert direct.result(DEADLINE) == MEGABYTE
        assert not made[0]._ended


def test_a_service_that_is_lost_in_between_fails_what_needs_it(allowing: ServerProcess) -> None:
    port = free_port()
    with (
        server(port, "--public-url", f"http://127.0.0.1:{port}") as lost,
        socaity.connect(allowing.url, progress=False) as another,
        socaity.connect(lost.url, progress=False) as one,
    ):
        made = one.large(2, gate="lost")
        there = one.size(made)
        let_go(one, "lost")
        assert there.result(DEADLINE) == 2 * MEGABYTE
        assert made.done()
        assert not made._ended
        lost.kill()
        lost.start()
        taken = another.size(made)
        last = another.echo(taken)
        with pytest.raises(JobFailed, match=r"echo was not run: .* comes from size") as failed:
            last.result(DEADLINE)
        assert f"(job {made.id} at {lost.url}, for {allowing.url}), which failed" in str(failed.value)
        assert isinstance(made.exception(), JobLost)
        assert another.add_one(1).result(DEADLINE) == 2


def test_a_failed_step_fails_what_takes_it_elsewhere(allowed: Two) -> None:
    failed = allowed.second.size(allowed.first.fail())
    with pytest.raises(
        JobFailed, match=r"size was not run: .*comes from fail .*which failed: ValueError: boom"
    ):
        failed.result(DEADLINE)
    made = allowed.first.large(1, gate="never opened")
    taken = allowed.second.size(made)
    assert taken.cancel()
    with pytest.raises(JobCancelled):
        taken.result(DEADLINE)
    with pytest.raises(JobCancelled):
        made.result(DEADLINE)


def test_a_service_closed_here_while_its_result_is_on_the_way(
    first: ServerProcess, allowing: ServerProcess
) -> None:
    with socaity.connect(allowing.url, progress=False) as another:
        with socaity.connect(first.url, progress=False) as one:
            taken = another.size(one.large(1, gate="never opened"))
            assert another.add_one(1).result(DEADLINE) == 2  # the publication was asked for
        with pytest.raises(JobFailed, match="size was not run"):
            taken.result(DEADLINE)


@pytest.mark.parametrize("wires", [("http", "http"), ("http", "websocket"), ("websocket", "http")])
def test_over_http_results_are_values(
    first: ServerProcess, allowing: ServerProcess, wires: tuple[str, str]
) -> None:
    def connect(server: ServerProcess, wire: str) -> socaity.Service:
        url = server.url.replace("http://", "ws://") if wire == "websocket" else server.url
        return socaity.connect(url, transport=wire, progress=False)

    with connect(first, wires[0]) as one, connect(allowing, wires[1]) as another:
        made = one.large(2)
        assert another.size({"a": made}).result(DEADLINE) == 2 * MEGABYTE
        assert made._ended


def test_a_router_in_this_process_takes_and_gives(first: ServerProcess) -> None:
    def fresh(**options: Any) -> SocaityRouter:
        router = SocaityRouter(**options)

        @router.add_route("/size")
        def size(x: np.ndarray) -> int:
            return int(x.nbytes)

        @router.add_route("/large")
        def large() -> np.ndarray:
            return np.ones(MEGABYTE, np.uint8)

        return router

    with (
        CuttingProxy(first.port) as wire,
        socaity.connect(wire.url, progress=False) as one,
        socaity.connect(fresh(fetch_from=[first.url]), progress=False) as inside,
        socaity.connect(fresh(), progress=False) as shut,
    ):
        inside.refresh()
        open_wires(one)
        before = wire.down
        taken = inside.size(one.large(6, gate="inside"))
        let_go(one, "inside")
        assert taken.result(DEADLINE) == 6 * MEGABYTE
        assert wire.down - before < 10_000
        assert shut.size(one.large(6)).result(DEADLINE) == 6 * MEGABYTE
        assert one.size(inside.large()).result(DEADLINE) == MEGABYTE


def test_connections_that_break_lose_nothing(allowed: Two) -> None:
    made = allowed.first.large(4, gate="after the cut")
    taken = allowed.second.size(made)
    assert allowed.first.add_one(1).result(DEADLINE) == 2
    for wire in allowed.wires:
        wire.cut()
    let_go(allowed.first, "after the cut")
    before = allowed.counted
    assert taken.result(DEADLINE) == 4 * MEGABYTE
    assert allowed.counted - before < 10_000


def test_what_is_carried_takes_no_memory(not_allowed: Two) -> None:
    not_allowed.second.size(not_allowed.first.large(1)).result(DEADLINE)  # libraries are loaded
    made = [not_allowed.first.large(30, gate="carried"), not_allowed.first.large(31, gate="carried")]
    taken = not_allowed.second.size(made)
    tracemalloc.start()
    try:
        let_go(not_allowed.first, "carried")
        assert taken.result(DEADLINE) == 61 * MEGABYTE
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_result_goes_through_a_pipeline_function(allowed: Two) -> None:
    @socaity.pipeline
    def prepared(megabytes: int) -> Any:
        return allowed.first.large_parts(megabytes, gate="prepared")["parts"]

    job = prepared(2)
    taken = allowed.second.size(job)
    deadline = time.monotonic() + DEADLINE
    while not (steps := job.upstream) or not steps[0]._more().passages:
        assert allowed.first.add_one(1).result(DEADLINE) == 2
        assert time.monotonic() < deadline
    before = allowed.counted
    let_go(allowed.first, "prepared")
    assert taken.result(DEADLINE) == 6 * MEGABYTE
    assert allowed.counted - before < 20_000


def test_a_retried_step_takes_what_is_there(allowed: Two) -> None:
    made = allowed.first.large(5, gate="retried")
    failed = allowed.second.fail(made, name="crossing", times=1)
    let_go(allowed.first, "retried")
    taken = allowed.second.size(failed)
    assert isinstance(taken.exception(DEADLINE), JobFailed)
    before = allowed.counted
    assert taken.retry().result(DEADLINE) == 5 * MEGABYTE
    assert allowed.counted - before < 10_000


def test_a_published_result_is_for_whom_has_the_token(first: ServerProcess, allowing: ServerProcess) -> None:
    with (
        socaity.connect(first.url, progress=False) as one,
        socaity.connect(allowing.url, progress=False) as another,
    ):
        open_wires(one, another)
        made = one.large(1, gate="token")
        taken = another.size(made)
        let_go(one, "token")
        taken.result(DEADLINE)
        (passage,) = (made._more().passages or {}).values()
        sha, token = passage.reference["$packed"], passage.reference["token"]
    url = f"{first.url}/blobs/{sha}"
    for headers in ({}, {"Socaity-Token": "x" * 32}):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=DEADLINE)
        assert refused.value.code == 404
        refused.value.close()
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Socaity-Token": token}), timeout=DEADLINE
    ) as answer:
        assert unpackb(answer.read()).nbytes == MEGABYTE
