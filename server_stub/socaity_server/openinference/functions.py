"""`FunctionModel`: a plain function or generator whose parameters can be tensors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError, NotFoundError, from_problem
from socaity.protocol.events import JobStatus
from socaity.protocol.openinference.datatypes import TensorError, datatype_of
from socaity.protocol.openinference.messages import InferRequest, InferResponse

from ..dataplane import DataPlane
from ..direct import Cancellable, OnDone
from ..route import Route
from .content_types import check_content_types
from .counters import CallCounters
from .function_inputs import function_inputs, function_outputs
from .model import RESERVED, VERSION, ServedModel, priority_of, timeout_of
from .outputs import answer, arrays_of
from .signature import Signature, TensorMetadata

__all__ = ["FunctionModel", "NotOneError"]

Array: TypeAlias = np.ndarray[Any, Any]


class FunctionModel(ServedModel):
    """One call of the function for each request. Where the route has a queue, the call is a job in it; a generator gives an
    answer for each thing that it yields."""

    def __init__(self, dataplane: DataPlane, route: Route, signature: Signature) -> None:
        platform = "python_generator" if route.streaming else "python_function"
        super().__init__(route.name, version=VERSION, platform=platform, signature=signature)
        self.is_decoupled = route.streaming
        self.route = route
        self._dataplane = dataplane
        self._readers = {one.metadata.name: one.of for one in function_inputs(route) or ()}
        self._counters = CallCounters()

    @classmethod
    def of_route(cls, dataplane: DataPlane, route: Route) -> FunctionModel | None:
        """None: something that it needs can be no tensor."""
        inputs = function_inputs(route)
        if inputs is None:
            return None
        outputs, are_all = function_outputs(route)
        signature = Signature(
            route.name, [one.metadata for one in inputs], outputs, knows_outputs=are_all and bool(outputs)
        )
        return cls(dataplane, route, signature)

    @property
    def is_ready(self) -> bool:
        return self._dataplane.is_ready

    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        arguments, timeout = self._checked(request)
        call = _Call()

        def finish(task: asyncio.Task[InferResponse]) -> None:
            call.task = None
            if not task.cancelled():
                error = task.exception()
                on_done(None if error else task.result(), error)

        work = self._only(request, arguments, timeout, owner)
        call.task = asyncio.get_running_loop().create_task(work)
        call.task.add_done_callback(finish)
        return call

    async def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        arguments, timeout = self._checked(request)
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        async with aclosing(self._answers(request, arguments, owner)) as answers:
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        response = await anext(answers)
                except StopAsyncIteration:
                    return
                yield response

    def statistics(self) -> dict[str, Any]:
        return self._counters.document()

    def _checked(self, request: InferRequest) -> tuple[dict[str, Any], float | None]:
        """The arguments, and the seconds that the call may take."""
        try:
            priority_of(request)  # calls wait in one line; a wrong one is an error for every model
            return self._arguments(request), timeout_of(request)
        except (TensorError, InvalidInputError):
            self._counters.count(0.0, succeeded=False)
            raise

    def _arguments(self, request: InferRequest) -> dict[str, Any]:
        by_name = self.route.by_name
        self.signature.check_wanted(request.outputs)
        check_content_types(request, own=by_name)
        arguments = {name: self._readers[name](array) for name, array in self._arrays(request).items()}
        for name, value in request.parameters.items():
            if name in by_name and name not in arguments and name not in RESERVED:
                arguments[name] = value
        self.route.check_names(arguments)
        return arguments

    def _arrays(self, request: InferRequest) -> dict[str, Array]:
        """The inputs, of which those may be missing that are parameters of the request."""
        given = request.parameters.keys() & self._readers.keys()
        if not given or request.raw is not None:
            return self._flexible(self.signature, request)
        relaxed = Signature(
            self.name,
            [
                TensorMetadata(one.name, one.datatype, one.shape, one.optional or one.name in given)
                for one in self.signature.inputs.values()
            ],
            (),
        )
        return self._flexible(relaxed, request)

    @staticmethod
    def _flexible(signature: Signature, request: InferRequest) -> dict[str, Array]:
        """One value may have any shape of one element."""
        for tensor in request.inputs:
            metadata = signature.inputs.get(tensor.name)
            if (
                metadata is not None
                and metadata.shape == (1,)
                and tensor.data is not None
                and tensor.data.size == 1
            ):
                tensor.data = tensor.data.reshape(1)
        return signature.arrays(request)

    async def _only(
        self, request: InferRequest, arguments: dict[str, Any], timeout: float | None, owner: str
    ) -> InferResponse:
        """The one answer there is; raises NotOneError where a generator gives none, or more."""
        async with asyncio.timeout(timeout), aclosing(self._answers(request, arguments, owner)) as answers:
            first = await anext(answers, None)
            if first is None:
                raise NotOneError(self.name, "0")
            async for _ in answers:
                raise NotOneError(self.name, "more")
            return first

    async def _answers(
        self, request: InferRequest, arguments: dict[str, Any], owner: str
    ) -> AsyncGenerator[InferResponse, None]:
        began = time.monotonic()
        is_done = False
        try:
            async with aclosing(self._values(arguments, owner)) as values:
                async for value in values:
                    arrays = arrays_of(value)
                    self._learn(arrays)
                    yield answer(request, arrays, self.signature, version=self.version)
            is_done = True
        finally:
            self._counters.count(time.monotonic() - began, succeeded=is_done)

    async def _values(self, arguments: dict[str, Any], owner: str) -> AsyncGenerator[Any, None]:
        """What the function returns, or yields."""
        route, dataplane = self.route, self._dataplane
        if route.queue_size is not None:
            async for value in self._job(arguments, owner):
                yield value
        elif route.streaming:
            async with aclosing(dataplane.chunks(route, arguments)) as chunks:
                async for chunk in chunks:
                    yield chunk
        else:
            yield await dataplane.invoke(route, arguments, owner=owner)

    async def _job(self, arguments: dict[str, Any], owner: str) -> AsyncGenerator[Any, None]:
        """The values of a job, which is cancelled when nobody waits for them any more."""
        dataplane = self._dataplane
        record = await dataplane.submit(self.route, arguments, owner=owner)
        try:
            async for event in dataplane.events(record.id, owner=owner):
                if event.kind == "chunk":
                    yield event.data
                elif event.kind == "error":
                    raise from_problem(event.data, job_id=record.id)
                elif event.kind == "result" and not self.route.streaming:
                    yield event.data
        finally:
            with suppress(NotFoundError):  # it may have run out
                known = await dataplane.get(record.id, owner)
                if known.status in (JobStatus.QUEUED, JobStatus.RUNNING):
                    await dataplane.cancel(record.id, owner)

    def _learn(self, arrays: dict[str, Array]) -> None:
        if self.signature.knows_outputs or self.signature.outputs.keys() == arrays.keys():
            return
        self.signature.outputs = {
            name: TensorMetadata(name, kind, None)
            for name, array in arrays.items()
            for kind in (_kind(array),)
        }


class _Call:
    """A call that can be taken back."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[InferResponse] | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def _kind(array: Array) -> str | None:
    return "BYTES" if array.dtype.kind in "OUS" else datatype_of(array.dtype)


class NotOneError(TensorError):
    """A stream gave none, or several, where one answer was asked for. `got` says which: 0 or more."""

    def __init__(self, name: str, got: str) -> None:
        self.name = name
        self.got = got
        given = "no answer" if got == "0" else "more than one answer"
        super().__init__(
            f"the model {name!r} streams and gave {given}, where infer wants exactly 1. Use its stream "
            "(infer_stream, or ModelStreamInfer over gRPC)"
        )
