"""Direct calls: a batched route's arguments into the batcher and its rows back out, without a task or a future."""

from __future__ import annotations

import logging
import math
import time
from cmath import isfinite
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from socaity.exceptions import (
    ConfigurationError,
    InvalidInputError,
    JobFailed,
    ServerError,
    SocaityError,
)

from .batching.batcher import Batcher
from .batching.cost import CostModel
from .batching.padding import Padding
from .batching.refusals import is_callers_fault
from .breaker import CircuitBreaker
from .loading import LoadedModel
from .route import Route
from .running import failure
from .runtimes.base import numpy_dtype
from .statistics import ModelStatistics
from .tensors import Arrays
from .values import to_plain

__all__ = ["Cancellable", "DirectRoute", "OnDone"]

OnDone: TypeAlias = Callable[[Any, BaseException | None], None]

_logger = logging.getLogger(__name__)
_NOT_SENDABLE = frozenset("OUSMmV")
_QUEUE_ROWS = 65536
_QUEUE_BYTES = 2**30
_PATIENCE = 1.0
_PATIENCE_BATCHES = 10
_SAYS_NOTHING = frozenset({"deadline_exceeded", "model_stuck", "unavailable"})
_NEARLY = 0.9
"""The batch was handed over a little before the runtime got it."""
_SLOWEST = 10
"""A model may take so many times what a batch usually takes before it is given up, where no `timeout` is set."""


class Cancellable(Protocol):
    """A call that can be taken back; its callback does not come any more."""

    def cancel(self) -> object: ...


class _Probe:
    """A call that gives its place behind the circuit breaker back when it is cancelled."""

    def __init__(self, breaker: CircuitBreaker, ticket: Cancellable) -> None:
        self._breaker = breaker
        self.ticket = ticket

    def cancel(self) -> None:
        self.ticket.cancel()
        self._breaker.abandon()


