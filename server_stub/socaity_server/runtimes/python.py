"""Models that are Python code: a file with `load` and `predict`, or a class with these two."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import os
import platform
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError, InvalidInputError

from .base import DEFAULT_OPTIONS, Runtime, RuntimeOptions, TensorSpec
from .specs import as_outputs, check_arguments, model_file, nearest, of_type

__all__ = ["PythonRuntime"]

_PLAIN = {bool: "bool", float: "float64", int: "int64", str: "object"}
_numbers = itertools.count(1)


class PythonRuntime(Runtime):
    """A `.py` file as a runtime.

    It has `predict(...)`, which gets the inputs by name as stacked arrays and returns an array or a dict by output name,
    and perhaps `load()`, called once; or a class `Model` with these two as methods. A parameter annotated `str`, `int`,
    `float` or `bool` gets one plain value, and then calls are not put together. One with a default is an input only if it is
    declared. Inputs and outputs may be declared.

    The arguments `class` (`module:Class`) and `kwargs` name another class instead; it is imported from the file's folder,
    and `path` may then be any file of that folder, or the folder. The folder stays on `sys.path`: models in one process
    whose helper modules have the same name get the module of the first.
    """

    holds_gil = True

    def __init__(self, path: str | os.PathLike[str], options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        target = options.arguments.get("class")
        file = Path(path)
        if target is None or not file.is_dir():
            file = model_file(path, options)
        check_arguments(options.arguments, {"class", "kwargs"}, "Python", file)
        folder = _folder(file, target)
        self.name = f"Python {platform.python_version()}"
        self._module_name: str | None = None
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        try:
            owner = self._own(file, target, options.arguments.get("kwargs"), folder)
            predict = getattr(owner, "predict", None)
            if not callable(predict):
                what = f"The class {target!r}" if target else repr(str(file))
                routers = [] if target else _routers(owner)
                hint = f" To serve its routes: socaity serve {file.stem}:{routers[0]}" if routers else ""
                raise ConfigurationError(
                    f"{what} has no `predict`: define `predict(...)`, which gets the inputs by name, or a class Model.{hint}"
                )
            load = getattr(owner, "load", None)
            if callable(load):
                _guarded(load, f"load() of {str(file)!r}", folder)
            parameters, self.inputs = _inputs(predict, options, file)
        except BaseException:
            self.close()
            raise
        self._plain = {name for name, annotation in parameters.items() if annotation in _PLAIN}
        self._plain &= {spec.name for spec in self.inputs if spec.shape == ()}
        self.outputs = tuple(
            TensorSpec(spec.name or "output", spec.dtype, spec.shape) for spec in options.outputs
        )
        self.batched = bool(self.inputs) and all(
            spec.shape is None or spec.shape[:1] == (None,) for spec in self.inputs
        )
        self.single = _is_single(predict)
        self._names = [spec.name for spec in self.outputs]
        self._predict: Callable[..., Any] | None = predict

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """What `predict` returns for `inputs`; its own errors get out as they are."""
        predict = self._predict
        if predict is None:
            raise RuntimeError("The model is closed.")
        values: Mapping[str, Any] = inputs
        if self._plain:
            values = {
                name: _plain(name, array) if name in self._plain else array for name, array in inputs.items()
            }
        return as_outputs(predict(**values), self._names)

    def close(self) -> None:
        """Forget the module; what it started itself goes on."""
        self._predict = None
        if self._module_name is not None:
            sys.modules.pop(self._module_name, None)

    def _own(self, file: Path, target: Any, kwargs: Any, folder: Path) -> Any:
        """What has `predict`: a module, or an instance of a class."""
        if target is None:
            module = self._import(file, folder)
            model: Any = getattr(module, "Model", None)
            if not isinstance(model, type) or hasattr(module, "predict"):
                return module
            return _guarded(lambda: model(**(kwargs or {})), f"Model() of {str(file)!r}", folder)
        name, colon, attribute = str(target).partition(":")
        if not colon or not name or not attribute:
            raise ConfigurationError(f"The class of {str(file)!r} is written 'module:Class', not {target!r}.")
        source = folder / f"{name}.py"
        if source.is_file():
            module = self._import(source, folder)
        else:
            module = _guarded(lambda: importlib.import_module(name), f"the module {name!r}", folder)
        model = getattr(module, attribute, None)
        if not callable(model):
            raise ConfigurationError(
                f"The module {name!r} has no class {attribute!r}{nearest(attribute, vars(module))}."
            )
        return _guarded(lambda: model(**(kwargs or {})), f"{attribute}()", folder)

    def _import(self, file: Path, folder: Path) -> ModuleType:
        # A name of its own: every model folder has a `model.py`, and a model may be loaded again while the old one runs.
        name = f"_socaity_model_{next(_numbers)}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None:
            raise ConfigurationError(f"{str(file)!r} is no Python file; its name must end in .py.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickles look their module up
        self._module_name = name
        # Compiled here, as byte code on disk is told from its source by whole seconds: too coarse for a reload.
        _guarded(
            lambda: exec(compile(file.read_bytes(), str(file), "exec", dont_inherit=True), vars(module)),  # noqa: S102
            repr(str(file)),
            folder,
        )
        return module


def _folder(file: Path, target: Any) -> Path:
    """What the modules of the model are imported from: `file` may itself be the module that `target` names."""
    if file.is_dir():
        return file.resolve()
    file = file.resolve()
    parts = str(target or "").partition(":")[0].split(".")
    if file.suffix == ".py" and list(file.with_suffix("").parts[-len(parts) :]) == parts:
        return file.parents[len(parts) - 1]
    return file.parent


def _guarded(step: Callable[[], Any], what: str, folder: Path) -> Any:
    """Run a step of the user's code; what it raises becomes a ConfigurationError with file and line."""
    try:
        return step()
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(f"{what} failed at {_place(exc, folder)}: {of_type(exc)}.") from exc


