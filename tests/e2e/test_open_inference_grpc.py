"""gRPC as users start it: the command line, ports, the end of the process, and what is needed for it."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

import grpc
import httpx
import pytest

from socaity.protocol.openinference.protobuf import messages

from .servers import HERE, ServerProcess

SOON = 30.0


def _stub(address: str, name: str) -> tuple[grpc.Channel, Any]:
    method = messages().methods()[name]
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    return channel, channel.unary_unary(
        method.path,
        request_serializer=method.request.SerializeToString,
        response_deserializer=method.response.FromString,
    )


def _text_request(model: str, name: str, text: bytes) -> Any:
    request = messages().ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(text)) + text)
    return request


def _address(server: ServerProcess) -> str:
    found = re.search(r"Open Inference over gRPC at (127\.0\.0\.1:\d+)", server.said)
    assert found, server.said
    return found.group(1)


@pytest.mark.parametrize("is_said_by", ["--grpc-port", "GRPC_PORT"])
def test_command_line_serves_grpc_and_says_where(is_said_by: str) -> None:
    arguments, env = (["--grpc-port", "0"], {}) if is_said_by == "--grpc-port" else ([], {"GRPC_PORT": "0"})
    with ServerProcess("small_service:router", *arguments, env=env) as server:
        channel, ready = _stub(_address(server), "ServerReady")
        assert ready(messages().ServerReadyRequest(), timeout=SOON).ready
        channel.close()
        assert server.terminate() in (0, -signal.SIGTERM)  # uvicorn ends as the signal says


def test_without_a_port_nothing_is_said_of_grpc() -> None:
    with ServerProcess("small_service:router") as server:
        assert "gRPC" not in server.said


def test_open_stream_ends_with_the_process() -> None:
    with ServerProcess("small_service:router", "--grpc-port", "0") as server:
        channel = grpc.insecure_channel(_address(server), [("grpc.use_local_subchannel_pool", 1)])
        never = threading.Event()
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter(lambda: never.wait(SOON), True), timeout=SOON
        )
        channel.subscribe(lambda state: None, try_to_connect=True)
        grpc.channel_ready_future(channel).result(SOON)
        assert server.terminate() in (0, -signal.SIGTERM)  # uvicorn ends as the signal says
        never.set()
        assert stream.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        channel.close()


def test_port_that_is_taken_ends_the_process_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = _serve("small_service:router", "--port", "0", "--grpc-port", port)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--grpc-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_same_answer_over_rest_and_grpc() -> None:
    with ServerProcess("fault_service:router", "--grpc-port", "0") as server:
        channel, infer = _stub(_address(server), "ModelInfer")
        over_grpc = infer(_text_request("open_gate", "name", b"g"), timeout=SOON)
        body = {"inputs": [{"name": "name", "shape": [1], "datatype": "BYTES", "data": ["g"]}]}
        over_rest = httpx.post(f"{server.url}/v2/models/open_gate/infer", json=body, timeout=SOON).json()
        (output,), (other,) = over_grpc.outputs, over_rest["outputs"]
        assert (output.name, output.datatype, list(output.shape)) == (
            other["name"],
            other["datatype"],
            other["shape"],
        )
        assert list(over_grpc.raw_output_contents) == [b"\x01"]
        assert other["data"] == [True]
        channel.close()


def test_without_grpcio_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['grpc'] = None\n"
        "from socaity_server import SocaityRouter\n"
        "SocaityRouter(auth=False).start(port=0, grpc_port=0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "pip install 'socaity[grpc]'" in done.stderr.splitlines()[-1]


def test_server_without_grpc_does_not_load_it() -> None:
    program = (
        "import sys\n"
        "from socaity_server import SocaityRouter\n"
        "SocaityRouter(auth=False).server(port=0)\n"
        "assert not {'grpc', 'google.protobuf'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def _serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "socaity.cli", "serve", *arguments]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
