"""Requests and answers as HTTP bodies: a JSON document, and behind it the raw bytes of the tensors that are binary.

`Inference-Header-Content-Length` says how long the document is; without it the body is nothing else. Source:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .datatypes import TensorError
from .messages import InferRequest, InferResponse, Parameters, RequestedOutput, Tensor
from .tensors import checked_shape, nesting_of, read_json, read_raw, write_json, write_raw

__all__ = [
    "HEADER_LENGTH",
    "Body",
    "read_header_length",
    "read_parameters",
    "read_request",
    "read_response",
    "read_text",
    "write_request",
    "write_response",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_DIGITS = 10
_MAX_HEADER = 2**31 - 1
_BOOLEANS = frozenset({"binary_data", "binary_data_output"})
_ALIGNMENT = 64

Chunk: TypeAlias = bytes | memoryview
Body: TypeAlias = tuple[list[Chunk], int | None]
"""The pieces of a body, and how long the JSON in front is; None: there is nothing else."""
Loads: TypeAlias = Callable[[bytes | memoryview], Any]
Dumps: TypeAlias = Callable[[Any], bytes]


def read_header_length(text: str | None) -> int | None:
    """What the header says; raises TensorError for what is no length."""
    if text is None:
        return None
    text = text.strip()
    if not text.isdecimal() or not text.isascii() or len(text) > _MOST_DIGITS or int(text) > _MAX_HEADER:
        raise TensorError(f"{HEADER_LENGTH} is the length of the JSON in bytes, not {text[:40]!r}")
    return int(text)


def read_request(
    body: bytes | bytearray | memoryview,
    header_length: int | None,
    *,
    model_name: str,
    model_version: str = "",
    loads: Loads | None = None,
) -> InferRequest:
    """A body as a request; tensors are views of it. With a length of 0 it is `raw`. Raises TensorError.

    Unknown keys are ignored, as real clients send some.
    """
    view = memoryview(body)
    if header_length == 0:
        return InferRequest(model_name, [], model_version, raw=view)
    document, rest = _split(view, header_length, loads, "inputs")
    inputs = _tensors(document, "inputs", "input", rest)
    outputs = document.get("outputs")
    return InferRequest(
        model_name,
        inputs,
        model_version,
        id=read_text(document, "id"),
        parameters=read_parameters(document.get("parameters"), "the request"),
        outputs=None if outputs is None else _requested(outputs),
    )


def read_response(
    body: bytes | bytearray | memoryview, header_length: int | None, *, loads: Loads | None = None
) -> InferResponse:
    """A body as an answer; tensors are views of it. Raises TensorError.

    Parameters that are no text, numbers or booleans are left out: MLServer sends objects among them.
    """
    document, rest = _split(memoryview(body), header_length, loads, "outputs")
    return InferResponse(
        read_text(document, "model_name"),
        _tensors(document, "outputs", "output", rest, read_parameters=_known_parameters),
        read_text(document, "model_version"),
        read_text(document, "id"),
        _known_parameters(document.get("parameters"), "the answer"),
    )


def write_request(request: InferRequest, *, dumps: Dumps | None = None, align: bool = True) -> Body:
    """A request as a body; inputs are raw where `is_binary` says so.

    With `align` the JSON ends in spaces, so that the raw data begins at a multiple of 64 bytes.
    """
    document: dict[str, Any] = {}
    if request.id:
        document["id"] = request.id
    document["inputs"], pieces = _written(request.inputs)
    if request.outputs is not None:
        document["outputs"] = [
            {"name": one.name, "parameters": one.parameters} if one.parameters else {"name": one.name}
            for one in request.outputs
        ]
    if request.parameters:
        document["parameters"] = request.parameters
    return _joined(document, pieces, dumps, align=align)


def write_response(response: InferResponse, *, dumps: Dumps | None = None, arrays: bool = False) -> Body:
    """An answer as a body; outputs are raw where `is_binary` says so. With `arrays` numbers are given to `dumps` as flat arrays,
    which it writes itself, with null for what is not finite."""
    document: dict[str, Any] = {"model_name": response.model_name}
    if response.model_version:
        document["model_version"] = response.model_version
    if response.id:
        document["id"] = response.id
    if response.parameters:
        document["parameters"] = response.parameters
    document["outputs"], pieces = _written(response.outputs, arrays=arrays)
    return _joined(document, pieces, dumps, align=False)


def read_parameters(value: object, owner: str) -> Parameters:
    """A JSON object of text, numbers and booleans; raises TensorError for any other. Nothing (or null) is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TensorError(f"Expected JSON object for keyword: 'parameters' of {owner}")
    for name, one in value.items():
        if not isinstance(one, str | bool | int | float):
            raise TensorError(
                f"parameter {name!r} has invalid type: it is text, a number or a boolean, in {owner}"
            )
        if name in _BOOLEANS and not isinstance(one, bool):
            raise TensorError(f"parameter {name!r} has invalid type: it is true or false, in {owner}")
    return dict(value)


