"""Pickled models, scikit-learn's above all, loaded by joblib."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError

from .base import DEFAULT_OPTIONS, Runtime, RuntimeOptions, TensorSpec
from .forest import quick_forest
from .specs import LOADING, as_outputs, check_arguments, check_pickle, merged, model_file, of_type

__all__ = ["JoblibRuntime"]

_OUTPUT_NAMES = {
    "decision_function": "scores",
    "predict": "predictions",
    "predict_log_proba": "log_probabilities",
    "predict_proba": "probabilities",
    "transform": "transformed",
}


class JoblibRuntime(Runtime):
    """A `.joblib`, `.pkl` or `.pickle` file as a runtime: an estimator, anything with `predict`, or a callable.

    Loading a pickle runs code that it contains. It is therefore refused unless `allow_pickle` is set or `sha256` is the
    hash of the file. The argument `method` names what is called (`predict`). An estimator gets one array `X`, of the
    dtype that is declared or else float64; another object gets the declared inputs by name, or one `X`. `threads`
    becomes every `n_jobs` of an estimator, and the number of BLAS threads of this process.
    """

    holds_gil = True

    def __init__(self, path: str | os.PathLike[str], options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        file = model_file(path, options)
        check_arguments(options.arguments, {"method"}, "joblib", file)
        model, self.warnings = _load(file, options)
        _limit_threads(model, options.threads)
        method = options.arguments.get("method")
        if method is None and (hasattr(model, "predict") or not callable(model)):
            method = "predict"
        call = model if method is None else _method(model, method, file)
        self._call: Callable[..., Any] | None = quick_forest(model, method or "") or call
        self.name = _name_of(model)
        self.inputs = _inputs(model, options, file)
        self.outputs = _outputs(model, method or "", options, file)
        self.batched = all(spec.shape is None or spec.shape[:1] == (None,) for spec in self.inputs)
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """What the model's method returns for `inputs`; its own errors get out as they are."""
        call = self._call
        if call is None:
            raise RuntimeError("The model is closed.")
        result = call(inputs[self.inputs[0].name]) if len(self.inputs) == 1 else call(**inputs)
        if isinstance(result, list) and result and isinstance(result[0], np.ndarray):
            result = tuple(result)  # the probabilities of a classifier with several targets
        return as_outputs(result, self._names, default=self._names[0])

    def close(self) -> None:
        """Free the model."""
        self._call = None


def _load(file: Path, options: RuntimeOptions) -> tuple[Any, tuple[str, ...]]:
    """The object in the file, and what is to be said about it."""
    with file.open("rb") as stream:
        # Hashed and read through one open file: nobody can put another in its place between the two.
        check_pickle(file, stream, options, "a pickle")
        try:
            joblib = importlib.import_module("joblib")
        except ImportError as exc:
            raise ConfigurationError("Pickled models need joblib: pip install 'socaity[sklearn]'") from exc
        with LOADING, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model = joblib.load(stream)
            except ModuleNotFoundError as exc:
                hint = " or pip install 'socaity[sklearn]'" if (exc.name or "").startswith("sklearn") else ""
                raise ConfigurationError(
                    f"{str(file)!r} needs the module {exc.name!r}, which is not installed here. Install it{hint}."
                ) from exc
            except (Exception, SystemExit) as exc:  # a pickle may raise anything
                raise ConfigurationError(
                    f"{str(file)!r} cannot be loaded ({of_type(exc)}). The file may be truncated, not a pickle, or "
                    "saved with other versions of its libraries."
                ) from exc
    return model, _about(caught)


def _about(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    """The warnings of scikit-learn about its versions, in one sentence; all others are given on."""
    saved: dict[tuple[str, str], list[str]] = {}
    for one in caught:
        message = one.message
        if type(message).__name__ != "InconsistentVersionWarning":
            warnings.warn_explicit(message, one.category, one.filename, one.lineno)
            continue
        versions = (str(getattr(message, "original_sklearn_version", "?")), _version_of("sklearn"))
        names = saved.setdefault(versions, [])
        name = str(getattr(message, "estimator_name", "an estimator"))
        if name not in names:
            names.append(name)
    return tuple(
        f"{', '.join(names)} saved with scikit-learn {theirs}, loaded with {ours}: results may differ. Train it again, "
        f"or install scikit-learn {theirs}."
        for (theirs, ours), names in saved.items()
    )


def _version_of(module: str) -> str:
    return str(getattr(importlib.import_module(module), "__version__", "?"))


def _name_of(model: Any) -> str:
    package = type(model).__module__.partition(".")[0]
    if package == "sklearn":
        return f"scikit-learn {_version_of('sklearn')}"
    return f"joblib {_version_of('joblib')}"


def _limit_threads(model: Any, threads: int) -> None:
    if _is_estimator(model):
        jobs = [name for name in model.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        if jobs:
            model.set_params(**dict.fromkeys(jobs, threads))
        # The arrays of a server have no column names, which an estimator that was trained with them says at every call.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return
    threadpoolctl.threadpool_limits(limits=threads, user_api="blas")


def _is_estimator(model: Any) -> bool:
    return hasattr(model, "get_params") and hasattr(model, "set_params") and not isinstance(model, type)


def _method(model: Any, name: Any, file: Path) -> Callable[..., Any]:
    if not isinstance(name, str) or name.startswith("_"):
        raise ConfigurationError(f"The method of {str(file)!r} is a name such as predict, not {name!r}.")
    found: Callable[..., Any] | None = getattr(model, name, None)
    if not callable(found):
        kind = type(model)
        known = [one for one in _OUTPUT_NAMES if callable(getattr(model, one, None))]
        has = f" It has {', '.join(known)}." if known else ""
        raise ConfigurationError(
            f"{str(file)!r} holds a {kind.__module__}.{kind.__qualname__}, which has no method {name!r}.{has}"
        )
    return found


def _inputs(model: Any, options: RuntimeOptions, file: Path) -> tuple[TensorSpec, ...]:
    width = getattr(model, "n_features_in_", None)
    if width is None and len(options.inputs) > 1 and not _is_estimator(model):
        return options.inputs
    read = TensorSpec("X", None, None if width is None else (None, int(width)))
    declared = options.inputs
    if len(declared) == 1:  # it may have a name of its own, as the method gets the array without a name
        read = TensorSpec(declared[0].name or "X", None, read.shape)
    (spec,) = merged(declared, [read], role="input", file=file)
    if spec.dtype is None and width is not None:
        spec = TensorSpec(spec.name, "float64", spec.shape)
    return (spec,)


def _outputs(model: Any, method: str, options: RuntimeOptions, file: Path) -> tuple[TensorSpec, ...]:
    if len(options.outputs) > 1:
        return options.outputs
    read = TensorSpec(_OUTPUT_NAMES.get(method, "output"), None, None)
    classes = getattr(model, "classes_", None)
    if isinstance(classes, np.ndarray) and classes.ndim == 1:
        if method == "predict":
            dtype = "object" if classes.dtype.kind in "OU" else classes.dtype.name
            read = TensorSpec(read.name, dtype, (None,))
        elif method in ("predict_proba", "predict_log_proba"):
            read = TensorSpec(read.name, "float64", (None, len(classes)))
    if options.outputs:
        read = TensorSpec(options.outputs[0].name or read.name, read.dtype, read.shape)
    return merged(options.outputs, [read], role="output", file=file)
