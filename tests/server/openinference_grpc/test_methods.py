"""Every method of the service but those that infer."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from socaity.protocol.openinference.protobuf import messages
from socaity_server import SocaityRouter

from .conftest import Client, serve_grpc

_MODEL = "def predict(x):\n    return {'y': x * 2}\n"
_CONFIG = "inputs:\n  - {name: x, dtype: float32, shape: [2]}\noutputs:\n  - {name: y, dtype: float32, shape: [2]}\n"


def test_server_is_live_and_ready(service: Client) -> None:
    assert service.call("ServerLive").live is True
    assert service.call("ServerReady").ready is True


def test_server_metadata_names_what_it_can_do(service: Client) -> None:
    found = service.call("ServerMetadata")
    assert found.name == "socaity"
    assert found.version
    assert {"binary_tensor_data", "statistics", "model_configuration"} <= set(found.extensions)


def test_model_metadata_has_inputs_outputs_and_properties(service: Client) -> None:
    found = service.call("ModelMetadata", name="greet")
    assert found.name == "greet"
    assert list(found.versions) == ["1"]
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [
        ("name", "BYTES", [1]),
        ("times", "INT64", [1]),
        ("loud", "BOOL", [1]),
    ]
    assert [(one.datatype, list(one.shape)) for one in found.outputs] == [("BYTES", [1])]
    assert found.properties["optional"] == "times,loud"


def test_model_is_ready(service: Client) -> None:
    assert service.call("ModelReady", name="add").ready is True


@pytest.mark.parametrize(
    "method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "ModelInfer"]
)
@pytest.mark.parametrize("fields", [{"name": "nobody"}, {"name": "add", "version": "7"}])
def test_unknown_model_or_version_is_not_found(service: Client, method: str, fields: dict[str, str]) -> None:
    if method == "ModelInfer":
        fields = {f"model_{key}": value for key, value in fields.items()}
    refusal = service.refusal(method, **fields)
    assert refusal.code() is grpc.StatusCode.NOT_FOUND
    assert refusal.details()


def test_config_has_the_form_that_clients_read(service: Client) -> None:
    config = service.call("ModelConfig", name="add").config
    assert config.name == "add"
    assert config.max_batch_size == 16
    assert [one.name for one in config.input] == ["a", "b"]
    assert not config.model_transaction_policy.decoupled


def test_generators_are_decoupled_models(service: Client) -> None:
    assert service.call("ModelConfig", name="count").config.model_transaction_policy.decoupled


def test_statistics_count_what_was_inferred() -> None:
    router = SocaityRouter(auth=False)

    @router.add_route("/twice", max_batch_size=16)
    def twice(x: np.ndarray) -> np.ndarray:
        return x * 2

    with serve_grpc(router) as address:
        client = Client(address)
        request = client.request("twice", ("x", "FP32", [3, 1], bytes(12)))
        for _ in range(2):
            client.call("ModelInfer", message=request)
        (one,) = client.call("ModelStatistics", name="twice").model_stats
        assert (one.name, one.version, one.inference_count) == ("twice", "1", 6)
        assert one.inference_stats.success.count == 2
        assert one.inference_stats.success.ns > 0
        assert [found.name for found in client.call("ModelStatistics").model_stats] == ["twice"]
        client.channel.close()


def test_index_lists_all_models(service: Client) -> None:
    models = service.call("RepositoryIndex").models
    assert [(one.name, one.state) for one in models] == [
        (name, "READY") for name in ("add", "count", "fail", "greet", "same")
    ]


def test_models_of_a_folder_are_unloaded_and_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "double"
    folder.mkdir()
    (folder / "model.py").write_text(_MODEL)
    (folder / "model_config.yaml").write_text(_CONFIG)
    router = SocaityRouter(auth=False)
    router.add_models(tmp_path)
    with serve_grpc(router) as address:
        client = Client(address)
        assert client.call("ModelReady", name="double").ready
        parameters = {"unload_dependents": messages().ModelRepositoryParameter(bool_param=False)}
        client.call("RepositoryModelUnload", model_name="double", parameters=parameters)
        assert not client.call("ModelReady", name="double").ready
        assert [one.state for one in client.call("RepositoryIndex").models] == ["UNAVAILABLE"]
        assert not client.call("RepositoryIndex", ready=True).models
        client.call("RepositoryModelLoad", model_name="double")
        assert client.call("ModelReady", name="double").ready
        request = client.request("double", ("x", "FP32", [2], b"\0\0\x80?\0\0\0@"))
        assert list(client.call("ModelInfer", message=request).raw_output_contents) == [b"\0\0\0@\0\0\x80@"]
        client.channel.close()


def test_load_with_a_configuration_is_refused(service: Client) -> None:
    parameters = {"config": messages().ModelRepositoryParameter(string_param="{}")}
    refusal = service.refusal("RepositoryModelLoad", model_name="add", parameters=parameters)
    assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "'config'" in refusal.details()


def test_load_of_nobody_is_not_found(service: Client) -> None:
    assert service.refusal("RepositoryModelLoad", model_name="nobody").code() is grpc.StatusCode.NOT_FOUND


def test_named_repositories_are_not_there(service: Client) -> None:
    refusal = service.refusal("RepositoryIndex", repository_name="other")
    assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "repository" in refusal.details()


@pytest.mark.parametrize("kind", ["System", "Cuda"])
def test_no_region_of_shared_memory_is_there(service: Client, kind: str) -> None:
    assert not service.call(f"{kind}SharedMemoryStatus").regions
    service.call(f"{kind}SharedMemoryUnregister")
    for method in ("Status", "Unregister"):
        refusal = service.refusal(f"{kind}SharedMemory{method}", name="mine")
        assert refusal.code() is grpc.StatusCode.NOT_FOUND
        assert "'mine'" in refusal.details()
    refusal = service.refusal(f"{kind}SharedMemoryRegister", name="mine")
    assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "shared memory" in refusal.details()


def test_traces_of_a_model_need_the_model(service: Client) -> None:
    assert service.call("TraceSetting", model_name="same").settings["trace_level"].value == ["OFF"]
    refusal = service.refusal("TraceSetting", model_name="nobody")
    assert refusal.code() is grpc.StatusCode.NOT_FOUND
    assert "'nobody'" in refusal.details()


def test_traces_are_off_and_stay_so(service: Client) -> None:
    value = messages().TraceSettingRequest.SettingValue
    for settings in ({}, {"trace_level": value()}):
        found = service.call("TraceSetting", settings=settings).settings
        assert list(found["trace_level"].value) == ["OFF"]
        assert set(found) == {"trace_file", "trace_level", "trace_rate", "trace_count", "log_frequency"}
    refusal = service.refusal("TraceSetting", settings={"trace_level": value(value=["TIMESTAMPS"])})
    assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED


def test_log_settings_say_what_is_logged(service: Client) -> None:
    found = service.call("LogSettings").settings
    assert found["log_error"].bool_param is True
    assert found["log_format"].string_param == "default"
    value = messages().LogSettingsRequest.SettingValue(bool_param=True)
    refusal = service.refusal("LogSettings", settings={"log_info": value})
    assert refusal.code() is grpc.StatusCode.UNIMPLEMENTED


def test_every_method_of_the_protocol_is_served(service: Client) -> None:
    for method in messages().methods().values():
        if method.streams_requests:
            answers = service.method(method.name)(iter(()), timeout=5)
            assert list(answers) == []
            continue
        told = ""
        try:
            service.call(method.name)
        except grpc.RpcError as exc:
            told = exc.details() or ""
        assert "Method not found" not in told


def test_unknown_method_is_unimplemented(service: Client) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        service.raw(b"", "Nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
