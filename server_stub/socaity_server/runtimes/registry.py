"""`load_runtime`: which engine runs a model file, and whether in this process or in workers of its own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from socaity.exceptions import ConfigurationError

from .base import Runtime, RuntimeOptions
from .specs import check_hash, model_file, nearest

__all__ = [
    "ALIASES",
    "BACKENDS",
    "MODEL_SUFFIXES",
    "NOT_SUPPORTED",
    "backend_of",
    "engine_of",
    "load_here",
    "load_runtime",
]

MODEL_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        ".onnx": "onnx",
        ".pt": "torch",
        ".pt2": "torch",
        ".pth": "torch",
        ".joblib": "joblib",
        ".pkl": "joblib",
        ".pickle": "joblib",
        ".py": "python",
    }
)
"""The back-end of a model file, by its suffix in lower case."""

_ENGINES = {
    "joblib": ("joblib", "JoblibRuntime"),
    "onnx": ("onnx", "ONNXRuntime"),
    "python": ("python", "PythonRuntime"),
    "torch": ("torch", "TorchRuntime"),
}
BACKENDS = tuple(_ENGINES)
_PICKLES = ("joblib", "torch")
ALIASES: Mapping[str, str] = MappingProxyType(
    {"sklearn": "joblib", "scikit-learn": "joblib", "onnxruntime": "onnx", "pytorch": "torch"}
)
NOT_SUPPORTED = ("tensorflow", "jax")


def backend_of(path: str | os.PathLike[str], backend: str | None = None) -> str:
    """The back-end for a file: the one that is named, else the one of its suffix. The file need not be there."""
    if backend is not None:
        word = backend.strip().lower()
        if word in NOT_SUPPORTED:
            raise ConfigurationError(
                f"The backend {word!r} is not supported; export the model to ONNX and use 'onnx'."
            )
        if ALIASES.get(word, word) not in _ENGINES:
            raise ConfigurationError(
                f"The backend is one of {', '.join(BACKENDS)}, not {backend!r}{nearest(word, {*BACKENDS, *ALIASES})}."
            )
        return ALIASES.get(word, word)
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in MODEL_SUFFIXES:
        raise ConfigurationError(
            f"No backend is known for {str(file)!r}: a model file ends in {', '.join(MODEL_SUFFIXES)}"
            f"{nearest(suffix, MODEL_SUFFIXES)}. Rename it, or name its backend ({', '.join(BACKENDS)})."
        )
    return MODEL_SUFFIXES[suffix]


def engine_of(backend: str) -> type[Runtime]:
    """The class of a back-end. Imports our file of it, but not the engine."""
    module, name = _ENGINES[backend]
    engine: type[Runtime] = getattr(importlib.import_module(f".{module}", __package__), name)
    return engine


def load_here(path: str | os.PathLike[str], backend: str, options: RuntimeOptions) -> Runtime:
    """Load a model into this process."""
    # Engines that may run code of the file compare the very file that they then read.
    if options.sha256 is not None and backend not in _PICKLES:
        file = model_file(path, options)
        with file.open("rb") as stream:
            check_hash(file, stream, options.sha256)
    engine: type = engine_of(backend)
    runtime: Runtime = engine(path, options)
    return runtime


def load_runtime(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    options: RuntimeOptions | None = None,
    execution: Literal["thread", "process"] | None = None,
    instances: int = 1,
    retry: bool = True,
) -> Runtime:
    """Load a model file. Blocks until the model can run.

    `execution` None: in worker processes if the engine holds the interpreter lock while it computes, else in this process.
    `instances` is the number of worker processes; in this process one loaded model serves all threads. `retry`: a batch
    whose worker died is run once more. Raises ConfigurationError, which says what to do.
    """
    options = options or RuntimeOptions()
    if instances < 1:
        raise ConfigurationError(f"instances must be at least 1, not {instances}.")
    name = backend_of(path, backend)
    if execution is None:
        execution = "process" if engine_of(name).holds_gil else "thread"
    if execution == "process":
        from .process import ProcessRuntime

        return ProcessRuntime(path, options, backend=name, instances=instances, retry=retry)
    return load_here(path, name, options)
