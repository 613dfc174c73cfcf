"""The rules of the gRPC service that tritonclient keeps by itself: contents or raw contents, sizes, health, reflection, retries.

The messages are those of tritonclient; health and reflection are asked with the clients of gRPC.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from checks import Address, Checks, is_same, raised
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

check = Checks()
PATIENCE = 20.0
SERVICE = "inference.GRPCInferenceService"
CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-(2**15), 2**15 - 1]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 2**16 - 1]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [-1.5, 0.25]),
    "FP64": ("fp64_contents", [-1.5, 0.1]),
    "BYTES": ("bytes_contents", [b"", b"\x00\xff"]),
}


@contextmanager
def stub(address: Address, **options: Any) -> Iterator[Any]:
    size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address.grpc, options=[*size, *options.items()]) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(
    model: str, *inputs: tuple[str, str, list[int]], raw: list[bytes] | None = None, **more: Any
) -> Any:
    made = messages.ModelInferRequest(model_name=model, **more)
    for name, datatype, shape in inputs:
        made.inputs.add(name=name, datatype=datatype, shape=shape)
    made.raw_input_contents.extend(raw or [])
    return made


def fp32(count: int, raw: list[bytes] | None = None) -> Any:
    return request("identity_fp32", ("INPUT0", "FP32", [count]), raw=raw)


def ask(address: Address, given: Any) -> Any:
    with stub(address) as client:
        return client.ModelInfer(given, timeout=PATIENCE)


def is_refused(address: Address, given: Any, code: str, text: str = "") -> None:
    with stub(address) as client:
        error = raised(grpc.RpcError, lambda: client.ModelInfer(given, timeout=PATIENCE))
        is_same(error.code().name, code, f"the code ({error.details()})")
        assert text.lower() in error.details().lower(), f"the error is {error.details()!r}, without {text!r}"
        assert error.details(), "the error has no message"
        assert client.ServerLive(messages.ServerLiveRequest(), timeout=PATIENCE).live


def add(datatype: str, field: str, values: list[Any]) -> None:
    @check(f"contents {datatype}")
    def _(address: Address) -> None:
        given = request(f"identity_{datatype.lower()}", ("INPUT0", datatype, [len(values)]))
        getattr(given.inputs[0].contents, field).extend(values)
        answer = ask(address, given)
        is_same(list(answer.raw_output_contents), [], "the raw outputs of a request that is not raw")
        is_same(answer.outputs[0].datatype, datatype, "the datatype")
        is_same(list(getattr(answer.outputs[0].contents, field)), values, "OUTPUT0")


for _datatype, (_field, _values) in CONTENTS.items():
    add(_datatype, _field, _values)


@check("raw in, raw out")
def _(address: Address) -> None:
    answer = ask(address, fp32(2, [struct.pack("<2f", 1, 2)]))
    is_same(list(answer.raw_output_contents), [struct.pack("<2f", 1, 2)], "the raw outputs")
    is_same(answer.outputs[0].HasField("contents"), False, "whether there are contents, too")
    is_same((answer.id, answer.model_name), ("", "identity_fp32"), "the id and the name")


@check("FP16 and BF16 only raw")
def _(address: Address) -> None:
    for datatype in ("FP16", "BF16"):
        given = request(f"identity_{datatype.lower()}", ("INPUT0", datatype, [1]))
        given.inputs[0].contents.fp32_contents.append(1.0)
        is_refused(address, given, "INVALID_ARGUMENT", "INPUT0")


@check("raw and contents together")
def _(address: Address) -> None:
    given = fp32(1, [struct.pack("<f", 1)])
    given.inputs[0].contents.fp32_contents.append(1.0)
    is_refused(address, given, "INVALID_ARGUMENT", "contents")


@check("as many raw contents as inputs")
def _(address: Address) -> None:
    is_refused(address, fp32(1, [struct.pack("<f", 1)] * 2), "INVALID_ARGUMENT")
    pair = [(f"INPUT{number}", "INT32", [1, 16]) for number in (0, 1)]
    is_refused(address, request("simple", *pair, raw=[bytes(64)]), "INVALID_ARGUMENT")


@check("sizes that do not fit")
def _(address: Address) -> None:
    for size in (0, 3, 4, 12):
        is_refused(address, fp32(2, [bytes(size)]), "INVALID_ARGUMENT", "INPUT0")
    text = ("INPUT0", "BYTES", [1])
    for data in (b"\x01", struct.pack("<I", 100) + b"short", struct.pack("<I", 2**32 - 1), bytes(12)):
        is_refused(address, request("identity_bytes", text, raw=[data]), "INVALID_ARGUMENT", "INPUT0")


@check("contents that do not fit")
def _(address: Address) -> None:
    given = fp32(2)
    given.inputs[0].contents.fp32_contents.extend([1, 2, 3])
    is_refused(address, given, "INVALID_ARGUMENT", "INPUT0")
    given = request("identity_int8", ("INPUT0", "INT8", [1]))
    given.inputs[0].contents.int_contents.append(300)
    is_refused(address, given, "INVALID_ARGUMENT", "INPUT0")
    given = fp32(1)
    given.inputs[0].contents.int_contents.append(1)  # the field of another datatype
    is_refused(address, given, "INVALID_ARGUMENT", "INPUT0")


@check("shapes that are none")
def _(address: Address) -> None:
    for shape in ([-1], [2**62], [2**62, 4], [2**32, 2**32], [-(2**63)]):
        given = request("identity_fp32_matrix", ("INPUT0", "FP32", shape), raw=[bytes(4)])
        is_refused(address, given, "INVALID_ARGUMENT", "INPUT0")


@check("wrong names and datatypes")
def _(address: Address) -> None:
    is_refused(address, request("", ("INPUT0", "FP32", [1]), raw=[bytes(4)]), "NOT_FOUND")
    is_refused(address, request("no_such_model", ("INPUT0", "FP32", [1]), raw=[bytes(4)]), "NOT_FOUND")
    is_refused(address, request("identity_fp32", raw=[]), "INVALID_ARGUMENT", "INPUT0")
    is_refused(address, request("identity_fp32", ("INPUT9", "FP32", [1]), raw=[bytes(4)]), "INVALID_ARGUMENT")
    is_refused(
        address, request("identity_fp32", ("INPUT0", "FLOAT", [1]), raw=[bytes(4)]), "INVALID_ARGUMENT"
    )
    twice = [("INPUT0", "FP32", [1])] * 2
    is_refused(address, request("identity_fp32", *twice, raw=[bytes(4)] * 2), "INVALID_ARGUMENT", "INPUT0")
    given = fp32(1, [bytes(4)])
    given.outputs.add(name="OUTPUT0")
    given.outputs.add(name="OUTPUT0")
    is_refused(address, given, "INVALID_ARGUMENT", "OUTPUT0")


@check("bytes that are no message")
def _(address: Address) -> None:
    with grpc.insecure_channel(address.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for data in (b"\xff" * 50, b"\x0a\xff\xff\xff\xff\x0f", b"\x2a\x05abc"):
            error = raised(grpc.RpcError, lambda data=data: call(data, timeout=PATIENCE))
            assert error.code().name in {"INTERNAL", "INVALID_ARGUMENT"}, (error.code(), error.details())
        client = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert client.ServerLive(messages.ServerLiveRequest(), timeout=PATIENCE).live


@check("unknown method is UNIMPLEMENTED")
def _(address: Address) -> None:
    with grpc.insecure_channel(address.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/NoSuchMethod")
        error = raised(grpc.RpcError, lambda: call(b"", timeout=PATIENCE))
        is_same(error.code().name, "UNIMPLEMENTED", "the code")


@check("shared memory is refused, not forgotten")
def _(address: Address) -> None:
    given = fp32(1)
    given.inputs[0].parameters["shared_memory_region"].string_param = "region"
    given.inputs[0].parameters["shared_memory_byte_size"].int64_param = 4
    with stub(address) as client:
        error = raised(grpc.RpcError, lambda: client.ModelInfer(given, timeout=PATIENCE))
        assert error.code().name in {"INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND"}, error.code()


@check("a full queue says when to come again")
def _(address: Address) -> None:
    given = request("queue_of_one", ("INPUT0", "FP32", [1]), raw=[struct.pack("<f", 0.5)])
    with stub(address, **{"grpc.enable_retries": 0}) as client:
        calls = [client.ModelInfer.future(given, timeout=PATIENCE) for _ in range(6)]
        refused = [call for call in calls if call.exception() is not None]
        assert refused, "nobody was refused"
        assert len(refused) < len(calls), "nobody was served"
        for call in refused:
            is_same(call.code().name, "UNAVAILABLE", "the code")
            trailers = dict(call.trailing_metadata())
            assert int(trailers["grpc-retry-pushback-ms"]) >= 0, trailers


@check("a deadline ends the work")
def _(address: Address) -> None:
    """A stream whose time is over runs no longer on the server."""
    given = messages.ModelInferRequest(model_name="words")
    for name, datatype, data in (
        ("PROMPT", "BYTES", struct.pack("<I", 1) + b"a"),
        ("REPETITION", "INT64", struct.pack("<q", 100_000)),
        ("DELAY", "FP64", struct.pack("<d", 0.01)),
    ):
        given.inputs.add(name=name, datatype=datatype, shape=[1])
        given.raw_input_contents.append(data)
    with stub(address) as client:
        try:
            for answer in client.ModelStreamInfer(iter([given]), timeout=0.5):
                assert not answer.error_message, answer.error_message
        except grpc.RpcError as exc:
            is_same(exc.code().name, "DEADLINE_EXCEEDED", "the code")
        else:
            raise AssertionError("it ended by itself")
        stop = time.monotonic() + PATIENCE
        count = request("streams", ("INPUT0", "INT64", [1]), raw=[bytes(8)])
        while True:
            answer = client.ModelInfer(count, timeout=PATIENCE)
            place = [one.name for one in answer.outputs].index("RUNNING")
            if not any(answer.raw_output_contents[place]):
                break
            assert time.monotonic() < stop, "it still runs"


@check("health: the server and the service are serving")
def _(address: Address) -> None:
    with grpc.insecure_channel(address.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE)
            is_same(answer.status, health_pb2.HealthCheckResponse.SERVING, f"the status of {service!r}")
        unknown = health_pb2.HealthCheckRequest(service="no.such.Service")
        error = raised(grpc.RpcError, lambda: health.Check(unknown, timeout=PATIENCE))
        is_same(error.code().name, "NOT_FOUND", "the code")
        watched = health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE)
        is_same(next(watched).status, health_pb2.HealthCheckResponse.SERVING, "what is watched")
        watched.cancel()


@check("reflection: the service describes itself")
def _(address: Address) -> None:
    with grpc.insecure_channel(address.grpc) as channel:
        found = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in found.get_services(), list(found.get_services())
        service = DescriptorPool(found).FindServiceByName(SERVICE)
        methods = {method.name: method for method in service.methods}
        expected = {
            method.name for method in messages.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
        }
        assert {"ModelInfer", "ModelStreamInfer", "ModelConfig"} <= set(methods) <= expected, sorted(methods)
        theirs = messages.ModelInferRequest.DESCRIPTOR.fields
        ours = {field.name: field.number for field in methods["ModelInfer"].input_type.fields}
        is_same(ours, {field.name: field.number for field in theirs}, "the fields of ModelInferRequest")


if __name__ == "__main__":
    check.main()
