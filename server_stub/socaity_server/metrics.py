"""Prometheus text, made at the time of the scrape from the plain counters of a data plane."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .live import ProcessUsage, model_entries
from .metric_specs import MAX_JOBS, METRICS, Scene

if TYPE_CHECKING:
    from .dataplane import DataPlane

__all__ = ["metric_table", "render", "scrape"]


async def scrape(dataplane: DataPlane, accept: str = "") -> tuple[bytes, str]:
    """What `GET /metrics` answers: body and content type. Looks at the jobs and at the event loop first."""
    asked = time.perf_counter()
    await asyncio.sleep(0)
    lag = time.perf_counter() - asked
    jobs: Counter[str] = Counter()
    if dataplane.is_ready:
        jobs.update(record.status.value for record in await dataplane.list(limit=MAX_JOBS))
    return render(dataplane, accept, jobs=jobs, loop_lag=lag)


def render(
    dataplane: DataPlane,
    accept: str = "",
    *,
    jobs: Mapping[str, int] | None = None,
    loop_lag: float | None = None,
) -> tuple[bytes, str]:
    """Body and content type: OpenMetrics for who accepts it, else Prometheus text.

    `jobs` counts jobs by status, `loop_lag` is in seconds; without them their metrics have no values.
    """
    scene = Scene(
        dataplane,
        models=model_entries(dataplane),
        queues=dataplane.load() if dataplane.is_ready else {},
        jobs=jobs or {},
        usage=ProcessUsage.read(),
        loop_lag=loop_lag,
    )
    registry = CollectorRegistry()
    registry.register(_Collector(scene))
    encode, content_type = choose_encoder(accept)
    body = encode(registry)
    if content_type.startswith("text/plain"):
        # Triton's counters have no `_total`, without which the encoder takes no counter.
        body = re.sub(rb"(?m)^(# TYPE nv_\w+) untyped$", rb"\1 counter", body)
    return body, content_type


def metric_table() -> str:
    """All metrics as a Markdown table, for the documentation."""
    lines = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    for spec in METRICS:
        labels = ", ".join(f"`{label}`" for label in spec.labels) or "–"
        lines.append(f"| `{spec.name}` | {spec.kind} | {labels} | {spec.help} |")
    return "\n".join(lines) + "\n"


class _Collector(Collector):
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def collect(self) -> Iterator[Metric]:
        for spec in METRICS:
            yield spec.family(self._scene)
