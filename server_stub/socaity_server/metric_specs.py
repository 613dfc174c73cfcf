"""Every metric: its name, its labels, what it means, and where its values come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from prometheus_client.core import HistogramMetricFamily, Metric

from .live import ModelEntry, ProcessUsage
from .statistics import Histogram

if TYPE_CHECKING:
    from .dataplane import DataPlane
    from .direct import DirectRoute

__all__ = ["MAX_JOBS", "METRICS", "MetricSpec", "Scene"]

MAX_JOBS = 1000
"""How many jobs a scrape looks at."""

_Values = Iterable[tuple[tuple[str, ...], "float | Histogram"]]

_STATES = ("ready", "loading", "failed", "unloaded")
_REASONS = ("rejected", "expired", "cancelled", "model", "invalid")
_BREAKER = {"closed": 0, "half_open": 1, "open": 2}
_SEED_LATENCY = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
# Of Triton; what it does not name is OTHER.
_TRITON_REASONS = {"rejected": "REJECTED", "expired": "REJECTED", "cancelled": "CANCELED", "model": "BACKEND"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What one scrape sees."""

    dataplane: DataPlane
    models: Sequence[ModelEntry]
    queues: Mapping[str, Mapping[str, int]]
    jobs: Mapping[str, int]
    usage: ProcessUsage
    loop_lag: float | None


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name as it is scraped, and where its values come from."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    read: Callable[[Scene], _Values]
    bounds: tuple[float, ...] = ()
    """Of a histogram: those that are shown (none: all). Leaving some out is exact, since buckets are cumulative."""
    scale: float = 1.0

    def family(self, scene: Scene) -> Metric:
        if self.kind == "histogram":
            histograms = HistogramMetricFamily(self.name, self.help, labels=self.labels)
            for labels, histogram in self.read(scene):
                assert isinstance(histogram, Histogram)
                texts = [_printable(label) for label in labels]
                histograms.add_metric(texts, self._buckets(histogram), histogram.sum * self.scale)
            return histograms
        name, kind = self.name, self.kind
        if kind == "counter" and name.endswith("_total"):
            name = name.removesuffix("_total")
        family = Metric(name, self.help, "unknown" if name == self.name and kind == "counter" else kind)
        for labels, value in self.read(scene):
            assert not isinstance(value, Histogram)
            family.add_sample(self.name, dict(zip(self.labels, map(_printable, labels), strict=True)), value)
        return family

    def _buckets(self, histogram: Histogram) -> list[tuple[str, float]]:
        bounds = [round(bound * self.scale, 9) for bound in histogram.bounds]
        buckets = zip([*bounds, math.inf], accumulate(histogram.counts), strict=True)
        return [
            ("+Inf" if bound == math.inf else repr(float(bound)), count)
            for bound, count in buckets
            if not self.bounds or bound in self.bounds or bound == math.inf
        ]


def _printable(label: str) -> str:
    # names of files may hold what is no text
    return label.encode("utf-8", "replace").decode("utf-8")


def _served(
    read: Callable[[DirectRoute], float | Histogram | None],
    labels: Callable[[ModelEntry], tuple[str, ...]] = lambda entry: (entry.name,),
) -> Callable[[Scene], _Values]:
    """One value for each model that is served and has it."""

    def values(scene: Scene) -> _Values:
        for entry in scene.models:
            if entry.direct is not None and (value := read(entry.direct)) is not None:
                yield labels(entry), value

    return values


def _seed(read: Callable[[DirectRoute], float | Histogram]) -> Callable[[Scene], _Values]:
    # All endpoints of a model share its batcher: the first seed's label stays, with one value.
    return _served(read, lambda entry: (entry.name, "predict"))


def _triton(read: Callable[[DirectRoute], float]) -> Callable[[Scene], _Values]:
    return _served(read, lambda entry: (entry.name, entry.version or "1"))


def _one(read: Callable[[Scene], float | None]) -> Callable[[Scene], _Values]:
    return lambda scene: [] if (value := read(scene)) is None else [((), value)]


def _queue(key: str) -> Callable[[Scene], _Values]:
    return lambda scene: [((name,), load[key]) for name, load in scene.queues.items()]


