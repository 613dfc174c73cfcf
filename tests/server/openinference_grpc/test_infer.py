"""Requests and answers: raw and typed tensors, every datatype, ids, requested outputs, errors, compression, sizes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from socaity_server import SocaityRouter

from .conftest import Client, make_router, serve_grpc

DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def _framed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def _typed(client: Client, model: str, name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    message = client.messages.ModelInferRequest(model_name=model)
    tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return message


@pytest.mark.parametrize("datatype", DTYPES)
def test_raw_tensor_comes_back_raw_and_unchanged(service: Client, datatype: str) -> None:
    array = np.array([[1, 0, 1]], DTYPES[datatype])
    request = service.request("same", ("x", datatype, [1, 3], array.tobytes()))
    answer = service.call("ModelInfer", message=request)
    (output,) = answer.outputs
    assert (output.datatype, list(output.shape)) == (datatype, [1, 3])
    assert not output.HasField("contents")
    assert list(answer.raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_tensor_comes_back_typed(service: Client, datatype: str) -> None:
    field = FIELDS[datatype]
    answer = service.call(
        "ModelInfer", message=_typed(service, "same", "x", datatype, [1, 2], **{field: [1, 0]})
    )
    (output,) = answer.outputs
    assert output.datatype == datatype
    assert list(getattr(output.contents, field)) == [1, 0]
    assert not answer.raw_output_contents


def test_bytes_are_framed_where_they_are_raw(service: Client) -> None:
    request = service.request("greet", ("name", "BYTES", [1], _framed("Zoë".encode())))
    answer = service.call("ModelInfer", message=request)
    assert list(answer.raw_output_contents) == [_framed("hello Zoë".encode())]


def test_bytes_are_plain_where_they_are_typed(service: Client) -> None:
    request = _typed(service, "greet", "name", "BYTES", [1], bytes_contents=[b"you"])
    (output,) = service.call("ModelInfer", message=request).outputs
    assert list(output.contents.bytes_contents) == [b"hello you"]


def test_several_inputs_go_by_position_and_outputs_by_name(service: Client) -> None:
    a, b = np.array([[5, 6]], np.int32), np.array([[1, 2]], np.int32)
    request = service.request("add", ("b", "INT32", [1, 2], b.tobytes()), ("a", "INT32", [1, 2], a.tobytes()))
    answer = service.call("ModelInfer", message=request)
    got = dict(zip([one.name for one in answer.outputs], answer.raw_output_contents, strict=True))
    assert got == {"total": (a + b).tobytes(), "difference": (a - b).tobytes()}


def test_only_requested_outputs_come(service: Client) -> None:
    one = np.ones((1, 2), np.int32).tobytes()
    request = service.request("add", ("a", "INT32", [1, 2], one), ("b", "INT32", [1, 2], one))
    request.outputs.add(name="difference")
    answer = service.call("ModelInfer", message=request)
    assert [output.name for output in answer.outputs] == ["difference"]
    assert list(answer.raw_output_contents) == [bytes(8)]


def test_id_is_given_back_and_an_empty_one_is_none(service: Client) -> None:
    tensor = ("x", "FP32", [1, 1], bytes(4))
    assert service.call("ModelInfer", message=service.request("same", tensor, id="a-7")).id == "a-7"
    assert service.call("ModelInfer", message=service.request("same", tensor)).id == ""


def test_empty_version_is_none_and_the_right_one_is_taken(service: Client) -> None:
    tensor = ("x", "FP32", [1, 1], bytes(4))
    for version in ("", "1"):
        answer = service.call("ModelInfer", message=service.request("same", tensor, model_version=version))
        assert (answer.model_name, answer.model_version) == ("same", "1")


def test_empty_tensor(service: Client) -> None:
    answer = service.call("ModelInfer", message=service.request("same", ("x", "FP32", [1, 0], b"")))
    assert list(answer.outputs[0].shape) == [1, 0]
    assert list(answer.raw_output_contents) == [b""]


def test_parameters_reach_the_function(service: Client) -> None:
    request = service.request("greet", ("name", "BYTES", [1], _framed(b"you")))
    request.parameters["loud"].bool_param = True
    request.parameters["times"].int64_param = 2
    answer = service.call("ModelInfer", message=request)
    assert list(answer.raw_output_contents) == [_framed(b"HELLO YOU HELLO YOU")]


def test_large_tensor(service: Client) -> None:
    array = np.arange(2_000_000, dtype=np.float32).reshape(2, -1)
    request = service.request("same", ("x", "FP32", list(array.shape), array.tobytes()))
    assert list(service.call("ModelInfer", message=request).raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_understood(service: Client, compression: grpc.Compression) -> None:
    array = np.zeros((1, 10_000), np.float32)
    request = service.request("same", ("x", "FP32", [1, 10_000], array.tobytes()))
    answer = service.call("ModelInfer", message=request, compression=compression)
    assert list(answer.raw_output_contents) == [array.tobytes()]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.raw_input_contents.append(b""), "raw_input_contents has 2"),
        (lambda m: m.inputs.add(name="y", datatype="FP32", shape=[1]), "raw_input_contents has 1"),
        (lambda m: m.inputs[0].contents.fp32_contents.append(1), "contents field must not be specified"),
        (lambda m: m.raw_input_contents.__setitem__(0, bytes(5)), "needs 4 bytes; got 5"),
        (lambda m: m.inputs[0].shape.append(-1), "unsigned"),
        (lambda m: m.inputs[0].shape.extend([2**62, 2**62]), "exceed maximum size"),
        (lambda m: setattr(m.inputs[0], "datatype", "FP31"), "unknown datatype"),
        (lambda m: setattr(m.inputs[0], "name", "z"), "'z'"),
        (lambda m: m.inputs.append(m.inputs[0]), "already exists"),
        (lambda m: m.outputs.add(name="nothing"), "nothing"),
        (lambda m: m.parameters["timeout"].MergeFrom(_text("soon")), "microseconds"),
    ],
)
def test_wrong_requests_are_the_callers_fault(
    service: Client, change: Callable[[Any], object], words: str
) -> None:
    request = service.request("same", ("x", "FP32", [1, 1], bytes(4)))
    change(request)
    refusal = service.refusal("ModelInfer", message=request)
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in refusal.details()


def _text(value: str) -> Any:
    from socaity.protocol.openinference.protobuf import messages

    return messages().InferParameter(string_param=value)


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_types_without_a_field_are_raw_only(service: Client, datatype: str) -> None:
    refusal = service.refusal(
        "ModelInfer", message=_typed(service, "same", "x", datatype, [1, 1], fp32_contents=[1])
    )
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "raw" in refusal.details()


def test_wrong_field_and_wrong_count_are_named(service: Client) -> None:
    refusal = service.refusal(
        "ModelInfer", message=_typed(service, "same", "x", "FP32", [1, 1], int_contents=[1])
    )
    assert "int_contents" in refusal.details()
    refusal = service.refusal(
        "ModelInfer", message=_typed(service, "same", "x", "FP32", [1, 2], fp32_contents=[1])
    )
    assert "2 elements" in refusal.details()


def test_small_integers_out_of_range_are_refused(service: Client) -> None:
    refusal = service.refusal(
        "ModelInfer", message=_typed(service, "same", "x", "UINT8", [1, 1], uint_contents=[300])
    )
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "300" in refusal.details()


def test_error_of_a_function_is_told(service: Client) -> None:
    refusal = service.refusal(
        "ModelInfer", message=service.request("fail", ("why", "BYTES", [1], _framed(b"too blue")))
    )
    assert refusal.code() is grpc.StatusCode.INTERNAL
    assert "too blue" in refusal.details()


_FAILING = """
from socaity.exceptions import InvalidInputError, ServerError

