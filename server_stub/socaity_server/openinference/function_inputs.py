"""The parameters of functions as tensors: which of them can be, and what the function gets of one."""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import ConfigurationError
from socaity.protocol.openinference.datatypes import TensorError, datatype_of

from ..parameters import Parameter
from ..route import Route
from .outputs import ONLY_OUTPUT, as_text
from .signature import TensorMetadata, shape_text

__all__ = ["FunctionInput", "function_inputs", "function_outputs"]

Array: TypeAlias = np.ndarray[Any, Any]

_SCALARS = {"string": "BYTES", "integer": "INT64", "number": "FP64", "boolean": "BOOL"}
_MOST_NESTED = 8
_STREAMS = (Iterator, AsyncIterator)


class FunctionInput:
    """One parameter as an input. `of(array)` is what the function gets; raises TensorError."""

    def __init__(self, metadata: TensorMetadata, of: Callable[[Array], Any]) -> None:
        self.metadata = metadata
        self.of = of


def function_inputs(route: Route) -> list[FunctionInput] | None:
    """The inputs of a function; None where one that it needs can be no tensor, or where it has none.

    Those that can be left out are left out.
    """
    found: list[FunctionInput] = []
    for parameter in route.parameters:
        one = _input_of(parameter)
        if one is not None:
            found.append(one)
        elif parameter.required:
            return None
    return found or None


def function_outputs(route: Route) -> tuple[list[TensorMetadata], bool]:
    """The outputs as far as the annotation of the result says them, and whether these are all."""
    schema = route.returns
    if schema.get("type") == "object" and schema.get("properties"):
        found = [_output(name, one) for name, one in schema["properties"].items()]
        known = [one for one in found if one is not None]
        return known, len(known) == len(found)
    only = _output(ONLY_OUTPUT, schema) or _array_output(route)
    return ([], False) if only is None else ([only], True)


def _output(name: str, schema: dict[str, Any]) -> TensorMetadata | None:
    read = _nested(schema)
    return None if read is None else TensorMetadata(name, *read)


def _array_output(route: Route) -> TensorMetadata | None:
    """Of a function that returns (or yields) a numpy array."""
    try:
        annotation = typing.get_type_hints(inspect.unwrap(route.function)).get("return")
    except Exception:  # annotations may name what is not there at run time
        return None
    if route.streaming and typing.get_args(annotation):
        annotation = typing.get_args(annotation)[0]
    try:
        result = Parameter(ONLY_OUTPUT, annotation)
    except ConfigurationError:
        return None
    if not result.is_tensor or result.tensor_dtype is None:
        return None
    kind = datatype_of(result.tensor_dtype)
    return None if kind is None else TensorMetadata(ONLY_OUTPUT, kind, None)


def _input_of(parameter: Parameter) -> FunctionInput | None:
    name, optional = parameter.name, not parameter.required
    if parameter.is_tensor:
        kind = None if parameter.tensor_dtype is None else datatype_of(parameter.tensor_dtype)
        if kind is None and parameter.tensor_dtype is not None:
            return None
        return FunctionInput(TensorMetadata(name, kind, None, optional), _as_array)
    if parameter.is_bytes:
        return FunctionInput(
            TensorMetadata(name, "BYTES", (1,), optional), _scalar_reader(name, is_text=False)
        )
    if parameter.has_media:
        return None
    read = _nested(parameter.schema)
    if read is None:
        return None
    kind, shape = read
    is_scalar = not _is_list(parameter.schema)
    metadata = TensorMetadata(name, kind, None if is_scalar else shape, optional)
    if is_scalar:
        # any shape of one element is taken, and this one is what is said of it
        return FunctionInput(TensorMetadata(name, kind, (1,), optional), _scalar_reader(name, is_text=True))
    return FunctionInput(
        metadata, lambda array: as_text(array).tolist() if array.dtype.kind == "O" else array.tolist()
    )


def _is_list(schema: dict[str, Any]) -> bool:
    return _without_null(schema).get("type") == "array"


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return choices[0] if len(choices) == 1 else schema


def _nested(schema: dict[str, Any]) -> tuple[str, tuple[int, ...]] | None:
    """Datatype and shape of a scalar, or of lists of them at any depth; None: it is neither."""
    depth = 0
    schema = _without_null(schema)
    while schema.get("type") == "array" and isinstance(schema.get("items"), dict) and depth < _MOST_NESTED:
        depth, schema = depth + 1, _without_null(schema["items"])
    kind = _SCALARS.get(schema.get("type", ""))
    if kind is None or "x-media" in schema:
        return None
    return kind, (-1,) * depth if depth else (1,)


def _as_array(array: Array) -> Array:
    return as_text(array) if array.dtype.kind == "O" else array


def _scalar_reader(name: str, *, is_text: bool) -> Callable[[Array], Any]:
    def read(array: Array) -> Any:
        if array.size != 1:
            raise TensorError(
                f"unexpected shape for input {name!r}: it is one value, [1]; got {shape_text(array.shape)}"
            )
        value = array.reshape(-1).tolist()[0]
        return value.decode("utf-8", "surrogateescape") if is_text and type(value) is bytes else value

    return read
