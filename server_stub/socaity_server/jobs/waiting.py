"""The waiting jobs of one queue of the memory back-end, in their order, and who waits for them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from itertools import islice
from typing import Generic, Protocol, TypeVar

from .backend import JobRecord

__all__ = ["Lane", "WaitingJobs"]

_PRIORITIES = ("high", "normal", "low")


class _Ordered(Protocol):
    record: JobRecord
    order: int


J = TypeVar("J", bound=_Ordered)


class WaitingJobs(Generic[J]):
    """The waiting jobs of one queue, and who waits for them."""

    __slots__ = ("concurrency", "lanes", "limit", "positions_due", "run_time", "waiters", "waiting")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.concurrency = 1
        self.lanes: dict[str, Lane[J]] = {priority: Lane() for priority in _PRIORITIES}
        self.waiting = 0
        self.waiters: deque[asyncio.Future[bool]] = deque()
        self.run_time: float | None = None
        self.positions_due = False

    def push(self, job: J, *, front: bool) -> None:
        self.lanes[job.record.priority].push(job, front=front)
        self.waiting += 1

    def pop(self) -> J:
        self.waiting -= 1
        for lane in self.lanes.values():
            if lane.jobs:
                return lane.pop()
        raise LookupError("no job waits")

    def discard(self, job: J) -> None:
        if self.lanes[job.record.priority].discard(job):
            self.waiting -= 1

    def position(self, job: J) -> int | None:
        """1 is next; None while it is delayed."""
        ahead = 0
        for priority, lane in self.lanes.items():
            if priority == job.record.priority:
                place = lane.place(job)
                return None if place is None else ahead + place
            ahead += len(lane.jobs)
        return None

    def first(self, number: int) -> list[J]:
        return list(islice((job for lane in self.lanes.values() for job in lane.jobs.values()), number))

    def wake(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                return

    async def wait_for_job(self, deadline: float | None) -> bool:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self.waiters.append(waiter)
        timer = None
        if deadline is not None:
            timer = loop.call_at(deadline, _settle, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake()  # the job that woke this one is for the next
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if not waiter.done() or waiter in self.waiters:
                self.waiters.remove(waiter)

    def stop(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(False)

    def note_run_time(self, seconds: float) -> None:
        self.run_time = seconds if self.run_time is None else 0.8 * self.run_time + 0.2 * seconds

    def seconds_until_end(self, position: int) -> float | None:
        """When the job at this place of the queue is expected to end; None while no job has ended."""
        return None if self.run_time is None else self.run_time * (position / self.concurrency + 1)

    def seconds_until_room(self) -> float:
        """When the next of the running jobs is expected to end."""
        return max((1.0 if self.run_time is None else self.run_time) / self.concurrency, 0.05)


class Lane(Generic[J]):
    """The waiting jobs of one priority, numbered in order, so that a place is found without walking the queue."""

    __slots__ = ("gone", "jobs", "next_order")

    def __init__(self) -> None:
        self.jobs: OrderedDict[str, J] = OrderedDict()
        self.next_order = 0
        self.gone: list[int] = []

    def push(self, job: J, *, front: bool) -> None:
        if front and self.jobs:
            job.order = next(iter(self.jobs.values())).order - 1
            position = bisect_left(self.gone, job.order)
            if position < len(self.gone) and self.gone[position] == job.order:
                del self.gone[position]
        else:
            job.order = self.next_order
            self.next_order += 1
        self.jobs[job.record.id] = job
        if front:
            self.jobs.move_to_end(job.record.id, last=False)

    def pop(self) -> J:
        job = self.jobs.popitem(last=False)[1]
        if self.gone:
            del self.gone[: bisect_left(self.gone, job.order)]
        return job

    def discard(self, job: J) -> bool:
        if self.jobs.pop(job.record.id, None) is None:
            return False
        insort(self.gone, job.order)
        return True

    def place(self, job: J) -> int | None:
        if job.record.id not in self.jobs:
            return None
        first = next(iter(self.jobs.values())).order
        between = bisect_left(self.gone, job.order) - bisect_left(self.gone, first) if self.gone else 0
        return job.order - first - between + 1


def _settle(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
