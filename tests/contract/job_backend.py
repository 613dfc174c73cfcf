"""What every job back-end promises. Subclass `JobBackendContract` and give it a `backend` fixture."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from socaity.protocol.events import JobEvent, JobStatus
from socaity_server.jobs.backend import JobBackend, JobRecord, Lease, QueueFull

SOON = 5.0
ERROR = {"title": "JobFailed", "status": 500, "detail": "no", "code": "job_failed"}


async def submit(backend: JobBackend, job_id: str = "a", **fields: Any) -> bool:
    return await backend.submit(JobRecord(id=job_id, queue="q", payload={"x": 1}, **fields))


async def lease_one(backend: JobBackend, queue: str = "q") -> Lease:
    (lease,) = await backend.lease(queue, 1, wait=SOON)
    return lease


async def events_of(backend: JobBackend, job_id: str, after: int = 0) -> list[JobEvent]:
    async with asyncio.timeout(SOON):
        return [event async for event in backend.events(job_id, after=after)]


def kinds(events: Sequence[JobEvent]) -> list[str]:
    return [event.kind for event in events]


@pytest.mark.anyio
class JobBackendContract:
    async def test_submitted_job_can_be_read(self, backend: JobBackend) -> None:
        assert await submit(backend, owner="me", fingerprint="f")
        record = await backend.get("a")
        assert record is not None
        assert (record.status, record.owner, record.fingerprint) == (JobStatus.QUEUED, "me", "f")
        assert record.created_at > 0
        assert await backend.get("b") is None

    async def test_submit_is_idempotent_by_id(self, backend: JobBackend) -> None:
        assert await submit(backend)
        assert not await submit(backend)
        assert backend.depth("q") == 1
        await (await lease_one(backend)).succeed(1)
        assert not await submit(backend)
        assert backend.depth("q") == 0

    async def test_lease_gives_payload_and_attempt(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        assert (lease.job_id, lease.payload, lease.attempt) == ("a", {"x": 1}, 1)
        record = await backend.get("a")
        assert record is not None
        assert record.status is JobStatus.RUNNING
        assert record.started_at is not None

    async def test_leases_at_most_what_was_asked_for_in_order(self, backend: JobBackend) -> None:
        for number in range(5):
            await submit(backend, str(number))
        first = await backend.lease("q", 3, wait=SOON)
        assert [lease.job_id for lease in first] == ["0", "1", "2"]
        assert [lease.job_id for lease in await backend.lease("q", 3, wait=SOON)] == ["3", "4"]

    async def test_lease_waits_for_a_job(self, backend: JobBackend) -> None:
        waiting = asyncio.create_task(lease_one(backend))
        await asyncio.sleep(0)
        await submit(backend)
        assert (await waiting).job_id == "a"

    async def test_lease_comes_back_empty_after_wait(self, backend: JobBackend) -> None:
        assert list(await backend.lease("q", 1, wait=0.01)) == []

    async def test_cancelled_leaser_loses_no_job(self, backend: JobBackend) -> None:
        first = asyncio.create_task(lease_one(backend))
        second = asyncio.create_task(lease_one(backend))
        await asyncio.sleep(0)
        await submit(backend)
        first.cancel()
        async with asyncio.timeout(SOON):
            assert (await second).job_id == "a"

    async def test_result_is_kept_and_read_again(self, backend: JobBackend) -> None:
        await submit(backend)
        assert await (await lease_one(backend)).succeed({"y": [1, 2]})
        for _ in range(2):
            record = await backend.get("a")
            assert record is not None
            assert (record.status, record.result) == (JobStatus.SUCCEEDED, {"y": [1, 2]})
            assert record.finished_at is not None

    async def test_failure_keeps_the_problem(self, backend: JobBackend) -> None:
        await submit(backend)
        assert await (await lease_one(backend)).fail(ERROR)
        record = await backend.get("a")
        assert record is not None
        assert (record.status, record.error) == (JobStatus.FAILED, ERROR)

    async def test_events_are_gapless_ordered_and_end_with_one_terminal(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        assert await lease.emit("progress", {"fraction": 0.5, "message": "half"})
        assert await lease.emit("log", {"message": "line"})
        assert await lease.emit("chunk", "c")
        await lease.succeed("r")
        events = await events_of(backend, "a")
        assert kinds(events) == ["status", "status", "progress", "log", "chunk", "result"]
        assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
        assert events[-1].data == "r"
        record = await backend.get("a")
        assert record is not None
        assert record.logs == ["line"]

    async def test_events_can_be_read_again_from_any_number(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        for chunk in range(4):
            await lease.emit("chunk", chunk)
        await lease.succeed(None)
        whole = await events_of(backend, "a")
        for after in range(len(whole) + 1):
            assert await events_of(backend, "a", after) == whole[after:]

    async def test_live_events_follow_replayed_ones_without_gap(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        await lease.emit("chunk", 0)
        reader = asyncio.create_task(events_of(backend, "a"))
        await asyncio.sleep(0)
        await lease.emit("chunk", 1)
        await lease.succeed(None)
        events = await reader
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert [event.data for event in events if event.kind == "chunk"] == [0, 1]

    async def test_watch_replays_before_it_returns_and_stops(self, backend: JobBackend) -> None:
        await submit(backend)
        seen: list[JobEvent] = []
        stop = backend.watch("a", seen.append)
        assert stop is not None
        assert kinds(seen) == ["status"]
        stop()
        stop()
        await (await lease_one(backend)).succeed(1)
        assert kinds(seen) == ["status"]
        assert backend.watch("unknown", seen.append) is None

    async def test_sink_that_returns_false_gets_no_more(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        for chunk in range(3):
            await lease.emit("chunk", chunk)
        seen: list[JobEvent] = []
        live: list[JobEvent] = []

        def until(events: list[JobEvent], last: int) -> Callable[[JobEvent], bool]:
            def sink(event: JobEvent) -> bool:
                events.append(event)
                return event.data != last

            return sink

        backend.watch("a", until(seen, 1))
        backend.watch("a", until(live, 3))
        for chunk in range(3, 6):
            await lease.emit("chunk", chunk)
        await lease.succeed(None)
        assert [event.data for event in seen if event.kind == "chunk"] == [0, 1]
        assert [event.data for event in live if event.kind == "chunk"] == [0, 1, 2, 3]
        assert seen[-1].data == 1
        assert live[-1].data == 3

    async def test_many_watchers_see_the_same(self, backend: JobBackend) -> None:
        await submit(backend)
        seen: list[list[JobEvent]] = [[], [], []]
        for events in seen:
            backend.watch("a", events.append)
        await (await lease_one(backend)).succeed(1)
        assert seen[0] == seen[1] == seen[2]
        assert seen[0][-1].is_terminal

    async def test_events_of_unknown_job_raise_key_error(self, backend: JobBackend) -> None:
        with pytest.raises(KeyError):
            await events_of(backend, "unknown")

    async def test_first_terminal_event_wins(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        assert await lease.succeed("first")
        assert not await lease.succeed("second")
        assert not await lease.fail(ERROR)
        assert not await lease.emit("chunk", 1)
        assert not await lease.heartbeat()
        events = await events_of(backend, "a")
        assert [event.data for event in events if event.is_terminal] == ["first"]

    async def test_cancelled_queued_job_never_runs(self, backend: JobBackend) -> None:
        await submit(backend, "a")
        await submit(backend, "b")
        assert await backend.cancel("a")
        assert (await lease_one(backend)).job_id == "b"
        assert list(await backend.lease("q", 1, wait=0.01)) == []
        last = (await events_of(backend, "a"))[-1]
        assert (last.kind, last.data["code"]) == ("error", "cancelled")
        record = await backend.get("a")
        assert record is not None
        assert record.status is JobStatus.CANCELLED

    async def test_cancel_tells_the_worker_and_refuses_its_result(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        lost = asyncio.Event()
        lease.on_lost(lost.set)
        assert await backend.cancel("a")
        async with asyncio.timeout(SOON):
            await lost.wait()
        assert not await lease.heartbeat()
        assert not await lease.succeed(1)
        assert [event.data["code"] for event in await events_of(backend, "a") if event.is_terminal] == [
            "cancelled"
        ]

    async def test_on_lost_after_the_loss_is_called_at_once(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        await backend.cancel("a")
        lost = asyncio.Event()
        lease.on_lost(lost.set)
        async with asyncio.timeout(SOON):
            await lost.wait()

    async def test_cancel_of_an_ended_or_unknown_job_is_false(self, backend: JobBackend) -> None:
        await submit(backend)
        await (await lease_one(backend)).succeed(1)
        assert not await backend.cancel("a")
        assert not await backend.cancel("unknown")

    async def test_full_queue_raises_and_drops_nothing(self, backend: JobBackend) -> None:
        backend.configure_queue("q", limit=2, concurrency=1)
        await submit(backend, "a")
        await submit(backend, "b")
        with pytest.raises(QueueFull) as refusal:
            await submit(backend, "c")
        assert refusal.value.status == 503
        assert refusal.value.retry_after is not None
        assert refusal.value.retry_after > 0
        assert await backend.get("c") is None
        assert backend.depth("q") == 2
        await lease_one(backend)
        assert await submit(backend, "c")

    async def test_known_id_is_no_reason_for_queue_full(self, backend: JobBackend) -> None:
        backend.configure_queue("q", limit=1, concurrency=1)
        await submit(backend, "a")
        assert not await submit(backend, "a")

    async def test_priorities_go_first(self, backend: JobBackend) -> None:
        await submit(backend, "low", priority="low")
        await submit(backend, "normal")
        await submit(backend, "high", priority="high")
        order = [(await lease_one(backend)).job_id for _ in range(3)]
        assert order == ["high", "normal", "low"]

    async def test_queue_position_counts_who_is_ahead(self, backend: JobBackend) -> None:
        for job_id in "abcd":
            await submit(backend, job_id)
        await backend.cancel("b")
        positions = {}
        for job_id in "acd":
            record = await backend.get(job_id)
            assert record is not None
            positions[job_id] = record.queue_position
        assert positions == {"a": 1, "c": 2, "d": 3}
        await lease_one(backend)
        record = await backend.get("d")
        assert record is not None
        assert record.queue_position == 2
        first = (await anext(backend.events("d"))).data
        assert first == {"status": "queued", "queue_position": 4}

    async def test_retry_queues_again_with_the_next_attempt(self, backend: JobBackend) -> None:
        await submit(backend)
        first = await lease_one(backend)
        assert await first.fail(ERROR, retry_in=0.0)
        second = await lease_one(backend)
        assert (second.job_id, second.attempt) == ("a", 2)
        assert not await first.succeed("late")
        assert await second.succeed("again")
        assert (await events_of(backend, "a"))[-1].data == "again"

    async def test_queues_do_not_mix(self, backend: JobBackend) -> None:
        await submit(backend)
        assert list(await backend.lease("other", 1, wait=0.01)) == []
        assert backend.depth("other") == 0

    async def test_list_is_newest_first_filtered_and_paged(self, backend: JobBackend) -> None:
        for number in range(5):
            await submit(backend, str(number), owner="me" if number % 2 else "you")
        await backend.cancel("4")
        assert [record.id for record in await backend.list()] == ["4", "3", "2", "1", "0"]
        assert [record.id for record in await backend.list(limit=2)] == ["4", "3"]
        assert [record.id for record in await backend.list(limit=2, after="3")] == ["2", "1"]
        assert [record.id for record in await backend.list(owner="me")] == ["3", "1"]
        assert [record.id for record in await backend.list(status=JobStatus.CANCELLED)] == ["4"]
        assert list(await backend.list(queue="other")) == []

    async def test_a_job_that_waits_for_others_runs_from_begin_on(self, backend: JobBackend) -> None:
        await submit(backend, waits=True)
        lease = await lease_one(backend)
        record = await backend.get("a")
        assert record is not None
        assert (record.status, record.started_at, record.queue_position) == (JobStatus.QUEUED, None, None)
        assert backend.depth("q") == 0
        assert await lease.begin()
        record = await backend.get("a")
        assert record is not None
        assert record.status is JobStatus.RUNNING
        assert record.started_at is not None
        await lease.succeed(1)
        told = [event.data["status"] for event in await events_of(backend, "a") if event.kind == "status"]
        assert told == ["queued", "queued", "running"]

    async def test_a_job_that_waits_can_be_cancelled(self, backend: JobBackend) -> None:
        await submit(backend, waits=True)
        lease = await lease_one(backend)
        assert await backend.cancel("a")
        assert not await lease.begin()
        assert not await lease.succeed(1)

    async def test_begin_of_a_running_job_changes_nothing(self, backend: JobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        assert await lease.begin()
        await lease.succeed(1)
        assert kinds(await events_of(backend, "a")) == ["status", "status", "result"]
