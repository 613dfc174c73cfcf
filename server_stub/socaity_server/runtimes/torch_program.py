"""What both kinds of Torch files become: inputs, outputs and a function; and how results get names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from socaity.exceptions import ServerError

from .base import TensorSpec

__all__ = ["TorchProgram", "by_name", "dtype_name", "torch_dtype"]


@dataclass(frozen=True, slots=True)
class TorchProgram:
    """A loaded model. `takes` is what `call` wants by name: None for a tensor, else the type of a plain value.

    `dtypes` are those of the tensors, where they are known.
    """

    call: Callable[[Mapping[str, Any]], Any]
    takes: Mapping[str, type | None]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    dtypes: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int | None = None


def dtype_name(dtype: Any) -> str | None:
    """numpy's name for a Torch dtype, or None where numpy has none (bfloat16, float8)."""
    name = str(dtype).removeprefix("torch.")
    return name if hasattr(np, name) or name == "bool" else None


def torch_dtype(torch: Any, name: str | None) -> Any:
    """Torch's dtype of a numpy name; None where there is none."""
    return None if name is None else getattr(torch, name, None)


def by_name(result: Any, declared: Sequence[str]) -> dict[str, Any]:
    """The values in what a model returned, by name.

    A dict and a named tuple have names; `declared` ones are given to a value or a tuple without. Nested ones get both:
    `boxes_0`. Raises ServerError where more or fewer are declared.
    """
    leaves = [(name, value) for name, value in _leaves(result, "") if value is not None]
    if _is_named(result) or not declared:
        return dict(leaves)
    if len(leaves) != len(declared):
        raise ServerError(
            f"The model returned {len(leaves)} outputs, but {len(declared)} are declared. Declare all of them, in order.",
            code="model_error",
        )
    return {name: value for name, (_, value) in zip(declared, leaves, strict=True)}


def _is_named(result: Any) -> bool:
    return isinstance(result, Mapping) or hasattr(result, "_fields")


def _leaves(result: Any, name: str) -> Iterator[tuple[str, Any]]:
    items: Any
    if isinstance(result, Mapping):
        items = result.items()
    elif hasattr(result, "_fields"):
        items = zip(result._fields, result, strict=True)
    elif isinstance(result, list | tuple):
        if len(result) == 1:
            yield from _leaves(result[0], name)
            return
        name = name or "output"
        items = enumerate(result)
    else:
        yield name or "output", result
        return
    for key, value in items:
        yield from _leaves(value, f"{name}_{key}" if name else str(key))
