"""Servers of the Open Inference Protocol that do as a test says, over real connections."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from socaity.protocol.openinference.protobuf import SERVICE, messages
from socaity_transports.openinference.transport import OpenInferenceTransport
from tests.transports.doubles import RecordedCall

SERVER = {"name": "scripted", "version": "1", "extensions": ["binary_tensor_data"]}
ECHO = {
    "name": "echo",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}


@dataclass
class Request:
    """What arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What is answered. With `waits` nothing is, until the client has gone."""

    body: Any = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    waits: bool = False


class ScriptedREST:
    """An ASGI app; `routes` has the answers, or functions of the request that give them. Other paths are not found."""

    def __init__(self, routes: Mapping[str, Any] | None = None) -> None:
        self.requests: list[Request] = []
        self.gone = asyncio.Event()
        self.routes: dict[str, Any] = {
            "/v2": SERVER,
            "/v2/repository/index": [{"name": "echo", "version": "1", "state": "READY", "reason": ""}],
            "/v2/models/echo": ECHO,
            **(routes or {}),
        }

    @property
    def paths(self) -> list[str]:
        return [one.path for one in self.requests]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode().partition("?")[0]
        request = Request(scope["method"], path, headers, bytes(body))
        self.requests.append(request)
        found = self.routes.get(path, Answer({"error": "unknown route"}, 404))
        answer = found(request) if callable(found) else found
        if not isinstance(answer, Answer):
            answer = Answer(answer)
        if answer.waits:
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        kind = {} if isinstance(answer.body, bytes) else {"content-type": "application/json"}
        sent = [(name.encode(), value.encode()) for name, value in {**kind, **answer.headers}.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": sent})
        await send({"type": "http.response.body", "body": content})


class ScriptedGRPC:
    """A gRPC service; `methods` are functions of the message and the context, and a stream's give an iterator."""

    def __init__(self, **methods: Callable[[Any, Any], Any]) -> None:
        self.metadata: list[tuple[str, dict[str, Any]]] = []
        self._methods = {
            "ServerMetadata": lambda _, __: messages().ServerMetadataResponse(name="scripted", version="1"),
            "RepositoryIndex": lambda _, __: messages().RepositoryIndexResponse(
                models=[{"name": "echo", "state": "READY"}]
            ),
            "ModelMetadata": lambda _, __: messages().ModelMetadataResponse(
                name="echo",
                inputs=[{"name": "x", "datatype": "FP32", "shape": [-1]}],
                outputs=[{"name": "y", "datatype": "FP32", "shape": [-1]}],
            ),
            **methods,
        }

    @contextmanager
    def served(
        self, credentials: grpc.ServerCredentials | None = None, *, port: int = 0, max_message: int = -1
    ) -> Iterator[int]:
        """Gives the port on the loopback. `max_message`: bytes of the largest message that is taken; -1: any number."""
        with ThreadPoolExecutor(8) as pool:
            server = grpc.server(pool, options=[("grpc.max_receive_message_length", max_message)])
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(SERVICE, dict(self._handlers())),)
            )
            if credentials is None:
                port = server.add_insecure_port(f"127.0.0.1:{port}")
            else:
                port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
            server.start()
            try:
                yield port
            finally:
                server.stop(0).wait(10)

    def _handlers(self) -> Iterator[tuple[str, Any]]:
        known = messages().methods()
        for name, function in self._methods.items():
            kind = grpc.stream_stream_rpc_method_handler if known[name].streams_responses else None
            make = kind or grpc.unary_unary_rpc_method_handler
            yield (
                name,
                make(
                    self._recorded(name, function),
                    request_deserializer=known[name].request.FromString,
                    response_serializer=lambda one: (
                        one if isinstance(one, bytes) else one.SerializeToString()
                    ),
                ),
            )

    def _recorded(self, name: str, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def call(message: Any, context: Any) -> Any:
            self.metadata.append((name, dict(context.invocation_metadata())))
            return function(message, context)

        return call


def echo(message: Any, _: Any) -> Any:
    """A ModelInferResponse with the only input as the output y."""
    [tensor] = message.inputs
    return messages().ModelInferResponse(
        model_name=message.model_name,
        id=message.id,
        outputs=[{"name": "y", "datatype": tensor.datatype, "shape": tensor.shape}],
        raw_output_contents=message.raw_input_contents,
    )


async def called(transport: OpenInferenceTransport, endpoint: str, **arguments: Any) -> RecordedCall:
    """Describe, call, and wait for the end."""
    description = await transport.describe()
    [found] = [one for one in description.endpoints if one.name == endpoint]
    call = RecordedCall(found, arguments)
    transport.start([call])
    return await call.ended()
