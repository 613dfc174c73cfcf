"""OpenTelemetry spans of calls, written when they are over. Without the package or a tracer provider there is no tracer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from socaity.exceptions import SocaityError

    from .frontends.lite import ModelHandler
    from .waterfall import Waterfall

__all__ = ["CallTracer", "RequestTracer", "tracer"]

_SCOPE = "socaity_server"
_NS = 1_000_000_000


def tracer() -> Tracer | None:
    """The tracer of the provider that the application has set; None: nobody wants spans. Ask once, at the start.

    `opentelemetry-instrument socaity serve …` sets one, and so does `opentelemetry.trace.set_tracer_provider`.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    provider = trace.get_tracer_provider()
    # the first one stands for a provider that may still come, the other for none
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return trace.get_tracer(_SCOPE, tracer_provider=provider)


class CallTracer:
    """Writes one server span per call, with the children `queue`, `compute` and `encode`.

    It needs the package `opentelemetry-api`. Nothing of what was in a call is written.
    """

    def __init__(self, tracer: Tracer, *, wall_offset: Callable[[], int] | None = None) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation import tracecontext

        self._trace = trace
        self._tracer = tracer
        self._propagator = tracecontext.TraceContextTextMapPropagator()
        self._wall_offset = wall_offset or _wall_offset

    @classmethod
    def from_environment(cls) -> Self | None:
        """A tracer of calls when a tracer provider is set, else None."""
        found = tracer()
        return None if found is None else cls(found)

    def record_call(
        self,
        model: str,
        traceparent_headers: Mapping[str, str],
        *,
        arrived: float,
        started: float | None,
        ended: float | None,
        finished: float,
        batch_rows: int,
        calls: int,
        error: BaseException | None = None,
    ) -> None:
        """Write the spans of a call of `model` that is over.

        `traceparent_headers` are headers with small letters, of which `traceparent` and `tracestate` (W3C Trace Context) name
        the parent. Times are of `time.monotonic`: it `arrived`, its batch of `calls` calls and `batch_rows` rows `started` and
        `ended` (both None: it never ran), its answer was `finished`.

        `error.type` is the code of an error of ours, else the name of its class; errors of the caller (4xx) do not make the
        span one of an error, as OpenTelemetry's conventions for HTTP servers have it.
        """
        trace = self._trace
        offset = self._wall_offset()
        first = _nanoseconds(arrived, offset)
        last = max(_nanoseconds(finished, offset), first)
        attributes: dict[str, Any] = {
            "socaity.model": model,
            "socaity.batch.rows": batch_rows,
            "socaity.batch.calls": calls,
        }
        if error is not None:
            attributes["error.type"] = _error_type(error)
        span = self._tracer.start_span(
            f"predict {model}",
            self._propagator.extract(traceparent_headers),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=first,
        )
        if span.is_recording():
            parent = trace.set_span_in_context(span)
            begin = first
            for name, moment in (("queue", started), ("compute", ended), ("encode", finished)):
                if moment is None:
                    if name == "queue":
                        moment = finished  # it waited until it was given up
                    else:
                        break
                # not before what came before: the moments are read on several threads
                end = min(max(_nanoseconds(moment, offset), begin), last)
                self._tracer.start_span(name, parent, start_time=begin).end(end)
                begin = end
            if error is not None and not _is_callers_fault(error):
                span.set_status(trace.StatusCode.ERROR, _error_type(error))
        span.end(last)


def _wall_offset() -> int:
    """Nanoseconds from the monotonic clock to the one on the wall; not kept, as the latter is put right now and then."""
    return time.time_ns() - time.monotonic_ns()


def _nanoseconds(moment: float, offset: int) -> int:
    return round(moment * _NS) + offset


def _error_type(error: BaseException) -> str:
    code = getattr(error, "code", None)
    if isinstance(code, str) and code:
        return code
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_callers_fault(error: BaseException) -> bool:
    status = getattr(error, "status", None)
    return isinstance(status, int) and 400 <= status < 500


class RequestTracer:
    """An observer of the requests to models that writes their spans."""

    def __init__(self, calls: CallTracer) -> None:
        self._calls = calls

    def succeeded(self, handler: ModelHandler, waterfall: Waterfall, headers: Mapping[bytes, bytes]) -> None:
        self._calls.record_call(
            handler.name,
            _decoded(headers),
            arrived=waterfall.arrived,
            started=waterfall.started,
            ended=waterfall.ended,
            finished=waterfall.finished,
            batch_rows=waterfall.batch_rows,
            calls=waterfall.batch_calls,
        )

    def failed(
        self, handler: ModelHandler, error: SocaityError, arrived: float, headers: Mapping[bytes, bytes]
    ) -> None:
        self._calls.record_call(
            handler.name,
            _decoded(headers),
            arrived=arrived,
            started=None,
            ended=None,
            finished=time.monotonic(),
            batch_rows=0,
            calls=0,
            error=error,
        )


def _decoded(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    return {
        name.decode(): headers[name].decode("latin-1")
        for name in (b"traceparent", b"tracestate")
        if name in headers
    }
