"""`InferenceGRPC`: the service `inference.GRPCInferenceService`, which says in gRPC what `OpenInference` does.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md and
https://github.com/triton-inference-server/common/blob/main/protobuf/grpc_service.proto
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.protobuf import json_format

from socaity.protocol.openinference.protobuf import SERVICE, messages

from ...auth.actions import SERVICE as WHOLE
from ...auth.actions import Action
from ...openinference.failures import unsupported
from ...openinference.service import OpenInference
from ..access import resource_of_endpoint
from ..grpc.calls import Context, GRPCCalls
from .grpc_infer import InferCalls
from .grpc_settings import SettingsCalls
from .grpc_stream import StreamCalls

__all__ = ["InferenceGRPC"]


class InferenceGRPC:
    """Every method of the protocol. `pool` has the descriptors, for reflection."""

    name = SERVICE

    def __init__(self, calls: GRPCCalls, service: OpenInference) -> None:
        self._calls = calls
        self._service = service
        self._messages = messages()
        self.pool = self._messages.pool

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for a server."""
        methods = self._messages.methods()
        found: dict[str, grpc.RpcMethodHandler] = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(InferCalls(self._calls, self._service).infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                StreamCalls(self._calls, self._service).infer
            ),
        }
        answers: Mapping[str, Callable[[Any, Context], Any]] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            **SettingsCalls(self._calls, self._service).methods(),
        }
        for name, answer in answers.items():
            found[name] = self._calls.unary(methods[name].request, answer)
        return grpc.method_handlers_generic_handler(SERVICE, found)

    # The server

    async def _server_live(self, request: Any, context: Context) -> Any:
        await self._admit(context, "ServerLive", Action.HEALTH)
        return self._messages.ServerLiveResponse(live=self._service.is_live)

    async def _server_ready(self, request: Any, context: Context) -> Any:
        await self._admit(context, "ServerReady", Action.HEALTH)
        return self._messages.ServerReadyResponse(ready=self._service.is_ready)

    async def _server_metadata(self, request: Any, context: Context) -> Any:
        await self._admit(context, "ServerMetadata", Action.METADATA)
        return self._said("ServerMetadataResponse", self._service.server_metadata())

    # One model

    async def _model_ready(self, request: Any, context: Context) -> Any:
        await self._admit_model(context, "ModelReady", Action.METADATA, request)
        ready = self._service.model_is_ready(request.name, request.version)
        return self._messages.ModelReadyResponse(ready=ready)

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        await self._admit_model(context, "ModelMetadata", Action.METADATA, request)
        return self._said("ModelMetadataResponse", self._service.metadata(request.name, request.version))

    async def _model_config(self, request: Any, context: Context) -> Any:
        await self._admit_model(context, "ModelConfig", Action.METADATA, request)
        config = self._service.config(request.name, request.version)
        return self._said("ModelConfigResponse", {"config": config})

    async def _model_statistics(self, request: Any, context: Context) -> Any:
        if request.name:
            await self._admit_model(context, "ModelStatistics", Action.STATS, request)
        else:
            await self._admit(context, "ModelStatistics", Action.STATS)
        return self._said("ModelStatisticsResponse", self._service.statistics(request.name, request.version))

    # The repository

    async def _index(self, request: Any, context: Context) -> Any:
        await self._admit(context, "RepositoryIndex", Action.METADATA)
        _check_repository(request.repository_name)
        index = self._service.index(ready=request.ready)
        return self._said("RepositoryIndexResponse", {"models": index})

    async def _load(self, request: Any, context: Context) -> Any:
        name = request.model_name
        await self._admit(context, "RepositoryModelLoad", Action.LOAD, self._resource(name))
        _check_repository(request.repository_name)
        await self._service.load(name, _parameters(request.parameters))
        return self._messages.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, context: Context) -> Any:
        name = request.model_name
        await self._admit(context, "RepositoryModelUnload", Action.UNLOAD, self._resource(name))
        _check_repository(request.repository_name)
        with_dependents = bool(_parameters(request.parameters).get("unload_dependents", False))
        await self._service.unload(name, unload_dependents=with_dependents)
        return self._messages.RepositoryModelUnloadResponse()

    # Inside

    def _said(self, message: str, content: dict[str, Any]) -> Any:
        return json_format.ParseDict(
            content, getattr(self._messages, message)(), ignore_unknown_fields=True, descriptor_pool=self.pool
        )

    async def _admit(self, context: Context, method: str, action: Action, resource: str = WHOLE) -> None:
        await self._calls.admit(context, f"/{SERVICE}/{method}", action, resource)

    async def _admit_model(self, context: Context, method: str, action: Action, request: Any) -> None:
        await self._admit(context, method, action, self._resource(request.name, request.version))

    def _resource(self, name: str, version: str = "") -> str:
        return resource_of_endpoint(name, self._calls.dataplane.routes, version or None)


def _parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, entry in entries.items():
        choice = entry.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(entry, choice)
    return found


def _check_repository(name: str) -> None:
    if name:
        raise unsupported("several model repositories: leave the name of the repository out")
