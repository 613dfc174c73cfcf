"""`ServedModel`: one endpoint as clients of the protocol see it, whatever runs behind it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from typing import Any

from socaity.exceptions import InvalidInputError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse

from ..direct import Cancellable, OnDone
from .signature import ANY_DATATYPE, Signature, TensorMetadata

__all__ = ["RESERVED", "VERSION", "ServedModel", "is_reachable", "priority_of", "timeout_of"]

VERSION = "1"
"""Of what has no versions."""
RESERVED = frozenset({"binary_data_output", "headers", "priority", "timeout"})
"""Parameters of requests that mean something to the server, and are not given to the model."""
_MOST_URGENT = 10
_MICROSECONDS = 1e6
_LONGEST = 2**64 - 1
"""Microseconds; gRPC has no larger numbers."""
_TAKEN = re.compile(
    r"stats|.+/(?:infer|infer_stream|generate|generate_stream|ready|config|stats|trace/setting|versions/[^/]+)",
    re.S,
)
"""Names that are other things below `/v2/models/`."""


class ServedModel(ABC):
    """A model with its metadata. `is_decoupled`: it gives any number of answers to one request."""

    is_decoupled = False

    def __init__(self, name: str, *, version: str, platform: str, signature: Signature) -> None:
        self.name = name
        self.version = version
        self.platform = platform
        self.signature = signature

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that are served; `version` is the one for who names none."""
        return (self.version,)

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Calls are let in."""

    @property
    def is_loaded(self) -> bool:
        """Nobody has unloaded it."""
        return True

    def load(self) -> None:
        """Load it anew; blocks. Raises InvalidInputError where that is not for clients."""
        raise self._not_in_repository()

    def unload(self) -> None:
        """Serve it no longer. Raises InvalidInputError where that is not for clients."""
        raise self._not_in_repository()

    def _not_in_repository(self) -> InvalidInputError:
        return InvalidInputError(
            f"The model {self.name!r} was added by the program that serves it; only models of a folder and of handlers are "
            "loaded and unloaded.",
            status=400,
            code="not_in_repository",
        )

    @abstractmethod
    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        """Run a request: `on_done(InferResponse, None)` or `on_done(None, error)` comes later on the loop, never from here.

        Raises TensorError and the errors of socaity where it cannot even begin.
        """

    @abstractmethod
    def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        """The answers one by one; closing it cancels the work."""

    @abstractmethod
    def statistics(self) -> dict[str, Any]:
        """As the statistics extension has it, without name and version."""

    def metadata(self) -> dict[str, Any]:
        """As the protocol has it."""
        document: dict[str, Any] = {
            "name": self.name,
            "versions": list(self.versions),
            "platform": self.platform,
            "inputs": [one.document() for one in self.signature.inputs.values()],
            "outputs": [one.document() for one in self.signature.outputs.values()],
        }
        properties = self._properties()
        return {**document, "properties": properties} if properties else document

    def config(self) -> dict[str, Any]:
        """The JSON form of the message ModelConfig."""
        signature = self.signature
        return {
            "name": self.name,
            "platform": self.platform,
            "backend": self.platform.partition("_")[0],
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": signature.max_batch_size,
            "input": [
                {**self._configured(one), **({"optional": True} if one.optional else {})}
                for one in signature.inputs.values()
            ],
            "output": [self._configured(one) for one in signature.outputs.values()],
            "instance_group": [{"name": self.name, "count": 1, "kind": "KIND_CPU"}],
            **({"model_transaction_policy": {"decoupled": True}} if self.is_decoupled else {}),
        }

    def _configured(self, tensor: TensorMetadata) -> dict[str, Any]:
        kind = tensor.datatype or ANY_DATATYPE
        shape = (-1,) if tensor.shape is None else tensor.shape[1 if self.signature.has_batch_axis else 0 :]
        return {
            "name": tensor.name,
            "data_type": "TYPE_STRING" if kind == "BYTES" else f"TYPE_{kind}",
            "dims": list(shape),
        }

    def _properties(self) -> dict[str, str]:
        """What the fields of the metadata cannot say: text by name."""
        inputs = self.signature.inputs.values()
        found = {
            "any_datatype": [one.name for one in inputs if one.datatype is None],
            "any_shape": [one.name for one in inputs if one.shape is None],
            "optional": [one.name for one in inputs if one.optional],
        }
        properties = {key: ",".join(names) for key, names in found.items() if names}
        if self.is_decoupled:
            properties["decoupled"] = "true"
        return properties


def is_reachable(name: str) -> bool:
    """Whether clients can ask for a model of that name: its address must not mean something else, as that of `stats` does."""
    return _TAKEN.fullmatch(name) is None and not {"", ".", ".."} & set(name.split("/"))


def priority_of(request: InferRequest) -> int:
    """The priority of a request in our scale, where 0 is usual and more is more urgent: the protocol has 1 as the highest,
    and 0 for the usual one."""
    priority = request.parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise TensorError(f"priority is a whole number of 0 or more, not {str(priority)[:40]!r}")
    return max(_MOST_URGENT + 1 - priority, -_MOST_URGENT) if priority else 0


def timeout_of(request: InferRequest) -> float | None:
    """The seconds that a request may take; None: it does not say. On the wire they are microseconds."""
    timeout = request.parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _LONGEST:
        raise TensorError(f"timeout is a whole number of microseconds, not {str(timeout)[:40]!r}")
    return timeout / _MICROSECONDS if timeout else None
