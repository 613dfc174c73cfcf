"""The seam between the server and whatever keeps its jobs.

One object per process, asyncio only. Every back-end passes `tests/contract/job_backend.py`; its invariants: a submit is
durable on return where the engine is durable, and idempotent by id; a job runs at least once and has exactly one terminal
event, the first; events are ordered, without a gap, and can be read again from any number; a cancelled queued job never
runs; a lease expires within twice its length; a heartbeat keeps a long job; a full queue raises and drops nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from socaity.exceptions import ServerError
from socaity.protocol.events import EventKind, JobEvent, JobStatus

Sink = Callable[[JobEvent], object]
"""Takes an event; False: it wants no more of them."""
"""Takes the events of a watched job, on the event loop; must not block or raise."""

Priority = Literal["high", "normal", "low"]


class QueueFull(ServerError):
    """The queue holds as many waiting jobs as it may; `retry_after` seconds until a place is expected."""

    default_status = 503
    default_code = "queue_full"


@dataclass(slots=True)
class JobRecord:
    """What is known of a job. `payload` is what the executor gets, `owner` who may read and cancel it.

    `fingerprint` tells a repeated submit from a different one under the same key; empty, it is not compared. `waits`: the
    arguments are results of other jobs, and the job begins to run with `Lease.begin`, not with the lease. Times are seconds
    since the epoch.
    """

    id: str
    queue: str
    payload: Any = None
    owner: str = ""
    fingerprint: str = ""
    priority: Priority = "normal"
    status: JobStatus = JobStatus.QUEUED
    fraction: float | None = None
    message: str | None = None
    queue_position: int | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    attempt: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    logs: list[str] = field(default_factory=list)
    waits: bool = False


class Lease(ABC):
    """The right to run one attempt of a job, until it expires or is lost."""

    job_id: str
    payload: Any
    attempt: int

    @abstractmethod
    async def heartbeat(self) -> bool:
        """Keep the lease; False: it is lost or the job is cancelled, so stop."""

    async def begin(self) -> bool:
        """What the job had to wait for is there, and it begins to run; False: the lease is lost."""
        return True

    @abstractmethod
    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the loop as soon as the lease is lost or the job cancelled."""

    @abstractmethod
    async def emit(self, kind: EventKind, data: Any) -> bool:
        """Add a `progress`, `log` or `chunk` event; False: the lease is lost."""

    @abstractmethod
    async def succeed(self, result: Any) -> bool:
        """End the job; False: it had ended before, this result is dropped."""

    @abstractmethod
    async def fail(self, error: Mapping[str, Any], *, retry_in: float | None = None) -> bool:
        """End the job with a problem document, or queue it again in `retry_in` seconds."""


class JobBackend(ABC):
    """Keeps jobs, hands them out, and tells who watches them."""

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; watchers of unfinished jobs get no further event."""

    @abstractmethod
    def configure_queue(self, queue: str, *, limit: int | None, concurrency: int) -> None:
        """Name a queue, how many jobs may wait in it (None: any number) and how many run at once (for estimates)."""

    @abstractmethod
    async def submit(self, job: JobRecord) -> bool:
        """Accept a job; False: this id is known already. Raises QueueFull."""

    @abstractmethod
    async def get(self, job_id: str) -> JobRecord | None:
        """A snapshot, or None."""

    @abstractmethod
    async def list(
        self,
        *,
        owner: str | None = None,
        queue: str | None = None,
        status: JobStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Sequence[JobRecord]:
        """Snapshots, newest first; `after` is the id of the last one of the page before."""

    @abstractmethod
    def watch(self, job_id: str, sink: Sink, *, after: int = 0) -> Callable[[], None] | None:
        """Replay the events after number `after` into `sink` before returning, then the live ones, the terminal one last.
        A sink that returns False gets no more.

        Returns the function that ends the watch, or None if the job is unknown.
        """

    @abstractmethod
    def events(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """The same as an iterator that ends after the terminal event. Raises KeyError for an unknown job."""

    @abstractmethod
    async def cancel(self, job_id: str) -> bool:
        """True: it will not finish as succeeded. False: it is unknown or ended before."""

    @abstractmethod
    async def lease(self, queue: str, max_jobs: int, *, wait: float | None = None) -> Sequence[Lease]:
        """Up to `max_jobs` jobs to run, at least one, or none after `wait` seconds (None: wait for one)."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """How many jobs wait."""


class Executor(ABC):
    """Runs leased jobs; the local one by default."""

    @abstractmethod
    async def run(self, leases: Sequence[Lease]) -> None:
        """Run every lease to its end; each ends by `succeed` or `fail`."""


class BlobStore(ABC):
    """Large bytes by their SHA-256."""

    @abstractmethod
    async def put(self, sha256: str, chunks: AsyncIterator[bytes], *, max_size: int) -> int:
        """Store; returns the size. Raises InvalidInputError (413 too large, 422 hash does not fit)."""

    @abstractmethod
    def size(self, sha256: str) -> int | None:
        """The size in bytes, or None if it is not here."""

    @abstractmethod
    def open(self, sha256: str) -> BinaryIO:
        """A file to read. Raises NotFoundError."""

    @abstractmethod
    async def delete(self, sha256: str) -> None: ...
