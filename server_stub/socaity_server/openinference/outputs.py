"""What a model gave as output tensors: names, datatypes and shapes as they are, only those that were asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import orjson

from socaity.exceptions import JobFailed, ServerError
from socaity.protocol.media import read_media
from socaity.protocol.openinference.datatypes import DATATYPES, TensorError, datatype_of
from socaity.protocol.openinference.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from socaity.protocol.openinference.tensors import as_array

from ..values import to_json
from .signature import Signature, TensorMetadata

__all__ = ["ONLY_OUTPUT", "answer", "arrays_of", "as_bytes", "as_text", "as_wanted"]

Array: TypeAlias = np.ndarray[Any, Any]

ONLY_OUTPUT = "output"
"""The name of an output that has none."""
_INT64 = range(-(2**63), 2**63)
_NAMES: dict[np.dtype[Any], str | None] = {}
_MOST_NAMES = 256


def answer(
    request: InferRequest, arrays: Mapping[str, Array], signature: Signature, *, version: str
) -> InferResponse:
    """The answer of outputs by name. Raises TensorError for a requested output that is not there."""
    wanted = request.outputs
    if wanted is None:
        chosen = [tensor_of(name, array, signature) for name, array in arrays.items()]
    else:
        signature.check_outputs(wanted, arrays)
        chosen = [
            as_wanted(
                output,
                tensor_of(output.name, arrays[output.name], signature),
                has_batch_axis=signature.has_batch_axis,
            )
            for output in wanted
        ]
    for tensor in chosen:
        tensor.is_binary = request.wants_binary(tensor.name)
    return InferResponse(request.model_name, chosen, version, request.id)


def tensor_of(name: str, array: Array, signature: Signature) -> Tensor:
    """An array as an output; raises ServerError for a dtype that the protocol does not have."""
    kind = _datatype(array.dtype)
    if signature.knows_outputs:
        declared = signature.outputs.get(name)
        if declared is not None and (kind != declared.datatype or not array.size):
            array = _as_declared(array, declared)
            kind = _datatype(array.dtype)
            if kind == "FP32" and declared.datatype == "BF16":  # which numpy does not have
                return Tensor(name, "BF16", array.shape, array)
    if kind == "BYTES":
        return Tensor(name, kind, array.shape, as_bytes(array))
    if kind == "BF16":
        array = array.astype(np.float32)
    elif kind is None:
        raise ServerError(
            f"The output {name!r} has the dtype {array.dtype}, for which the Open Inference Protocol has no datatype.",
            code="model_error",
        )
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return Tensor(name, kind, array.shape, array)


def as_wanted(output: RequestedOutput, tensor: Tensor, *, has_batch_axis: bool) -> Tensor:
    """The tensor, or its highest values where the request wants these; raises TensorError where there are none."""
    classes = output.parameters.get("classification")
    if not classes:
        return tensor
    assert isinstance(classes, int)  # `Signature.check_wanted` has looked
    assert tensor.data is not None
    if tensor.datatype in ("BYTES", "BOOL"):
        raise TensorError(
            f"the output {output.name!r} is {tensor.datatype}; only numbers have highest classes"
        )
    found = _classified(tensor.data, classes, has_batch_axis)
    return Tensor(tensor.name, "BYTES", found.shape, found, tensor.parameters)


def arrays_of(value: Any, *, name: str = ONLY_OUTPUT) -> dict[str, Array]:
    """A plain value, as functions give it, as arrays by name: a dict has several, anything else one or none.

    What is no tensor becomes JSON text, and media their bytes.
    """
    if value is None:
        return {}
    if type(value) is dict and read_media_of(value) is None and all(type(key) is str for key in value):
        return {key: _array(one) for key, one in value.items()}
    if type(value) is list and any(type(one) is np.ndarray for one in value):
        return {f"{name}_{index}": _array(one) for index, one in enumerate(value)}
    return {name: _array(value)}


def read_media_of(value: dict[str, Any]) -> bytes | None:
    """The bytes of a file, picture or sound; None: the dict is no media."""
    try:
        media = read_media(value)
    except ValueError:
        return None
    return None if media is None else media.data


def as_bytes(array: Array) -> Array:
    """Text of any kind as an array of `bytes`, undoing `as_text`."""
    flat = array.reshape(-1).tolist()
    found = np.empty(len(flat), object)
    found[:] = [one if type(one) is bytes else str(one).encode("utf-8", "surrogateescape") for one in flat]
    return found.reshape(array.shape)


def as_text(array: Array) -> Array:
    """An array of `bytes` as one of text; bytes that are no UTF-8 come back unchanged."""
    flat = array.reshape(-1).tolist()
    found = np.empty(len(flat), object)
    found[:] = [one.decode("utf-8", "surrogateescape") if type(one) is bytes else one for one in flat]
    return found.reshape(array.shape)


def _as_declared(array: Array, declared: TensorMetadata) -> Array:
    """With the datatype that the metadata says, where no value changes its meaning: a function may return 3 for 3.0, and an
    empty list says nothing of its elements."""
    if declared.datatype is None:
        return array
    dtype = np.dtype(DATATYPES[declared.datatype].dtype)
    if not array.size:
        missing = len(declared.shape or ()) - array.ndim
        return np.empty((*array.shape, *(0,) * missing), dtype)
    if array.dtype.kind == "b" and dtype.kind in "iuf":  # True is a whole number in Python
        return array.astype(dtype)
    if declared.datatype == "BYTES":
        return array
    try:
        return as_array(declared.name, declared.datatype, array)
    except TensorError:  # an annotation is no promise; the answer says what it has
        return array


def _classified(array: Array, classes: int, has_batch_axis: bool) -> Array:
    """The highest values with their places, as `value:index`; the first of equal ones first."""
    rows = array.reshape(len(array), -1) if has_batch_axis and array.size else array.reshape(1, -1)
    count = min(classes, rows.shape[1])
    is_whole = array.dtype.kind in "iu"
    found = np.empty((rows.shape[0], count), object)
    for number, row in enumerate(rows):
        keys = row if is_whole else np.where(np.isnan(row), -np.inf, row)
        # stable from the end of the reversed row: equal values keep their order
        order = (len(row) - 1 - np.argsort(keys[::-1], kind="stable")[::-1])[:count]
        for place, index in enumerate(order.tolist()):
            value = row[index]
            found[number, place] = (
                f"{int(value)}:{index}" if is_whole else f"{float(value):f}:{index}"
            ).encode()
    if not has_batch_axis:
        found = found[0]
    elif not array.size:
        found = found[:0]
    return found


def _datatype(dtype: np.dtype[Any]) -> str | None:
    try:
        return _NAMES[dtype]
    except KeyError:
        if len(_NAMES) >= _MOST_NAMES:  # dtypes of text have their length in them
            _NAMES.clear()
        kind = _NAMES[dtype] = "BYTES" if dtype.kind in "OUS" else datatype_of(dtype.newbyteorder("="))
        return kind


def _array(value: Any) -> Array:
    """One value as an array; a scalar has the shape [1]."""
    kind = type(value)
    if kind is np.ndarray:
        return value  # type: ignore[no-any-return]
    if kind is str or kind is bytes:
        return _objects([value])
    if kind is bool or kind is float:
        return np.array([value])
    if kind is int:
        return np.array([value], np.int64 if value in _INT64 else np.uint64)
    if kind is dict:
        data = read_media_of(value)
        return _objects([_json(value) if data is None else data])
    if kind is list:
        return _listed(value)
    return _objects([_json(value)])


def _listed(values: list[Any]) -> Array:
    kinds = set(map(type, values))
    if kinds and kinds <= {str, bytes}:
        return _objects(values)
    if not kinds:
        return np.empty(0)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # lists of different lengths
        return _objects([_json(values)])
    if array.dtype.kind in "US":  # numpy makes text of numbers that stand beside text
        array = np.array(values, object)
        is_text = {type(one) for one in array.flat} <= {str, bytes}
        return array if is_text else _objects([_json(values)])
    return array if array.dtype.kind in "biuf" else _objects([_json(values)])


def _objects(values: list[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _json(value: Any) -> bytes:
    try:
        return to_json(value)
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise JobFailed(f"The result has no form as a tensor: {exc}") from exc
