"""Health and reflection, as probes and grpcurl ask for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from socaity_server import SocaityRouter
from socaity_server.frontends.grpc.descriptors import descriptors

from .conftest import SOON, Client

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def _health(client: Client, method: str, **fields: Any) -> Any:
    name = "HealthList" if method == "List" else "HealthCheck"
    request = descriptors()[f"grpc.health.v1.{name}Request"]
    response = descriptors()[f"grpc.health.v1.{name}Response"]
    make = client.channel.unary_stream if method == "Watch" else client.channel.unary_unary
    call = make(
        f"/grpc.health.v1.Health/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    return call(request(**fields), timeout=SOON)


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService"])
def test_service_is_healthy(service: Client, name: str) -> None:
    assert _health(service, "Check", service=name).status == SERVING


def test_unknown_service_is_not_found(service: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _health(service, "Check", service="other.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "other.Service" in str(caught.value.details())


def test_list_has_all_services(service: Client) -> None:
    statuses = _health(service, "List").statuses
    assert {name: one.status for name, one in statuses.items()} == {
        "": SERVING,
        "inference.GRPCInferenceService": SERVING,
    }


def test_watch_says_the_status_at_once(service: Client) -> None:
    for name, status in (("", SERVING), ("other.Service", SERVICE_UNKNOWN)):
        watch = _health(service, "Watch", service=name)
        assert next(watch).status == status
        watch.cancel()


def test_model_that_cannot_be_loaded_is_told(connect: Callable[..., Client], tmp_path: Any) -> None:
    for name, text in (("good", "def predict(x):\n    return x\n"), ("broken", "raise ValueError('no')\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text(text)
        (tmp_path / name / "model_config.yaml").write_text(
            "inputs:\n  - {name: x, dtype: float32, shape: [1]}\n"
        )
    router = SocaityRouter(auth=False)
    router.add_models(tmp_path)
    client = connect(router)
    assert _health(client, "Check", service="inference.GRPCInferenceService").status == NOT_SERVING
    # one model that fails must not take the others out of a load balancer
    assert _health(client, "Check").status == SERVING
    assert client.call("ServerReady").ready is False
    assert client.call("ModelReady", name="good").ready is True
    os.remove(tmp_path / "broken" / "model.py")


@pytest.fixture(params=["v1", "v1alpha"])
def ask(service: Client, request: pytest.FixtureRequest) -> Callable[..., Any]:
    package = f"grpc.reflection.{request.param}"
    message = descriptors()[f"{package}.ServerReflectionRequest"]
    call = service.channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=message.SerializeToString,
        response_deserializer=descriptors()[f"{package}.ServerReflectionResponse"].FromString,
    )

    def asked(**fields: Any) -> Any:
        (answer,) = call(iter([message(**fields)]), timeout=SOON)
        return answer

    return asked


def test_reflection_lists_the_services(ask: Callable[..., Any]) -> None:
    names = [one.name for one in ask(list_services="*").list_services_response.service]
    assert names == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService",
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ],
)
def test_reflection_gives_files_from_which_messages_can_be_made(ask: Callable[..., Any], symbol: str) -> None:
    files = ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto
    pool = descriptor_pool.DescriptorPool()
    for data in files:
        pool.AddSerializedFile(data)
    pool.FindFileContainingSymbol(symbol.removesuffix(".ModelInfer"))
    name = descriptor_pb2.FileDescriptorProto.FromString(files[0]).name
    assert list(ask(file_by_filename=name).file_descriptor_response.file_descriptor_proto) == list(files)


@pytest.mark.parametrize(
    "fields",
    [
        {"file_containing_symbol": "nobody.Knows"},
        {"file_by_filename": "nothing.proto"},
        {"all_extension_numbers_of_type": "nobody.Knows"},
        {"file_containing_extension": {"containing_type": "inference.ModelInferRequest"}},
    ],
)
def test_reflection_says_what_is_not_there(ask: Callable[..., Any], fields: Any) -> None:
    assert ask(**fields).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_reflection_says_that_nothing_was_asked(ask: Callable[..., Any]) -> None:
    assert ask(host="here").error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_messages_have_no_extensions(ask: Callable[..., Any]) -> None:
    answer = ask(all_extension_numbers_of_type="inference.ModelInferRequest").all_extension_numbers_response
    assert answer.base_type_name == "inference.ModelInferRequest"
    assert not answer.extension_number


def test_default_pool_stays_clean(service: Client) -> None:
    assert service.call("ServerLive").live
    pool = descriptor_pool.Default()
    for name in ("inference.ModelInferRequest", "grpc.health.v1.Health", "grpc.reflection.v1.ErrorResponse"):
        with pytest.raises(KeyError):
            pool.FindFileContainingSymbol(name)
