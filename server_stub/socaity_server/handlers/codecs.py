"""Content types: what `parameters.content_type` of a tensor or a request means to a handler.

A content type that is not known is an error, and encoding changes neither the datatype nor the shape of an output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

import numpy as np

from socaity.exceptions import ConfigurationError
from socaity.protocol.openinference.datatypes import TensorError, datatype_of

from .types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    ResponseOutput,
    TensorData,
)

__all__ = [
    "InputCodec",
    "RequestCodec",
    "decode",
    "encode",
    "register_input_codec",
    "register_request_codec",
]


class InputCodec(ABC):
    """A content type of tensors."""

    ContentType: ClassVar[str]

    @classmethod
    @abstractmethod
    def can_encode(cls, payload: Any) -> bool:
        """Whether `encode_output` takes the payload."""

    @classmethod
    @abstractmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        """What handlers find in `input.parameters.decoded_payload`."""

    @classmethod
    @abstractmethod
    def encode_output(cls, name: str, payload: Any) -> ResponseOutput:
        """A payload as an output."""


class RequestCodec(ABC):
    """A content type of whole requests."""

    ContentType: ClassVar[str]

    @classmethod
    @abstractmethod
    def decode_request(cls, request: InferenceRequest) -> Any:
        """What handlers find in `payload.parameters.decoded_payload`."""


class _Numpy(InputCodec):
    """Arrays."""

    ContentType = "numpy"

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, np.ndarray)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        return request_input.as_numpy()

    @classmethod
    def encode_output(cls, name: str, payload: Any) -> ResponseOutput:
        kind = datatype_of(payload.dtype)
        if kind is None:
            raise TensorError(f"the output {name!r} is an array of {payload.dtype}, which has no datatype")
        return ResponseOutput(
            name=name, shape=list(payload.shape), datatype=Datatype(kind), data=TensorData(payload)
        )


class _Text(InputCodec):
    """Lists of text."""

    ContentType = "str"

    @classmethod
    def can_encode(cls, payload: Any) -> bool:
        return isinstance(payload, list) and all(isinstance(one, str) for one in payload)

    @classmethod
    def decode_input(cls, request_input: RequestInput) -> Any:
        if request_input.datatype is not Datatype.BYTES:
            raise TensorError(
                f"the input {request_input.name!r} is {request_input.datatype.value}; the content type 'str' is for BYTES"
            )
        return [
            one.decode("utf-8", "surrogateescape") for one in request_input.as_numpy().reshape(-1).tolist()
        ]

    @classmethod
    def encode_output(cls, name: str, payload: Any) -> ResponseOutput:
        return ResponseOutput(
            name=name, shape=[len(payload)], datatype=Datatype.BYTES, data=TensorData(payload)
        )


_InputClass = TypeVar("_InputClass", bound=type[InputCodec])
_RequestClass = TypeVar("_RequestClass", bound=type[RequestCodec])
_inputs: dict[str, type[InputCodec]] = {"numpy": _Numpy, "str": _Text}
_requests: dict[str, type[RequestCodec]] = {}


def register_input_codec(codec: _InputClass) -> _InputClass:
    """Make a content type of tensors known in this process; also as a decorator."""
    _register(_inputs, codec, InputCodec)
    return codec


def register_request_codec(codec: _RequestClass) -> _RequestClass:
    """Make a content type of requests known in this process; also as a decorator."""
    _register(_requests, codec, RequestCodec)
    return codec


def decode(request: InferenceRequest) -> None:
    """Decode the request and its inputs by their content types. Raises TensorError for one that is not known."""
    given = request.parameters
    default = None if given is None else given.content_type
    if given is not None and default in _requests:
        given._decoded = _requests[default].decode_request(request)
        default = None
    for one in request.inputs:
        own = None if one.parameters is None else one.parameters.content_type
        name = own or default
        if name is None:
            continue
        codec = _known(name, f"the input {one.name!r}" if own else "the request")
        if own is None and codec is _Text and one.datatype is not Datatype.BYTES:
            continue  # what holds for all inputs is not meant for numbers
        if one.parameters is None:
            one.parameters = Parameters()
        one.parameters._decoded = codec.decode_input(one)
    for output in request.outputs or ():
        if output.parameters is not None and output.parameters.content_type is not None:
            _known(output.parameters.content_type, f"the requested output {output.name!r}")


def encode(request: InferenceRequest, response: InferenceResponse) -> None:
    """Encode outputs whose data is something else than a list by their content type: their own, the one that is requested, or
    that of the request. The datatype and shape that an output declares stay; it must have them."""
    wanted = {
        one.name: one.parameters.content_type for one in request.outputs or () if one.parameters is not None
    }
    default = None if request.parameters is None else request.parameters.content_type
    for output in response.outputs:
        own = None if output.parameters is None else output.parameters.content_type
        name = own or wanted.get(output.name) or default
        if own is not None:
            _known(own, f"the output {output.name!r}")
        payload = output.data.root
        codec = _inputs.get(name or "")
        if codec is None or isinstance(payload, list | np.ndarray) or not codec.can_encode(payload):
            continue
        output.data = codec.encode_output(output.name, payload).data


def _known(name: str, owner: str) -> type[InputCodec]:
    codec = _inputs.get(name)
    if codec is None:
        raise TensorError(
            f"the content type {name[:60]!r} of {owner} is not known here (known: {', '.join(sorted(_inputs))}); "
            "register_input_codec makes one known"
        )
    return codec


def _register(known: dict[str, Any], codec: Any, base: type) -> None:
    name = getattr(codec, "ContentType", None)
    if not isinstance(codec, type) or not issubclass(codec, base) or not isinstance(name, str) or not name:
        raise ConfigurationError(
            f"A codec is a subclass of {base.__name__} with a ContentType; got {codec!r}."
        )
    other = known.get(name)
    if other is not None and other is not codec:
        raise ConfigurationError(f"The content type {name!r} is that of {other.__name__} already.")
    known[name] = codec
