"""The Open Inference Protocol over HTTP: a bare ASGI application, as requests to infer are too many for a framework.

Every error is `{"error": "…"}` with the content type `application/json` and nothing behind it, as clients compare the whole.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from math import prod
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from socaity.exceptions import APIError, NotFoundError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse
from socaity.protocol.openinference.rest import (
    HEADER_LENGTH,
    read_header_length,
    read_parameters,
    read_request,
    write_response,
)

from ...openinference.failures import failure_of, forget_frames, unsupported
from ...openinference.functions import NotOneError
from ...openinference.observed import log_settings, trace_settings
from ...openinference.service import OpenInference
from ..departure import Departure, setter
from .rest_bodies import Buffer, pack, packing_of, read_body, too_large
from .rest_generate import read_generate, write_generate
from .rest_targets import Target, target_of

__all__ = ["PREFIX", "RestFrontend", "send_error"]

PREFIX = "/v2"
_JSON = (b"content-type", b"application/json")
_OCTETS = (b"content-type", b"application/octet-stream")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_LENGTH = HEADER_LENGTH.lower().encode()
_INTERESTING = frozenset({b"accept-encoding", b"content-encoding", b"content-length", _LENGTH})
_SMALL = 64 * 1024
"""An answer below it is sent in one piece; the arrays of a larger one are not copied."""
_MANY_BYTES = 256 * 1024
"""What is converted and larger is read on a thread, and written on one, so that others are answered meanwhile."""
_MANY_ELEMENTS = 16 * 1024
_CONVERTED = ("BYTES", "BF16")
"""Datatypes whose raw data is not what lies in memory."""
_MOST_TARGETS = 1024
_LATER = ((b"retry-after", b"1"),)
"""Of what is not ready."""
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class RestFrontend:
    """Answers for everything at and below `/v2`. Bodies above `max_body` bytes, packed or not, are refused."""

    def __init__(self, service: OpenInference, *, max_body: int) -> None:
        self.service = service
        self.max_body = max_body
        self._targets: dict[str, Target] = {}
        self._get: dict[str, Callable[[Target], tuple[int, Any]]] = {
            "metadata": lambda target: (200, service.server_metadata()),
            "live": lambda target: _health({"live": service.is_live}),
            "ready": lambda target: _health({"live": service.is_live, "ready": service.is_ready}),
            "models": lambda target: (200, {"models": service.model_names()}),
            "model": lambda target: (200, service.metadata(target.model, target.version)),
            "model_ready": self._model_ready,
            "config": lambda target: (200, service.config(target.model, target.version)),
            "statistics": lambda target: (200, service.statistics(target.model, target.version)),
            "regions_status": lambda target: (200, _regions(target, [])),
            "regions_unregister": lambda target: (200, _regions(target, {})),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            target = self._target(scope)
            if target.kind == "infer":
                await self._infer(target, scope, receive, send)
            elif target.kind in self._get:
                status, document = self._get[target.kind](target)
                await _send_json(send, document, status, *(_LATER if status == 503 else ()))
            elif target.kind in ("traces", "logs"):
                await _send_json(send, self._settings(target, await self._body(scope, receive)))
            elif target.kind in ("generate", "generate_stream", "infer_stream"):
                await self._generate(target, scope, receive, send)
            else:
                body = await self._body(scope, receive)
                await _send_json(send, await self._manage(target, body))
        except ClientDisconnect as error:  # nobody is left to answer
            forget_frames(error)
        except Exception as error:  # the edge: whatever it is, the client gets an answer in its own form
            await send_error(send, error)
            forget_frames(error)

    # What is asked

    def _target(self, scope: Scope) -> Target:
        path = scope["path"]
        target = self._targets.get(path)
        if target is None:
            below = path.removeprefix(scope.get("root_path", ""))
            target = target_of(below.removeprefix(PREFIX))
            if target is None:
                raise NotFoundError(f"There is nothing at {below[:200]}.", code="endpoint_not_found")
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[path] = target
        if scope["method"] not in target.methods:
            raise _WrongMethod(scope, target)
        if target.extension:
            raise unsupported(target.extension)
        return target

    async def _body(self, scope: Scope, receive: Receive, header_length: int = 0) -> Buffer:
        headers = {name: value for name, value in scope["headers"] if name in _INTERESTING}
        return await read_body(
            receive,
            limit=self.max_body,
            coding=headers.get(b"content-encoding", b""),
            length=headers.get(b"content-length", b""),
            header_length=header_length,
        )

    def _model_ready(self, target: Target) -> tuple[int, Any]:
        is_ready = self.service.model_is_ready(target.model, target.version)
        return 200 if is_ready else 503, {"name": target.model, "ready": is_ready}

    def _settings(self, target: Target, body: Buffer) -> Any:
        """How traces or logs are set; raises the error 501 for a wish to change that."""
        if target.model:
            self.service.model(target.model)
        what = "trace" if target.kind == "traces" else "log"
        if any(value is not None for value in _object(body).values()):
            raise unsupported(f"{what} settings that can be changed")
        return trace_settings() if what == "trace" else log_settings()

    async def _manage(self, target: Target, body: Buffer) -> Any:
        """The model repository."""
        if target.repository:
            raise unsupported("several model repositories: leave the name of the repository out")
        if target.kind == "index":
            return self.service.index(ready=_wants_ready(body))
        parameters = read_parameters(_object(body).get("parameters"), "the request")
        if target.kind == "load":
            await self.service.load(target.model, parameters)
        else:
            dependents = parameters.get("unload_dependents", False)
            await self.service.unload(target.model, unload_dependents=bool(dependents))
        return {"name": target.model, target.kind: True}

    # Inference

    async def _infer(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        self.service.model(target.model, target.version)  # who asks for none need not send all of it
        length = coding = None
        for name, value in scope["headers"]:
            if name == _LENGTH:
                length = value.decode("latin-1")
            elif name == b"accept-encoding":
                coding = packing_of(value)
        header_length = read_header_length(length)
        body = await self._body(scope, receive, header_length or 0)
        if _is_slow(body, header_length):
            request = await asyncio.to_thread(self._request, target, body, header_length)
        else:
            request = self._request(target, body, header_length)
        response = await self._answer(request, scope, receive)
        await _send_response(send, response, coding)

    def _request(self, target: Target, body: Buffer, header_length: int | None) -> InferRequest:
        request = read_request(
            body,
            header_length,
            model_name=target.model,
            model_version=target.version,
            loads=orjson.loads,
        )
        self._check_size(request)
        return request

    def _check_size(self, request: InferRequest) -> None:
        """Some numbers are shorter in JSON than in memory."""
        size = sum([0 if tensor.data is None else tensor.data.nbytes for tensor in request.inputs])
        if size > self.max_body:
            raise too_large(size, self.max_body)

    async def _answer(self, request: InferRequest, scope: Scope, receive: Receive) -> InferResponse:
        """Cancels the work when the client goes away."""
        future: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
        call = self.service.submit(request, setter(future), owner=scope.get("socaity.owner", ""))
        departure = Departure(receive, future)
        try:
            return await future
        except (asyncio.CancelledError, ClientDisconnect):
            call.cancel()
            raise
        finally:
            departure.forget()

    async def _generate(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        model = self.service.model(target.model, target.version)
        body = await self._body(scope, receive)
        _check_is_json(scope, body, target)
        is_plain = target.kind == "infer_stream"
        if is_plain:
            request = self._request(target, body, None)
        else:
            request, document = read_generate(body, model)
            is_plain = document is not None
            if is_plain:
                request = self._request(target, body, None)
            self._check_size(request)

        def encode(response: InferResponse) -> bytes:
            try:
                return _joined_json(response) if is_plain else write_generate(response, request, orjson.dumps)
            except TensorError as exc:
                raise TensorError(
                    f"BYTES that are no UTF-8 have no form in JSON, which is all that {target.kind} answers with; use infer "
                    "with `binary_data_output`, or gRPC"
                ) from exc

        if target.kind == "generate":
            try:
                response = await self._answer(request, scope, receive)
            except NotOneError as exc:  # in the words that clients of Triton know
                raise TensorError(
                    f"generate expects model to produce exactly 1 response; {exc.name!r} gave {exc.got}. Use its stream "
                    "(generate_stream, infer_stream or ModelStreamInfer)"
                ) from exc
            await _send_bytes(send, encode(response), 200)
            return
        stream = self.service.stream(request, owner=scope.get("socaity.owner", ""))
        await _send_stream(send, receive, stream, encode)


class _WrongMethod(APIError):
    """405; knows the right ones."""

    def __init__(self, scope: Scope, target: Target) -> None:
        super().__init__(
            f"{scope['path'][:200]} takes {' or '.join(target.methods)}, not {scope['method']}.",
            status=405,
            code="method_not_allowed",
        )
        self.allow = ", ".join(target.methods)


async def send_error(send: Send, error: BaseException) -> None:
    """Any error in the form of this protocol."""
    failure = failure_of(error)
    extra: list[tuple[bytes, bytes]] = []
    if failure.retry_after is not None:
        extra.append((b"retry-after", b"%d" % max(math.ceil(failure.retry_after), 1)))
    if isinstance(error, _WrongMethod):
        extra.append((b"allow", error.allow.encode()))
    if failure.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    text = failure.message.encode("utf-8", "replace").decode()
    await _send_bytes(send, orjson.dumps({"error": text}), failure.status, *extra)


def _regions(target: Target, nothing: Any) -> Any:
    """There are no shared memory regions."""
    if target.region:
        raise NotFoundError(f"There is no shared memory region {target.region[:100]!r} here.")
    return nothing


def _health(document: dict[str, bool]) -> tuple[int, Any]:
    return 200 if all(document.values()) else 503, document


def _object(body: Buffer) -> dict[str, Any]:
    """A JSON object, or nothing; raises TensorError."""
    if not len(body):
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise TensorError(f"the body is no JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise TensorError("the body is a JSON object, or empty")
    return document


def _is_slow(body: Buffer, header_length: int | None) -> bool:
    """Whether there is much to convert: numbers and text of JSON, and raw data that cannot be used as it is."""
    length = len(body) if header_length is None else header_length
    if length > _MANY_BYTES or len(body) <= _MANY_BYTES:
        return length > _MANY_BYTES
    document = bytes(memoryview(body)[:length])
    return any(kind.encode() in document for kind in _CONVERTED)


def _check_is_json(scope: Scope, body: Buffer, target: Target) -> None:
    """Raises TensorError for a request with binary tensors, where none are taken."""
    for name, value in scope["headers"]:
        if name == _LENGTH and read_header_length(value.decode("latin-1")) != len(body):
            raise TensorError(
                f"{target.kind} takes JSON only, and {HEADER_LENGTH} says that binary tensors follow; send them as numbers or "
                "text, or use infer or gRPC"
            )


def _wants_ready(body: Buffer) -> bool:
    try:
        ready = _object(body).get("ready", False)
    except TensorError as exc:
        raise TensorError(f"Invalid value for 'ready': expected a boolean ({exc})") from exc
    if not isinstance(ready, bool):
        raise TensorError("Invalid value for 'ready': expected a boolean")
    return ready


def _dumps(document: Any) -> bytes:
    return orjson.dumps(document, option=_NUMPY)


def _joined_json(response: InferResponse) -> bytes:
    for output in response.outputs:
        output.is_binary = False
    pieces, _ = write_response(response, dumps=_dumps, arrays=True)
    return b"".join(pieces)


async def _send_json(send: Send, document: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await _send_bytes(send, orjson.dumps(document), status, *headers)


async def _send_bytes(send: Send, body: bytes, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [_JSON, (b"content-length", b"%d" % len(body)), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_response(send: Send, response: InferResponse, coding: str | None) -> None:
    outputs = [one for one in response.outputs if one.datatype in _CONVERTED and one.data is not None]
    if sum(prod(one.shape) for one in outputs) > _MANY_ELEMENTS:
        pieces, header_length = await asyncio.to_thread(write_response, response, dumps=_dumps, arrays=True)
    else:
        pieces, header_length = write_response(response, dumps=_dumps, arrays=True)
    headers: list[tuple[bytes, bytes]] = [_JSON if header_length is None else _OCTETS]
    if header_length is not None:
        headers.append((_LENGTH, b"%d" % header_length))
    if coding is not None:
        pieces = [await pack(pieces, coding)]
        headers.append((b"content-encoding", coding.encode()))
    size = sum(map(len, pieces))
    if size < _SMALL and len(pieces) > 1:
        pieces = [b"".join(pieces)]
    headers.append((b"content-length", b"%d" % size))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    last = len(pieces) - 1
    for number, piece in enumerate(pieces):
        await send({"type": "http.response.body", "body": piece, "more_body": number < last})


async def _send_stream(
    send: Send,
    receive: Receive,
    stream: AsyncGenerator[InferResponse, None],
    encode: Callable[[InferResponse], bytes],
) -> None:
    """Answers as Server-Sent Events. What fails before the first has a status of its own; later it is an event."""
    work = asyncio.create_task(_write_stream(send, stream, encode))
    gone = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.wait((work, gone))
        if not work.cancelled():
            work.exception()


async def _write_stream(
    send: Send, stream: AsyncGenerator[InferResponse, None], encode: Callable[[InferResponse], bytes]
) -> None:
    is_open = False

    async def write(body: bytes) -> None:
        nonlocal is_open
        if not is_open:
            is_open = True
            headers = [_EVENTS, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        if body:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    try:
        async with aclosing(stream) as answers:
            async for response in answers:
                await write(b"data: %s\n\n" % encode(response))
    except Exception as error:
        if not is_open:
            raise
        text = failure_of(error).message.encode("utf-8", "replace").decode()
        await write(b"data: %s\n\n" % orjson.dumps({"error": text}))
        forget_frames(error)
    await write(b"")
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
