"""Bytes of gRPC around protobuf: the same messages as through protobuf, and no copies of large tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.grpc import read_request, write_request, write_response
from socaity.protocol.openinference.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from socaity.protocol.openinference.protobuf import messages
from socaity.protocol.openinference.wire import (
    decode_request,
    decode_response,
    decode_stream_response,
    encode_request,
    encode_response,
    encode_stream_error,
    encode_stream_response,
)

LARGE = 30_000


def _tensor(name: str, size: int) -> Tensor:
    data = np.arange(size, dtype=np.float32)
    return Tensor(name, "FP32", (size,), data, {"own": 1}, is_binary=True)


def _request(*sizes: int) -> InferRequest:
    tensors = [_tensor(f"x{number}", size) for number, size in enumerate(sizes)]
    return InferRequest("m", tensors, "2", "id", {"p": "q", "n": -1}, [RequestedOutput("y", {"k": True})])


def _shown(request: InferRequest | InferResponse) -> Any:
    tensors = request.inputs if isinstance(request, InferRequest) else request.outputs
    return (
        request.model_name,
        request.model_version,
        request.id,
        request.parameters,
        [
            (
                one.name,
                one.datatype,
                one.shape,
                one.parameters,
                one.is_binary,
                None if one.data is None else one.data.tobytes(),
            )
            for one in tensors
        ],
    )


@pytest.mark.parametrize("sizes", [(), (0,), (3,), (LARGE,), (3, LARGE, 0, LARGE)])
def test_request_is_the_same_with_and_without_protobuf(sizes: tuple[int, ...]) -> None:
    request = _request(*sizes)
    data = encode_request(request)
    message = messages().ModelInferRequest.FromString(data)
    assert message == write_request(request)
    assert _shown(decode_request(data)) == _shown(read_request(message)) == _shown(request)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("size", [0, 3, LARGE])
def test_response_is_the_same_with_and_without_protobuf(size: int, raw: bool) -> None:
    response = InferResponse("m", [_tensor("y", size)], "2", "id", {"p": True})
    data = encode_response(response, raw=raw)
    assert messages().ModelInferResponse.FromString(data) == write_response(response, raw=raw)
    decoded = decode_response(data)
    assert decoded.outputs[0].is_binary is raw
    response.outputs[0].is_binary = raw
    assert _shown(decoded) == _shown(response)


@pytest.mark.parametrize("size", [3, LARGE])
def test_response_of_a_stream(size: int) -> None:
    response = InferResponse("m", [_tensor("y", size)], "2", "id")
    data = encode_stream_response(response, raw=True)
    message = messages().ModelStreamInferResponse.FromString(data)
    assert message.error_message == ""
    assert message.infer_response == write_response(response, raw=True)
    error, decoded = decode_stream_response(data)
    assert error == ""
    assert _shown(decoded) == _shown(response)


def test_error_of_a_stream_names_its_request() -> None:
    data = encode_stream_error("it broke", model_name="m", model_version="2", id="id")
    error, decoded = decode_stream_response(data)
    assert (error, decoded.model_name, decoded.model_version, decoded.id) == ("it broke", "m", "2", "id")


def test_large_tensors_are_views_of_what_was_received() -> None:
    data = encode_request(_request(LARGE))
    (tensor,) = decode_request(data).inputs
    assert tensor.data is not None
    where = np.frombuffer(data, np.uint8)
    shared = np.shares_memory(tensor.data, where)
    # a tensor that lies across the borders of its numbers is copied once, since calculating with it would cost more
    assert shared or not _is_aligned(data)


def _is_aligned(data: bytes) -> bool:
    begin = data.index(np.arange(LARGE, dtype=np.float32).tobytes())
    return (np.frombuffer(data, np.uint8).ctypes.data + begin) % 4 == 0


def test_tensors_are_aligned_wherever_they_lie() -> None:
    for length in range(8):
        request = _request(LARGE)
        request.id = "i" * length
        (tensor,) = decode_request(encode_request(request)).inputs
        assert tensor.data is not None
        assert tensor.data.flags.aligned


@pytest.mark.parametrize("decode", [decode_request, decode_response, decode_stream_response])
@pytest.mark.parametrize("padding", [b"", bytes(LARGE)])
def test_what_is_no_message_is_an_error(decode: Any, padding: bytes) -> None:
    with pytest.raises(TensorError, match=r"inference\.Model"):
        decode(b"\xff" * 12 + padding)


@given(place=st.integers(0, 400), new=st.binary(max_size=12), gone=st.integers(0, 12), at_end=st.booleans())
@example(place=0, new=b"\x3a\xff\xff\xff\xff\x7f", gone=0, at_end=False)
@example(place=0, new=b"\x80" * 11 + b"\x01", gone=0, at_end=False)
@example(place=0, new=b"\x0b", gone=0, at_end=False)
@example(place=0, new=b"\xf8\x3f\x01", gone=0, at_end=False)
@example(place=0, new=b"\x61" + bytes(8), gone=0, at_end=True)
@example(place=0, new=b"\x65" + bytes(4), gone=0, at_end=True)
@example(place=0, new=b"\x65" + bytes(3), gone=0, at_end=True)
def test_damaged_requests_are_understood_as_protobuf_does(
    place: int, new: bytes, gone: int, at_end: bool
) -> None:
    data = bytearray(encode_request(_request(LARGE)))
    start = len(data) - place if at_end else place
    data[start : start + gone] = new
    expected: Any
    try:
        expected = _shown(read_request(messages().ModelInferRequest.FromString(bytes(data))))
    except Exception:
        expected = None
    try:
        found = _shown(decode_request(bytes(data)))
    except TensorError:
        found = None
    assert found == expected


def test_unknown_fields_and_any_order_are_understood() -> None:
    request = _request(LARGE)
    head = write_request(request, [])
    assert request.inputs[0].data is not None
    raw = request.inputs[0].data.tobytes()
    size = len(raw)
    field = b"\x3a" + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + raw
    unknown = b"\xf8\x7f\x01"  # field 2047, a number
    data = unknown + field + head.SerializeToString() + unknown
    assert _shown(decode_request(data)) == _shown(request)