def _place(exc: BaseException, folder: Path) -> str:
    """`model.py:12`, the innermost line of the user's own code."""
    if isinstance(exc, SyntaxError) and exc.filename:
        return f"{Path(exc.filename).name}:{exc.lineno}"
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(folder)]
    if not ours:
        return "import"
    return f"{Path(ours[-1].filename).relative_to(folder)}:{ours[-1].lineno}"


def _routers(module: Any) -> list[str]:
    """The names of what looks like a SocaityRouter, which is not known here."""
    return [name for name, value in vars(module).items() if type(value).__name__ == "SocaityRouter"]


def _inputs(
    predict: Callable[..., Any], options: RuntimeOptions, file: Path
) -> tuple[dict[str, Any], tuple[TensorSpec, ...]]:
    """The annotations by parameter, and the inputs."""
    try:
        parameters = inspect.signature(predict).parameters
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"`predict` of {str(file)!r} has no signature that can be read.") from exc
    for parameter in parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigurationError(
                f"`predict` of {str(file)!r} gets its inputs by name: {str(parameter)!r} cannot be given so."
            )
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    annotations = _annotations(predict, named)
    if not options.inputs:
        if not named:
            raise ConfigurationError(
                f"`predict` of {str(file)!r} names no input: give it a parameter for each, or declare the inputs."
            )
        required = [
            name for name, parameter in named.items() if parameter.default is parameter.empty
        ] or named
        return annotations, tuple(_undeclared(name, annotations[name]) for name in required)
    only = next(iter(named), "")
    declared = tuple(
        TensorSpec(spec.name or (only if len(named) == 1 else ""), spec.dtype, spec.shape)
        for spec in options.inputs
    )
    names = {spec.name for spec in declared}
    missing = [
        name
        for name, parameter in named.items()
        if parameter.default is parameter.empty and name not in names
    ]
    unknown = [] if takes_any else [name for name in names if name not in named]
    if missing or unknown or "" in names:
        raise ConfigurationError(
            f"The declared inputs of {str(file)!r} are {', '.join(map(repr, sorted(names)))}, but `predict` takes "
            f"{', '.join(map(repr, named)) or 'any name'}. Make the names the same."
        )
    return annotations, declared


def _annotations(predict: Callable[..., Any], named: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    hints = _hints(predict)
    return {name: hints.get(name) for name in named}


def _hints(predict: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(predict)
    except Exception:  # annotations may name what is not there at run time
        return {}


def _is_single(predict: Callable[..., Any]) -> bool | None:
    """Whether what it says that it returns becomes one output (see `as_outputs`); None where it does not say."""
    annotation = _hints(predict).get("return")
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type) or kind in (Any, object, type(None), types.UnionType):
        return None
    if not issubclass(kind, Mapping | tuple):
        return True
    if typing.is_typeddict(kind):
        return len(kind.__annotations__) == 1
    parts = getattr(kind, "_fields", None) or typing.get_args(annotation)
    return None if issubclass(kind, Mapping) or not parts or ... in parts else len(parts) == 1


def _undeclared(name: str, annotation: Any) -> TensorSpec:
    dtype = _PLAIN.get(annotation) if isinstance(annotation, type) else None
    return TensorSpec(name, dtype, None if dtype is None else ())


def _plain(name: str, array: np.ndarray[Any, Any]) -> Any:
    if array.size != 1:
        raise InvalidInputError(
            f"Parameter {name!r} takes one value, not an array of the shape {list(array.shape)}.",
            parameter=name,
        )
    return array.reshape(()).item()
