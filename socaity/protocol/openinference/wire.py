"""Requests and answers of gRPC as bytes, around the copies that protobuf makes of raw tensors.

protobuf copies raw tensors into the message, and out of it again when they are read. Here the large ones are cut out of the
bytes as views before protobuf gets the rest, and put behind what it has written.
Source: https://protobuf.dev/programming-guides/encoding/ (fields may come in any order; a repeated one keeps its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from .datatypes import TensorError
from .grpc import read_request, read_response, write_request, write_response
from .messages import InferRequest, InferResponse
from .protobuf import messages

__all__ = [
    "decode_request",
    "decode_response",
    "decode_stream_response",
    "encode_request",
    "encode_response",
    "encode_stream_error",
    "encode_stream_response",
]

_LARGE = 16 * 1024
"""Bytes of a message from which it is worth the effort."""
_MOST_FIELDS = 10_000
_REQUEST_FIELD = 7
_RESPONSE_FIELD = 6
_STREAMED_FIELD = 2
_BYTE = [bytes([value]) for value in range(0x80)]
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

Chunk: TypeAlias = bytes | memoryview


def decode_request(data: Chunk) -> InferRequest:
    """A ModelInferRequest; large raw tensors are views of `data`. Raises TensorError, also for what is no such message."""
    message, raw = _decoded(messages().ModelInferRequest, data, _REQUEST_FIELD)
    return read_request(message, raw)


def decode_response(data: Chunk) -> InferResponse:
    """A ModelInferResponse; large raw tensors are views of `data`. Raises TensorError."""
    message, raw = _decoded(messages().ModelInferResponse, data, _RESPONSE_FIELD)
    return read_response(message, raw)


def encode_request(request: InferRequest) -> bytes:
    """A ModelInferRequest with raw tensors, each of which is copied once."""
    raw: list[Chunk] = []
    return b"".join(_pieces(write_request(request, raw), raw, _REQUEST_FIELD))


def encode_response(response: InferResponse, *, raw: bool) -> bytes:
    """A ModelInferResponse; `raw` as in `write_response`. Raw tensors are copied once."""
    return b"".join(_response(response, raw))


def encode_stream_response(response: InferResponse, *, raw: bool) -> bytes:
    """A ModelStreamInferResponse that holds `response`. Raw tensors are copied once."""
    pieces = _response(response, raw)
    size = sum(map(len, pieces))
    return b"".join([_written(_STREAMED_FIELD << 3 | _LENGTH) + _written(size), *pieces])


def encode_stream_error(error: str, *, model_name: str = "", model_version: str = "", id: str = "") -> bytes:
    """A ModelStreamInferResponse that says what went wrong, and of which request."""
    message = messages().ModelStreamInferResponse(error_message=error)
    message.infer_response.model_name = model_name
    message.infer_response.model_version = model_version
    message.infer_response.id = id
    data: bytes = message.SerializeToString()
    return data


def decode_stream_response(data: bytes) -> tuple[str, InferResponse]:
    """The error of a ModelStreamInferResponse (`""`: there is none) and its response. Raises TensorError."""
    if len(data) >= _LARGE:
        found = _cut(data, _STREAMED_FIELD)
        if found is not None and len(found[1]) == 1 and not found[0]:
            return "", decode_response(found[1][0])
    message = _parsed(messages().ModelStreamInferResponse, data)
    return message.error_message, read_response(message.infer_response)


def _response(response: InferResponse, raw: bool) -> list[Chunk]:
    chunks: list[Chunk] = []
    return _pieces(write_response(response, raw=raw, chunks=chunks), chunks, _RESPONSE_FIELD)


def _decoded(message_class: Any, data: Chunk, field: int) -> tuple[Any, Sequence[Chunk] | None]:
    rest: Chunk = data
    raw: list[memoryview] | None = None
    if len(data) >= _LARGE:
        found = _cut(data, field)
        if found is not None:
            rest, raw = found
    return _parsed(message_class, rest), raw


def _parsed(message_class: Any, data: Chunk) -> Any:
    try:
        return message_class.FromString(data if type(data) is bytes else bytes(data))
    except Exception as exc:
        from google.protobuf.message import (
            DecodeError,
        )  # only now: finding it takes as long as reading a small message

        if not isinstance(exc, DecodeError):
            raise
        raise TensorError(f"these bytes are no {message_class.DESCRIPTOR.full_name}") from exc


def _cut(data: Chunk, field: int) -> tuple[bytes, list[memoryview]] | None:
    """What is left without the raw tensors, and these. None: there are none, or it is for protobuf to say what is wrong."""
    view = memoryview(data)
    raw: list[memoryview] = []
    kept: list[memoryview] = []
    start = position = 0  # of what is kept, and of the next field
    end = len(data)
    tag = field << 3 | _LENGTH
    try:
        for _ in range(_MOST_FIELDS):
            if position == end:
                break
            begin = position
            key, position = _varint(data, position)
            kind = key & 7
            if kind == _LENGTH:
                size, position = _varint(data, position)
                if size > end - position:
                    return None
                if key == tag:
                    kept.append(view[start:begin])
                    raw.append(view[position : position + size])
                    start = position + size
                position += size
            elif kind == _VARINT:
                _, position = _varint(data, position)
            elif kind in (_FIXED64, _FIXED32):
                position += 8 if kind == _FIXED64 else 4
                if position > end:
                    return None
            else:
                return None
        else:
            return None
    except (IndexError, ValueError):
        return None
    if not raw:
        return None
    kept.append(view[start:])
    return b"".join(kept), raw


def _varint(data: Chunk, position: int) -> tuple[int, int]:
    """A number and where it ends; raises IndexError, or ValueError for one that is too long."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _pieces(message: Any, raw: Sequence[Chunk], field: int) -> list[Chunk]:
    pieces: list[Chunk] = [message.SerializeToString()]
    tag = _written(field << 3 | _LENGTH)
    for chunk in raw:
        pieces += (tag + _written(len(chunk)), chunk)
    return pieces


def _written(value: int) -> bytes:
    if value < 0x80:
        return _BYTE[value]
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