class DirectRoute:
    """One batched route with its batcher, its statistics and, for a model, its circuit breaker.

    `timeout` (seconds) is the longest that a batch may run where the model's configuration says nothing.
    """

    def __init__(
        self, route: Route, *, statistics: ModelStatistics | None = None, timeout: float = math.inf
    ) -> None:
        if route.tensors is None:
            raise ConfigurationError(f"{route.name!r} is not batched.")
        self.route = route
        self.model: LoadedModel | None = route.model
        self.statistics: ModelStatistics = statistics or ModelStatistics()
        self.batcher: Batcher
        self.breaker: CircuitBreaker | None = None
        self._prepare = route.tensors.prepare
        # one fixed shape: all calls may go together
        self._key = route.name if route.tensors.has_one_form else None
        if self.model is None:
            self.timeout = math.inf
            self.batcher = self._function_batcher(route)
        else:
            self.timeout = _timeout_of(self.model, timeout)
            self.batcher = self._model_batcher(route, self.model)

    @property
    def patience(self) -> float:
        """Seconds that a caller who has said nothing about time is kept waiting: longer for slow models."""
        return max(_PATIENCE, _PATIENCE_BATCHES * self.batcher.batch_seconds)

    def call(
        self,
        arguments: Mapping[str, Any],
        on_done: OnDone,
        *,
        deadline: float = math.inf,
        max_wait: float = math.inf,
        priority: int = 0,
    ) -> Cancellable:
        """Check the arguments and run them; `on_done(result, None)` comes later.

        Raises InvalidInputError, and ServerError 503 as `Batcher.submit` does, or `circuit_open`.
        """
        breaker = self.breaker
        if breaker is not None and not breaker.is_closed:
            return self._probe(
                breaker, lambda done: self._submit(arguments, done, deadline, math.inf, priority), on_done
            )
        try:
            return self._submit(arguments, on_done, deadline, max_wait, priority)
        except InvalidInputError:
            self.statistics.failures["invalid"] += 1
            raise

    def call_arrays(
        self,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        *,
        deadline: float = math.inf,
        max_wait: float = math.inf,
        priority: int = 0,
    ) -> Cancellable:
        """As `call`, with inputs that are known to fit and have a batch axis of `rows` rows; the result has the outputs as
        arrays by name, with theirs."""

        def submit(done: OnDone, max_wait: float = math.inf) -> Cancellable:
            return self.batcher.submit(
                inputs,
                rows,
                done,
                self._key,
                deadline=deadline,
                max_wait=max_wait,
                priority=priority,
                as_arrays=True,
            )

        breaker = self.breaker
        if breaker is not None and not breaker.is_closed:
            return self._probe(breaker, submit, on_done)
        return submit(on_done, max_wait)

    def _submit(
        self, arguments: Mapping[str, Any], on_done: OnDone, deadline: float, max_wait: float, priority: int
    ) -> Cancellable:
        inputs, rows, single = self._prepare(arguments)
        return self.batcher.submit(
            inputs,
            rows,
            on_done,
            self._key,
            deadline=deadline,
            max_wait=max_wait,
            priority=priority,
            single=single,
        )

    def _probe(
        self,
        breaker: CircuitBreaker,
        submit: Callable[[OnDone], Cancellable],
        on_done: OnDone,
    ) -> Cancellable:
        """The one call that a breaker lets through, or ServerError. One that says nothing about the model gives way to the
        next."""
        self._admit(breaker)

        def done(result: Any, error: BaseException | None) -> None:
            if error is not None and (
                is_callers_fault(error) or getattr(error, "code", None) in _SAYS_NOTHING
            ):
                breaker.abandon()
            on_done(result, error)

        try:
            return _Probe(breaker, submit(done))
        except SocaityError as exc:
            breaker.abandon()
            if isinstance(exc, InvalidInputError):
                self.statistics.failures["invalid"] += 1
            raise

    def _admit(self, breaker: CircuitBreaker) -> None:
        retry_after = breaker.admit(time.monotonic())
        if retry_after is None:
            return
        self.statistics.failures["rejected"] += 1
        raise ServerError(
            f"The circuit breaker of the model {self.route.name!r} is {breaker.state}: {breaker.reason}.",
            status=503,
            code="circuit_open",
            retry_after=max(retry_after, 0.001),
        )

    def _function_batcher(self, route: Route) -> Batcher:
        return Batcher(
            _function_run(route.function),
            max_batch_size=route.max_batch_size,
            max_batch_wait=route.max_batch_wait,
            instances=route.batch_threads,
            replay=route.idempotent,
            statistics=self.statistics,
            present=_presented,
            has_text=_has_text(route),
            name=route.name,
        )

    def _model_batcher(self, route: Route, model: LoadedModel) -> Batcher:
        config, profile, runtime = model.config, model.profile, model.runtime
        stacks = route.tensors is not None and route.tensors.has_batch_axis
        most = route.max_batch_size
        rush = config.rush_batch_size or (profile.rush_batch_size if profile is not None else most)
        cost = CostModel() if profile is None else CostModel(profile.fixed, profile.per_row)
        if config.circuit_breaker.enabled:
            self.breaker = CircuitBreaker(
                config.circuit_breaker,
                on_change=self._on_breaker_change,
                probe_timeout=None if self.timeout == math.inf else 2 * self.timeout,
            )
        return Batcher(
            _model_run(
                runtime.run,
                stacks,
                is_checked=not config.allow_nan,
                dtypes={spec.name: numpy_dtype(spec.dtype) for spec in config.outputs if spec.dtype},
            ),
            max_batch_size=most,
            rush_batch_size=max(rush, most) if stacks else 1,
            preferred_sizes=config.preferred_batch_sizes,
            max_batch_wait=config.max_batch_wait,
            queue_rows=config.queue_size or _QUEUE_ROWS,
            queue_bytes=config.queue_bytes or _QUEUE_BYTES,
            run_timeout=self.timeout,
            instances=model.instances,
            inline=not model.runs_in_process,
            replay=config.idempotent,
            padding=None if config.pad is None else Padding(config.pad),
            statistics=self.statistics,
            cost=cost,
            on_batch=self._on_batch,
            interrupt=self._interrupt,
            present=_presented,
            has_text=_has_text(route),
            name=route.name,
        )

    def _interrupt(self) -> None:
        """A batch runs for longer than it may: what can be ended is ended."""
        assert self.model is not None
        self.model.runtime.interrupt(longer_than=_NEARLY * self.timeout)

    def _on_batch(self, succeeded: int, failed: int, seconds: float, usual: float) -> None:
        breaker = self.breaker
        if breaker is not None:
            breaker.record(time.monotonic(), succeeded=succeeded, failed=failed, seconds=seconds, usual=usual)

    def _on_breaker_change(self, state: str, reason: str | None) -> None:
        _logger.warning(
            "The circuit breaker of the model %s is %s%s",
            self.route.name,
            state,
            f": {reason}" if reason else "",
        )


