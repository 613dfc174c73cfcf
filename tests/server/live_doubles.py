"""A data plane that says what a test has put into it, for what shows the server: metrics, dashboard, `top`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from socaity.protocol.events import JobStatus
from socaity_server.dataplane import DataPlane
from socaity_server.jobs.backend import JobRecord
from socaity_server.statistics import ModelStatistics


@dataclass
class FakeBatcher:
    depth: int = 0
    queued_calls: int = 0
    queued_bytes: int = 0
    running_rows: int = 0
    busy_instances: int = 0
    instance_count: int = 2
    max_batch_size: int = 32
    queue_rows: int = 1024
    drain_seconds: float = 0.0

    def seconds_to_drain(self) -> float:
        return self.drain_seconds


@dataclass
class FakeBreaker:
    state: str = "closed"
    opens: int = 0
    reason: str | None = None


@dataclass
class FakeDirect:
    """One served model."""

    name: str
    version: str | None = "1"
    backend: str = "onnxruntime 1.20"
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    batcher: FakeBatcher = field(default_factory=FakeBatcher)
    breaker: FakeBreaker | None = field(default_factory=FakeBreaker)

    @property
    def route(self) -> Any:
        return SimpleNamespace(name=self.name)

    @property
    def model(self) -> Any:
        return SimpleNamespace(
            name=self.name, version=self.version, runtime=SimpleNamespace(name=self.backend)
        )

    def work(self, *, calls: int = 1, rows: int = 1, seconds: float = 0.002) -> None:
        """As if `calls` calls of `rows` rows had been answered, in one batch."""
        statistics = self.statistics
        statistics.succeeded += calls
        statistics.rows += calls * rows
        statistics.batches += 1
        statistics.batch_rows.observe(calls * rows)
        statistics.compute_seconds += seconds / 2
        statistics.queue_seconds += calls * seconds / 2
        for _ in range(calls):
            statistics.latency.observe(seconds)


@dataclass
class FakeStatus:
    """One entry of the listing of a repository."""

    name: str
    state: str = "ready"
    version: str | None = "1"
    versions: tuple[str, ...] = ("1",)
    reason: str | None = None
    backend: str | None = "onnx"
    path: Path = Path("models")


class FakeDataPlane:
    """Has what `live.py` and `metrics.py` read; `as_dataplane` is itself, for type checkers."""

    def __init__(self, *models: FakeDirect, title: str = "shop") -> None:
        self.title = title
        self.version = "1.2"
        self.instance = "0f"
        self.started_at: float | None = time.monotonic()
        self.is_ready = True
        self.is_closing = False
        self.models = list(models)
        self.statuses: list[FakeStatus] = []
        self.queues: dict[str, dict[str, int]] = {}
        self.records: list[JobRecord] = []
        self.lists = 0

    @property
    def as_dataplane(self) -> DataPlane:
        return cast(DataPlane, self)

    @property
    def repository(self) -> Any:
        return SimpleNamespace(listing=lambda: self.statuses) if self.statuses else None

    def direct_routes(self) -> dict[str, FakeDirect]:
        return {model.name: model for model in self.models}

    def load(self) -> dict[str, dict[str, int]]:
        return self.queues

    async def list(self, *, owner: str = "", limit: int = 100) -> Sequence[JobRecord]:
        self.lists += 1
        return [record for record in self.records if record.owner == owner][:limit]

    def add_job(self, status: JobStatus = JobStatus.RUNNING, **more: Any) -> JobRecord:
        now = time.time()
        record = JobRecord(
            id=f"{len(self.records):032x}",
            queue="draw",
            status=status,
            created_at=now,
            started_at=now,
            **more,
        )
        self.records.insert(0, record)
        return record