def predict(x):
    kind = int(x[0])
    if kind == 1:
        raise ValueError("the model does not like this")
    if kind == 2:
        raise InvalidInputError("2 is wrong", parameter="x")
    if kind == 3:
        raise ServerError("no place", status=503, code="queue_full", retry_after=1.5)
    return {"y": x}
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("models") / "failing"
    folder.mkdir()
    (folder / "model.py").write_text(_FAILING)
    (folder / "model_config.yaml").write_text("inputs:\n  - {name: x, dtype: int64, shape: [1]}\n")
    router = SocaityRouter(auth=False)
    router.add_models(folder.parent)
    with serve_grpc(router) as address:
        client = Client(address)
        yield client
        client.channel.close()


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (1, grpc.StatusCode.INTERNAL, "does not like this"),
        (2, grpc.StatusCode.INVALID_ARGUMENT, "2 is wrong"),
        (3, grpc.StatusCode.UNAVAILABLE, "no place"),
    ],
)
def test_errors_of_a_model_keep_their_status(
    failing: Client, kind: int, code: grpc.StatusCode, words: str
) -> None:
    request = failing.request("failing", ("x", "INT64", [1], struct.pack("<q", kind)))
    refusal = failing.refusal("ModelInfer", message=request)
    assert refusal.code() is code
    assert words in refusal.details()


def test_refusal_says_when_to_try_again(failing: Client) -> None:
    request = failing.request("failing", ("x", "INT64", [1], struct.pack("<q", 3)))
    trailing = dict(failing.refusal("ModelInfer", message=request).trailing_metadata())
    assert trailing["grpc-retry-pushback-ms"] == "1500"
    assert trailing["socaity-code"] == "queue_full"


def test_what_is_no_message_is_the_callers_fault(service: Client) -> None:
    for method in ("ModelInfer", "ModelReady", "RepositoryIndex"):
        with pytest.raises(grpc.RpcError) as caught:
            service.raw(b"\xff" * 20, method)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "inference." in caught.value.details()


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_message_above_the_limit_is_refused_and_the_server_lives(
    connect: Callable[..., Client], compression: grpc.Compression
) -> None:
    client = connect(make_router(max_body=100_000))
    for size in (150_000, 200_000):
        array = np.zeros((1, size // 4), np.float32)
        request = client.request("same", ("x", "FP32", list(array.shape), array.tobytes()))
        refusal = client.refusal("ModelInfer", message=request, compression=compression)
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert client.call("ServerLive").live


def test_limit_of_messages_can_be_set(
    connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCAITY_GRPC_MAX_MESSAGE", "-1")
    client = connect(make_router(max_body=1000))
    data = bytes(400_000)
    answer = client.call("ModelInfer", message=client.request("same", ("x", "FP32", [1, 100_000], data)))
    assert list(answer.raw_output_contents) == [data]


def test_answers_are_compressed_where_that_is_set(
    connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCAITY_GRPC_COMPRESSION", "gzip")
    client = connect(make_router())
    data = bytes(40_000)
    request = client.request("same", ("x", "FP32", [1, 10_000], data))
    answer, call = client.method("ModelInfer").with_call(request, timeout=20)
    assert list(answer.raw_output_contents) == [data]
    assert call.code() is grpc.StatusCode.OK
