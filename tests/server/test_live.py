"""One snapshot of everything: exact numbers, rates between two looks, and nothing that JSON or a terminal cannot take."""

from __future__ import annotations

import json
import math

import pytest

from socaity.protocol.events import JobStatus
from socaity_server.live import LiveView, ProcessUsage, snapshot
from socaity_server.values import to_json
from tests.server.live_doubles import FakeDataPlane, FakeDirect, FakeStatus


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.anyio
async def test_snapshot_says_what_is_there() -> None:
    direct = FakeDirect("mlp", version="3")
    direct.work(calls=4, rows=2)
    direct.batcher.depth, direct.batcher.queued_calls, direct.batcher.drain_seconds = 5, 3, 0.25
    direct.statistics.failures.update(model=2)
    dataplane = FakeDataPlane(direct)
    dataplane.statuses = [FakeStatus("broken", "failed", None, (), "no such file: x.onnx"), FakeStatus("mlp")]
    dataplane.queues = {"draw": {"waiting": 2, "running": 1}}
    dataplane.add_job(fraction=0.5, message="half")
    shown = json.loads(to_json(await snapshot(dataplane.as_dataplane)))
    assert shown["protocol"] == "socaity.live.v1"
    assert shown["service"]["title"] == "shop"
    assert shown["service"]["state"] == "ready"
    assert shown["service"]["uptime"] >= 0
    broken, mlp = shown["models"]
    assert (broken["name"], broken["state"], broken["served"]) == ("broken", "failed", False)
    assert broken["reason"] == "no such file: x.onnx"
    assert (mlp["name"], mlp["version"], mlp["backend"]) == ("mlp", "3", "onnxruntime 1.20")
    assert mlp["queue"] == {"rows": 5, "calls": 3, "bytes": 0, "limit": 1024, "drain_seconds": 0.25}
    assert mlp["running"] == {"rows": 0, "busy": 0, "instances": 2, "max_batch_size": 32}
    assert mlp["totals"] == {"calls": 6, "succeeded": 4, "failed": {"model": 2}, "rows": 8, "batches": 1}
    assert mlp["breaker"] == {"state": "closed", "opens": 0, "reason": None}
    assert mlp["rates"] is None
    assert mlp["window"] is None
    assert sum(mlp["latency"]["counts"]) == 4
    assert mlp["batch_rows"]["mean"] == 8
    assert shown["queues"] == [{"name": "draw", "waiting": 2, "running": 1}]
    [job] = shown["jobs"]
    assert (job["endpoint"], job["status"], job["fraction"], job["message"]) == (
        "draw",
        "running",
        0.5,
        "half",
    )


def test_rates_are_what_happened_between_two_looks(clock: Clock) -> None:
    direct = FakeDirect("mlp")
    direct.work(calls=100)
    view = LiveView(FakeDataPlane(direct).as_dataplane, clock=clock)
    view.look()
    direct.work(calls=3, rows=4, seconds=0.5)
    direct.work(calls=1, rows=4, seconds=0.5)
    direct.statistics.failures.update(expired=2)
    clock.now += 2
    [shown] = view.look()["models"]
    assert shown["rates"] == {
        "calls": 3.0,
        "rows": 8.0,
        "batches": 1.0,
        "failed": 1.0,
        "mean_batch": 8.0,
        "utilisation": 0.125,
    }


def test_latency_is_that_of_the_window(clock: Clock) -> None:
    direct = FakeDirect("mlp")
    direct.work(calls=1000, seconds=4.0)
    view = LiveView(FakeDataPlane(direct).as_dataplane, clock=clock)
    assert view.look()["models"][0]["latency"]["p50"] > 1
    direct.work(calls=10, seconds=0.001)
    clock.now += 1
    [shown] = view.look()["models"]
    assert shown["latency"]["p99"] <= 0.001
    assert shown["window"] == 1
    for _ in range(7):  # the calls leave the window
        clock.now += 10
        [shown] = view.look()["models"]
    assert shown["window"] is None
    assert shown["latency"]["p50"] > 1


def test_first_look_after_a_pause_has_no_rates(clock: Clock) -> None:
    direct = FakeDirect("mlp")
    view = LiveView(FakeDataPlane(direct).as_dataplane, clock=clock)
    view.look()
    direct.work()
    clock.now += 3600
    shown = view.look()
    assert shown["models"][0]["rates"] is None
    assert shown["service"]["cpu"] is None


def test_replaced_and_removed_models_start_anew(clock: Clock) -> None:
    first = FakeDirect("mlp")
    first.work(calls=50)
    dataplane = FakeDataPlane(first)
    view = LiveView(dataplane.as_dataplane, clock=clock)
    view.look()
    clock.now += 1
    dataplane.models = [FakeDirect("mlp")]
    assert view.look()["models"][0]["rates"] is None
    clock.now += 1
    dataplane.models = []
    assert view.look()["models"] == []


def test_loading_model_of_which_an_older_version_is_served_is_ready(clock: Clock) -> None:
    dataplane = FakeDataPlane(FakeDirect("mlp", version="1"))
    dataplane.statuses = [FakeStatus("mlp", "failed", "2", ("1", "2"), "version 2: bad file")]
    [shown] = LiveView(dataplane.as_dataplane, clock=clock).look()["models"]
    assert (shown["state"], shown["version"], shown["versions"]) == ("ready", "1", ["1", "2"])
    assert shown["reason"] == "version 2: bad file"


def test_time_without_an_end_becomes_null(clock: Clock) -> None:
    direct = FakeDirect("mlp")
    direct.batcher.depth, direct.batcher.drain_seconds = 1, math.inf
    [shown] = LiveView(FakeDataPlane(direct).as_dataplane, clock=clock).look()["models"]
    assert shown["queue"]["drain_seconds"] is None


@pytest.mark.anyio
async def test_jobs_are_those_of_the_owner_and_not_too_long() -> None:
    dataplane = FakeDataPlane()
    dataplane.add_job(JobStatus.FAILED, owner="ann", error={"title": "Oops", "detail": "x" * 10_000})
    dataplane.add_job(owner="bob")
    view = LiveView(dataplane.as_dataplane)
    [job] = await view.jobs("ann")
    assert job["status"] == "failed"
    assert job["message"] == "x" * 500
    assert len(await view.jobs("bob")) == 1
    assert await view.jobs() == []


@pytest.mark.anyio
async def test_service_that_is_not_ready_has_a_snapshot() -> None:
    dataplane = FakeDataPlane()
    dataplane.is_ready, dataplane.is_closing, dataplane.started_at = False, True, None
    shown = await snapshot(dataplane.as_dataplane)
    assert shown["service"]["state"] == "stopping"
    assert shown["service"]["uptime"] is None
    assert shown["jobs"] == []


def test_usage_of_the_process_is_plausible() -> None:
    usage = ProcessUsage.read()
    assert usage.cpu_seconds > 0
    assert usage.resident_bytes is None or usage.resident_bytes > 2**20
    assert usage.open_files is None or usage.open_files >= 3
