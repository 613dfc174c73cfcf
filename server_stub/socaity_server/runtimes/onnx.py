"""ONNX models, run by ONNX Runtime on the CPU or on a GPU."""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError, JobFailed

from .base import DEFAULT_OPTIONS, Runtime, RuntimeOptions, TensorSpec
from .specs import check_arguments, cuda_index, is_batched, merged, model_file

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
_LOG_NOTHING = 4  # a failed run is raised as well, and the log line of it may hold values of the input
_GRAPH_OPTIMIZATION = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_VALUES = re.compile(r"-?\d[\w.+-]*|'[^']*'|\"[^\"]*\"")


class ONNXRuntime(Runtime):
    """An `.onnx` file as a runtime.

    Without `device`, the GPU is used if the installed ONNX Runtime can. The one argument is `graph_optimization`: `off`,
    `basic`, `extended` or `all`. A model that cannot be used raises `ConfigurationError`, which names the file.
    ONNX Runtime lets go of the GIL while it runs a model but not while it loads one: load before serving, or expect the
    loop to stand still meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        file = model_file(path, options)
        check_arguments(options.arguments, {"graph_optimization"}, "ONNX Runtime", file)
        engine = _import_engine()
        providers = _providers(engine, options.device, file)
        try:
            session = engine.InferenceSession(
                str(file), sess_options=_session_options(engine, options, file), providers=providers
            )
        except ConfigurationError:
            raise
        except Exception as exc:  # the engine's errors share no base class
            raise ConfigurationError(
                f"ONNX Runtime {engine.__version__} cannot load {str(file)!r}: {_reason(exc)}. "
                "The file may be truncated, not an ONNX model, or written for a newer opset."
            ) from exc
        on_gpu = session.get_providers()[0] == _CUDA
        if not on_gpu and options.device is not None and options.device != "cpu":
            raise ConfigurationError(
                f"ONNX Runtime {engine.__version__} could not start {options.device} for {str(file)!r}: its CUDA "
                "libraries do not load. Install the CUDA and cuDNN versions it was built for, or use the device cpu."
            )
        self.name = f"onnxruntime {engine.__version__}"
        self.device = f"cuda:{cuda_index(options.device, file) or 0}" if on_gpu else "cpu"
        inputs = [_spec(node, "input", file) for node in session.get_inputs()]
        outputs = [_spec(node, "output", file) for node in session.get_outputs()]
        self.inputs = merged(options.inputs, inputs, role="input", file=file)
        self.outputs = merged(options.outputs, outputs, role="output", file=file)
        self.batched = is_batched(self.inputs, self.outputs)
        self._output_names = [spec.name for spec in self.outputs]
        self._session: Any = session
        self._new_run: Any = engine.RunOptions
        self._running: dict[Any, float] = {}

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for `inputs`; raises JobFailed where the engine fails, whose text holds no value of an input."""
        session = self._session
        if session is None:
            raise RuntimeError("The model is closed.")
        options = self._new_run()
        started = time.monotonic()
        self._running[options] = started
        try:
            values = session.run(self._output_names, inputs, options)
        except Exception as exc:  # the engine's errors share no base class
            # `from None`: the engine's own text may hold values of the input.
            raise JobFailed(_without_values(exc), error_type=type(exc).__name__) from None
        finally:
            del self._running[options]
        return dict(zip(self._output_names, values, strict=True))

    def interrupt(self, *, longer_than: float = 0.0) -> int:
        """End the runs that take longer than `longer_than` seconds: they fail. Returns how many. For any thread."""
        since = time.monotonic() - longer_than
        hanging = [options for options, started in self._running.copy().items() if started <= since]
        for options in hanging:
            options.terminate = True
        return len(hanging)

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _import_engine() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as exc:
        raise ConfigurationError("ONNX models need ONNX Runtime: pip install 'socaity[onnx]'") from exc


def _providers(engine: Any, device: str | None, file: Path) -> list[Any]:
    index = cuda_index(device, file)
    has_cuda = _CUDA in engine.get_available_providers()
    if index is None and (device == "cpu" or not has_cuda):
        return [_CPU]
    if not has_cuda:
        raise ConfigurationError(
            f"The device of {str(file)!r} is {device}, but the installed ONNX Runtime is built for the CPU only: "
            "pip install onnxruntime-gpu (and uninstall onnxruntime), or use the device cpu."
        )
    if hasattr(engine, "preload_dlls"):
        engine.preload_dlls()  # finds the CUDA libraries that pip has installed
    return [(_CUDA, {"device_id": index or 0}), _CPU]


def _session_options(engine: Any, options: RuntimeOptions, file: Path) -> Any:
    level = options.arguments.get("graph_optimization", "all")
    if level not in _GRAPH_OPTIMIZATION:
        known = ", ".join(_GRAPH_OPTIMIZATION)
        raise ConfigurationError(f"graph_optimization of {str(file)!r} is one of {known}, not {level!r}.")
    session = engine.SessionOptions()
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.execution_mode = engine.ExecutionMode.ORT_SEQUENTIAL
    session.graph_optimization_level = getattr(engine.GraphOptimizationLevel, _GRAPH_OPTIMIZATION[level])
    session.log_severity_level = _LOG_NOTHING
    # Idle pool threads spin by default, and so take the cores from the event loop and from other models.
    session.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return session


def _spec(node: Any, role: str, file: Path) -> TensorSpec:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        hint = " Convert the model with zipmap=False." if "map(" in node.type else ""
        raise ConfigurationError(
            f"The {role} {node.name!r} of {str(file)!r} has the type {node.type}, which numpy does not have.{hint}"
        )
    # The engine writes a fixed axis as a number and a free one as its symbol or None.
    return TensorSpec(node.name, dtype, tuple(axis if isinstance(axis, int) else None for axis in node.shape))


def _without_values(exc: Exception) -> str:
    """The engine's text; what a node says of its own input (an index, a text) is left out."""
    text, found, detail = _reason(exc).partition("Status Message:")
    return f"ONNX Runtime: {text}{found}{_VALUES.sub('…', detail)}"


def _reason(exc: Exception) -> str:
    return str(exc).strip().rstrip(".") or type(exc).__name__