def read_text(document: Mapping[str, Any], key: str) -> str:
    """The text at `key`; none (or null) is empty. Raises TensorError for what is no text, or has no form in UTF-8."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TensorError(f"`{key}` is text: attempt to access JSON non-string as string")
    try:
        value.encode()
    except UnicodeEncodeError as exc:  # half of a pair, which JSON can name
        raise TensorError(f"`{key}` is text that cannot be written as UTF-8") from exc
    return value


def _split(
    body: memoryview, header_length: int | None, loads: Loads | None, key: str
) -> tuple[Mapping[str, Any], memoryview | None]:
    """The document, and what is behind it."""
    if header_length is not None and header_length > len(body):
        raise TensorError(
            f"{HEADER_LENGTH} says that the JSON has {header_length} bytes, and the whole body has {len(body)}"
        )
    document = _parsed(body if header_length is None else body[:header_length], loads)
    if not isinstance(document, Mapping):
        raise TensorError(f"the body is a JSON object with `{key}`")
    return document, None if header_length is None else body[header_length:]


def _parsed(text: memoryview, loads: Loads | None) -> Any:
    if loads is not None:
        try:
            return loads(text)
        except ValueError:
            pass  # strict parsers refuse the NaN and Infinity that clients send
    try:
        return json.loads(bytes(text))
    except RecursionError as exc:
        raise TensorError("the JSON is nested too deeply") from exc
    except ValueError as exc:
        raise TensorError(f"the body is no JSON: {exc}") from exc


def _known_parameters(value: object, owner: str) -> Parameters:
    """Those of an answer that are what the protocol allows; the others are left out."""
    if not isinstance(value, Mapping):
        return {}
    return {name: one for name, one in value.items() if isinstance(one, str | bool | int | float)}


def _tensors(
    document: Mapping[str, Any],
    key: str,
    what: str,
    rest: memoryview | None,
    *,
    read_parameters: Callable[[object, str], Parameters] = read_parameters,
) -> list[Tensor]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise TensorError(f"the body has no list of `{key}`")
    owner = "request" if what == "input" else "the answer"
    found: list[Tensor] = []
    names: set[str] = set()
    position = 0
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise TensorError(f"each of `{key}` is an object with a name, a shape, a datatype and data")
        name = entry["name"]
        if name in names:
            raise TensorError(f"{what} {name!r} already exists in {owner}")
        names.add(name)
        shape = checked_shape(name, entry.get("shape"), what)
        parameters = read_parameters(entry.get("parameters"), f"the {what} {name!r}")
        type_name = entry.get("datatype")
        size = parameters.pop("binary_data_size", None)
        if size is None:
            data = None
            nesting: tuple[int, ...] = ()
            if entry.get("data") is not None or "shared_memory_region" not in parameters:
                if "data" not in entry:
                    raise TensorError(f"the {what} {name!r} has no data")
                data = read_json(name, _named(type_name, name), shape, entry["data"])
                nesting = nesting_of(entry["data"])
            found.append(Tensor(name, _named(type_name, name), shape, data, parameters, nesting=nesting))
            continue
        if type(size) is not int or size < 0:
            raise TensorError(f"binary_data_size of the {what} {name!r} is a number of bytes, not {size!r}")
        if entry.get("data") is not None:
            raise TensorError(f"the {what} {name!r} has both data and binary_data_size")
        if position + size > (0 if rest is None else len(rest)):
            raise TensorError(
                f"the {what} {name!r} should have {size} bytes behind the JSON; "
                f"{0 if rest is None else len(rest) - position} are left"
                + ("" if rest is not None else f" (the header {HEADER_LENGTH} is missing)")
            )
        piece = memoryview(b"") if rest is None else rest[position : position + size]
        data = read_raw(name, _named(type_name, name), shape, piece)
        found.append(Tensor(name, _named(type_name, name), shape, data, parameters, is_binary=True))
        position += size
    if rest is not None and position != len(rest):
        raise TensorError(f"there are {len(rest) - position} bytes behind the last of `{key}`")
    return found


def _named(type_name: object, tensor: str) -> str:
    if not isinstance(type_name, str):
        raise TensorError(f"the tensor {tensor!r} needs a datatype, such as 'FP32'")
    return type_name


def _requested(entries: object) -> list[RequestedOutput]:
    if not isinstance(entries, list):
        raise TensorError("`outputs` is a list of objects with a name")
    found: list[RequestedOutput] = []
    names: set[str] = set()
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise TensorError("each of `outputs` is an object with a name")
        name = entry["name"]
        if name in names:
            raise TensorError(f"output {name!r} already exists in request")
        names.add(name)
        found.append(RequestedOutput(name, read_parameters(entry.get("parameters"), f"the output {name!r}")))
    return found


def _written(tensors: Sequence[Tensor], *, arrays: bool = False) -> tuple[list[dict[str, Any]], list[Chunk]]:
    entries: list[dict[str, Any]] = []
    pieces: list[Chunk] = []
    for tensor in tensors:
        entry: dict[str, Any] = {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
        }
        parameters: dict[str, Any] = dict(tensor.parameters)
        if tensor.data is not None and tensor.is_binary:
            piece = write_raw(tensor.data, tensor.datatype)
            parameters["binary_data_size"] = len(piece)
            pieces.append(piece)
        elif tensor.data is not None:
            is_array = arrays and tensor.datatype != "BYTES"
            entry["data"] = tensor.data.reshape(-1) if is_array else write_json(tensor.data, tensor.datatype)
        if parameters:
            entry["parameters"] = parameters
        entries.append(entry)
    return entries, pieces


def _joined(document: dict[str, Any], pieces: list[Chunk], dumps: Dumps | None, *, align: bool) -> Body:
    text = _dumped(document) if dumps is None else dumps(document)
    if not pieces:
        return [text], None
    if align:
        text += b" " * (math.ceil(len(text) / _ALIGNMENT) * _ALIGNMENT - len(text))
    return [text, *pieces], len(text)


def _dumped(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
