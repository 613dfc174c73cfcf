"""The message classes, in a descriptor pool of their own.

Two libraries that register the package `inference` in the default pool of protobuf cannot be imported in one process, and
tritonclient, the KServe SDK and MLServer all do. Only the names of methods and the bytes of messages matter on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["SERVICE", "Method", "Messages", "messages"]

SERVICE = "inference.GRPCInferenceService"
_MISSING = "gRPC needs protobuf and grpcio: pip install 'socaity[grpc]'"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service. `request` and `response` are message classes; a stream has many of them."""

    name: str
    path: str
    request: Any
    response: Any
    streams_requests: bool
    streams_responses: bool


class Messages:
    """Message classes by name, as `messages().ModelInferRequest`. `pool` has their descriptors, for reflection."""

    def __init__(self) -> None:
        try:
            from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        except ImportError as exc:
            raise ImportError(_MISSING) from exc
        self.pool: Any = descriptor_pool.DescriptorPool()
        self._class_of: Callable[[Any], Any] = message_factory.GetMessageClass
        files = descriptor_pb2.FileDescriptorSet.FromString(
            resources.files("socaity.protocol.openinference").joinpath("open_inference.binpb").read_bytes()
        )
        for file in files.file:
            self.pool.AddSerializedFile(file.SerializeToString())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            descriptor = self.pool.FindMessageTypeByName(f"inference.{name}")
        except KeyError:
            raise AttributeError(f"the protocol has no message {name!r}") from None
        found = self._class_of(descriptor)
        setattr(self, name, found)  # from now on without this detour
        return found

    def methods(self) -> Mapping[str, Method]:
        """The methods of the service by name."""
        service = self.pool.FindServiceByName(SERVICE)
        return {
            method.name: Method(
                method.name,
                f"/{SERVICE}/{method.name}",
                self._class_of(method.input_type),
                self._class_of(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )
            for method in service.methods
        }


@cache
def messages() -> Messages:
    """The message classes; made once. Raises ImportError with what to install."""
    return Messages()
