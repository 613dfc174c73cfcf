"""Inputs to warm a model up and to measure it with: from a file beside the model, or made up from its specifications."""

from __future__ import annotations

import json
import math
import random
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import ConfigurationError

from .runtimes.base import Runtime, TensorSpec, numpy_dtype

__all__ = ["Arrays", "ExampleInputs", "find_example_file"]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]

_FREE_AXIS = 16
"""The length of an axis of any length: enough to be typical, little enough to be quick."""
_IMAGE_AXIS = 224
_IMAGE_RANK = 4
_LARGEST_FILE = 64 * 2**20
_NAMES = ("warmup.json", "warmup.npz")
_WORDS = """
    the of and to in is was for on are with as at be this have from or by one had not but what all were when we there can
    an which their said if do will each about how up out them then she many some so these would other into has more her two
    like him see time could no make than first been its who now people my over did down only way find use may water long
""".split()  # noqa: SIM905
_TEXT_WORDS = 24
"""A sentence or two; all the same, so that what a batch takes longer is because of its rows."""


class ExampleInputs:
    """Rows for a model. `is_given` says that they come from a file, so that a model which refuses them is broken.

    `warmup.json` has the rows by input name (`{"x": [[1, 2], [3, 4]]}`; only the rows where there is one input), and
    `warmup.npz` the same as arrays. `NAME.warmup.json` is the file of the model `NAME.onnx` alone. A model without a batch
    axis gets each array as it is.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.file = None if path is None else find_example_file(path)
        self._given = None if self.file is None else _read(self.file)

    @property
    def is_given(self) -> bool:
        return self._given is not None

    @property
    def stamp(self) -> str:
        """Changes with the file."""
        if self.file is None:
            return ""
        stat = self.file.stat()
        return f"{self.file.name} {stat.st_size} {stat.st_mtime_ns}"

    def why_not(self, runtime: Runtime) -> str | None:
        """Why no inputs can be made up for this model; None: they can."""
        if self.is_given:
            return None
        if not runtime.inputs:
            return "its inputs are not known before it has run"
        for spec in runtime.inputs:
            if spec.shape is None:
                return f"the shape of its input {spec.name!r} is not known"
        return None

    def of(self, runtime: Runtime, rows: int) -> Arrays:
        """Inputs of so many rows; a model without a batch axis gets its own shape. Raises ConfigurationError where the
        file does not fit the model, and where `why_not` has a reason."""
        if self._given is not None:
            return self._from_file(self._given, runtime, rows)
        why = self.why_not(runtime)
        if why is not None:
            raise ConfigurationError(
                f"No example inputs can be made up: {why}; put a warmup.json beside the model."
            )
        return {spec.name: _made_up(spec, rows if runtime.batched else None) for spec in runtime.inputs}

    def _from_file(self, given: Any, runtime: Runtime, rows: int) -> Arrays:
        specs = runtime.inputs
        if not isinstance(given, dict):
            if len(specs) > 1:
                raise ConfigurationError(f"{self.file}: has no names, but the model has {len(specs)} inputs.")
            given = {specs[0].name if specs else "x": given}
        if specs and given.keys() != {spec.name for spec in specs}:
            wanted = ", ".join(spec.name for spec in specs)
            raise ConfigurationError(
                f"{self.file}: has the inputs {', '.join(map(str, given))}; the model takes {wanted}."
            )
        dtypes = {spec.name: spec.dtype for spec in specs}
        arrays: Arrays = {}
        for name, value in given.items():
            try:
                array = np.asarray(value, dtype=dtypes.get(name))
            except (ValueError, TypeError, OverflowError) as exc:
                raise ConfigurationError(
                    f"{self.file}: {name!r} is no {dtypes.get(name) or 'array'}: {exc}."
                ) from exc
            if runtime.batched:
                if array.ndim == 0 or len(array) == 0:
                    raise ConfigurationError(f"{self.file}: {name!r} has no rows.")
                array = array[np.arange(rows) % len(array)]
            arrays[name] = array
        return arrays


def find_example_file(path: Path) -> Path | None:
    """The file with example inputs of a model file."""
    names = [f"{path.stem}.{name}" for name in _NAMES] + list(_NAMES)
    return next((file for name in names if (file := path.with_name(name)).is_file()), None)


def _read(file: Path) -> Any:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise ConfigurationError(
                f"{file}: is larger than {_LARGEST_FILE // 2**20} MiB; a few rows are enough."
            )
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, EOFError, zipfile.BadZipFile) as exc:
        if isinstance(exc, ConfigurationError):
            raise
        raise ConfigurationError(f"{file}: cannot be read: {exc}.") from exc


def _made_up(spec: TensorSpec, rows: int | None) -> np.ndarray[Any, Any]:
    free = _IMAGE_AXIS if len(spec.shape or ()) >= _IMAGE_RANK else _FREE_AXIS
    shape = [free if size is None else size for size in spec.shape or ()]
    if rows is not None and shape:
        shape[0] = rows
    dtype = numpy_dtype(spec.dtype or "float32")
    if dtype.kind == "O":
        texts = [_text(number) for number in range(math.prod(shape))]
        return np.array(texts, object).reshape(shape)
    if dtype.kind == "f":
        # zeros are computed faster than numbers on some machines
        return np.random.default_rng(0).random(math.prod(shape)).reshape(shape).astype(dtype)
    # a valid index of every table, and a mask that hides nothing
    return np.ones(shape, dtype)


def _text(number: int) -> str:
    """English words, which all tokenizers know."""
    return " ".join(random.Random(number).choices(_WORDS, k=_TEXT_WORDS))
