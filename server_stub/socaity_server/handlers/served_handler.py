"""`HandlerModel`: a model of a handler among the models of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias, TypeVar

import numpy as np
from pydantic import ValidationError

from socaity.exceptions import ConfigurationError, ServerError, SocaityError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, Tensor

from ..batching.refusals import is_callers_fault
from ..direct import Cancellable, OnDone
from ..openinference.awaiting import awaited
from ..openinference.counters import CallCounters
from ..openinference.model import ServedModel, timeout_of
from ..openinference.signature import Signature, TensorMetadata
from ..running import failure
from ..sparing_log import SparingLog
from ..workers import WorkerThreads
from .codecs import encode
from .model_handler import ModelHandler
from .payloads import data_of, fits, payload_of, scalars_of, tensors_of
from .types import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadataResponse,
)

__all__ = ["HandlerModel", "check_handler"]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")

_logger = logging.getLogger(__name__)


class HandlerModel(ServedModel):
    """One name that a handler serves. At most `concurrency` calls of it run at once, each for `timeout` seconds at most, and at
    most `queue_size` wait."""

    def __init__(
        self, handler: ModelHandler, name: str, *, concurrency: int, timeout: float, queue_size: int
    ) -> None:
        self._handler = handler
        self._metadata: ModelMetadataResponse | None = None
        self._is_async = inspect.iscoroutinefunction(handler.infer)
        self._threads = WorkerThreads(name, concurrency)
        self._room = asyncio.Semaphore(concurrency)
        self._most_calls = concurrency + queue_size
        self._calls = 0
        self._timeout = timeout
        self._counters = CallCounters()
        self._log = SparingLog(_logger)
        self._is_loaded = True
        super().__init__(name, version="", platform="python_handler", signature=Signature(name, (), ()))

    def load(self) -> None:
        """Load the model and look at its metadata; blocks. Raises ServerError 503 where the handler says that it cannot."""
        try:
            is_loaded = self._handler.model_load(self.name)
        except NotImplementedError:
            is_loaded = True
        except SocaityError:
            raise
        except Exception as exc:  # the handler's own code may raise anything
            raise ServerError(
                f"The model {self.name!r} could not be loaded: {type(exc).__name__}: {exc}",
                status=503,
                code="model_failed",
            ) from exc
        self._is_loaded = is_loaded is not False
        if not self._is_loaded:
            raise ServerError(
                f"The model {self.name!r} could not be loaded: its handler says so.",
                status=503,
                code="model_failed",
            )
        try:
            metadata = self._handler.model_metadata(self.name)
        except NotImplementedError:
            return
        self._metadata = metadata
        self.platform = metadata.platform
        self.version = (metadata.versions or [""])[-1]
        self.signature = Signature(
            self.name,
            [TensorMetadata(one.name, one.datatype.value, tuple(one.shape)) for one in metadata.inputs],
            [TensorMetadata(one.name, one.datatype.value, tuple(one.shape)) for one in metadata.outputs],
            knows_outputs=bool(metadata.outputs),
        )

    def unload(self) -> None:
        """Serve it no longer until `load`."""
        self._is_loaded = False

    @property
    def is_loaded(self) -> bool:
        """It was not unloaded."""
        return self._is_loaded

    @property
    def versions(self) -> tuple[str, ...]:
        return () if self._metadata is None else tuple(self._metadata.versions or ())

    @property
    def is_ready(self) -> bool:
        if not self._is_loaded:
            return False
        try:
            return bool(self._handler.model_ready(self.name).ready)
        except (
            Exception
        ):  # the handler's own code may raise anything; the readiness of others does not depend on it
            _logger.exception(
                "The handler of the model %s raised when it was asked whether it is ready", self.name
            )
            return False

    def metadata(self) -> dict[str, Any]:
        if self._metadata is None:
            self._handler.model_metadata(self.name)  # raises what it has raised before
            raise NotImplementedError(f"The model {self.name!r} has no metadata before it is loaded.")
        document = super().metadata()
        if not self.versions:
            del document["versions"]
        return document

    def config(self) -> dict[str, Any]:
        self.metadata()
        return super().config()

    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        if not self._is_loaded:
            raise ServerError(f"The model {self.name!r} is not loaded.", status=503, code="model_unloaded")
        if self._calls >= self._most_calls:
            raise ServerError(
                f"The queue of the model {self.name!r} is full: {self._calls} calls run or wait.",
                status=503,
                code="queue_full",
                retry_after=1.0,
            )
        try:
            arrays = self._checked(request)
            timeout = timeout_of(request)
        except TensorError:
            self._counters.count(0.0, succeeded=False)
            raise
        call = _Call()

        async def work() -> None:
            try:
                response = await self._infer(request, arrays, min(self._timeout, timeout or math.inf))
            except (
                Exception
            ) as error:  # for the one who waits: a task that keeps it is in a circle with its frames
                on_done(None, error)
            else:
                on_done(response, None)
            finally:
                call.task = None

        self._calls += 1
        task = call.task = asyncio.get_running_loop().create_task(work())
        task.add_done_callback(self._ended)  # also of one that was cancelled before it began
        return call

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls -= 1

    async def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        yield await awaited(lambda done: self.submit(request, done, owner=owner))

    def statistics(self) -> dict[str, Any]:
        return self._counters.document()

    def _checked(self, request: InferRequest) -> dict[str, Array]:
        try:
            if self._metadata is None:
                if request.raw is not None:
                    raise TensorError(
                        f"model {self.name!r} has no metadata, from which raw inputs are deduced"
                    )
                return {tensor.name: data_of(tensor) for tensor in request.inputs}
            if self.signature.knows_outputs:
                self.signature.check_outputs(request.outputs, self.signature.outputs)
            return self.signature.arrays(request)
        except TensorError as exc:
            raise TensorError(f"Failed to validate InferenceRequest: {exc}") from exc

    async def _infer(self, request: InferRequest, arrays: dict[str, Array], timeout: float) -> InferResponse:
        began = time.monotonic()
        is_done = False
        version = request.model_version or None
        try:
            async with asyncio.timeout(None if timeout == math.inf else timeout) as limit:
                if self._is_async:
                    async with self._room:
                        payload = payload_of(request, arrays)
                        response = await self._handler.infer(payload, self.name, version)  # type: ignore[misc]
                        answer = self._answer(request, payload, response)
                else:
                    answer = await self._on_thread(lambda: self._run(request, arrays, version), limit)
            is_done = True
            return answer
        except (NotImplementedError, TensorError):
            raise
        except SocaityError as exc:
            if not is_callers_fault(exc):
                self._log.failed(self.name, exc)
            raise
        except TimeoutError as exc:
            self._log.failed(self.name, exc)
            raise
        except Exception as exc:
            self._log.failed(self.name, exc)
            raise failure(exc) from exc
        finally:
            self._counters.count(time.monotonic() - began, succeeded=is_done)

    def _run(self, request: InferRequest, arrays: dict[str, Array], version: str | None) -> InferResponse:
        """The whole work, on a thread: decoding and checking large tensors takes its time too."""
        payload = payload_of(request, arrays)
        return self._answer(request, payload, self._handler.infer(payload, self.name, version))

    async def _on_thread(self, function: Callable[[], T], limit: asyncio.Timeout) -> T:
        """The result of `function`. One that takes too long is given up, and another thread takes its place."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = copy_context()

        def run() -> None:
            result, error = None, None
            try:
                result = context.run(function)
            except BaseException as exc:  # for the one who waits
                error = exc if isinstance(exc, Exception) else RuntimeError(f"it raised {type(exc).__name__}")
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(_settle, future, result, error)

        work = self._threads.submit(run)
        try:
            return await future
        except asyncio.CancelledError:
            if limit.expired() or not work.is_started:
                self._threads.abandon(work)
            raise

    def _answer(self, request: InferRequest, payload: InferenceRequest, response: Any) -> InferResponse:
        """The answer of the handler, checked; raises ServerError for one that is not what it declares."""
        try:
            if not isinstance(response, InferenceResponse):
                response = InferenceResponse.model_validate(response)
            encode(payload, response)
            response.validate_oip()
            tensors = tensors_of(response.outputs)
            self._check_declared(tensors)
        except (TensorError, ValidationError) as exc:
            raise ServerError(
                f"The model {self.name!r} gave a wrong answer: {exc}", code="model_error"
            ) from exc
        if request.outputs is not None:
            self.signature.check_outputs(request.outputs, tensors)
            tensors = {one.name: tensors[one.name] for one in request.outputs}
        for tensor in tensors.values():
            tensor.is_binary = request.wants_binary(tensor.name)
        return InferResponse(
            self.name,
            list(tensors.values()),
            response.model_version or request.model_version or self.version,
            request.id or response.id or "",
            {} if response.parameters is None else scalars_of(response.parameters),
        )

    def _check_declared(self, tensors: dict[str, Tensor]) -> None:
        if self._metadata is None or not self.signature.knows_outputs:
            return
        for name, tensor in tensors.items():
            declared = self.signature.outputs.get(name)
            if declared is None:
                raise TensorError(
                    f"Failed to validate InferenceResponse output ({name!r}): its metadata has only "
                    f"{', '.join(self.signature.outputs)}"
                )
            if tensor.datatype != declared.datatype or not fits(tensor.shape, declared.shape or ()):
                raise TensorError(
                    f"Failed to validate InferenceResponse output ({name!r}): declared {declared.datatype} "
                    f"{list(declared.shape or ())}, but got {tensor.datatype} {list(tensor.shape)}"
                )


class _Call:
    """A call that can be taken back; a thread that runs goes on."""

    __slots__ = ("task",)

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def check_handler(handler: Any, models: Any) -> list[str]:
    """The names of the models; raises ConfigurationError for what is no handler or has none."""
    if not isinstance(handler, ModelHandler):
        hint = "()" if isinstance(handler, type) and issubclass(handler, ModelHandler) else ""
        raise ConfigurationError(
            f"add_handler takes an instance of a ModelHandler, not {getattr(handler, '__name__', handler)!r}"
            + (f"; write {handler.__name__}{hint}." if hint else ".")
        )
    names = [models] if isinstance(models, str) else list(models)
    if not names or not all(isinstance(name, str) and name.strip("/") == name and name for name in names):
        raise ConfigurationError(
            f"add_handler needs the names of its models: models=['iris'], not {models!r}."
        )
    return names


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
