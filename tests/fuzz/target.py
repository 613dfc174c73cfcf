"""What a coverage-guided fuzzer (atheris) runs: `python target.py NAME [options of libFuzzer] [folder of samples]`.

Every reader of bytes from outside may refuse them in one way, and may do nothing else: no other exception, no hang, no growth.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress

import atheris
import numpy as np
import orjson

with atheris.instrument_imports(include=["socaity.protocol"]):
    from socaity.protocol.frames import FrameReader
    from socaity.protocol.messagepack import MalformedError, unpackb
    from socaity.protocol.openinference import grpc, rest, wire
    from socaity.protocol.openinference.datatypes import TensorError
    from socaity.protocol.openinference.messages import InferRequest
    from socaity.protocol.openinference.protobuf import messages

_REQUEST = messages().ModelInferRequest
wire._LARGE = 0  # raw tensors are cut out of every message, as they are of large ones


def rest_request(data: bytes) -> None:
    """The first two bytes are the length of the JSON in front; all ones: no such header."""
    length = int.from_bytes(data[:2], "little")
    with suppress(TensorError):
        request = rest.read_request(
            data[2:], None if length == 0xFFFF else length, model_name="m", loads=orjson.loads
        )
        for tensor in request.inputs:
            tensor.is_binary = True
        body, header = rest.write_request(request, dumps=_dumps)
        if request.raw is None:
            _check_equal(request, rest.read_request(b"".join(body), header, model_name="m"))


def header_length(data: bytes) -> None:
    """The header that says how long the JSON is."""
    with suppress(TensorError):
        length = rest.read_header_length(data.decode("latin-1"))
        assert length is not None
        assert length >= 0


def grpc_request(data: bytes) -> None:
    """A message, read around the copies of protobuf and through them: both say the same."""
    found = plain = None
    with suppress(TensorError):
        found = wire.decode_request(data)
    with suppress(TensorError):
        plain = _plain(data)
    if found is not None and plain is not None:
        _check_equal(found, plain)
    else:
        assert found is plain, "one of the two ways reads it"  # which is None


def frame(data: bytes) -> None:
    """A frame of the socket."""
    with suppress(MalformedError):
        FrameReader(max_body=1 << 20).read(data)


def value(data: bytes) -> None:
    """A value in MessagePack."""
    with suppress(MalformedError):
        unpackb(data)


def _plain(data: bytes) -> InferRequest:
    try:
        message = _REQUEST.FromString(data)
    except Exception as exc:  # protobuf has a class for this in each of its implementations
        raise TensorError("no such message") from exc
    return grpc.read_request(message)


def _dumps(document: object) -> bytes:
    # parameters may be numbers that no strict writer takes
    return json.dumps(document).encode()


def _check_equal(one: InferRequest, other: InferRequest) -> None:
    assert [tensor.name for tensor in one.inputs] == [tensor.name for tensor in other.inputs]
    for left, right in zip(one.inputs, other.inputs, strict=True):
        assert (left.datatype, left.shape) == (right.datatype, right.shape)
        assert (left.data is None) == (right.data is None)
        if left.data is None or right.data is None:
            continue
        assert left.data.dtype == right.data.dtype
        assert left.data.shape == left.shape
        assert np.array_equal(left.data, right.data, equal_nan=left.data.dtype.kind == "f")


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (rest_request, header_length, grpc_request, frame, value)
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
