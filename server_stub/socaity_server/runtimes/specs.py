"""What every engine does alike around its model: look at the file, compare declared tensors, name the results."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError

from .base import RuntimeOptions, TensorSpec

__all__ = [
    "LOADING",
    "as_outputs",
    "check_arguments",
    "check_hash",
    "check_pickle",
    "cuda_index",
    "is_batched",
    "merged",
    "model_file",
    "nearest",
    "of_type",
]

LOADING = threading.Lock()
"""Held while a model is loaded whose warnings are caught: the filters of `warnings` belong to the whole process."""

_CHUNK = 2**20
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")


def model_file(path: str | os.PathLike[str], options: RuntimeOptions) -> Path:
    """The file, which is there and not empty; also checks what all engines are given alike."""
    if options.threads < 1:
        raise ConfigurationError(f"threads must be at least 1, not {options.threads}.")
    file = Path(path)
    if not file.is_file():
        raise ConfigurationError(f"There is no model file {str(file)!r}.")
    if file.stat().st_size == 0:
        raise ConfigurationError(f"The model file {str(file)!r} is empty.")
    return file


def check_hash(file: Path, stream: Any, expected: str | None) -> str:
    """The SHA-256 of an open file, which is rewound; raises ConfigurationError where another one is expected."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    stream.seek(0)
    found = digest.hexdigest()
    if expected is not None and not hmac.compare_digest(found, expected.lower()):
        raise ConfigurationError(
            f"The model file {str(file)!r} has the sha256 {found}, not the configured {expected}: it was changed or "
            "damaged. Get the right file, or configure its hash if you trust it."
        )
    return found


def check_pickle(file: Path, stream: Any, options: RuntimeOptions, kind: str) -> None:
    """Refuse a file that may run code while it is loaded, unless it is allowed to or has the configured hash."""
    found = check_hash(file, stream, options.sha256)
    if options.sha256 is None and not options.allow_pickle:
        if options.is_alone:
            how = (
                "allow all such files with --allow-pickle (`allow_pickle=True`). This one alone can be allowed in a folder of "
                f"its own, by a model_config.yaml beside it that says `sha256: {found}`."
            )
        else:
            how = (
                f"say so: put `sha256: {found}` into its model_config.yaml, or allow all such files with "
                "--allow-pickle (`allow_pickle=True`)."
            )
        raise ConfigurationError(
            f"{str(file)!r} is {kind}, which can run code while it is loaded. If you trust it, {how}"
        )


def cuda_index(device: str | None, file: Path) -> int | None:
    """The number of the GPU that `device` means; None for the CPU and where nothing is said."""
    if device is None:
        return None
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise ConfigurationError(
            f"The device of {str(file)!r} is cpu, cuda or cuda:N (a GPU's number), not {device!r}."
        )
    return None if device == "cpu" else int(match.group(1) or 0)


def check_arguments(arguments: Mapping[str, Any], known: Collection[str], engine: str, file: Path) -> None:
    """Refuse arguments that the engine does not have."""
    for name in arguments:
        if name not in known:
            names = f"takes {', '.join(sorted(known))}" if known else "takes none"
            raise ConfigurationError(
                f"{engine} has no argument {name!r} for {str(file)!r}: it {names}{nearest(name, known)}."
            )


def nearest(word: str, known: Collection[str]) -> str:
    """`; did you mean 'onnx'?` where something is near, else nothing."""
    found = get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def merged(
    declared: Sequence[TensorSpec], read: Sequence[TensorSpec], *, role: str, file: Path
) -> tuple[TensorSpec, ...]:
    """What the model says (`read`), with its gaps filled from what is declared.

    The single tensor of a model may be declared without a name. Raises ConfigurationError where the two disagree.
    """
    known = {spec.name: spec for spec in read}
    for spec in declared:
        name = spec.name or (read[0].name if len(read) == 1 else "")
        if name not in known:
            names = ", ".join(map(repr, known)) or "none"
            raise ConfigurationError(
                f"The declared {role} {spec.name!r} is not in {str(file)!r}; its {role}s: {names}{nearest(name, known)}."
            )
        known[name] = _merged_one(spec, known[name], role, file)
    return tuple(known.values())


def _merged_one(declared: TensorSpec, read: TensorSpec, role: str, file: Path) -> TensorSpec:
    def disagree(what: str, ours: object, theirs: object) -> ConfigurationError:
        return ConfigurationError(
            f"The {role} {read.name!r} of {str(file)!r} is declared with the {what} {ours}, but the model has {theirs}. "
            "Correct the declaration or leave it out."
        )

    if declared.dtype is not None and read.dtype is not None and declared.dtype != read.dtype:
        raise disagree("dtype", declared.dtype, read.dtype)
    shape = read.shape
    if declared.shape is not None:
        if shape is None:
            shape = declared.shape
        elif len(shape) != len(declared.shape) or any(
            theirs is not None and ours != theirs for ours, theirs in zip(declared.shape, shape, strict=True)
        ):
            raise disagree("shape", _shown(declared.shape), _shown(shape))
        else:
            shape = declared.shape
    return TensorSpec(read.name, read.dtype or declared.dtype, shape)


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if axis is None else str(axis) for axis in shape)}]"


def is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether calls may be put together: every input has a free first axis, and no output a first axis of fixed length.

    A graph without shape inference gives its outputs no shape at all: that is not held against it.
    """
    return (
        bool(inputs)
        and all(spec.shape is not None and spec.shape[:1] == (None,) for spec in inputs)
        and all(spec.shape is None or spec.shape[:1] in ((None,), ()) for spec in outputs)
    )


def as_outputs(
    result: Any, names: Sequence[str], *, default: str = "output"
) -> dict[str, np.ndarray[Any, Any]]:
    """What a Python function returned, as arrays by name.

    A dict has its own names. A tuple is several outputs, anything else is one. `names` are the declared ones.
    """
    if isinstance(result, Mapping):
        return {str(name): _as_array(value) for name, value in result.items()}
    if isinstance(result, tuple):
        found = names if len(names) == len(result) else [f"{default}_{index}" for index in range(len(result))]
        return {name: _as_array(value) for name, value in zip(found, result, strict=True)}
    return {names[0] if names else default: _as_array(result)}


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "toarray"):  # a sparse matrix
        value = value.toarray()
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind == "U" else array


def of_type(exc: BaseException) -> str:
    """`TypeName: text` of a foreign error, in one line."""
    text = " ".join(str(exc).split()).rstrip(".")
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__