def _timeout_of(model: LoadedModel, default: float) -> float:
    if model.config.timeout is not None:
        return model.config.timeout
    profile = model.profile
    if profile is None:
        return default
    return max(default, _SLOWEST * (profile.fixed + profile.per_row * profile.max_batch_size))


def _has_text(route: Route) -> bool:
    assert route.tensors is not None
    return any(item.dtype in (None, "object") for item in route.tensors.inputs.values())


def _presented(outputs: Arrays) -> Callable[[int, int, bool], Any]:
    """An only output is the result, several are a dict by name; a single item has no batch axis."""
    if len(outputs) == 1:
        (array,) = outputs.values()
        if array.dtype.kind not in _NOT_SENDABLE:
            return lambda start, end, single: array[start] if single else array[start:end]
        return lambda start, end, single: _sendable(array[start] if single else array[start:end])
    return lambda start, end, single: {
        name: _sendable(array[start] if single else array[start:end]) for name, array in outputs.items()
    }


def _sendable(value: Any) -> Any:
    """Rows of text and the like as plain values; raises JobFailed."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None and dtype.kind not in _NOT_SENDABLE:
        return value
    try:
        return to_plain(value)
    except Exception as exc:
        raise failure(exc) from exc


def _function_run(function: Callable[..., Any]) -> Callable[[Arrays], Arrays]:
    def run(inputs: Arrays) -> Arrays:
        try:
            result = function(**inputs)
            rows = len(next(iter(inputs.values())))
            outputs = result if isinstance(result, dict) else {"": result}
            arrays = {str(name): np.asarray(value) for name, value in outputs.items()}
            for array in arrays.values():
                if array.ndim == 0 or len(array) != rows:
                    raise ValueError(
                        f"a batch of {rows} rows gave a result of shape {list(array.shape)}; "
                        "a batched function gives one row for each row it gets"
                    )
            return arrays
        except Exception as exc:
            raise failure(exc) from exc

    return run


def _model_run(
    function: Callable[[Arrays], Arrays],
    stacks: bool,
    *,
    is_checked: bool,
    dtypes: Mapping[str, np.dtype[Any]],
) -> Callable[[Arrays], Arrays]:
    def run(inputs: Arrays) -> Arrays:
        try:
            if is_checked:
                _check_finite(inputs)
            if stacks:
                outputs = function(inputs)
            else:
                # `array[0]` of one text would be the text itself and no array
                outputs = function({name: array[0, ...] for name, array in inputs.items()})
                outputs = {name: np.asarray(array)[None] for name, array in outputs.items()}
            return _declared(outputs, dtypes) if dtypes else outputs
        except (InvalidInputError, ServerError, JobFailed):
            raise
        except Exception as exc:
            raise failure(exc) from exc

    return run


def _declared(outputs: Arrays, dtypes: Mapping[str, np.dtype[Any]]) -> Arrays:
    """The outputs in the dtypes that the configuration says; one without a name is the only one."""
    only = dtypes.get("") if len(outputs) == 1 else None
    for name, array in outputs.items():
        dtype = dtypes.get(name, only)
        if dtype is not None and array.dtype.kind == "c" and dtype.kind != "c":
            raise TypeError(
                f"the output {name!r} is {array.dtype} and declared as {dtype}: it would lose its other half"
            )
    return {
        name: array if dtype is None else array.astype(dtype, copy=False)
        for name, array in outputs.items()
        for dtype in (dtypes.get(name, only),)
    }


def _check_finite(inputs: Arrays) -> None:
    """Raises InvalidInputError for NaN and infinities. Looked at for a batch at once, because looking costs little then; its
    halves run again, so that only the call that has one fails."""
    for name, array in inputs.items():
        if array.dtype.kind not in "fc":
            continue
        # The sum of squares of finite numbers is finite, or overflows: only then the numbers are looked at one by one.
        flat = array.reshape(-1)
        with np.errstate(all="ignore"):
            total = np.vdot(flat, flat)
        if not isfinite(total) and not np.isfinite(flat).all():
            raise InvalidInputError(
                f"Parameter {name!r} holds NaN or infinity (or a number that is too large for {array.dtype}); "
                "`allow_nan: true` in the model's configuration lets them through.",
                parameter=name,
            )