def _uptime(scene: Scene) -> float | None:
    started = scene.dataplane.started_at
    return None if started is None else time.monotonic() - started


def _service(scene: Scene) -> _Values:
    yield (scene.dataplane.title, scene.dataplane.version, scene.dataplane.instance), 1


def _states(scene: Scene) -> _Values:
    for entry in scene.models:
        for state in _STATES:
            yield (entry.name, state), float(entry.state == state)


def _infos(scene: Scene) -> _Values:
    for entry in scene.models:
        yield (entry.name, entry.version or "", entry.backend or ""), 1


def _failures(scene: Scene) -> _Values:
    for entry in scene.models:
        if entry.direct is not None:
            counts = {**dict.fromkeys(_REASONS, 0), **entry.direct.statistics.failures}
            yield from (((entry.name, reason), count) for reason, count in counts.items())


def _triton_failures(scene: Scene) -> _Values:
    for entry in scene.models:
        if entry.direct is not None:
            counts = dict.fromkeys((*_TRITON_REASONS.values(), "OTHER"), 0)
            for reason, count in entry.direct.statistics.failures.items():
                counts[_TRITON_REASONS.get(reason, "OTHER")] += count
            for reason, count in counts.items():
                yield (entry.name, entry.version or "1", reason), count


def _breaker_state(direct: DirectRoute) -> float | None:
    return None if direct.breaker is None else _BREAKER[direct.breaker.state]


def _breaker_opens(direct: DirectRoute) -> float | None:
    return None if direct.breaker is None else direct.breaker.opens


def _drain(direct: DirectRoute) -> float:
    return direct.batcher.seconds_to_drain() if direct.batcher.depth else 0.0


def _calls(direct: DirectRoute) -> float:
    return direct.statistics.succeeded + sum(direct.statistics.failures.values())


def _errors(direct: DirectRoute) -> float:
    return _calls(direct) - direct.statistics.succeeded - direct.statistics.failures["cancelled"]


_Row = tuple[str, Literal["counter", "gauge", "histogram"], str, Callable[[Scene], _Values]]


def _specs(prefix: str, labels: tuple[str, ...], *rows: _Row) -> tuple[MetricSpec, ...]:
    return tuple(MetricSpec(prefix + name, kind, labels, meaning, read) for name, kind, meaning, read in rows)


