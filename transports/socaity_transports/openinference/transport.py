"""`OpenInferenceTransport`: each model of a server of the Open Inference Protocol is an endpoint."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Self, TypeVar

from socaity.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    NotFoundError,
    ProtocolError,
    ServerError,
    SocaityError,
    TransportError,
)
from socaity.protocol.description import ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.protocol.openinference.messages import InferRequest, Parameters
from socaity.transport import Call, Target, Transport

from .._local_request import LocalRequest
from .address import Address, read_address
from .models import Model, read_model
from .rest import RESTWire
from .values import read_value, split_arguments, write_inputs
from .wire import CALL_TIMEOUT, Wire

__all__ = ["OpenInferenceTransport", "open_wire"]

T = TypeVar("T")

CONFIGURATION = "model_configuration"
MAX_MODELS = 10_000
_AT_A_TIME = 16
"""Questions about models that are under way together."""
_AMBIGUOUS_STATUS = frozenset({502, 504})

logger = logging.getLogger(__name__)


def open_wire(target: Target, address: Address) -> Wire:
    """REST or gRPC, as the address says. Raises ConfigurationError where something is not installed."""
    if importlib.util.find_spec("numpy") is None:
        raise ConfigurationError(
            "The Open Inference Protocol carries arrays and needs numpy: pip install numpy"
        )
    if not address.is_grpc:
        return RESTWire(target, address)
    try:
        from .grpc import GRPCWire
    except ImportError as exc:
        raise ConfigurationError(
            f"{target.scheme}:// needs grpcio and protobuf ({exc}): pip install 'socaity[grpc]'"
        ) from exc
    return GRPCWire(target, address)


class OpenInferenceTransport(Transport):
    """A service whose endpoints are models. Their inputs are the parameters; calls end with their request.

    A model with several versions has an endpoint for each, called `model:version`, and one without, where the server picks.
    """

    def __init__(self, target: Target) -> None:
        self._address = read_address(target)
        self._wire = open_wire(target, self._address)
        self._timeout = target.timeout
        self._models: dict[str, Model] | None = None
        self._title = ("", "")
        self._discovering = asyncio.Lock()
        self._local: dict[str, LocalRequest] = {}

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    async def describe(self) -> ServiceDescription:
        models = await self._discover(refresh=True)
        title, version = self._title
        return ServiceDescription(
            title=title,
            version=version,
            protocol=None,
            socket=None,
            endpoints=[one.endpoint for one in models.values()],
        )

    async def run(self, call: Call) -> AsyncGenerator[JobEvent, None]:
        with LocalRequest(call.id, self._local) as local:
            models = self._models
            if models is None:
                models = await local.guard(lambda: self._discover())
            model = models.get(call.endpoint.name)
            if model is None:
                raise NotFoundError(f"{self._wire.place} has no model {call.endpoint.name!r}")
            inputs, parameters = split_arguments(model, call.arguments)
            tensors, is_single = write_inputs(model, inputs)
            timeout = _add_options(parameters, call)
            stop = asyncio.get_running_loop().time() + timeout
            request = InferRequest(model.name, tensors, model.version, call.id, parameters)
            try:
                if model.is_decoupled:
                    events = self._run_stream(call, model, request, stop, is_single, local)
                    async with aclosing(events):
                        async for event in events:
                            yield event
                    return
                response = await local.guard(
                    lambda: self._wire.within(stop, self._wire.infer(request, timeout=timeout))
                )
            except SocaityError as exc:
                if self._wire.is_final(exc):
                    call.accept()  # so that there is no other try
                may_repeat = not model.is_decoupled and not parameters.get("sequence_id")
                raise _judged(exc, call, may_repeat=may_repeat) from exc.__cause__
        call.accept()
        yield JobEvent(0, "result", read_value(model, response, is_single=is_single))

    async def _run_stream(
        self,
        call: Call,
        model: Model,
        request: InferRequest,
        stop: float,
        is_single: bool,
        local: LocalRequest,
    ) -> AsyncGenerator[JobEvent, None]:
        has_begun = False
        timeout = max(0.001, stop - asyncio.get_running_loop().time())
        async with aclosing(self._wire.stream(request, model, timeout=timeout)) as answers:
            while True:
                response = await local.guard(lambda: self._wire.within(stop, anext(answers, None)))
                if not has_begun:  # what the service has not answered may still be refused and tried again
                    has_begun = True
                    call.accept()
                    yield JobEvent(0, "status", {"status": "running", "queue_position": None})
                if response is None:
                    break
                if response.outputs:  # the last one of Triton may have none
                    yield JobEvent(0, "chunk", read_value(model, response, is_single=is_single))
        yield JobEvent(0, "result", None)

    async def cancel(self, job_id: str) -> None:
        local = self._local.get(job_id)
        if local is not None:
            local.cancel()

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        raise NotFoundError(
            f"{self._wire.place} keeps no jobs; a call ends with the connection it was made on"
        )

    async def jobs(
        self, *, status: str | None = None, endpoint: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        raise NotFoundError(f"{self._wire.place} keeps no jobs")

    async def aclose(self) -> None:
        await self._cancel_tasks()
        await self._wire.aclose()

    # -- discovery ------------------------------------------------------------------------------------------------

    async def _discover(self, *, refresh: bool = False) -> dict[str, Model]:
        if self._models is not None and not refresh:
            return self._models
        async with self._discovering:
            if self._models is None or refresh:
                self._models = await self._read_models()
        return self._models

    async def _read_models(self) -> dict[str, Model]:
        server = await self._read_server()
        self._title = (str(server.get("name") or "Open Inference"), str(server.get("version") or ""))
        extensions = server.get("extensions")
        has_config = isinstance(extensions, list) and CONFIGURATION in extensions
        if self._address.model:
            one = await self._read_model(self._address.model, self._address.version, has_config)
            return {one.endpoint.name: one}
        names = await self._names()
        room = asyncio.Semaphore(_AT_A_TIME)

        async def read(name: str) -> list[Model]:
            async with room:
                return await self._read_versions(name, has_config)

        found: dict[str, Model] = {}
        for models in await _all(read(name) for name in names):
            for one in models:
                found.setdefault(one.endpoint.name, one)
        return found

    async def _read_server(self) -> Mapping[str, Any]:
        """Nothing, where somebody named the model and the server has only that."""
        try:
            return await self._wire.server()
        except APIError as exc:
            if self._address.model and exc.status in (404, 405, 501):
                return {}
            raise

    async def _names(self) -> list[str]:
        try:
            names = await self._wire.models()
        except APIError as exc:
            if isinstance(exc, AuthenticationError) or exc.status in (429, 503):
                raise
            raise ProtocolError(
                f"{self._wire.place} has no list of its models ({exc}); name the one that is meant in the address: "
                ".../v2/models/NAME"
            ) from exc
        if len(names) > MAX_MODELS:
            raise ProtocolError(
                f"{self._wire.place} has {len(names)} models, and {MAX_MODELS} is the most; name the one that is meant in "
                "the address: .../v2/models/NAME"
            )
        return names

    async def _read_versions(self, name: str, has_config: bool) -> list[Model]:
        """The model, and each of its versions where there are several, without those that cannot be asked now."""
        model = await self._read_if_there(name, "", has_config)
        found = [] if model is None else [model]
        if model is not None and len(model.versions) > 1:
            for version in model.versions[:MAX_MODELS]:
                one = await self._read_if_there(name, version, has_config)
                if one is not None:
                    found.append(one)
        return found

    async def _read_if_there(self, name: str, version: str, has_config: bool) -> Model | None:
        try:
            return await self._read_model(name, version, has_config)
        except (APIError, ProtocolError) as exc:
            if isinstance(exc, AuthenticationError):
                raise
            which = f"{name}:{version}" if version else name
            logger.warning("the model %s of %s is left out: %s", which, self._wire.place, exc)
            return None

    async def _read_model(self, name: str, version: str, has_config: bool) -> Model:
        metadata = await self._wire.metadata(name, version)
        config: Mapping[str, Any] | None = None
        if has_config:
            try:
                config = await self._wire.config(name, version)
            except APIError as exc:  # a server may keep it to itself; the model can be called without
                logger.debug("the model %s has no configuration: %s", name, exc)
        return read_model(
            metadata,
            config,
            endpoint=f"{name}:{version}" if version and not self._address.model else name,
            name=name,
            version=version,
            streams=name in self._address.stream,
        )


async def _all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first error ends the others."""
    tasks: list[asyncio.Task[T]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except ExceptionGroup as exc:
        raise exc.exceptions[0] from None
    return [task.result() for task in tasks]


def _add_options(parameters: Parameters, call: Call) -> float:
    """Put what the caller said about the call into the parameters of the request; gives the seconds that are left.

    A higher priority of ours is a lower number there, and 1 the highest; its timeout is in microseconds.
    """
    options = call.options
    if options is not None and options.priority:
        parameters.setdefault("priority", 11 - options.priority)
    left = call.time_left
    if left is None:
        return CALL_TIMEOUT
    parameters.setdefault("timeout", max(1, int(left * 1_000_000)))
    return max(left, 0.001)


def _judged(error: SocaityError, call: Call, *, may_repeat: bool) -> SocaityError:
    """Mark the error of a request that may have run, and that doing it again would not leave the same."""
    if may_repeat or isinstance(error, ConnectError):
        return error
    if isinstance(error, TransportError) or (
        isinstance(error, ServerError) and error.status in _AMBIGUOUS_STATUS
    ):
        call.accept()  # not by a new try
        error.ambiguous = True  # type: ignore[union-attr]
    return error
