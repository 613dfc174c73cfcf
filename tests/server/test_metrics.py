"""`/metrics`: exact numbers under exact names, in both formats, whatever a model is called."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from socaity.protocol.events import JobStatus
from socaity_server.metrics import metric_table, render, scrape
from tests.server.live_doubles import FakeBatcher, FakeBreaker, FakeDataPlane, FakeDirect, FakeStatus

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana" / "socaity.json"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def busy_dataplane() -> FakeDataPlane:
    direct = FakeDirect("mlp", version="3")
    direct.work(calls=3, rows=2, seconds=0.004)
    direct.work(calls=1, rows=1, seconds=0.2)
    direct.statistics.failures.update(rejected=5, expired=4, cancelled=3, model=2, invalid=1)
    direct.batcher = FakeBatcher(
        depth=7, queued_calls=6, queued_bytes=560, running_rows=4, busy_instances=1, drain_seconds=1.5
    )
    direct.breaker = FakeBreaker("half_open", opens=2)
    dataplane = FakeDataPlane(direct)
    dataplane.statuses = [FakeStatus("broken", "failed", reason="no file"), FakeStatus("mlp")]
    dataplane.queues = {"draw": {"waiting": 3, "running": 1}}
    return dataplane


def samples_of(body: bytes) -> Samples:
    """What a scraper reads; the parser gives nothing for a line that it does not understand, it raises."""
    # it adds the suffix to counters that have none, as those of Triton
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_metrics_have_the_numbers_of_the_counters() -> None:
    body, content_type = render(busy_dataplane().as_dataplane, jobs={"queued": 3}, loop_lag=0.25)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    samples = samples_of(body)
    expected = {
        "succeeded_total": 4,
        "rows_total": 7,
        "batches_total": 2,
        "queue_seconds_total": 0.106,
        "compute_seconds_total": 0.102,
        "queue_rows": 7,
        "queue_limit_rows": 1024,
        "queue_calls": 6,
        "queue_bytes": 560,
        "queue_drain_seconds": 1.5,
        "running_rows": 4,
        "instances_busy": 1,
        "instances": 2,
        "max_batch_size": 32,
        "breaker_state": 1,
        "breaker_opens_total": 2,
        "latency_seconds_count": 4,
        "latency_seconds_sum": 0.212,
        "batch_rows_count": 2,
        "batch_rows_sum": 7,
    }
    found = {name: value(samples, f"socaity_model_{name}", model="mlp") for name in expected}
    assert found == pytest.approx(expected)
    for reason, count in {"rejected": 5, "expired": 4, "cancelled": 3, "model": 2, "invalid": 1}.items():
        assert value(samples, "socaity_model_failures_total", model="mlp", reason=reason) == count
    assert value(samples, "socaity_model_latency_seconds_bucket", model="mlp", le="0.001") == 0
    assert value(samples, "socaity_model_latency_seconds_bucket", model="mlp", le="0.005") == 3
    assert value(samples, "socaity_model_latency_seconds_bucket", model="mlp", le="+Inf") == 4
    assert value(samples, "socaity_queue_waiting_jobs", queue="draw") == 3
    assert value(samples, "socaity_queue_running_jobs", queue="draw") == 1
    assert value(samples, "socaity_jobs", status="queued") == 3
    assert value(samples, "socaity_event_loop_lag_seconds") == 0.25
    assert value(samples, "socaity_ready") == 1
    assert value(samples, "socaity_process_resident_bytes") > 2**20
    assert value(samples, "socaity_service_info", title="shop", version="1.2", instance_id="0f") == 1


def test_states_say_which_one_it_is() -> None:
    samples = samples_of(render(busy_dataplane().as_dataplane)[0])
    assert value(samples, "socaity_model_state", model="broken", state="failed") == 1
    assert value(samples, "socaity_model_state", model="broken", state="ready") == 0
    assert value(samples, "socaity_model_state", model="mlp", state="ready") == 1
    backend = "onnxruntime 1.20"
    assert value(samples, "socaity_model_info", model="mlp", version="3", backend=backend) == 1


def test_names_of_the_first_seed_are_there() -> None:
    samples = samples_of(render(busy_dataplane().as_dataplane)[0])
    labels = {"model_name": "mlp", "endpoint": "predict"}
    assert value(samples, "inference_requests_total", **labels) == 19
    assert value(samples, "inference_errors_total", **labels) == 12
    assert value(samples, "inference_latency_ms_sum", **labels) == pytest.approx(212)
    buckets = {
        dict(key)["le"]: count
        for (name, key), count in samples.items()
        if name == "inference_latency_ms_bucket"
    }
    bounds = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
    assert list(buckets) == [*[f"{bound}.0" for bound in bounds], "+Inf"]
    assert [buckets[f"{bound}.0"] for bound in bounds[:7]] == [0, 3, 3, 3, 3, 3, 4]
    assert value(samples, "inference_batch_size_count", **labels) == 2


def test_names_of_triton_are_there() -> None:
    body = render(busy_dataplane().as_dataplane)[0].decode()
    lines = dict(line.rsplit(" ", 1) for line in body.splitlines() if line.startswith("nv_"))
    labels = '{model="mlp",version="3"}'
    expected = {
        "nv_inference_request_success": 4,
        "nv_inference_count": 7,
        "nv_inference_exec_count": 2,
        "nv_inference_pending_request_count": 6,
        "nv_inference_request_duration_us": 212_000,
        "nv_inference_queue_duration_us": 106_000,
        "nv_inference_compute_infer_duration_us": 102_000,
    }
    assert {name: float(lines[name + labels]) for name in expected} == pytest.approx(expected)
    for reason, count in {"REJECTED": 9, "CANCELED": 3, "BACKEND": 2, "OTHER": 1}.items():
        assert (
            float(lines[f'nv_inference_request_failure{{model="mlp",reason="{reason}",version="3"}}'])
            == count
        )
    assert "# TYPE nv_inference_count counter" in body
    assert "# TYPE nv_inference_pending_request_count gauge" in body


def test_accept_chooses_openmetrics() -> None:
    body, content_type = render(busy_dataplane().as_dataplane, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families["socaity_model_rows"].type == "counter"
    assert families["inference_errors"].type == "counter"
    [sample] = families["nv_inference_count"].samples
    assert (sample.name, sample.value) == ("nv_inference_count", 7)


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_odd_names_do_not_break_the_format(accept: str) -> None:
    odd = 'a"b\\c\nd} 1\n# TYPE x counter\udcff'
    dataplane = FakeDataPlane(FakeDirect(odd, version=odd, backend=odd), FakeDirect("plain"), title=odd)
    dataplane.queues = {odd: {"waiting": 1, "running": 0}}
    body = render(dataplane.as_dataplane, accept)[0].decode()
    parse = parse_openmetrics if accept else parse_text
    shown = {
        sample.labels["model"]
        for family in parse(body)
        for sample in family.samples
        if sample.name == "socaity_model_rows_total"
    }
    assert shown == {odd.replace("\udcff", "?"), "plain"}


def test_every_metric_has_a_help_and_a_line_in_the_table() -> None:
    body = render(busy_dataplane().as_dataplane, jobs={"queued": 1}, loop_lag=0.0)[0].decode()
    types = set(re.findall(r"(?m)^# TYPE (\S+) ", body))
    assert set(re.findall(r"(?m)^# HELP (\S+) \S.*\.$", body)) == types
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", metric_table())) == types


def test_services_share_nothing() -> None:
    before = {family.name for family in REGISTRY.collect()}
    first, second = FakeDataPlane(FakeDirect("a")), FakeDataPlane(FakeDirect("b"))
    assert b'model="b"' not in render(first.as_dataplane)[0]
    assert b'model="a"' not in render(second.as_dataplane)[0]
    assert {family.name for family in REGISTRY.collect()} == before


@pytest.mark.anyio
async def test_scrape_counts_jobs_and_measures_the_loop() -> None:
    dataplane = busy_dataplane()
    dataplane.add_job(JobStatus.QUEUED)
    dataplane.add_job(JobStatus.FAILED)
    dataplane.add_job(JobStatus.FAILED)
    samples = samples_of((await scrape(dataplane.as_dataplane))[0])
    assert value(samples, "socaity_jobs", status="failed") == 2
    assert value(samples, "socaity_jobs", status="queued") == 1
    assert value(samples, "socaity_event_loop_lag_seconds") >= 0


@pytest.mark.anyio
async def test_service_that_is_not_started_can_be_scraped() -> None:
    dataplane = FakeDataPlane()
    dataplane.is_ready, dataplane.started_at = False, None
    samples = samples_of((await scrape(dataplane.as_dataplane))[0])
    assert value(samples, "socaity_ready") == 0
    assert dataplane.lists == 0


def test_grafana_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads(GRAFANA.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [
        variable["query"]["query"]
        for variable in dashboard["templating"]["list"]
        if variable["type"] == "query"
    ]
    body = render(busy_dataplane().as_dataplane, jobs={"queued": 1}, loop_lag=0.0)[0].decode()
    known = set(re.findall(r"(?m)^(\w+)[{ ]", body))
    used = set(re.findall(r"\b(?:socaity|inference|nv)_\w+", " ".join(queries)))
    assert len(used) > 15
    assert used <= known
