"""A loaded model as a route."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError

from .loading import LoadedModel
from .parameters import Parameter
from .route import Route
from .runtimes.base import TensorSpec
from .tensors import TensorInput, TensorInputs

__all__ = ["model_route"]


def model_route(model: LoadedModel) -> Route:
    """`/predict/{name}`: called directly, with the model's inputs as parameters."""
    runtime, name, config = model.runtime, model.name, model.config
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise ConfigurationError(f"A model's name has letters, digits, '_', '-' and '.', not {name!r}.")
    batched = runtime.batched if config.batched is None else config.batched
    inputs = [_input(spec, batched) for spec in runtime.inputs]
    return Route(
        name=name,
        path=f"/predict/{name}",
        function=runtime.run,
        kind="batched",
        parameters=tuple(Parameter(spec.name, np.ndarray) for spec in runtime.inputs),
        idempotent=config.idempotent,
        doc=config.description or f"The model {name} ({runtime.name}).",
        returns=_returns(model),
        max_batch_size=model.max_batch_size if batched else 1,
        tensors=TensorInputs(name, inputs, has_batch_axis=batched, stacks_unknown=True),
        outputs=tuple(spec.name for spec in runtime.outputs),
        model=model,
    )


def _returns(model: LoadedModel) -> dict[str, Any]:
    """One output is given as it is, several by name."""
    array = {"type": "array", "items": {}}
    outputs = model.runtime.outputs or model.seen_outputs
    if len(outputs) == 1:
        return array
    if outputs:
        return {"type": "object", "properties": {spec.name: array for spec in outputs}}
    by_name = {"type": "object", "additionalProperties": array}
    single = model.runtime.single
    return {"anyOf": [array, by_name]} if single is None else array if single else by_name


def _input(spec: TensorSpec, batched: bool) -> TensorInput:
    shape = spec.shape[1:] if batched and spec.shape is not None else spec.shape
    return TensorInput(spec.name, spec.dtype, shape)
