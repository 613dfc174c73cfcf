"""`StreamCalls`: many requests on one stream at a time, and the answers of decoupled models as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from google.protobuf.message import DecodeError

from socaity.exceptions import AuthenticationError, SocaityError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.grpc import read_request
from socaity.protocol.openinference.messages import InferRequest, InferResponse
from socaity.protocol.openinference.protobuf import SERVICE, messages
from socaity.protocol.openinference.wire import decode_request, encode_stream_error, encode_stream_response

from ...auth.actions import Action
from ...openinference.failures import forget_frames
from ...openinference.service import OpenInference
from ..access import resource_of_endpoint
from ..grpc.calls import Context, GRPCCalls
from ..grpc.errors import refusal_of
from .grpc_infer import is_raw

__all__ = ["StreamCalls"]

_PATH = f"/{SERVICE}/ModelStreamInfer"
_AT_ONCE = 128
"""Requests of one stream that are worked on; further ones are not read until one has ended, and so the client waits."""
_REAL_STATUSES = "triton_grpc_error"
_WANTS_FINAL = "triton_enable_empty_final_response"
_IS_FINAL = "triton_final_response"


class StreamCalls:
    """The method ModelStreamInfer. Answers of models that give one come in the order of the requests; those of decoupled models
    in between, as soon as they are there. A client that goes ends all that was begun for it."""

    def __init__(self, calls: GRPCCalls, service: OpenInference) -> None:
        self._calls = calls
        self._service = service

    async def infer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer until the client has ended its side and everything is answered."""
        try:
            await _Stream(self._calls, self._service, context).run(requests)
            return
        except* Exception as group:
            error = _first(group)
        await self._calls.refuse(context, error)


class _Stream:
    """One stream. The first error that ends it cancels everything else on it."""

    def __init__(self, calls: GRPCCalls, service: OpenInference, context: Context) -> None:
        self._calls = calls
        self._service = service
        self._context = context
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._writing = asyncio.Lock()
        metadata = dict(context.invocation_metadata() or ())
        self._has_real_statuses = str(metadata.get(_REAL_STATUSES, "")).lower() == "true"

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        before: asyncio.Event | None = None
        async with asyncio.TaskGroup() as group:
            async for data in requests:
                request, error = self._read(data)
                del data
                await self._places.acquire()
                if error is None and self._is_decoupled(request):
                    group.create_task(self._answer_many(request))
                else:
                    done = asyncio.Event()
                    group.create_task(self._answer_one(request, error, before, done))
                    before = done

    def _read(self, data: bytes) -> tuple[InferRequest, Exception | None]:
        """A request, or as much of it as says whose the error is that comes with it."""
        try:
            self._calls.check_size(data)
            return decode_request(data), None
        except TensorError as exc:
            forget_frames(exc)  # they hold the data for as long as others are answered first
            return _head(data), exc
        except Exception as exc:
            return InferRequest("", []), exc

    def _is_decoupled(self, request: InferRequest) -> bool:
        try:
            return self._service.is_decoupled(request.model_name, request.model_version)
        except SocaityError:  # it will be said when the request is answered
            return False

    async def _answer_one(
        self,
        request: InferRequest,
        error: Exception | None,
        before: asyncio.Event | None,
        done: asyncio.Event,
    ) -> None:
        try:
            response = None
            if error is None:
                try:
                    with self._place():
                        response = await self._service.infer(request, owner=await self._admit(request))
                except Exception as exc:
                    error = exc
            if before is not None:
                await before.wait()  # the one before ends by itself, or the stream does
            if response is not None:
                await self._send(request, response, is_final=True)
            elif error is not None:
                await self._fail(request, error)
        finally:
            done.set()
            self._places.release()

    async def _answer_many(self, request: InferRequest) -> None:
        try:
            with self._place():
                owner = await self._admit(request)
                async with aclosing(self._service.stream(request, owner=owner)) as responses:
                    async for response in responses:
                        await self._send(request, response, is_final=False)
            if request.parameters.get(_WANTS_FINAL) is True:
                last = InferResponse(request.model_name, [], request.model_version, request.id)
                await self._send(request, last, is_final=True)
            return
        except Exception as exc:
            error = exc
        finally:
            self._places.release()
        await self._fail(request, error)

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._calls.enter(self._context)
        try:
            yield
        finally:
            self._calls.leave()

    async def _admit(self, request: InferRequest) -> str:
        dataplane = self._calls.dataplane
        if dataplane.guard is None:
            return ""
        resource = resource_of_endpoint(request.model_name, dataplane.routes, request.model_version or None)
        return await self._calls.admit(self._context, _PATH, Action.INFER, resource)

    async def _send(self, request: InferRequest, response: InferResponse, *, is_final: bool) -> None:
        if request.parameters.get(_WANTS_FINAL) is True:
            response.parameters = {**response.parameters, _IS_FINAL: is_final}
        await self._write(encode_stream_response(response, raw=is_raw(request)))

    async def _fail(self, request: InferRequest, error: Exception) -> None:
        """Say it as the client wants it; raises `error` where that ends the stream."""
        # who may not call need not go on trying
        if self._has_real_statuses or isinstance(error, AuthenticationError):
            raise error
        text = refusal_of(error).message
        forget_frames(error)
        data = encode_stream_error(
            text, model_name=request.model_name, model_version=request.model_version, id=request.id
        )
        if request.parameters.get(_WANTS_FINAL) is True:
            message = messages().ModelStreamInferResponse.FromString(data)
            message.infer_response.parameters[_IS_FINAL].bool_param = True
            data = message.SerializeToString()
        await self._write(data)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            await self._context.write(data)


def _head(data: bytes) -> InferRequest:
    """Model, id and parameters of a request whose tensors are wrong; nothing of what is no message."""
    try:
        message = messages().ModelInferRequest.FromString(data)
        for field in ("inputs", "outputs", "raw_input_contents"):
            message.ClearField(field)
        return read_request(message)
    except (DecodeError, TensorError):
        return InferRequest("", [])


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
