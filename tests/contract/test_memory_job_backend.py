"""The memory back-end keeps the contract, forgets in time and keeps its own limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socaity.protocol.events import JobEvent, JobStatus
from socaity_server.jobs.backend import JobRecord, Lease
from socaity_server.jobs.memory import MemoryJobBackend

from .job_backend import ERROR, JobBackendContract, events_of, lease_one, submit


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def backend(clock: Clock) -> AsyncIterator[MemoryJobBackend]:
    backend = MemoryJobBackend(result_ttl=60.0, lease_time=10.0, max_event_bytes=1000, clock=clock)
    await backend.open()
    yield backend
    await backend.close()


class TestMemoryJobBackend(JobBackendContract):
    async def test_result_is_forgotten_after_its_time(self, backend: MemoryJobBackend, clock: Clock) -> None:
        await submit(backend)
        await (await lease_one(backend)).succeed(1)
        clock.now += 59
        backend.sweep()
        assert await backend.get("a") is not None
        clock.now += 2
        backend.sweep()
        assert await backend.get("a") is None
        assert await submit(backend)

    async def test_only_the_last_finished_jobs_are_kept(self) -> None:
        backend = MemoryJobBackend(max_finished=2)
        await backend.open()
        for job_id in "abc":
            await submit(backend, job_id)
            await (await lease_one(backend)).succeed(1)
        assert [record.id for record in await backend.list()] == ["c", "b"]
        await backend.close()

    async def test_lease_expires_and_the_next_attempt_wins(
        self, backend: MemoryJobBackend, clock: Clock
    ) -> None:
        await submit(backend, "a")
        await submit(backend, "b")
        paused = await lease_one(backend)
        lost = asyncio.Event()
        paused.on_lost(lost.set)
        clock.now += 10.5
        backend.sweep()
        assert lost.is_set()
        again = await lease_one(backend)
        assert (again.job_id, again.attempt) == ("a", 2)
        assert await again.succeed("second")
        assert not await paused.succeed("first")
        assert (await events_of(backend, "a"))[-1].data == "second"

    async def test_heartbeat_keeps_a_long_job(self, backend: MemoryJobBackend, clock: Clock) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        for _ in range(5):
            clock.now += 8
            assert await lease.heartbeat()
            backend.sweep()
        assert await lease.succeed(1)

    async def test_delayed_retry_waits(self, backend: MemoryJobBackend, clock: Clock) -> None:
        await submit(backend)
        await (await lease_one(backend)).fail(ERROR, retry_in=5.0)
        assert backend.depth("q") == 0
        clock.now += 6
        backend.sweep()
        assert (await lease_one(backend)).attempt == 2

    async def test_delayed_job_can_be_cancelled(self, backend: MemoryJobBackend, clock: Clock) -> None:
        await submit(backend)
        await (await lease_one(backend)).fail(ERROR, retry_in=5.0)
        assert await backend.cancel("a")
        clock.now += 6
        backend.sweep()
        assert backend.depth("q") == 0

    async def test_too_large_stream_fails(self, backend: MemoryJobBackend) -> None:
        await submit(backend)
        lease = await lease_one(backend)
        assert await lease.emit("chunk", b"x" * 500)
        assert not await lease.emit("chunk", b"x" * 500)
        assert not await lease.succeed(None)
        last = (await events_of(backend, "a"))[-1]
        assert last.data["code"] == "stream_too_large"

    async def test_retry_after_follows_the_run_time(self, backend: MemoryJobBackend, clock: Clock) -> None:
        backend.configure_queue("q", limit=1, concurrency=2)
        await submit(backend, "a")
        lease = await lease_one(backend)
        clock.now += 8
        await lease.succeed(1)
        await submit(backend, "b")
        with pytest.raises(Exception, match="full") as refusal:
            await submit(backend, "c")
        assert refusal.value.retry_after == 4.0  # type: ignore[attr-defined]

    async def test_payload_is_let_go_of_at_the_end(self, backend: MemoryJobBackend) -> None:
        await submit(backend)
        await (await lease_one(backend)).succeed(1)
        record = await backend.get("a")
        assert record is not None
        assert record.payload is None

    async def test_real_timer_expires_a_lease(self) -> None:
        backend = MemoryJobBackend(lease_time=0.02)
        await backend.open()
        await submit(backend)
        await lease_one(backend)
        assert (await lease_one(backend)).attempt == 2
        await backend.close()


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "lease", "succeed", "fail", "retry", "cancel", "expire", "emit"]),
        st.integers(0, 4),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(OPERATIONS)
def test_no_job_is_lost_or_answered_twice(operations: list[tuple[str, int]]) -> None:
    asyncio.run(_play(operations))


async def _play(operations: list[tuple[str, int]]) -> None:
    clock = Clock()
    backend = MemoryJobBackend(lease_time=10.0, clock=clock)
    await backend.open()
    seen: dict[str, list[JobEvent]] = {}
    leases: list[Lease] = []
    cancelled: set[str] = set()
    for operation, number in operations:
        job_id = str(number)
        if operation == "submit":
            if await backend.submit(JobRecord(job_id, "q", priority=("high", "normal", "low")[number % 3])):
                backend.watch(job_id, seen.setdefault(job_id, []).append)
        elif operation == "lease":
            new = await backend.lease("q", number + 1, wait=0.0) if backend.depth("q") else ()
            assert not cancelled & {lease.job_id for lease in new}
            leases.extend(new)
        elif operation == "cancel":
            if await backend.cancel(job_id):
                cancelled.add(job_id)
        elif operation == "expire":
            clock.now += 11
            backend.sweep()
        elif leases:
            lease = leases[number % len(leases)]
            if operation == "succeed":
                await lease.succeed(number)
            elif operation == "emit":
                await lease.emit("chunk", number)
            else:
                await lease.fail(ERROR, retry_in=0.0 if operation == "retry" else None)
    waiting = 0
    for job_id, events in seen.items():
        record = await backend.get(job_id)
        assert record is not None
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert (
            [event async for event in backend.events(job_id)] == events if record.status.is_terminal else True
        )
        assert sum(event.is_terminal for event in events) == record.status.is_terminal
        waiting += record.status is JobStatus.QUEUED
    queued = [record for record in await backend.list() if record.status is JobStatus.QUEUED]
    assert backend.depth("q") == waiting
    assert sorted(record.queue_position or 0 for record in queued) == list(range(1, waiting + 1))
    await backend.close()
