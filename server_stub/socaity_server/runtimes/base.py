"""The seam between the server and an inference engine: subclass `Runtime` to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Runtime", "TensorSpec"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one input or output of a model looks like.

    `dtype` is a numpy name (`float32`; `object` for text). An axis of any length is `None` in `shape`; the batch axis
    is part of the shape, so that a batched model has `None` first.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Runtime(ABC):
    """One loaded model.

    A subclass sets the four attributes while it loads the model. Loading, `run` and `close` block: they are called on
    worker threads, never on the event loop. `run` may be called from several threads at once.
    """

    name: str
    """The engine, for people: `onnxruntime 1.20.1`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    batched: bool
    """The first axis of every input is the batch and may have any length, so that calls may be put together."""

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for `inputs`, by name.

        The inputs may be read-only views of a caller's buffer: they are never written to. With `batched`, every output
        has as many rows as the inputs, in their order.
        """

    def close(self) -> None:  # noqa: B027 - most engines have nothing to give back
        """Give back what the model holds. No `run` is under way or comes later; a second call does nothing."""
