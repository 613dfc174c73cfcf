"""Calls become spans with OpenTelemetry's own exporter, below the caller's, and cost nothing when nobody listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from socaity.exceptions import InvalidInputError, ServerError
from socaity_server import tracing
from socaity_server.tracing import CallTracer

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
OFFSET = 10**18
TIMES: dict[str, Any] = {"arrived": 1.0, "started": 1.25, "ended": 1.75, "finished": 2.0}


class EngineError(Exception):
    """One that is not ours."""


class Spans:
    """A provider of its own, and what it wrote."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.calls = CallTracer(self.provider.get_tracer("test"), wall_offset=lambda: OFFSET)

    def record(self, headers: dict[str, str] | None = None, **changes: Any) -> dict[str, ReadableSpan]:
        self.calls.record_call("digits", headers or {}, **{**TIMES, "batch_rows": 8, "calls": 3, **changes})
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def spans() -> Iterator[Spans]:
    spans = Spans()
    yield spans
    spans.provider.shutdown()


def interval(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.start_time - OFFSET) / 1e9, (span.end_time - OFFSET) / 1e9


def test_call_becomes_one_server_span_with_its_steps(spans: Spans) -> None:
    found = spans.record()
    assert {name: interval(span) for name, span in found.items()} == {
        "predict digits": (1.0, 2.0),
        "queue": (1.0, 1.25),
        "compute": (1.25, 1.75),
        "encode": (1.75, 2.0),
    }
    call = found["predict digits"]
    assert call.kind is trace.SpanKind.SERVER
    assert call.parent is None
    assert dict(call.attributes or {}) == {
        "socaity.model": "digits",
        "socaity.batch.rows": 8,
        "socaity.batch.calls": 3,
    }
    assert call.status.status_code is trace.StatusCode.UNSET
    assert call.context is not None
    for name in ("queue", "compute", "encode"):
        parent = found[name].parent
        assert parent is not None
        assert parent.span_id == call.context.span_id
        assert found[name].kind is trace.SpanKind.INTERNAL


def test_parent_is_that_of_the_caller(spans: Spans) -> None:
    call = spans.record(HEADERS)["predict digits"]
    assert call.parent is not None
    assert call.context is not None
    assert trace.format_span_id(call.parent.span_id) == PARENT
    assert trace.format_trace_id(call.context.trace_id) == TRACE
    assert call.context.trace_state["vendor"] == "1"


@pytest.mark.parametrize("value", ["", "nonsense", f"00-{TRACE}", f"00-{'0' * 32}-{PARENT}-01"])
def test_parent_that_is_none_starts_a_trace(spans: Spans, value: str) -> None:
    assert spans.record({"traceparent": value})["predict digits"].parent is None


def test_caller_that_does_not_sample_is_heeded(spans: Spans) -> None:
    assert spans.record({"traceparent": f"00-{TRACE}-{PARENT}-00"}) == {}


def test_sampler_is_heeded() -> None:
    assert Spans(sampler=ALWAYS_OFF).record() == {}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServerError("The secret is wrong.", status=503, code="queue_full"), "queue_full"),
        (ValueError("The secret is wrong."), "ValueError"),
        (EngineError("The secret is wrong."), f"{__name__}.EngineError"),
    ],
)
def test_error_of_the_server_is_one(spans: Spans, error: BaseException, kind: str) -> None:
    call = spans.record(error=error)["predict digits"]
    assert (call.attributes or {})["error.type"] == kind
    assert call.status.status_code is trace.StatusCode.ERROR
    assert "secret" not in call.to_json()


def test_error_of_the_caller_is_none_of_the_server(spans: Spans) -> None:
    call = spans.record(error=InvalidInputError("no", status=422, code="invalid_input"))["predict digits"]
    assert (call.attributes or {})["error.type"] == "invalid_input"
    assert call.status.status_code is trace.StatusCode.UNSET


def test_call_that_never_ran_only_waited(spans: Spans) -> None:
    found = spans.record(started=None, ended=None, batch_rows=0, calls=0)
    assert set(found) == {"predict digits", "queue"}
    assert interval(found["queue"]) == (1.0, 2.0)


def test_moments_out_of_order_give_no_span_that_ends_before_it_starts(spans: Spans) -> None:
    for span in spans.record(started=0.5, ended=3.0, finished=1.5).values():
        start, end = interval(span)
        assert 1.0 <= start <= end <= 1.5


def test_times_are_those_on_the_wall() -> None:
    spans = Spans()
    calls = CallTracer(spans.provider.get_tracer("test"))
    before, now = time.time_ns(), time.monotonic()
    calls.record_call("digits", {}, arrived=now, started=now, ended=now, finished=now, batch_rows=1, calls=1)
    for span in spans.exporter.get_finished_spans():
        assert span.start_time is not None
        assert abs(span.start_time - before) < 5e9


def test_without_a_provider_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider in (trace.ProxyTracerProvider(), trace.NoOpTracerProvider()):
        monkeypatch.setattr(trace, "get_tracer_provider", lambda provider=provider: provider)
        assert tracing.tracer() is None
        assert CallTracer.from_environment() is None


def test_without_the_package_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert tracing.tracer() is None
    assert CallTracer.from_environment() is None


def test_provider_of_the_application_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    calls = CallTracer.from_environment()
    assert calls is not None
    calls.record_call("digits", HEADERS, **TIMES, batch_rows=1, calls=1)
    assert len(spans.exporter.get_finished_spans()) == 4
