"""`load_runtime`: which engine runs a model file, and whether in this process or in workers of its own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from socaity.exceptions import ConfigurationError

from .added import RuntimeTable, find_runtime, place_of
from .base import Runtime, RuntimeOptions
from .specs import check_hash, model_file, nearest

__all__ = [
    "ALIASES",
    "NOT_SUPPORTED",
    "add_runtime",
    "backend_of",
    "backends",
    "engine_of",
    "load_here",
    "load_runtime",
    "model_suffixes",
    "place_of_engine",
]

_SUFFIXES: Mapping[str, str] = MappingProxyType(
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
_ENGINES = {
    "joblib": ("joblib", "JoblibRuntime"),
    "onnx": ("onnx", "ONNXRuntime"),
    "python": ("python", "PythonRuntime"),
    "torch": ("torch", "TorchRuntime"),
}
_PICKLES = ("joblib", "torch")
ALIASES: Mapping[str, str] = MappingProxyType(
    {"sklearn": "joblib", "scikit-learn": "joblib", "onnxruntime": "onnx", "pytorch": "torch"}
)
NOT_SUPPORTED = ("tensorflow", "jax")


def _own_table() -> RuntimeTable:
    """Nothing is added yet."""
    return RuntimeTable((*_ENGINES, *ALIASES, *NOT_SUPPORTED), _SUFFIXES)


_added = _own_table()


def add_runtime(name: str, runtime: type[Runtime]) -> None:
    """Serve models with a runtime of your own: the back-end `name`, for files that end in one of `runtime.suffixes`.

    It holds for this process and the worker processes of its models. An installed package does the same for everybody with
    an entry point `name` in the group `socaity.runtimes`. Raises ConfigurationError where the name or a suffix is taken.
    """
    _added.add(name, runtime)


def backends() -> tuple[str, ...]:
    """The names of all back-ends: our own, and the added ones."""
    return tuple(sorted({*_ENGINES, *_added.names()}))


def model_suffixes() -> Mapping[str, str]:
    """The back-end of a model file, by its suffix in lower case."""
    return MappingProxyType({**_SUFFIXES, **_added.suffixes()})


def backend_of(path: str | os.PathLike[str], backend: str | None = None) -> str:
    """The back-end for a file: the one that is named, else the one of its suffix. The file need not be there."""
    if backend is not None:
        word = backend.strip().lower()
        if word in NOT_SUPPORTED:
            raise ConfigurationError(
                f"The backend {word!r} is not supported; export the model to ONNX and use 'onnx'."
            )
        known = backends()
        if ALIASES.get(word, word) not in known:
            raise ConfigurationError(
                f"The backend is one of {', '.join(known)}, not {backend!r}{nearest(word, {*known, *ALIASES})}."
            )
        return ALIASES.get(word, word)
    file = Path(path)
    suffix = file.suffix.lower()
    suffixes = model_suffixes()
    if suffix not in suffixes:
        raise ConfigurationError(
            f"No backend is known for {str(file)!r}: a model file ends in {', '.join(suffixes)}"
            f"{nearest(suffix, suffixes)}. Rename it, or name its backend ({', '.join(backends())})."
        )
    return suffixes[suffix]


def engine_of(backend: str) -> type[Runtime]:
    """The class of a back-end. Imports our file of it, but not the engine. Raises ConfigurationError where an added one
    cannot be loaded."""
    added = _added.get(backend)
    if added is not None:
        if added.runtime is None:
            raise ConfigurationError(added.error or f"The runtime {backend!r} cannot be loaded.")
        return added.runtime
    module, name = _ENGINES[backend]
    engine: type[Runtime] = getattr(importlib.import_module(f".{module}", __package__), name)
    return engine


def place_of_engine(backend: str) -> str | None:
    """Where a worker process finds the class of an added back-end; None for our own engines.

    Raises ConfigurationError where it cannot be found from outside.
    """
    if _added.get(backend) is None:
        return None
    engine = engine_of(backend)
    place = place_of(engine)
    if place is None:
        raise ConfigurationError(
            f"A worker process cannot import {engine.__qualname__}, the runtime of {backend!r}, from the program that was "
            "started: put the class into a module of its own, or use execution: thread."
        )
    return place


def load_here(
    path: str | os.PathLike[str], backend: str, options: RuntimeOptions, *, place: str | None = None
) -> Runtime:
    """Load a model into this process. `place`: of the class, where the back-end was added in another process."""
    # Engines that may run code of the file compare the very file that they then read.
    if options.sha256 is not None and backend not in _PICKLES:
        file = model_file(path, options)
        with file.open("rb") as stream:
            check_hash(file, stream, options.sha256)
    engine: type = engine_of(backend) if place is None else find_runtime(place)
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
    model: str | None = None,
) -> Runtime:
    """Load a model file. Blocks until the model can run.

    `execution` None: in worker processes if the engine holds the interpreter lock while it computes, else in this process.
    `instances` is the number of worker processes; in this process one loaded model serves all threads. `retry`: a batch
    whose worker died is run once more. `model` is its name in messages of its processes.
    Raises ConfigurationError, which says what to do.
    """
    options = options or RuntimeOptions()
    if instances < 1:
        raise ConfigurationError(f"instances must be at least 1, not {instances}.")
    name = backend_of(path, backend)
    if execution is None:
        execution = "process" if engine_of(name).holds_gil else "thread"
    if execution == "process":
        from .process import ProcessRuntime

        return ProcessRuntime(path, options, backend=name, instances=instances, retry=retry, model=model)
    return load_here(path, name, options)
