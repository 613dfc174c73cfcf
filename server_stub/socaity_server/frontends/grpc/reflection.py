"""`ReflectionService`: `grpc.reflection.v1` and `v1alpha`, by which grpcurl and the like find out what can be called.

Source: https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from ...auth.actions import Action
from .calls import Context, GRPCCalls
from .descriptors import descriptors

__all__ = ["ReflectionService"]

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
_NOT_FOUND = grpc.StatusCode.NOT_FOUND.value[0]
_INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]


class ReflectionService:
    """Tells of `services`: descriptor pools by the names of the services that they have."""

    def __init__(self, calls: GRPCCalls, services: Mapping[str, Any]) -> None:
        self._calls = calls
        own = descriptors().pool
        self._services = {**services, **{f"{package}.ServerReflection": own for package in PACKAGES}}
        self._pools = list({id(pool): pool for pool in self._services.values()}.values())

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The methods of both versions, for a server."""
        return [
            grpc.method_handlers_generic_handler(
                f"{package}.ServerReflection",
                {"ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(self._method(package))},
            )
            for package in PACKAGES
        ]

    def _method(self, package: str) -> Any:
        request_class = descriptors()[f"{package}.ServerReflectionRequest"]
        response_class = descriptors()[f"{package}.ServerReflectionResponse"]

        async def info(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            try:
                # the names of methods are no secret: a caller needs them to ask for anything
                await self._calls.admit(
                    context, f"/{package}.ServerReflection/ServerReflectionInfo", Action.HEALTH
                )
                async for data in requests:
                    request = self._calls.read(request_class, data)
                    response = response_class(valid_host=request.host, original_request=request)
                    self._answer(request, response)
                    yield response.SerializeToString()
                return
            except Exception as exc:
                error = exc
            await self._calls.refuse(context, error)

        return info

    def _answer(self, request: Any, response: Any) -> None:
        wanted = request.WhichOneof("message_request")
        if wanted == "list_services":
            names = response.list_services_response
            for name in sorted(self._services):
                names.service.add(name=name)
        elif wanted == "file_by_filename":
            self._files(response, lambda pool, name: pool.FindFileByName(name), request.file_by_filename)
        elif wanted == "file_containing_symbol":
            self._files(response, _file_of, request.file_containing_symbol)
        elif wanted == "all_extension_numbers_of_type":
            self._numbers(response, request.all_extension_numbers_of_type)
        elif wanted == "file_containing_extension":
            _refuse(response, _NOT_FOUND, "No message here has extensions.")
        else:
            _refuse(response, _INVALID, "The request asks for nothing.")

    def _files(self, response: Any, find: Callable[[Any, str], Any], name: str) -> None:
        for pool in self._pools:
            try:
                file = find(pool, name)
            except KeyError:
                continue
            found = [file.serialized_pb]
            found += [one.serialized_pb for one in file.dependencies]
            response.file_descriptor_response.file_descriptor_proto.extend(found)
            return
        _refuse(response, _NOT_FOUND, f"There is no {name[:100]!r} here.")

    def _numbers(self, response: Any, name: str) -> None:
        for pool in self._pools:
            try:
                pool.FindMessageTypeByName(name)
            except KeyError:
                continue
            response.all_extension_numbers_response.base_type_name = name
            return
        _refuse(response, _NOT_FOUND, f"There is no message {name[:100]!r} here.")


def _file_of(pool: Any, symbol: str) -> Any:
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:  # pools know no methods
        name, _, method = symbol.rpartition(".")
        service = pool.FindServiceByName(name)
        if method not in service.methods_by_name:
            raise
        return service.file


def _refuse(response: Any, code: int, message: str) -> None:
    response.error_response.error_code = code
    response.error_response.error_message = message
