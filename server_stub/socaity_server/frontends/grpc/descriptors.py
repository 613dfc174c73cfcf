"""The message classes of gRPC's own services, health and reflection, in a descriptor pool of their own.

The packages of gRPC for them register their names for the whole process and want newer versions of protobuf than some clients
can live with.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Descriptors", "descriptors"]


class Descriptors:
    """Message classes by full name, as `descriptors()["grpc.health.v1.HealthCheckRequest"]`; `pool` has their descriptors."""

    def __init__(self) -> None:
        from google.protobuf import descriptor_pb2, descriptor_pool

        self.pool: Any = descriptor_pool.DescriptorPool()
        self._classes: dict[str, Any] = {}
        data = resources.files(__package__).joinpath("services.binpb").read_bytes()
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
            self.pool.AddSerializedFile(file.SerializeToString())

    def __getitem__(self, name: str) -> Any:
        from google.protobuf import message_factory

        found = self._classes.get(name)
        if found is None:
            found = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))
            self._classes[name] = found
        return found


@cache
def descriptors() -> Descriptors:
    """The message classes; made once."""
    return Descriptors()
