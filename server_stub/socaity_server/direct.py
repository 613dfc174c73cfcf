"""Direct calls: a batched route's arguments into the batcher and its rows back out, without a task or a future."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from socaity.exceptions import ConfigurationError

from .batching.batcher import Batcher
from .route import Route
from .running import failure
from .tensors import Arrays
from .values import to_plain

__all__ = ["Cancellable", "DirectRoute", "OnDone"]

OnDone: TypeAlias = Callable[[Any, BaseException | None], None]

_SINGLE = ""
_NOT_SENDABLE = frozenset("OUSMmV")


class Cancellable(Protocol):
    """A call that can be taken back; its callback does not come any more."""

    def cancel(self) -> object: ...


class DirectRoute:
    """One batched route with its batcher."""

    def __init__(self, route: Route) -> None:
        if route.tensors is None:
            raise ConfigurationError(f"{route.name!r} is not batched.")
        self.route = route
        self._prepare = route.tensors.prepare
        stacks = route.tensors.has_batch_axis
        self.batcher = Batcher(
            _function_run(route.function) if not route.outputs else _model_run(route.function, stacks),
            max_batch_size=route.max_batch_size if stacks else 1,
            max_batch_wait=route.max_batch_wait,
            instances=1 if route.outputs else route.batch_threads,
            inline=bool(route.outputs),
            replay=route.idempotent or bool(route.outputs),
            name=route.name,
        )
        # one fixed shape: all calls may go together
        self._key = route.name if route.tensors.has_one_form else None
        self._only = route.outputs[0] if len(route.outputs) == 1 else _SINGLE

    def call(self, arguments: Mapping[str, Any], on_done: OnDone) -> Cancellable:
        """Check the arguments (raises InvalidInputError) and run them; `on_done(result, None)` comes later."""
        inputs, rows, is_single = self._prepare(arguments)
        only = self._only

        def done(outputs: Arrays | None, exc: BaseException | None) -> None:
            if outputs is None:
                on_done(None, exc)
                return
            try:
                array = outputs.get(only)
                if array is None:
                    result: Any = {name: _leave(item, is_single) for name, item in outputs.items()}
                else:
                    result = _leave(array, is_single)
            except Exception as error:
                on_done(None, failure(error))
                return
            on_done(result, None)

        return self.batcher.submit(inputs, rows, done, self._key)


def _leave(array: np.ndarray[Any, Any], is_single: bool) -> Any:
    if array.dtype.kind in _NOT_SENDABLE:
        return to_plain(array[0] if is_single else array)
    return array[0] if is_single else array


def _function_run(function: Callable[..., Any]) -> Callable[[Arrays], Arrays]:
    def run(inputs: Arrays) -> Arrays:
        try:
            result = function(**inputs)
            rows = len(next(iter(inputs.values())))
            outputs = result if isinstance(result, dict) else {_SINGLE: result}
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


def _model_run(function: Callable[..., Any], stacks: bool) -> Callable[[Arrays], Arrays]:
    def run(inputs: Arrays) -> Arrays:
        try:
            if stacks:
                return function(inputs)  # type: ignore[no-any-return]
            outputs = function({name: array[0] for name, array in inputs.items()})
            return {name: np.asarray(array)[None] for name, array in outputs.items()}
        except Exception as exc:
            raise failure(exc) from exc

    return run
