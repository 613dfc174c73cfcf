"""`AdministrationTransport`: the server itself as a service: its models, their state, statistics and configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from socaity.exceptions import NotFoundError
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Call, Target, Transport

from .._local_request import LocalRequest
from .address import read_address
from .transport import open_wire
from .wire import CALL_TIMEOUT, Wire

__all__ = ["AdministrationTransport"]

_TEXT = {"type": "string"}
_OBJECT = {"type": "object"}
_MODEL = ParameterDescription(name="model", json_schema=_TEXT, description="The name of the model.")
_ANY_MODEL = ParameterDescription(
    name="model",
    json_schema=_TEXT,
    required=False,
    description="The name of a model; all of them without it.",
)
_VERSION = ParameterDescription(
    name="version", json_schema=_TEXT, required=False, description="The server picks one without it."
)


@dataclass(frozen=True, slots=True)
class _Operation:
    """One endpoint, and what it asks of the wire."""

    endpoint: EndpointDescription
    ask: Callable[[Wire, Mapping[str, Any]], Awaitable[Any]]


def _operation(
    name: str,
    doc: str,
    ask: Callable[[Wire, Mapping[str, Any]], Awaitable[Any]],
    *parameters: ParameterDescription,
    returns: dict[str, Any],
    idempotent: bool = True,
) -> _Operation:
    endpoint = EndpointDescription(
        name=name,
        path=name,
        doc=doc,
        parameters=list(parameters),
        returns=returns,
        direct=True,
        idempotent=idempotent,
    )
    return _Operation(endpoint, ask)


def _names(arguments: Mapping[str, Any]) -> tuple[str, str]:
    return arguments.get("model") or "", arguments.get("version") or ""


_OPERATIONS = {
    one.endpoint.name: one
    for one in (
        _operation(
            "server",
            "The name, the version and the extensions of the server.",
            lambda wire, _: wire.server(),
            returns=_OBJECT,
        ),
        _operation(
            "live", "Whether the server is up.", lambda wire, _: wire.is_live(), returns={"type": "boolean"}
        ),
        _operation(
            "ready",
            "Whether a model takes requests, or all of the server does.",
            lambda wire, given: wire.is_ready(*_names(given)),
            _ANY_MODEL,
            _VERSION,
            returns={"type": "boolean"},
        ),
        _operation(
            "index",
            "The models of the repository, each with its versions and its state.",
            lambda wire, given: wire.index(ready=bool(given.get("ready"))),
            ParameterDescription(
                name="ready",
                json_schema={"type": "boolean"},
                required=False,
                default=False,
                description="Only those that take requests.",
            ),
            returns={"type": "array", "items": _OBJECT},
        ),
        _operation(
            "metadata",
            "What a model says of its inputs and outputs.",
            lambda wire, given: wire.metadata(*_names(given)),
            _MODEL,
            _VERSION,
            returns=_OBJECT,
        ),
        _operation(
            "config",
            "The configuration of a model.",
            lambda wire, given: wire.config(*_names(given)),
            _MODEL,
            _VERSION,
            returns=_OBJECT,
        ),
        _operation(
            "statistics",
            "How often a model was used, and how long it took; times are in nanoseconds.",
            lambda wire, given: wire.statistics(*_names(given)),
            _ANY_MODEL,
            _VERSION,
            returns=_OBJECT,
        ),
        _operation(
            "load",
            "Load a model, or load it anew; ends when that is done.",
            lambda wire, given: wire.load(given["model"], given.get("parameters") or {}),
            _MODEL,
            ParameterDescription(
                name="parameters",
                json_schema=_OBJECT,
                required=False,
                description="`config` as text in JSON, and `file:VERSION/PATH` as bytes; servers may refuse both.",
            ),
            returns={"type": "null"},
            idempotent=False,
        ),
        _operation(
            "unload",
            "Stop serving a model.",
            lambda wire, given: wire.unload(
                given["model"], unload_dependents=bool(given.get("unload_dependents"))
            ),
            _MODEL,
            ParameterDescription(
                name="unload_dependents",
                json_schema={"type": "boolean"},
                required=False,
                default=False,
                description="The models that only this one needs as well.",
            ),
            returns={"type": "null"},
            idempotent=False,
        ),
    )
}


class AdministrationTransport(Transport):
    """`socaity.connect(url, transport="open_inference_server")`: a service whose endpoints are about the server."""

    def __init__(self, target: Target) -> None:
        self._wire = open_wire(target, read_address(target))
        self._local: dict[str, LocalRequest] = {}

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    async def describe(self) -> ServiceDescription:
        server = await self._wire.server()
        return ServiceDescription(
            title=str(server.get("name") or "Open Inference"),
            version=str(server.get("version") or ""),
            protocol=None,
            socket=None,
            endpoints=[one.endpoint for one in _OPERATIONS.values()],
        )

    async def run(self, call: Call) -> AsyncGenerator[JobEvent, None]:
        operation = _OPERATIONS[call.endpoint.name]
        left = CALL_TIMEOUT if call.time_left is None else call.time_left
        stop = asyncio.get_running_loop().time() + left
        with LocalRequest(call.id, self._local) as local:
            value = await local.guard(
                lambda: self._wire.within(stop, operation.ask(self._wire, call.arguments))
            )
        yield JobEvent(0, "result", value)

    async def cancel(self, job_id: str) -> None:
        local = self._local.get(job_id)
        if local is not None:
            local.cancel()

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        raise NotFoundError(
            f"{self._wire.place} keeps no jobs; a call ends with the connection it was made on"
        )

    async def aclose(self) -> None:
        await self._cancel_tasks()
        await self._wire.aclose()
