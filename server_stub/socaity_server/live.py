"""One JSON-ready snapshot of everything that a data plane does: what the dashboard and `socaity top` show."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .statistics import Histogram, ModelStatistics

if TYPE_CHECKING:
    from .dataplane import DataPlane
    from .direct import DirectRoute
    from .jobs.backend import JobRecord
    from .repository import ModelStatus

__all__ = ["LiveView", "ModelEntry", "ProcessUsage", "model_entries", "snapshot"]

PROTOCOL = "socaity.live.v1"
MAX_JOBS = 100
WINDOW = 60.0
"""Seconds over which latencies and batch sizes are shown, while somebody watches."""
_MESSAGE_LIMIT = 500


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What is known of one model or batched function: it is served (`direct`), or stands in the folder (`status`), or both."""

    name: str
    direct: DirectRoute | None
    status: ModelStatus | None

    @property
    def state(self) -> str:
        if self.status is not None and self.direct is None:
            return str(self.status.state)
        return "ready"

    @property
    def version(self) -> str | None:
        if self.direct is not None and self.direct.model is not None:
            return self.direct.model.version
        return None if self.status is None else self.status.version

    @property
    def backend(self) -> str | None:
        if self.direct is not None:
            return "function" if self.direct.model is None else self.direct.model.runtime.name
        return None if self.status is None else self.status.backend


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What this process takes; None where the system does not say."""

    cpu_seconds: float
    resident_bytes: int | None
    open_files: int | None

    @classmethod
    def read(cls) -> ProcessUsage:
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            resident = pages * os.sysconf("SC_PAGE_SIZE")
            # minus the descriptor that reads the folder
            files = len(os.listdir("/proc/self/fd")) - 1
        except (OSError, ValueError, IndexError):
            return cls(time.process_time(), _peak_resident(), None)
        return cls(time.process_time(), resident, files)


def model_entries(dataplane: DataPlane) -> list[ModelEntry]:
    """Every model and batched function, served or not, by name."""
    served = dataplane.direct_routes()
    repository = dataplane.repository
    listed = {} if repository is None else {status.name: status for status in repository.listing()}
    return [ModelEntry(name, served.get(name), listed.get(name)) for name in sorted({*served, *listed})]


async def snapshot(dataplane: DataPlane, *, owner: str = "") -> dict[str, Any]:
    """What is now; without rates, for which two looks are needed (`LiveView`)."""
    view = LiveView(dataplane)
    return {**view.look(), "jobs": await view.jobs(owner)}


class LiveView:
    """Looks at a data plane, again and again: what is between two looks gives the rates.

    Keeps the looks of the last `WINDOW` seconds and nothing else; who does not call it pays nothing. A look that is the
    first after more than `stale` seconds has no rates, rather than the mean of a time that nobody watched.
    """

    def __init__(
        self, dataplane: DataPlane, *, clock: Callable[[], float] = time.monotonic, stale: float = 15.0
    ) -> None:
        self._dataplane = dataplane
        self._clock = clock
        self._stale = stale
        self._looked_at = -math.inf
        self._cpu_seconds = 0.0
        self._models: dict[str, deque[_Sample]] = {}

    def look(self) -> dict[str, Any]:
        """A snapshot without the jobs."""
        now = self._clock()
        passed = now - self._looked_at
        if passed > self._stale:
            self._models.clear()
        self._looked_at = now
        entries = model_entries(self._dataplane)
        for name in self._models.keys() - {entry.name for entry in entries}:
            del self._models[name]
        return {
            "protocol": PROTOCOL,
            "service": self._service(now, None if passed > self._stale or passed <= 0 else passed),
            "models": [self._model(entry, now) for entry in entries],
            "queues": [{"name": name, **load} for name, load in self._load().items()],
        }

    async def jobs(self, owner: str = "") -> list[dict[str, Any]]:
        """The newest jobs of one owner."""
        if not self._dataplane.is_ready:
            return []
        now = time.time()
        return [_job(record, now) for record in await self._dataplane.list(owner=owner, limit=MAX_JOBS)]

    def _load(self) -> Mapping[str, Mapping[str, int]]:
        return self._dataplane.load() if self._dataplane.is_ready else {}

    def _service(self, now: float, passed: float | None) -> dict[str, Any]:
        dataplane, usage = self._dataplane, ProcessUsage.read()
        before, self._cpu_seconds = self._cpu_seconds, usage.cpu_seconds
        started = dataplane.started_at
        return {
            "title": dataplane.title,
            "version": dataplane.version,
            "instance": dataplane.instance,
            "state": "ready" if dataplane.is_ready else "stopping" if dataplane.is_closing else "starting",
            "uptime": None if started is None else max(now - started, 0.0),
            "cpu": None if passed is None else (usage.cpu_seconds - before) / passed,
            "cpus": os.cpu_count(),
            "memory": usage.resident_bytes,
        }

    def _model(self, entry: ModelEntry, now: float) -> dict[str, Any]:
        status, direct = entry.status, entry.direct
        shown: dict[str, Any] = {
            "name": entry.name,
            "state": entry.state,
            "version": entry.version,
            "versions": [] if status is None else list(status.versions),
            "backend": entry.backend,
            "reason": None if status is None or status.reason is None else status.reason[:_MESSAGE_LIMIT],
            "served": direct is not None,
        }
        return shown if direct is None else {**shown, **self._served(entry.name, direct, now)}

    def _served(self, name: str, direct: DirectRoute, now: float) -> dict[str, Any]:
        batcher, breaker = direct.batcher, direct.breaker
        sample = _Sample(now, direct.statistics)
        samples = self._models.setdefault(name, deque())
        if samples and samples[-1].calls > sample.calls:
            samples.clear()  # another model of this name
        while samples and samples[0].at < now - WINDOW:
            samples.popleft()
        rates = _rates(samples[-1], sample, batcher.instance_count) if samples else None
        samples.append(sample)
        return {
            "breaker": None
            if breaker is None
            else {"state": breaker.state, "opens": breaker.opens, "reason": breaker.reason},
            "queue": {
                "rows": batcher.depth,
                "calls": batcher.queued_calls,
                "bytes": batcher.queued_bytes,
                "limit": batcher.queue_rows,
                "drain_seconds": _finite(batcher.seconds_to_drain()) if batcher.depth else 0.0,
            },
            "running": {
                "rows": batcher.running_rows,
                "busy": batcher.busy_instances,
                "instances": batcher.instance_count,
                "max_batch_size": batcher.max_batch_size,
            },
            "totals": {
                "calls": sample.calls,
                "succeeded": sample.succeeded,
                "failed": dict(sample.failures),
                "rows": sample.rows,
                "batches": sample.batches,
            },
            "rates": rates,
            **_recent(samples[0], sample),
        }


class _Sample:
    """The counters of a model at one time."""

    __slots__ = (
        "at",
        "batch_rows",
        "batches",
        "calls",
        "compute_seconds",
        "failures",
        "latency",
        "rows",
        "succeeded",
    )

    def __init__(self, at: float, statistics: ModelStatistics) -> None:
        self.at = at
        self.succeeded = statistics.succeeded
        self.failures = {reason: count for reason, count in statistics.failures.items() if count}
        self.calls = self.succeeded + sum(self.failures.values())
        self.rows = statistics.rows
        self.batches = statistics.batches
        self.compute_seconds = statistics.compute_seconds
        self.latency = _copy(statistics.latency)
        self.batch_rows = _copy(statistics.batch_rows)


def _rates(before: _Sample, now: _Sample, instances: int) -> dict[str, float | None] | None:
    seconds = now.at - before.at
    if seconds <= 0:
        return None
    batches = now.batches - before.batches
    rows = now.rows - before.rows
    failed = (now.calls - now.succeeded) - (before.calls - before.succeeded)
    # the time of a batch is counted at its end, so that a long one may be more than the time between two looks
    busy = min((now.compute_seconds - before.compute_seconds) / (seconds * max(instances, 1)), 1.0)
    return {
        "calls": (now.calls - before.calls) / seconds,
        "rows": rows / seconds,
        "batches": batches / seconds,
        "failed": failed / seconds,
        "mean_batch": rows / batches if batches else None,
        "utilisation": busy,
    }


def _recent(before: _Sample, now: _Sample) -> dict[str, Any]:
    """Latency and batch sizes of the window, or since the start (`window` is None) where nothing ended in it."""
    latency, batch_rows = _minus(now.latency, before.latency), _minus(now.batch_rows, before.batch_rows)
    window: float | None = now.at - before.at
    if not latency.count and not batch_rows.count:
        latency, batch_rows, window = now.latency, now.batch_rows, None
    return {
        "window": window,
        "latency": {
            "p50": latency.quantile(0.5),
            "p95": latency.quantile(0.95),
            "p99": latency.quantile(0.99),
            "bounds": latency.bounds,
            "counts": latency.counts,
        },
        "batch_rows": {
            "mean": batch_rows.sum / batch_rows.count if batch_rows.count else None,
            "bounds": batch_rows.bounds,
            "counts": batch_rows.counts,
        },
    }


def _copy(histogram: Histogram) -> Histogram:
    copy = Histogram(histogram.bounds)
    copy.counts, copy.count, copy.sum = histogram.counts.copy(), histogram.count, histogram.sum
    return copy


def _minus(now: Histogram, before: Histogram) -> Histogram:
    difference = Histogram(now.bounds)
    difference.counts = [new - old for new, old in zip(now.counts, before.counts, strict=True)]
    difference.count, difference.sum = now.count - before.count, now.sum - before.sum
    return difference


def _job(record: JobRecord, now: float) -> dict[str, Any]:
    ended = now if record.finished_at is None else record.finished_at
    error = record.error or {}
    message = error.get("detail") or error.get("title") or record.message
    return {
        "id": record.id,
        "endpoint": record.queue,
        "status": record.status.value,
        "fraction": record.fraction,
        "message": None if message is None else str(message)[:_MESSAGE_LIMIT],
        "position": record.queue_position,
        "age": max(now - record.created_at, 0.0),
        "seconds": None if record.started_at is None else max(ended - record.started_at, 0.0),
    }


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None


def _peak_resident() -> int | None:
    """The most that was resident, for systems that do not tell what is."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
