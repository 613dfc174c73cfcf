"""Requests and answers as messages of gRPC and back; tensors are raw or in the typed fields of `contents`.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .datatypes import TensorError, datatype
from .messages import InferRequest, InferResponse, Parameter, Parameters, RequestedOutput, Tensor
from .protobuf import messages
from .tensors import checked_shape, read_json, read_raw, write_raw

__all__ = ["read_request", "read_response", "write_request", "write_response"]

_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_INT64 = range(-(2**63), 2**63)


def read_request(message: Any, raw: Sequence[bytes | memoryview] | None = None) -> InferRequest:
    """A ModelInferRequest. Raw tensors are views of its bytes, or of those in `raw` if they are there. Raises TensorError."""
    request = InferRequest(
        message.model_name,
        _read_tensors(message.inputs, message.raw_input_contents if raw is None else raw, "input"),
        message.model_version,
        message.id,
        _read_parameters(message.parameters),
    )
    if message.outputs:
        request.outputs = _requested(message.outputs)
    return request


def write_request(request: InferRequest, chunks: list[bytes | memoryview] | None = None) -> Any:
    """A ModelInferRequest with raw tensors, which are put into `chunks` instead where that is given."""
    message = messages().ModelInferRequest(
        model_name=request.model_name, model_version=request.model_version, id=request.id
    )
    _write_parameters(message.parameters, request.parameters)
    _write_tensors(message.inputs, message.raw_input_contents, request.inputs, chunks)
    for wanted in request.outputs or ():
        output = message.outputs.add(name=wanted.name)
        _write_parameters(output.parameters, wanted.parameters)
    return message


def read_response(message: Any, raw: Sequence[bytes | memoryview] | None = None) -> InferResponse:
    """A ModelInferResponse. Raw tensors are views of its bytes, or of those in `raw` if they are there. Raises TensorError."""
    return InferResponse(
        message.model_name,
        _read_tensors(message.outputs, message.raw_output_contents if raw is None else raw, "output"),
        message.model_version,
        message.id,
        _read_parameters(message.parameters),
    )


def write_response(
    response: InferResponse, *, raw: bool, chunks: list[bytes | memoryview] | None = None
) -> Any:
    """A ModelInferResponse; `raw` is how the request had its tensors, as clients want the answer in the same form.

    FP16 and BF16 have no typed field: an answer that has one of them is raw in any case. Raw tensors are put into `chunks`
    instead where that is given.
    """
    message = messages().ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    _write_parameters(message.parameters, response.parameters)
    if raw or any(tensor.datatype not in _FIELDS for tensor in response.outputs):
        _write_tensors(message.outputs, message.raw_output_contents, response.outputs, chunks)
        return message
    for tensor in response.outputs:
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _write_parameters(output.parameters, tensor.parameters)
        if tensor.data is not None:
            getattr(output.contents, _FIELDS[tensor.datatype]).extend(_elements(tensor))
    return message


def _elements(tensor: Tensor) -> Iterable[Any]:
    assert tensor.data is not None
    values = tensor.data.reshape(-1).tolist()
    if tensor.datatype != "BYTES":
        return values
    return [one if isinstance(one, bytes) else str(one).encode("utf-8", "surrogateescape") for one in values]


def _read_tensors(entries: Any, raw: Any, what: str) -> list[Tensor]:
    owner = "request" if what == "input" else "the answer"
    found: list[Tensor] = []
    names: set[str] = set()
    position = 0
    for entry in entries:
        name = entry.name
        if name in names:
            raise TensorError(f"{what} {name!r} already exists in {owner}")
        names.add(name)
        shape = checked_shape(name, list(entry.shape), what)
        parameters = _read_parameters(entry.parameters)
        tensor = Tensor(name, entry.datatype, shape, None, parameters, is_binary=bool(raw))
        if (
            raw and entry.HasField("contents") and entry.contents.ListFields()
        ):  # MLServer sets it, and leaves it empty
            raise TensorError(
                f"contents field must not be specified when using raw_{what}_contents for the {what} {name!r}"
            )
        if "shared_memory_region" not in parameters:
            if not raw:
                tensor.data = _read_contents(name, entry.datatype, shape, entry.contents)
            elif position < len(raw):
                tensor.data = read_raw(name, entry.datatype, shape, raw[position])
            position += 1
        found.append(tensor)
    if raw and position != len(raw):
        raise TensorError(
            f"raw_{what}_contents has {len(raw)} tensors, and the {what}s that need one are {position}"
        )
    return found


def _read_contents(name: str, type_name: str, shape: tuple[int, ...], contents: Any) -> Any:
    import numpy as np

    kind = datatype(type_name, name)
    field = _FIELDS.get(type_name)
    if field is None:
        raise TensorError(f"the tensor {name!r} is {type_name}, which can only be sent in raw contents")
    for other, values in contents.ListFields():
        if other.name != field:
            raise TensorError(
                f"the tensor {name!r} is {type_name}, which is sent in {field}; {len(values)} elements are in {other.name}"
            )
    values = getattr(contents, field)
    if kind.name == "BYTES" or kind.size < 4:  # the field is wider than the type
        if kind.name == "BYTES":
            return _of_bytes(name, shape, values)
        return read_json(name, type_name, shape, list(values))
    array = np.array(values, kind.dtype)
    if array.size != _count(shape):
        raise TensorError(
            f"the tensor {name!r} has the shape {list(shape)}, which is {_count(shape)} elements; {field} has {array.size}"
        )
    return array.reshape(shape)


def _of_bytes(name: str, shape: tuple[int, ...], values: Any) -> Any:
    import numpy as np

    if len(values) != _count(shape):
        raise TensorError(
            f"the tensor {name!r} has the shape {list(shape)}, which is {_count(shape)} elements; "
            f"bytes_contents has {len(values)}"
        )
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array.reshape(shape)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _requested(entries: Any) -> list[RequestedOutput]:
    found: list[RequestedOutput] = []
    names: set[str] = set()
    for entry in entries:
        if entry.name in names:
            raise TensorError(f"output {entry.name!r} already exists in request")
        names.add(entry.name)
        found.append(RequestedOutput(entry.name, _read_parameters(entry.parameters)))
    return found


def _write_tensors(
    entries: Any, raw: Any, tensors: list[Tensor], chunks: list[bytes | memoryview] | None
) -> None:
    for tensor in tensors:
        entry = entries.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _write_parameters(entry.parameters, tensor.parameters)
        if tensor.data is not None:
            data = write_raw(tensor.data, tensor.datatype)
            if chunks is None:
                raw.append(bytes(data))
            else:
                chunks.append(data)


def _read_parameters(entries: Mapping[str, Any]) -> Parameters:
    found: Parameters = {}
    if not entries:
        return found
    for name, entry in entries.items():
        choice = entry.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(entry, choice)
    return found


def _write_parameters(entries: Any, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        entry = entries[name]
        if isinstance(value, bool):
            entry.bool_param = value
        elif isinstance(value, int):
            if value in _INT64:
                entry.int64_param = value
            else:
                entry.uint64_param = value
        elif isinstance(value, float):
            entry.double_param = value
        else:
            entry.string_param = value
