"""`SettingsCalls`: shared memory, traces and logs, of which this server has none that clients could set: it says how things are.

Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol (extension_shared_memory.md, extension_trace.md,
extension_logging.md)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from socaity.exceptions import NotFoundError
from socaity.protocol.openinference.protobuf import SERVICE, messages

from ...auth.actions import SERVICE as WHOLE
from ...auth.actions import Action
from ...openinference.failures import unsupported
from ...openinference.observed import log_settings, trace_settings
from ...openinference.service import OpenInference
from ..access import resource_of_endpoint
from ..grpc.calls import Context, GRPCCalls

__all__ = ["SettingsCalls"]


class SettingsCalls:
    """Reading answers that there are no regions, and which traces and logs are written. What would change it is UNIMPLEMENTED."""

    def __init__(self, calls: GRPCCalls, service: OpenInference) -> None:
        self._calls = calls
        self._service = service
        self._messages = messages()

    def methods(self) -> dict[str, Callable[[Any, Context], Awaitable[Any]]]:
        """What answers, by the name of the method."""
        return {
            "SystemSharedMemoryStatus": self._regions("SystemSharedMemoryStatus"),
            "SystemSharedMemoryRegister": self._no_register("SystemSharedMemoryRegister", "system"),
            "SystemSharedMemoryUnregister": self._regions("SystemSharedMemoryUnregister"),
            "CudaSharedMemoryStatus": self._regions("CudaSharedMemoryStatus"),
            "CudaSharedMemoryRegister": self._no_register("CudaSharedMemoryRegister", "CUDA"),
            "CudaSharedMemoryUnregister": self._regions("CudaSharedMemoryUnregister"),
            "TraceSetting": self._traces,
            "LogSettings": self._logs,
        }

    def _regions(self, name: str) -> Callable[[Any, Context], Awaitable[Any]]:
        response = getattr(self._messages, f"{name}Response")

        async def answer(request: Any, context: Context) -> Any:
            await self._admit(context, name)
            if request.name:
                raise NotFoundError(f"There is no shared memory region {request.name[:100]!r} here.")
            return response()

        return answer

    def _no_register(self, name: str, kind: str) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            await self._admit(context, name)
            raise unsupported(f"{kind} shared memory")

        return answer

    async def _traces(self, request: Any, context: Context) -> Any:
        name = request.model_name
        resource = resource_of_endpoint(name, self._calls.dataplane.routes, None) if name else WHOLE
        await self._admit(context, "TraceSetting", resource)
        if name:
            self._service.model(name)  # raises where there is none
        if any(setting.value for setting in request.settings.values()):
            raise unsupported("trace settings that can be changed")
        answer = self._messages.TraceSettingResponse()
        for name, value in trace_settings().items():
            answer.settings[name].value.extend([value] if isinstance(value, str) else value)
        return answer

    async def _logs(self, request: Any, context: Context) -> Any:
        await self._admit(context, "LogSettings")
        if request.settings:
            raise unsupported("log settings that can be changed")
        answer = self._messages.LogSettingsResponse()
        for name, value in log_settings().items():
            setting = answer.settings[name]
            if isinstance(value, str):
                setting.string_param = value
            elif isinstance(value, bool):
                setting.bool_param = value
            else:
                setting.uint32_param = value
        return answer

    async def _admit(self, context: Context, name: str, resource: str = WHOLE) -> None:
        await self._calls.admit(context, f"/{SERVICE}/{name}", Action.METADATA, resource)