METRICS = (
    *_specs(
        "socaity_",
        (),
        ("ready", "gauge", "1 while the service takes calls.", _one(lambda s: float(s.dataplane.is_ready))),
        ("uptime_seconds", "gauge", "Since the service was started.", _one(_uptime)),
        (
            "event_loop_lag_seconds",
            "gauge",
            "A turn of the event loop at the scrape.",
            _one(lambda s: s.loop_lag),
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            "Of the server, not its workers.",
            _one(lambda s: s.usage.cpu_seconds),
        ),
        (
            "process_resident_bytes",
            "gauge",
            "Of the server, not its workers.",
            _one(lambda s: s.usage.resident_bytes),
        ),
        ("process_open_fds", "gauge", "Open files and sockets.", _one(lambda s: s.usage.open_files)),
    ),
    MetricSpec("socaity_service_info", "gauge", ("title", "version", "instance_id"), "Always 1.", _service),
    *_specs(
        "socaity_",
        ("queue",),
        ("queue_waiting_jobs", "gauge", "Jobs that wait.", _queue("waiting")),
        ("queue_running_jobs", "gauge", "Jobs that run.", _queue("running")),
    ),
    MetricSpec(
        "socaity_jobs",
        "gauge",
        ("status",),
        f"Jobs that can still be read, of the newest {MAX_JOBS}.",
        lambda s: [((status,), s.jobs[status]) for status in sorted(s.jobs)],
    ),
    MetricSpec(
        "socaity_model_state",
        "gauge",
        ("model", "state"),
        f"1 for the state it is in: {', '.join(_STATES)}.",
        _states,
    ),
    MetricSpec("socaity_model_info", "gauge", ("model", "version", "backend"), "Always 1.", _infos),
    *_specs(
        "socaity_model_",
        ("model",),
        (
            "succeeded_total",
            "counter",
            "Calls that were answered.",
            _served(lambda d: d.statistics.succeeded),
        ),
        ("rows_total", "counter", "Rows that were computed.", _served(lambda d: d.statistics.rows)),
        ("batches_total", "counter", "Batches that were computed.", _served(lambda d: d.statistics.batches)),
        (
            "queue_seconds_total",
            "counter",
            "Waiting of all calls.",
            _served(lambda d: d.statistics.queue_seconds),
        ),
        (
            "compute_seconds_total",
            "counter",
            "Of all batches.",
            _served(lambda d: d.statistics.compute_seconds),
        ),
        (
            "latency_seconds",
            "histogram",
            "From arrival to outcome, also of failures.",
            _served(lambda d: d.statistics.latency),
        ),
        ("batch_rows", "histogram", "Rows per batch.", _served(lambda d: d.statistics.batch_rows)),
        ("queue_rows", "gauge", "Rows that wait.", _served(lambda d: d.batcher.depth)),
        ("queue_limit_rows", "gauge", "Rows that may wait.", _served(lambda d: d.batcher.queue_rows)),
        ("queue_calls", "gauge", "Calls that wait.", _served(lambda d: d.batcher.queued_calls)),
        ("queue_bytes", "gauge", "Of the rows that wait.", _served(lambda d: d.batcher.queued_bytes)),
        ("queue_drain_seconds", "gauge", "When all that waits now will be done.", _served(_drain)),
        ("running_rows", "gauge", "Rows that are computed now.", _served(lambda d: d.batcher.running_rows)),
        (
            "instances_busy",
            "gauge",
            "Instances that compute now.",
            _served(lambda d: d.batcher.busy_instances),
        ),
        ("instances", "gauge", "Instances in all.", _served(lambda d: d.batcher.instance_count)),
        ("max_batch_size", "gauge", "Rows per batch at most.", _served(lambda d: d.batcher.max_batch_size)),
        (
            "breaker_state",
            "gauge",
            "Circuit breaker: 0 closed, 1 half open, 2 open.",
            _served(_breaker_state),
        ),
        ("breaker_opens_total", "counter", "How often the circuit breaker opened.", _served(_breaker_opens)),
    ),
    MetricSpec(
        "socaity_model_failures_total",
        "counter",
        ("model", "reason"),
        f"Calls that failed: {', '.join(_REASONS)}.",
        _failures,
    ),
    *_specs(
        "inference_",
        ("model_name", "endpoint"),
        ("requests_total", "counter", "Calls, with their failures.", _seed(_calls)),
        ("errors_total", "counter", "Calls that failed, without cancelled ones.", _seed(_errors)),
        ("batch_size", "histogram", "Rows per batch.", _seed(lambda d: d.statistics.batch_rows)),
    ),
    MetricSpec(
        "inference_latency_ms",
        "histogram",
        ("model_name", "endpoint"),
        "As socaity_model_latency_seconds, in milliseconds.",
        _seed(lambda d: d.statistics.latency),
        bounds=_SEED_LATENCY,
        scale=1000.0,
    ),
    *_specs(
        "nv_inference_",
        ("model", "version"),
        (
            "request_success",
            "counter",
            "Calls that were answered.",
            _triton(lambda d: d.statistics.succeeded),
        ),
        ("count", "counter", "Rows that were computed.", _triton(lambda d: d.statistics.rows)),
        ("exec_count", "counter", "Batches that were computed.", _triton(lambda d: d.statistics.batches)),
        ("pending_request_count", "gauge", "Calls that wait.", _triton(lambda d: d.batcher.queued_calls)),
        (
            "request_duration_us",
            "counter",
            "From arrival to outcome.",
            _triton(lambda d: d.statistics.latency.sum * 1e6),
        ),
        (
            "queue_duration_us",
            "counter",
            "Waiting of all calls.",
            _triton(lambda d: d.statistics.queue_seconds * 1e6),
        ),
        (
            "compute_infer_duration_us",
            "counter",
            "Of all batches.",
            _triton(lambda d: d.statistics.compute_seconds * 1e6),
        ),
    ),
    MetricSpec(
        "nv_inference_request_failure",
        "counter",
        ("model", "version", "reason"),
        "Calls that failed: REJECTED, CANCELED, BACKEND or OTHER.",
        _triton_failures,
    ),
)
