"""Handlers over gRPC: the same models, with the statuses of gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from socaity_server import SocaityRouter
from socaity_server.handlers import DefaultModelHandler
from tests.server.handlers.test_handlers import Doubler, Echo
from tests.server.openinference_grpc.conftest import Client, serve_grpc


@pytest.fixture
def client(router: SocaityRouter) -> Iterator[Client]:
    router.add_handler(Doubler(), models="double")
    router.add_handler(Echo(), models="echo")
    router.add_handler(DefaultModelHandler(), models="nothing")
    with serve_grpc(router) as address:
        client = Client(address)
        yield client
        client.channel.close()


def test_a_handler_answers_over_grpc(client: Client) -> None:
    data = np.array([[1.5, 2.5]], "<f4")
    message = client.request("double", ("x", "FP32", [1, 2], data.tobytes()), id="7")

    answer = client.call("ModelInfer", message=message)

    assert (answer.id, answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("7", "FP32", [1, 2])
    assert answer.raw_output_contents[0] == (2 * data).tobytes()


def test_metadata_of_a_handler_over_grpc(client: Client) -> None:
    metadata = client.call("ModelMetadata", name="double")

    assert (metadata.platform, list(metadata.versions)) == ("mine", ["1", "2"])
    assert client.call("ModelConfig", name="double").config.input[0].name == "x"
    assert client.call("ModelReady", name="double").ready


def test_what_is_not_written_is_unimplemented(client: Client) -> None:
    message = client.request("nothing", ("x", "FP32", [1], bytes(4)))

    assert client.refusal("ModelInfer", message=message).code() is grpc.StatusCode.UNIMPLEMENTED
    assert client.refusal("ModelMetadata", name="nothing").code() is grpc.StatusCode.UNIMPLEMENTED


def test_half_precision_is_never_put_into_text(client: Client) -> None:
    message = client.request("echo", ("x", "FP16", [2], b"\x00\x3c\x00\x40"))

    answer = client.call("ModelInfer", message=message)

    assert answer.raw_output_contents[0] == b"\x00\x3c\x00\x40"
    assert answer.outputs[0].datatype == "FP16"


def test_a_request_that_does_not_fit_is_an_invalid_argument(client: Client) -> None:
    error = client.refusal("ModelInfer", message=client.request("double", ("x", "FP64", [1, 2], bytes(16))))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "InferenceRequest" in (error.details() or "")


def test_every_version_that_is_listed_can_be_asked(client: Client) -> None:
    listed = client.call("RepositoryIndex").models

    assert {("double", "1"), ("double", "2"), ("echo", "1"), ("nothing", "1")} == {
        (one.name, one.version) for one in listed
    }
    assert all(client.call("ModelReady", name=one.name, version=one.version).ready for one in listed)


def test_an_unloaded_handler_is_not_found(client: Client) -> None:
    client.call("RepositoryModelUnload", model_name="double")
    message = client.request("double", ("x", "FP32", [1, 2], bytes(8)))

    assert client.refusal("ModelInfer", message=message).code() is grpc.StatusCode.NOT_FOUND
    assert not client.call("ModelReady", name="double").ready


def test_outputs_are_not_put_into_shared_memory(client: Client) -> None:
    message = client.request("echo", ("x", "FP32", [1], bytes(4)))
    output = message.outputs.add(name="x")
    output.parameters["shared_memory_region"].string_param = "mine"

    assert client.refusal("ModelInfer", message=message).code() is grpc.StatusCode.UNIMPLEMENTED
