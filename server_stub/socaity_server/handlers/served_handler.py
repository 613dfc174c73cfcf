"""`HandlerModel`: a model of a handler among the models of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, TypeAlias

import numpy as np
from pydantic import ValidationError

from socaity.exceptions import ConfigurationError, ServerError, SocaityError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, Tensor

from ..batching.refusals import is_callers_fault
from ..direct import Cancellable, OnDone
from ..openinference.awaiting import awaited
from ..openinference.counters import CallCounters
from ..openinference.model import VERSION, ServedModel, priority_of, timeout_of
from ..openinference.outputs import as_wanted
from ..openinference.signature import Signature, TensorMetadata
from ..running import failure
from ..sparing_log import SparingLog
from .call_threads import CallThreads
from .codecs import encode
from .model_handler import ModelHandler
from .payloads import data_of, fits, is_awaitable, payload_of, response_of, scalars_of, tensors_of
from .types import (
    InferenceRequest,
    ModelMetadataResponse,
    ModelReadyResponse,
    reasons_of,
)

__all__ = ["HandlerModel", "check_handler"]

Array: TypeAlias = np.ndarray[Any, Any]

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
        self._threads = CallThreads(name, concurrency, timeout=timeout)
        self._room = asyncio.Semaphore(concurrency)
        self._most_calls = concurrency + queue_size
        self._calls = 0
        self._timeout = timeout
        self._counters = CallCounters()
        self._log = SparingLog(_logger)
        self._is_loaded = True
        super().__init__(
            name,
            version=VERSION,
            platform="python_handler",
            signature=Signature(name, (), (), knows_outputs=False),
        )

    def load(self) -> None:
        """Load the model and look at its metadata; blocks. Raises ServerError 503 where that fails: after an error the model
        is served as before, and no longer where the handler says that it cannot be loaded."""
        try:
            said = self._asked("model_load")
        except NotImplementedError:
            said = None
        if said is not None and not said:
            self._is_loaded = False
            raise self._load_failed("its handler says so.")
        try:
            metadata = self._asked("model_metadata")
        except NotImplementedError:
            self._is_loaded = True
            return
        try:
            metadata = ModelMetadataResponse.model_validate(metadata)
        except ValidationError as exc:
            raise self._load_failed(f"its model_metadata is wrong: {reasons_of(exc)}") from exc
        self._metadata = metadata
        self.platform = metadata.platform
        self.version = _newest(self.versions)
        self.signature = Signature(
            self.name,
            [TensorMetadata(one.name, one.datatype.value, tuple(one.shape)) for one in metadata.inputs],
            [TensorMetadata(one.name, one.datatype.value, tuple(one.shape)) for one in metadata.outputs],
            knows_outputs=bool(metadata.outputs),
        )
        self._is_loaded = True

    def _asked(self, method: str) -> Any:
        """What a method of the handler says of the model; ServerError 503 with what it raises, but for NotImplementedError."""
        try:
            answer = getattr(self._handler, method)(self.name)
        except (NotImplementedError, SocaityError):
            raise
        except Exception as exc:  # the handler's own code may raise anything
            raise self._load_failed(f"{type(exc).__name__}: {exc}") from exc
        if is_awaitable(answer):
            raise self._load_failed(f"its {method} gave something to await; only `infer` may be async.")
        return answer

    def _load_failed(self, reason: str) -> ServerError:
        return ServerError(
            f"The model {self.name!r} could not be loaded: {reason}", status=503, code="model_failed"
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
        given = None if self._metadata is None else self._metadata.versions
        return tuple(given) if given else (VERSION,)

    @property
    def is_ready(self) -> bool:
        if not self._is_loaded:
            return False
        try:
            return ModelReadyResponse.model_validate(self._handler.model_ready(self.name)).ready
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
        return super().metadata()

    def config(self) -> dict[str, Any]:
        self.metadata()
        return super().config()

    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        calls = self._calls + self._threads.left
        if calls >= self._most_calls:
            raise ServerError(
                f"The queue of the model {self.name!r} is full: {calls} calls run or wait.",
                status=503,
                code="queue_full",
                retry_after=1.0,
            )
        try:
            arrays = self._checked(request)
            priority_of(request)  # calls wait in one line; a wrong one is an error for every model
            timeout = timeout_of(request)
        except TensorError:
            self._counters.count(0.0, succeeded=False)
            raise
        call = _Call()

        async def work() -> None:
            try:
                response = await self._infer(request, arrays, min(self._timeout, timeout or math.inf))
            # for the one who waits: a task that keeps it is in a circle with its frames
            except Exception as error:
                self._ended(call)
                on_done(None, error)
            else:
                self._ended(call)
                on_done(response, None)

        self._calls += 1
        call.task = asyncio.get_running_loop().create_task(work())
        # one that was cancelled, perhaps before it began
        call.task.add_done_callback(lambda task: self._ended(call))
        return call

    def _ended(self, call: _Call) -> None:
        """Its place is free; before it is answered, as who gets an answer may call again at once."""
        if call.task is not None:
            call.task = None
            self._calls -= 1

    async def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        yield await awaited(lambda done: self.submit(request, done, owner=owner))

    def statistics(self) -> dict[str, Any]:
        return self._counters.document()

    def _checked(self, request: InferRequest) -> dict[str, Array]:
        try:
            self.signature.check_wanted(request.outputs)
            if self._metadata is None:
                if request.raw is not None:
                    raise TensorError(
                        f"model {self.name!r} has no metadata, from which raw inputs are deduced"
                    )
                if not request.inputs:
                    raise TensorError("it has no inputs")
                return {tensor.name: data_of(tensor) for tensor in request.inputs}
            return self.signature.arrays(request)
        except TensorError as exc:
            raise TensorError(f"Failed to validate InferenceRequest: {exc}") from exc

    async def _infer(self, request: InferRequest, arrays: dict[str, Array], timeout: float) -> InferResponse:
        began = time.monotonic()
        is_done = False
        version = request.model_version or None
        try:
            async with asyncio.timeout(None if timeout == math.inf else timeout):
                if self._is_async:
                    async with self._room:
                        payload = payload_of(request, arrays)
                        response = await self._handler.infer(payload, self.name, version)  # type: ignore[misc]
                        answer = self._answer(request, payload, response)
                else:
                    answer = await self._threads.run(lambda: self._run(request, arrays, version))
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

    def _answer(self, request: InferRequest, payload: InferenceRequest, response: Any) -> InferResponse:
        """The answer of the handler, checked; raises ServerError for one that is not what it declares."""
        try:
            response = response_of(response)
            encode(payload, response)
            response.validate_oip()
            tensors = tensors_of(response.outputs)
            self._check_declared(tensors)
        except TensorError as exc:
            raise ServerError(
                f"The model {self.name!r} gave a wrong answer: {exc}", code="model_error"
            ) from exc
        wanted = request.outputs
        if wanted is None:
            chosen = list(tensors.values())
        else:
            self.signature.check_outputs(wanted, tensors)
            chosen = [as_wanted(one, tensors[one.name], has_batch_axis=False) for one in wanted]
        for tensor in chosen:
            tensor.is_binary = request.wants_binary(tensor.name)
        return InferResponse(
            self.name,
            chosen,
            response.model_version or request.model_version or self.version,
            request.id or response.id or "",
            {} if response.parameters is None else scalars_of(response.parameters),
        )

    def _check_declared(self, tensors: dict[str, Tensor]) -> None:
        if not self.signature.knows_outputs:
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
    for method in ("model_load", "model_metadata", "model_ready"):
        if inspect.iscoroutinefunction(getattr(handler, method)):
            raise ConfigurationError(
                f"{type(handler).__name__}.{method} is async; only `infer` may be. Write `def {method}`."
            )
    names = [models] if isinstance(models, str) else list(models)
    if not names or not all(isinstance(name, str) and name.strip("/") == name and name for name in names):
        raise ConfigurationError(
            f"add_handler needs the names of its models: models=['iris'], not {models!r}."
        )
    return names


def _newest(versions: Sequence[str]) -> str:
    """The highest number, or the last where not all are numbers."""
    if all(one.isascii() and one.isdecimal() for one in versions):
        return max(versions, key=int)
    return versions[-1]
