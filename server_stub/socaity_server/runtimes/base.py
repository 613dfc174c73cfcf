"""The seam between the server and an inference engine: subclass `Runtime` to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

__all__ = ["DEFAULT_OPTIONS", "Runtime", "RuntimeOptions", "TensorSpec", "numpy_dtype"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one input or output of a model looks like.

    `dtype` is a numpy name (`float32`; `object` for text), `bfloat16`, which is float32 in arrays as numpy has no such type,
    or None where the model takes what it gets. An axis of any length is `None` in `shape`; the batch axis is part of the
    shape, so that a batched model has `None` first. A shape of None is unknown.
    """

    name: str
    dtype: str | None
    shape: tuple[int | None, ...] | None


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The dtype of the arrays of a `TensorSpec`."""
    return np.dtype("float32" if name == "bfloat16" else name)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """How a model file is loaded: what its `model_config.yaml` or a measurement says.

    `threads`: how many threads one `run` may use. `device`: `cpu`, `cuda`, `cuda:1`; None: the engine's best.
    `inputs` and `outputs` are declared ones, for files that do not say. `arguments` are those of one engine alone
    (`compile` of Torch, `method` of joblib, `class` and `kwargs` of Python, `graph_optimization` of ONNX).
    `sha256` is the hash that the file must have; `allow_pickle` lets files run code while they are loaded. `is_alone` says
    that there is no configuration in which a hash could stand.
    """

    threads: int = 1
    device: str | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    allow_pickle: bool = False
    is_alone: bool = False


DEFAULT_OPTIONS = RuntimeOptions()


class Runtime(ABC):
    """One loaded model.

    A subclass is called with the path of the model file and `RuntimeOptions`; it sets the attributes while it loads the
    model, and raises ConfigurationError where that is not possible. Loading, `run` and `close` block: they are called on
    worker threads, never on the event loop. `run` may be called from several threads at once. `add_runtime`, or an entry
    point in the group `socaity.runtimes`, makes it known.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """What its files end in, in lower case: `(".npz",)`. Without any, the configuration of a model names the back-end."""

    name: str
    """The engine, for people: `onnxruntime 1.20.1`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Empty: known only when the model has run."""

    single: bool | None = None
    """Where `outputs` is empty: whether it is one output; None: not known either."""

    batched: bool
    """The first axis of every input is the batch and may have any length, so that calls may be put together."""

    holds_gil: bool = False
    """`run` keeps the interpreter lock, so that the model belongs into a process of its own."""

    device: str = "cpu"

    in_process: bool = False
    """`run` only waits for a worker process."""

    max_rows: int | None = None
    """The most rows that one `run` of a batched model takes, where the model itself has a limit."""

    warnings: tuple[str, ...] = ()
    """What whoever runs the server should know of this model, a sentence each."""

    @abstractmethod
    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for `inputs`, by name.

        The inputs may be read-only views of a caller's buffer: they are never written to. With `batched`, every output
        has as many rows as the inputs, in their order.
        """

    def interrupt(self, *, longer_than: float = 0.0) -> int:
        """End the runs that take longer than `longer_than` seconds, where the engine can: they raise. Returns how many.

        Called on any thread. A run that goes on all the same keeps its instance.
        """
        return 0

    def close(self) -> None:  # noqa: B027 - most engines have nothing to give back
        """Give back what the model holds. No `run` is under way or comes later; a second call does nothing."""
