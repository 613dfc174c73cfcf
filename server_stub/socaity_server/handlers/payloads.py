"""Requests as handlers see them, and what handlers answer as tensors of the protocol."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from pydantic import ValidationError

from socaity.protocol.openinference.datatypes import TensorError, datatype_of
from socaity.protocol.openinference.messages import InferRequest, Tensor

from ..openinference.outputs import as_bytes
from ..openinference.signature import TensorMetadata
from .codecs import decode
from .types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    LateData,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    reasons_of,
)

__all__ = ["data_of", "fits", "is_awaitable", "payload_of", "response_of", "scalars_of", "tensors_of"]

Array: TypeAlias = np.ndarray[Any, Any]


def data_of(tensor: Tensor) -> Array:
    """The data of an input of a model without metadata; raises the error 501 for shared memory."""
    return TensorMetadata(tensor.name, None, None).check(tensor, tensor.name)


def payload_of(request: InferRequest, arrays: dict[str, Array]) -> InferenceRequest:
    """The request as handlers see it, decoded."""
    given = {tensor.name: tensor for tensor in request.inputs}
    payload = InferenceRequest.model_construct(
        id=request.id or None,
        parameters=_parameters(request.parameters),
        inputs=[_input(name, array, given.get(name)) for name, array in arrays.items()],
        outputs=None
        if request.outputs is None
        else [
            RequestOutput.model_construct(name=one.name, parameters=_parameters(one.parameters))
            for one in request.outputs
        ],
    )
    decode(payload)
    return payload


def _input(name: str, array: Array, tensor: Tensor | None) -> RequestInput:
    kind = tensor.datatype if tensor is not None else _kind_of(array)

    nesting = () if tensor is None else tensor.nesting

    def elements() -> list[Any]:
        """Nested as they were sent."""
        flat = array.reshape(-1)
        if kind == "BYTES":
            texts = np.empty(flat.size, object)
            texts[:] = [_text(one) for one in flat.tolist()]
            flat = texts
        found: list[Any] = (flat.reshape(nesting) if len(nesting) > 1 else flat).tolist()
        return found

    found = RequestInput.model_construct(
        name=name,
        shape=list(array.shape),
        datatype=Datatype(kind),
        parameters=None if tensor is None else _parameters(tensor.parameters),
        data=LateData.of(elements),
    )
    found._array = array
    return found


def _kind_of(array: Array) -> str:
    return datatype_of(array.dtype) or "BYTES"


def _text(one: Any) -> Any:
    try:
        return one.decode() if isinstance(one, bytes) else one
    except UnicodeDecodeError:
        return one


def _parameters(given: dict[str, Any]) -> Parameters | None:
    if not given:
        return None
    if not isinstance(given.get("content_type", ""), str):
        raise TensorError("content_type is text")
    return Parameters(**given)


def is_awaitable(value: Any) -> bool:
    """Whether a method gave something to await, which nobody does. A coroutine is ended, as it would complain."""
    if not inspect.isawaitable(value):
        return False
    close = getattr(value, "close", None)
    if callable(close):
        close()
    return True


def response_of(value: Any) -> InferenceResponse:
    """What a handler gave, which may be a dict; raises TensorError for anything else."""
    if isinstance(value, InferenceResponse):
        return value
    if is_awaitable(value):
        raise TensorError(
            "its `infer` gave something to await; write it as `async def`, also where a decorator is around it"
        )
    if not isinstance(value, dict):
        raise TensorError(f"its `infer` gave a {type(value).__name__}, not an InferenceResponse")
    try:
        return InferenceResponse.model_validate(value)
    except ValidationError as exc:
        raise TensorError(reasons_of(exc)) from exc


def scalars_of(parameters: Parameters) -> dict[str, Any]:
    """Those parameters that the protocol can carry."""
    return {
        name: value
        for name, value in parameters.given().items()
        if isinstance(value, str | bool | int | float)
    }


def tensors_of(outputs: Sequence[ResponseOutput]) -> dict[str, Tensor]:
    """Outputs by name; raises TensorError for one that is there twice, or whose data does not fit."""
    found: dict[str, Tensor] = {}
    for one in outputs:
        if one.name in found:
            raise TensorError(
                f"Failed to validate InferenceResponse output ({one.name!r}): there is another of this name"
            )
        found[one.name] = _tensor(one)
    return found


def _tensor(output: ResponseOutput) -> Tensor:
    array = output.as_numpy()
    if output.datatype is Datatype.BYTES:
        array = as_bytes(array)
    parameters = {} if output.parameters is None else scalars_of(output.parameters)
    return Tensor(output.name, output.datatype.value, array.shape, array, parameters)


def fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Whether `shape` is one that was declared, where -1 is any length."""
    return len(shape) == len(declared) and all(
        size in (-1, found) for size, found in zip(declared, shape, strict=True)
    )
