"""A loaded model as a route."""

from __future__ import annotations

import re

import numpy as np

from socaity.exceptions import ConfigurationError

from .parameters import Parameter
from .route import Route
from .runtimes.base import Runtime, TensorSpec
from .tensors import TensorInput, TensorInputs

__all__ = ["model_route"]


def model_route(
    runtime: Runtime, name: str, *, max_batch_size: int = 64, max_batch_wait: float = 0.0
) -> Route:
    """`/predict/{name}`: called directly, with the model's inputs as parameters."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigurationError(f"A model's name has letters, digits, '_', '-' and '.', not {name!r}.")
    if max_batch_size < 1:
        raise ConfigurationError(f"max_batch_size is 1 or more, not {max_batch_size}.")
    inputs = [_input(spec, runtime.batched) for spec in runtime.inputs]
    number = {"type": "array", "items": {}}
    outputs = tuple(spec.name for spec in runtime.outputs)
    return Route(
        name=name,
        path=f"/predict/{name}",
        function=runtime.run,
        kind="batched",
        parameters=tuple(Parameter(spec.name, np.ndarray) for spec in runtime.inputs),
        idempotent=True,
        doc=f"The model {name} ({runtime.name}).",
        returns=number
        if len(outputs) == 1
        else {"type": "object", "properties": dict.fromkeys(outputs, number)},
        max_batch_size=max_batch_size,
        max_batch_wait=max_batch_wait,
        tensors=TensorInputs(name, inputs, has_batch_axis=runtime.batched),
        outputs=outputs,
    )


def _input(spec: TensorSpec, batched: bool) -> TensorInput:
    shape = spec.shape[1:] if batched and spec.shape is not None else spec.shape
    return TensorInput(spec.name, spec.dtype, shape)
