"""The statistics extension: what the counters of a model say, in its JSON form. Counts go up, times are in nanoseconds."""

from __future__ import annotations

import time
from typing import Any

from ..statistics import ModelStatistics

__all__ = ["CallCounters", "document_of"]

_NANOSECONDS = 1e9
_FAILED = ("model", "expired", "rejected", "invalid", "cancelled")


def document_of(statistics: ModelStatistics) -> dict[str, Any]:
    """Of a batcher. `compute_input` and `compute_output` are views of memory, which take no time."""
    batches = sorted(statistics.by_size.items())
    rows = sum(int(size * count) for size, (count, _) in batches)
    executions = sum(int(count) for _, (count, _) in batches)
    seconds = sum(took for _, (_, took) in batches)
    succeeded = statistics.succeeded
    failed = sum(statistics.failures[reason] for reason in _FAILED)
    queued = succeeded + statistics.failures["model"]
    return _document(
        last=statistics.last_batch_at,
        rows=rows,
        executions=executions,
        succeeded=(succeeded, statistics.latency.sum - statistics.failed_seconds),
        failed=(failed, statistics.failed_seconds),
        queue=(queued, statistics.queue_seconds),
        infer=(succeeded, seconds),
        batches=[
            {
                "batch_size": size,
                "compute_input": _duration(int(count), 0.0),
                "compute_infer": _duration(int(count), took),
                "compute_output": _duration(int(count), 0.0),
            }
            for size, (count, took) in batches
        ],
    )


class CallCounters:
    """Counts the calls of a model that has no batcher."""

    def __init__(self) -> None:
        self._succeeded = self._failed = 0
        self._seconds = self._failed_seconds = 0.0
        self._last: float | None = None

    def count(self, seconds: float, *, succeeded: bool) -> None:
        """A call has ended."""
        self._last = time.time()
        if succeeded:
            self._succeeded += 1
            self._seconds += seconds
        else:
            self._failed += 1
            self._failed_seconds += seconds

    def document(self) -> dict[str, Any]:
        """As `document_of`."""
        done = (self._succeeded, self._seconds)
        batch = {
            "batch_size": 1,
            "compute_input": _duration(self._succeeded, 0.0),
            "compute_infer": _duration(*done),
            "compute_output": _duration(self._succeeded, 0.0),
        }
        return _document(
            last=self._last,
            rows=self._succeeded,
            executions=self._succeeded,
            succeeded=done,
            failed=(self._failed, self._failed_seconds),
            queue=(self._succeeded, 0.0),
            infer=done,
            batches=[batch] if self._succeeded else [],
        )


def _document(
    *,
    last: float | None,
    rows: int,
    executions: int,
    succeeded: tuple[int, float],
    failed: tuple[int, float],
    queue: tuple[int, float],
    infer: tuple[int, float],
    batches: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "last_inference": 0 if last is None else int(last * 1000),
        "inference_count": rows,
        "execution_count": executions,
        "inference_stats": {
            "success": _duration(*succeeded),
            "fail": _duration(*failed),
            "queue": _duration(*queue),
            "compute_input": _duration(infer[0], 0.0),
            "compute_infer": _duration(*infer),
            "compute_output": _duration(infer[0], 0.0),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "response_stats": {},
        "batch_stats": batches,
        "memory_usage": [],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": max(int(seconds * _NANOSECONDS), 0)}
