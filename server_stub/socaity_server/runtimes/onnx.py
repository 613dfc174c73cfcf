"""ONNX models on the CPU, run by ONNX Runtime."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError

from .base import Runtime, TensorSpec

__all__ = ["ONNXRuntime"]

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(string)": "object",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(uint8)": "uint8",
}
_LOG_ERRORS_ONLY = 3


class ONNXRuntime(Runtime):
    """An `.onnx` file as a runtime. `threads` is the number of threads that one `run` may use.

    A model that cannot be used raises `ConfigurationError`, which names the file. ONNX Runtime lets go of the GIL while
    it runs a model but not while it loads one: load before serving, or expect the loop to stand still meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int = 1) -> None:
        if threads < 1:
            raise ConfigurationError(f"threads must be at least 1, not {threads}.")
        engine = _import_engine()
        file = Path(path)
        if not file.is_file():
            raise ConfigurationError(f"There is no model file {str(file)!r}.")
        if file.stat().st_size == 0:
            raise ConfigurationError(f"The model file {str(file)!r} is empty.")
        try:
            session = engine.InferenceSession(
                str(file), sess_options=_session_options(engine, threads), providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # the engine's errors share no base class
            raise ConfigurationError(
                f"ONNX Runtime {engine.__version__} cannot load {str(file)!r}: {_reason(exc)}. "
                "The file may be truncated, not an ONNX model, or written for a newer opset."
            ) from exc
        self.name = f"onnxruntime {engine.__version__}"
        self.inputs = tuple(_spec(node, "input", file) for node in session.get_inputs())
        self.outputs = tuple(_spec(node, "output", file) for node in session.get_outputs())
        self.batched = _is_batched(self.inputs, self.outputs)
        self._output_names = [spec.name for spec in self.outputs]
        self._session: Any = session

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for `inputs`; an input of the wrong name, dtype or shape raises ONNX Runtime's own error."""
        session = self._session
        if session is None:
            raise RuntimeError("The model is closed.")
        return dict(zip(self._output_names, session.run(self._output_names, inputs), strict=True))

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _import_engine() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise ConfigurationError("ONNX models need ONNX Runtime: pip install 'socaity[onnx]'") from exc


def _session_options(engine: Any, threads: int) -> Any:
    options = engine.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _LOG_ERRORS_ONLY
    # Idle pool threads spin by default, and so take the cores from the event loop and from other models.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _spec(node: Any, role: str, file: Path) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        hint = " Convert the model with zipmap=False." if "map(" in node.type else ""
        raise ConfigurationError(
            f"The {role} {node.name!r} of {str(file)!r} has the type {node.type}, which numpy does not have.{hint}"
        )
    # The engine writes a fixed axis as a number and a free one as its symbol or None.
    return TensorSpec(node.name, dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape))


def _is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether calls may be put together: every input has a free first axis, and no output a first axis of fixed length.

    A graph without shape inference gives its outputs no shape at all: that is not held against it.
    """
    return (
        bool(inputs)
        and all(spec.shape is not None and spec.shape[:1] == (None,) for spec in inputs)
        and all(spec.shape is None or spec.shape[:1] in ((None,), ()) for spec in outputs)
    )


def _reason(exc: Exception) -> str:
    return str(exc).strip().rstrip(".") or type(exc).__name__
