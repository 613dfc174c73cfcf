"""Jobs in the memory of one process: no polling, no copy, and nothing survives a restart."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from socaity.protocol.events import EventKind, JobEvent, JobStatus

from .backend import JobBackend, JobRecord, Lease, QueueFull, Sink
from .waiting import WaitingJobs

_FAR = float("inf")
_POSITIONS_PUSHED = 100
_POSITION_INTERVAL = 0.5
_CANCELLED = {
    "type": "about:blank",
    "title": "JobCancelled",
    "status": 500,
    "detail": "The job was cancelled.",
    "code": "cancelled",
}


class MemoryJobBackend(JobBackend):
    """Keeps jobs in dictionaries.

    A finished job can be read for `result_ttl` seconds, and the last `max_finished` of them at most; then its id is
    unknown. A job whose logs and chunks exceed `max_event_bytes` fails with `stream_too_large`. `clock` is monotonic;
    a test that moves it calls `sweep`.
    """

    def __init__(
        self,
        *,
        result_ttl: float = 3600.0,
        lease_time: float = 30.0,
        max_finished: int = 100_000,
        max_event_bytes: int = 64 * 2**20,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.result_ttl = result_ttl
        self.lease_time = lease_time
        self.max_finished = max_finished
        self.max_event_bytes = max_event_bytes
        self._clock = clock
        self._jobs: dict[str, _Job] = {}
        self._queues: dict[str, WaitingJobs[_Job]] = {}
        # All leases have one length and so do retentions: both stay sorted by their deadline without a heap.
        self._leases: OrderedDict[_MemoryLease, float] = OrderedDict()
        self._finished: OrderedDict[str, float] = OrderedDict()
        self._delayed: list[tuple[float, int, _Job]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _FAR
        self._open = False

    async def open(self) -> None:
        self._open = True
        self._arm()

    async def close(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, _FAR
        for queue in self._queues.values():
            queue.stop()
        for job in self._jobs.values():
            job.watchers.clear()

    def configure_queue(self, queue: str, *, limit: int | None, concurrency: int) -> None:
        known = self._queue(queue)
        known.limit, known.concurrency = limit, concurrency

    async def submit(self, job: JobRecord) -> bool:
        if job.id in self._jobs:
            return False
        queue = self._queue(job.queue)
        if queue.limit is not None and queue.waiting >= queue.limit:
            raise QueueFull(
                f"The queue of {job.queue!r} is full: {queue.waiting} jobs wait (limit {queue.limit}).",
                retry_after=queue.seconds_until_room(),
            )
        job.created_at = job.created_at or time.time()
        entry = _Job(job, queue)
        self._jobs[job.id] = entry
        self._enqueue(entry)
        return True

    async def get(self, job_id: str) -> JobRecord | None:
        job = self._jobs.get(job_id)
        return None if job is None else job.snapshot()

    async def list(
        self,
        *,
        owner: str | None = None,
        queue: str | None = None,
        status: JobStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Sequence[JobRecord]:
        if after is not None and after not in self._jobs:
            return []
        found: list[JobRecord] = []
        skipping = after is not None
        for job_id, job in reversed(self._jobs.items()):
            if skipping:
                skipping = job_id != after
                continue
            record = job.record
            if (
                (owner is None or record.owner == owner)
                and (queue is None or record.queue == queue)
                and (status is None or record.status == status)
            ):
                found.append(job.snapshot())
                if len(found) >= limit:
                    break
        return found

    def watch(self, job_id: str, sink: Sink, *, after: int = 0) -> Callable[[], None] | None:
        job = self._jobs.get(job_id)
        if job is None:
            return None
        events = job.events
        for index in range(max(after, 0), len(events)):  # islice would walk over all that came before
            if sink(events[index]) is False:
                return _nothing
        if job.record.status.is_terminal:
            return _nothing
        watchers = job.watchers
        watchers.append(sink)

        def stop() -> None:
            if sink in watchers:
                watchers.remove(sink)

        return stop

    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        if job_id not in self._jobs:
            raise KeyError(job_id)
        return self._events(job_id, after)

    async def _events(self, job_id: str, after: int) -> AsyncIterator[JobEvent]:
        arrived: deque[JobEvent] = deque()
        wake = asyncio.Event()

        def sink(event: JobEvent) -> None:
            arrived.append(event)
            wake.set()

        stop = self.watch(job_id, sink, after=after)
        if stop is None:
            raise KeyError(job_id)
        try:
            if not arrived and self._jobs[job_id].record.status.is_terminal:
                return
            while True:
                while arrived:
                    event = arrived.popleft()
                    yield event
                    if event.is_terminal:
                        return
                wake.clear()
                await wake.wait()
        finally:
            stop()

    async def cancel(self, job_id: str) -> bool:
        job = self._jobs.get(job_id)
        if job is None:
            return False
        if job.record.status.is_terminal:
            return job.record.status is JobStatus.CANCELLED
        self._end(job, JobStatus.CANCELLED, "error", dict(_CANCELLED))
        return True

    async def lease(self, queue: str, max_jobs: int, *, wait: float | None = None) -> Sequence[Lease]:
        known = self._queue(queue)
        deadline = None if wait is None else asyncio.get_running_loop().time() + wait
        while not known.waiting:
            if not await known.wait_for_job(deadline):
                return ()
        return [self._lease(known.pop()) for _ in range(min(max_jobs, known.waiting))]

    def depth(self, queue: str) -> int:
        known = self._queues.get(queue)
        return 0 if known is None else known.waiting

    def sweep(self) -> None:
        """Do what is due: expire leases, forget old results, queue delayed jobs. The timer calls it."""
        now = self._clock()
        while self._leases:
            lease, deadline = next(iter(self._leases.items()))
            if deadline > now:
                break
            self._requeue(lease.job, front=True)
        while self._finished:
            job_id, deadline = next(iter(self._finished.items()))
            if deadline > now:
                break
            del self._finished[job_id], self._jobs[job_id]
        while self._delayed and self._delayed[0][0] <= now:
            job = heapq.heappop(self._delayed)[2]
            if not job.record.status.is_terminal:
                self._enqueue(job)
        self._arm()

    def _queue(self, name: str) -> WaitingJobs[_Job]:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = WaitingJobs()
        return queue

    def _enqueue(self, job: _Job, *, front: bool = False) -> None:
        queue = job.queue
        queue.push(job, front=front)
        job.record.status = JobStatus.QUEUED
        job.record.queue_position = position = queue.position(job)
        job.add("status", _queued(queue, position))
        queue.wake()

    def _lease(self, job: _Job) -> _MemoryLease:
        record = job.record
        record.attempt += 1
        record.queue_position = None
        now = self._clock()
        lease = job.lease = _MemoryLease(self, job, now)
        self._leases[lease] = deadline = now + self.lease_time
        if deadline < self._timer_at:
            self._arm()
        if record.waits:
            job.add("status", _queued(job.queue, None))
        else:
            self._begin(job)
        if job.queue.waiting and not job.queue.positions_due:
            job.queue.positions_due = True
            asyncio.get_running_loop().call_later(_POSITION_INTERVAL, self._push_positions, job.queue)
        return lease

    def _begin(self, job: _Job) -> None:
        record, eta = job.record, job.queue.run_time
        record.status = JobStatus.RUNNING
        record.started_at = time.time()
        status = {"status": "running", "queue_position": None}
        job.add("status", status if eta is None else {**status, "eta": eta})

    def _push_positions(self, queue: WaitingJobs[_Job]) -> None:
        queue.positions_due = False
        if not self._open:
            return
        for position, job in enumerate(queue.first(_POSITIONS_PUSHED), 1):
            if job.watchers and job.told_position != position:
                job.add("status", _queued(queue, position))
                job.told_position = position

    def _release(self, job: _Job) -> None:
        """Take the lease away from whoever has it."""
        lease, job.lease = job.lease, None
        if lease is not None:
            self._leases.pop(lease, None)
            lease.lose()

    def _requeue(self, job: _Job, *, delay: float = 0.0, front: bool = False) -> None:
        self._release(job)
        if delay > 0:
            job.record.status = JobStatus.QUEUED
            heapq.heappush(self._delayed, (self._clock() + delay, next(self._order), job))
            job.add("status", _queued(job.queue, None))
            self._arm()
        else:
            self._enqueue(job, front=front)

    def _end(self, job: _Job, status: JobStatus, kind: EventKind, data: Any) -> None:
        record = job.record
        has_run = record.status is JobStatus.RUNNING
        if record.status is JobStatus.QUEUED:
            job.queue.discard(job)
        record.status = status
        record.finished_at = time.time()
        record.queue_position = None
        record.payload = None
        if status is JobStatus.SUCCEEDED:
            record.result = data
            record.fraction = 1.0
        else:
            record.error = data
        lease = job.lease
        if lease is not None:
            job.lease = None
            self._leases.pop(lease, None)
            if status is not JobStatus.CANCELLED:
                if has_run:
                    job.queue.note_run_time(self._clock() - lease.started)
                lease.is_over = True
        finished = self._finished
        finished[record.id] = deadline = self._clock() + self.result_ttl
        if len(finished) > self.max_finished:
            del self._jobs[finished.popitem(last=False)[0]]
        if deadline < self._timer_at:
            self._arm()
        job.add(kind, data)
        job.watchers.clear()
        if lease is not None and not lease.is_over:
            lease.lose()

    def _arm(self) -> None:
        """One timer, for what is due next."""
        if not self._open:
            return
        due = _FAR
        if self._leases:
            due = next(iter(self._leases.values()))
        if self._finished:
            due = min(due, next(iter(self._finished.values())))
        if self._delayed:
            due = min(due, self._delayed[0][0])
        if due == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = due
        if due != _FAR:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(due - self._clock(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        late = self._clock() - self._timer_at
        self._timer, self._timer_at = None, _FAR
        if late > self.lease_time / 4:
            # The loop stood still, and so did the heartbeats: the workers get half a lease to speak first.
            grace = self._clock() + self.lease_time / 2
            for lease, deadline in self._leases.items():
                self._leases[lease] = max(deadline, grace)
        self.sweep()


class _Job:
    """A job with its events and watchers."""

    __slots__ = ("bytes", "events", "lease", "order", "queue", "record", "told_position", "watchers")

    def __init__(self, record: JobRecord, queue: WaitingJobs[_Job]) -> None:
        self.record = record
        self.queue = queue
        self.events: list[JobEvent] = []
        self.bytes = 0
        self.watchers: list[Sink] = []
        self.lease: _MemoryLease | None = None
        self.order = 0
        self.told_position: int | None = None

    def add(self, kind: EventKind, data: Any) -> None:
        event = JobEvent(len(self.events) + 1, kind, data)
        self.events.append(event)
        if self.watchers:
            for sink in tuple(self.watchers):
                if sink(event) is False and sink in self.watchers:
                    self.watchers.remove(sink)

    def snapshot(self) -> JobRecord:
        record = self.record
        position = self.queue.position(self) if record.status is JobStatus.QUEUED else None
        return replace(record, queue_position=position, logs=record.logs.copy())


class _MemoryLease(Lease):
    __slots__ = ("attempt", "backend", "callbacks", "is_over", "job", "job_id", "payload", "started")

    def __init__(self, backend: MemoryJobBackend, job: _Job, now: float) -> None:
        self.backend = backend
        self.job = job
        self.job_id = job.record.id
        self.payload = job.record.payload
        self.attempt = job.record.attempt
        self.started = now
        self.is_over = False
        self.callbacks: list[Callable[[], None]] = []

    async def heartbeat(self) -> bool:
        if self.job.lease is not self:
            return False
        leases = self.backend._leases
        leases[self] = self.backend._clock() + self.backend.lease_time
        leases.move_to_end(self)
        return True

    async def begin(self) -> bool:
        if self.job.lease is not self:
            return False
        if self.job.record.waits:
            self.started = self.backend._clock()
            self.backend._begin(self.job)
        return True

    def on_lost(self, callback: Callable[[], None]) -> None:
        if self.job.lease is self:
            self.callbacks.append(callback)
        elif not self.is_over:
            callback()

    def lose(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    async def emit(self, kind: EventKind, data: Any) -> bool:
        job = self.job
        if job.lease is not self:
            return False
        if kind == "progress":
            job.record.fraction = data.get("fraction")
            job.record.message = data.get("message")
        else:
            job.bytes += size_of(data)
            if job.bytes > self.backend.max_event_bytes:
                self.backend._end(job, JobStatus.FAILED, "error", self._too_large())
                self.lose()
                return False
            if kind == "log":
                job.record.logs.append(data["message"])
        job.add(kind, data)
        return True

    async def succeed(self, result: Any) -> bool:
        if self.job.lease is not self:
            return False
        self.backend._end(self.job, JobStatus.SUCCEEDED, "result", result)
        return True

    async def fail(self, error: Mapping[str, Any], *, retry_in: float | None = None) -> bool:
        job = self.job
        if job.lease is not self:
            return False
        if retry_in is None:
            self.backend._end(job, JobStatus.FAILED, "error", dict(error))
        else:
            self.is_over = True
            self.backend._requeue(job, delay=retry_in)
        return True

    def _too_large(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": "JobFailed",
            "status": 500,
            "detail": f"The logs and chunks of the job exceed {self.backend.max_event_bytes} bytes.",
            "code": "stream_too_large",
        }


def _queued(queue: WaitingJobs[_Job], position: int | None) -> dict[str, Any]:
    """A status event; with the seconds until the end, where the times of other jobs say something about it."""
    status: dict[str, Any] = {"status": "queued", "queue_position": position}
    eta = None if position is None else queue.seconds_until_end(position)
    return status if eta is None else {**status, "eta": eta}


def size_of(value: Any) -> int:
    """About how many bytes a plain value takes."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return 64 + len(value)
    if isinstance(value, Mapping):
        return 64 + sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 64 + sum(map(size_of, value))
    return 64 + int(getattr(value, "nbytes", 0))


def _nothing() -> None:
    pass
