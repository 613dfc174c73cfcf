"""The generate extension: a flat JSON object as a request, and an answer as one.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, Tensor
from socaity.protocol.openinference.rest import read_parameters, read_text
from socaity.protocol.openinference.tensors import read_json, write_json

from ...openinference.model import ServedModel
from ...openinference.signature import Signature, TensorMetadata

__all__ = ["read_generate", "write_generate"]

_TEXT_INPUT, _TEXT_OUTPUT = "text_input", "text_output"
_IGNORED = frozenset({"id", "model_name", "model_version", "parameters"})
_INT64_END = 2**63
_KINDS: dict[type, str] = {str: "BYTES", bool: "BOOL", int: "INT64", float: "FP64"}
_SAYS: dict[str, tuple[tuple[type, ...], str]] = {
    "BYTES": ((str,), "attempt to access JSON non-string as string"),
    "BOOL": ((bool,), "attempt to access JSON non-boolean as boolean"),
}
_NUMBERS: tuple[tuple[type, ...], str] = ((int, float), "attempt to access JSON non-number as number")


def read_generate(body: bytes | memoryview, model: ServedModel) -> tuple[InferRequest, dict[str, Any] | None]:
    """The request that a body means; raises TensorError. One with `inputs` is a usual inference request: then the document
    comes back as well."""
    document = _parsed(bytes(body))
    if isinstance(document.get("inputs"), list) and "inputs" not in model.signature.inputs:
        return InferRequest(model.name, [], model.version), document
    given = read_text(document, "id")
    nested = document.get("parameters")
    if nested is not None and not isinstance(nested, dict):
        raise TensorError("Expected JSON object for keyword: 'parameters'")
    request = InferRequest(model.name, [], model.version, id=given)
    top = {key: value for key, value in document.items() if key not in _IGNORED}
    for name, value in [*top.items(), *(nested or {}).items()]:
        _put(request, name, value, model.signature)
    return request, None


def write_generate(response: InferResponse, request: InferRequest, dumps: Callable[[Any], bytes]) -> bytes:
    """An answer as one object: each output is a key; one element is a scalar."""
    document: dict[str, Any] = {}
    if response.id:
        document["id"] = response.id
    document["model_name"] = response.model_name
    if response.model_version:
        document["model_version"] = response.model_version
    texts = [output for output in response.outputs if output.datatype == "BYTES"]
    for output in response.outputs:
        document[output.name] = _plain(output)
    if len(texts) == 1 and _TEXT_OUTPUT not in document:
        document[_TEXT_OUTPUT] = document[texts[0].name]
    return dumps(document)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}", object_pairs_hook=_without_duplicates)
    except TensorError:
        raise
    except RecursionError as exc:
        raise TensorError("the JSON is nested too deeply") from exc
    except ValueError as exc:
        raise TensorError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise TensorError("the body is a JSON object")
    return document


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise TensorError(f"input {name!r} already exists in request")
        found[name] = value
    return found


def _put(request: InferRequest, name: str, value: Any, signature: Signature) -> None:
    metadata = signature.inputs.get(name)
    if metadata is None and name == _TEXT_INPUT:
        texts = [one for one in signature.inputs.values() if one.datatype == "BYTES"]
        if len(texts) == 1:
            metadata = texts[0]
    if metadata is None:
        if value is not None:
            request.parameters.update(read_parameters({name: value}, "the request"))
        return
    if any(tensor.name == metadata.name for tensor in request.inputs):
        raise TensorError(f"input {metadata.name!r} already exists in request")
    request.inputs.append(_tensor(metadata, value, has_batch_axis=signature.has_batch_axis))


def _tensor(metadata: TensorMetadata, value: Any, *, has_batch_axis: bool) -> Tensor:
    values = value if isinstance(value, list) else [value]
    sizes, first = [len(values)], values[0] if values else None
    while isinstance(first, list) and len(sizes) <= len(metadata.shape or ()) + 1:
        sizes.append(len(first))
        first = first[0] if first else None
    kind = metadata.datatype or _kind_of(values, len(sizes) - 1)
    kinds, says = _SAYS.get(kind, _NUMBERS)
    if first is not None or (values and len(sizes) == 1):
        wrong = type(first) not in kinds
        if wrong:
            raise TensorError(f"input {metadata.name!r}: {says}")
    shape = tuple(sizes) if len(sizes) > 1 else _shape(metadata, sizes[0], has_batch_axis=has_batch_axis)
    return Tensor(metadata.name, kind, shape, read_json(metadata.name, kind, shape, values))


def _kind_of(values: list[Any], depth: int) -> str:
    """The datatype that all elements below `depth` lists have; of whole and other numbers FP64, as JSON writes 1.0 as 1."""
    for _ in range(depth):
        values = [one for inner in values if isinstance(inner, list) for one in inner]
    kinds = set(map(type, values))
    if kinds & {int, float} and kinds <= {int, float, type(None)}:
        if kinds != {int}:
            return "FP64"
        return "INT64" if max(values) < _INT64_END else "UINT64"
    return _KINDS.get(type(values[0]) if values else type(None), "BYTES")


def _shape(metadata: TensorMetadata, count: int, *, has_batch_axis: bool) -> tuple[int, ...]:
    """The shape that so many elements in one list have; where it cannot be known, the check of the model says so."""
    batch = (1,) if has_batch_axis else ()
    item = (-1,) if metadata.shape is None else metadata.shape[len(batch) :]
    fixed = 1
    for size in item:
        fixed *= 1 if size == -1 else size
    if item.count(-1) == 1 and fixed and count % fixed == 0:
        return (*batch, *(count // fixed if size == -1 else size for size in item))
    if count == fixed:
        return (*batch, *(1 if size == -1 else size for size in item))
    if has_batch_axis and not item.count(-1) and fixed and count % fixed == 0:
        return (count // fixed, *item)
    return (*batch, count)


def _plain(tensor: Tensor) -> Any:
    if tensor.data is None:
        return []
    values = write_json(tensor.data, tensor.datatype)
    return values[0] if len(values) == 1 else values
