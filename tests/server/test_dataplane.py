"""The data plane and what it is made of: progress, workers, values, references, concurrency, draining."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import datetime
import enum
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from socaity.exceptions import InvalidInputError, JobCancelled, JobFailed, NotFoundError, ServerError
from socaity.protocol.events import JobEvent, JobStatus
from socaity_server.dataplane import DataPlane
from socaity_server.progress import Channel, JobProgress
from socaity_server.route import Route
from socaity_server.tensors import TensorInput, TensorInputs
from socaity_server.values import to_json, to_plain
from socaity_server.workers import WorkerThreads

from .conftest import SOON, Gate

pytestmark = pytest.mark.anyio


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    plane = DataPlane()
    await plane.start()
    yield plane
    await plane.aclose(grace=0.0)


def add(plane: DataPlane, path: str, function: Any, **options: Any) -> Route:
    route = Route.from_function(path, function, **options)
    plane.add(route)
    return route


async def ended(plane: DataPlane, job_id: str) -> Any:
    record = await plane.wait(job_id, SOON)
    assert record.status.is_terminal
    return record


async def test_progress_log_and_result_come_in_order(plane: DataPlane) -> None:
    def work(job_progress: JobProgress) -> str:
        job_progress._message, job_progress._progress = "half", 0.5
        job_progress.log("line")
        job_progress.progress = 0.2
        return "done"

    record = await plane.submit(add(plane, "/work", work, queue_size=5), {})
    await ended(plane, record.id)
    events = [event async for event in plane.events(record.id)]
    before_log = [event.data for event in events[: [event.kind for event in events].index("log")]]
    assert before_log[-1] == {"fraction": 0.5, "message": "half"}
    assert [event.data["fraction"] for event in events if event.kind == "progress"][-1] == 0.5
    assert events[-1] == JobEvent(len(events), "result", "done")


async def test_parallelism_is_bounded_by_concurrency(plane: DataPlane, gate: Gate) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate()
        with lock:
            running -= 1

    route = add(plane, "/work", work, queue_size=10, concurrency=2)
    jobs = [await plane.submit(route, {}) for _ in range(6)]
    for _ in range(2):
        await asyncio.to_thread(gate.wait_entered)
    assert plane.load()["work"] == {"waiting": 4, "running": 2}
    gate.open()
    for job in jobs:
        assert (await ended(plane, job.id)).status is JobStatus.SUCCEEDED
    assert most == 2


async def test_timed_out_thread_is_replaced(plane: DataPlane, gate: Gate) -> None:
    def work(hold: bool) -> str:
        if hold:
            gate()
        return "done"

    route = add(plane, "/work", work, queue_size=5, timeout=0.05)
    stuck = await plane.submit(route, {"hold": True})
    after = await plane.submit(route, {"hold": False})
    assert (await ended(plane, after.id)).result == "done"
    record = await ended(plane, stuck.id)
    assert (record.status, record.error["code"]) == (JobStatus.FAILED, "timeout")


async def test_cancel_reaches_a_thread_through_progress(plane: DataPlane, gate: Gate) -> None:
    told = threading.Event()

    def work(job_progress: JobProgress) -> None:
        gate()
        try:
            for _ in range(10_000):
                job_progress.progress = 0.5
                threading.Event().wait(0.001)
        except JobCancelled:
            told.set()
            raise

    record = await plane.submit(add(plane, "/work", work, queue_size=5), {})
    await asyncio.to_thread(gate.wait_entered)
    assert (await plane.cancel(record.id)).status is JobStatus.CANCELLED
    gate.open()
    assert await asyncio.to_thread(told.wait, SOON)


async def test_cancel_stops_async_functions_and_generators(plane: DataPlane) -> None:
    entered, stopped = asyncio.Event(), asyncio.Event()
    opened, closed = threading.Event(), threading.Event()

    async def task() -> None:
        try:
            entered.set()  # who is cancelled before that never began
            await asyncio.Event().wait()
        finally:
            stopped.set()

    def forever() -> Iterator[int]:
        try:
            opened.set()
            while True:
                yield 1
        finally:
            closed.set()

    for path, function in (("/task", task), ("/forever", forever)):
        record = await plane.submit(add(plane, path, function), {})
        started = asyncio.Event()
        plane.watch(record.id, lambda event, started=started: started.set() if event.seq >= 2 else None)  # type: ignore[misc]
        await asyncio.wait_for(started.wait(), SOON)
        if function is task:
            await asyncio.wait_for(entered.wait(), SOON)
        else:
            assert await asyncio.to_thread(opened.wait, SOON)
        await plane.cancel(record.id)
    async with asyncio.timeout(SOON):
        await stopped.wait()
    assert await asyncio.to_thread(closed.wait, SOON)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def test_context_of_the_submitter_is_visible(plane: DataPlane) -> None:
    async def read_async() -> str:
        return VARIABLE.get()

    VARIABLE.set("mine")
    for path, function in (("/sync", lambda: VARIABLE.get()), ("/async", read_async)):
        route = add(plane, path, function)
        assert (await ended(plane, (await plane.submit(route, {})).id)).result == "mine"
        assert await plane.invoke(route, {}) == "mine"


async def test_job_that_waits_for_another_of_its_queue_does_not_block_it(
    plane: DataPlane, gate: Gate
) -> None:
    def work(x: int) -> int:
        gate()
        return x + 1

    route = add(plane, "/work", work, queue_size=5)
    first = await plane.submit(route, {"x": 1})
    second = await plane.submit(route, {"x": {"$job": first.id}})
    gate.open()
    assert (await ended(plane, second.id)).result == 3


async def test_reference_into_a_missing_part_names_it(plane: DataPlane) -> None:
    first = await plane.submit(add(plane, "/first", lambda: {"a": [1]}), {})
    route = add(plane, "/second", lambda x: x)
    good = await plane.submit(route, {"x": {"$job": first.id, "path": ["a", 0]}})
    bad = await plane.submit(route, {"x": [{"$job": first.id, "path": ["b", 0]}]})
    assert (await ended(plane, good.id)).result == 1
    assert "['b'][0]" in (await ended(plane, bad.id)).error["detail"]


async def test_direct_call_resolves_references(plane: DataPlane) -> None:
    first = await plane.submit(add(plane, "/first", lambda: [1.0, 2.0]), {})
    route = add(plane, "/double", lambda x: x * 2, max_batch_size=4)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    plane.call(route, {"x": {"$job": first.id}}, lambda result, exc: done.set_result((result, exc)))
    result, error = await asyncio.wait_for(done, SOON)
    assert (result.tolist(), error) == ([2.0, 4.0], None)


async def test_unknown_endpoint_and_job_are_not_found(plane: DataPlane) -> None:
    add(plane, "/predict", lambda: 1)
    with pytest.raises(NotFoundError, match="did you mean 'predict'"):
        plane.route("predit")
    with pytest.raises(NotFoundError):
        await plane.get("x")
    with pytest.raises(NotFoundError):
        plane.watch("x", lambda event: None)


async def test_jobs_of_others_are_not_found(plane: DataPlane) -> None:
    record = await plane.submit(add(plane, "/predict", lambda: 1), {}, owner="me")
    await plane.wait(record.id, SOON, "me")
    with pytest.raises(NotFoundError):
        await plane.get(record.id, "you")
    with pytest.raises(NotFoundError):
        await plane.cancel(record.id, "you")


async def test_draining_waits_for_running_jobs_then_cancels(gate: Gate) -> None:
    plane = DataPlane()
    await plane.start()
    done: list[JobEvent] = []

    async def stuck() -> None:
        await asyncio.Event().wait()

    short = await plane.submit(add(plane, "/short", gate), {})
    await asyncio.to_thread(gate.wait_entered)
    plane.watch(short.id, done.append)
    closing = asyncio.create_task(plane.aclose(grace=SOON))
    await asyncio.sleep(0)
    with pytest.raises(ServerError, match="stopping"):
        await plane.submit(plane.route("short"), {})
    gate.open()
    await closing
    assert done[-1].kind == "result"

    await plane.start()
    record = await plane.submit(add(plane, "/stuck", stuck), {})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    plane.watch(record.id, done.append)
    await plane.aclose(grace=0.01)
    assert done[-1].data["code"] == "cancelled"


async def test_progress_after_the_end_is_ignored() -> None:
    channel = Channel(asyncio.get_running_loop())
    progress = JobProgress(channel)
    progress.progress = 5
    assert progress.progress == 1.0
    progress.progress = float("nan")
    channel.close()
    progress.message = "late"
    channel.cancel()
    with pytest.raises(JobCancelled):
        progress.message = "cancelled"
    assert progress.cancelled


async def test_burst_of_progress_wakes_the_loop_once() -> None:
    channel = Channel(asyncio.get_running_loop())
    progress = JobProgress(channel)
    for number in range(1000):
        progress.progress = number / 1000
    assert [kind for kind, _ in await channel.take()] == ["progress"]


def test_workers_are_reused_bounded_and_replaced() -> None:
    workers = WorkerThreads("test", 2)
    gate, seen = Gate(), []
    held = [workers.submit(gate) for _ in range(2)]
    for _ in range(2):
        gate.wait_entered()
    done = threading.Event()
    workers.submit(lambda: (seen.append(threading.current_thread().name), done.set())[0])
    assert workers.threads == 2
    workers.abandon(held[0])
    assert done.wait(SOON)
    assert workers.threads == 2
    gate.open()
    workers.close()


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    day: datetime.date


@dataclasses.dataclass
class Point:
    x: int


def test_results_become_plain_values() -> None:
    value = {
        Colour.RED: Colour.RED,
        "model": Model(day=datetime.date(2024, 1, 2)),
        "point": (Point(1),),
        "set": {1},
        "id": uuid.UUID(int=0),
        "path": Path("a/b"),
        "scalar": np.float32(0.5),
        "zero": np.array(3),
        "raw": bytearray(b"x"),
        "text": np.array(["a"]),
    }
    assert to_plain(value) == {
        "red": "red",
        "model": {"day": "2024-01-02"},
        "point": [{"x": 1}],
        "set": [1],
        "id": "00000000-0000-0000-0000-000000000000",
        "path": "a/b",
        "scalar": 0.5,
        "zero": 3,
        "raw": b"x",
        "text": ["a"],
    }
    assert (
        to_json({"n": float("nan"), "b": b"x", "a": np.ones(1), 1: 2})
        == b'{"n":null,"b":"eA==","a":[1.0],"1":2}'
    )


@pytest.mark.parametrize(
    ("value", "place"), [({"a": [object()]}, r"result\['a'\]\[0\]"), (2**70, "64 bits"), ({(1,): 2}, "tuple")]
)
def test_what_cannot_be_sent_is_named(value: Any, place: str) -> None:
    with pytest.raises(JobFailed, match=place) as failure:
        to_plain(value)
    assert failure.value.code == "result_not_serialisable"


FLOATS = TensorInputs("m", [TensorInput("x", "float32", (2,))])
WHOLE = TensorInputs("m", [TensorInput("x", "int32", (2,))])


def test_tensor_arguments_are_stacked_and_cast() -> None:
    inputs, rows, single = FLOATS.prepare({"x": [1, 2]})
    assert (inputs["x"].shape, inputs["x"].dtype, rows, single) == ((1, 2), np.float32, 1, True)
    stacked = np.ones((3, 2), np.float32)
    inputs, rows, single = FLOATS.prepare({"x": stacked})
    assert inputs["x"] is stacked
    assert (rows, single) == (3, False)
    assert WHOLE.prepare({"x": [1.0, 2.0]})[0]["x"].dtype == np.int32


@pytest.mark.parametrize(
    ("inputs", "value", "text"),
    [
        (FLOATS, [1, 2, 3], "shape"),
        (FLOATS, [[1], [1, 2]], "different lengths"),
        (FLOATS, ["1", "2"], "text"),
        (FLOATS, [[[1, 2]]], "shape"),
        (FLOATS, None, "null"),
        (FLOATS, np.zeros((0, 2), np.float32), "no rows"),
        (FLOATS, [True, False], "bool"),
        (WHOLE, [0.5, 1.0], "whole numbers"),
        (WHOLE, [float("nan"), 1.0], "NaN"),
        (WHOLE, [2**40, 1], "from -2147483648"),
    ],
)
def test_wrong_tensor_arguments_are_refused(inputs: TensorInputs, value: Any, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text) as refusal:
        inputs.prepare({"x": value})
    assert refusal.value.parameter == "x"
