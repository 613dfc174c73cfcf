"""The arguments of a request: JSON, a form or MessagePack in the body, scalars in the query."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from socaity.exceptions import InvalidInputError
from socaity.protocol.media import OCTETS, Media, guess_type, safe_name
from socaity.protocol.messagepack import MAX_CONTAINERS, MalformedError, TooManyError, unpackb

from ..parameters import Parameter
from ..references import ReadArguments, find_references, has_marks
from ..route import Route
from .referring import permit_references
from .responses import MSGPACK

RESERVED = frozenset({"sync", "job_id"})
"""Query parameters that are ours; an argument of such a name goes into the body."""
MANY_BYTES = 256 * 1024
"""A body of more is read on a thread, so that others are answered meanwhile."""


async def read_arguments(request: Request, route: Route, max_body: int) -> dict[str, Any]:
    """The arguments by name; raises InvalidInputError (400, 413, 415), and where the caller may not read what they refer to,
    AuthenticationError 403."""
    arguments = await _read_body(request, route, max_body)
    for name, text in request.query_params.multi_items():
        if name in RESERVED:
            continue
        if type(arguments) is ReadArguments:
            arguments = dict(arguments)  # what was found in them may be replaced
        parameter = route.by_name.get(name)
        values = request.query_params.getlist(name)
        value: Any = values if len(values) > 1 else text
        arguments[name] = parameter.parse_text(text) if parameter is not None and len(values) == 1 else value
    guard = request.app.dataplane.guard
    if guard is not None:
        await permit_references(guard, request.scope, arguments)
    return arguments


async def read_body(request: Request, max_body: int) -> bytes:
    """The whole body; raises InvalidInputError 413 as soon as it is too large."""
    check_length(request.headers, max_body)
    body = b"".join([chunk async for chunk in limited_stream(request, max_body)])
    return body


async def limited_stream(request: Request, max_body: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_body:
            raise too_large(max_body)
        if chunk:
            yield chunk


def check_length(headers: Headers, max_body: int) -> None:
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) > max_body:
        raise too_large(max_body)


def too_large(max_body: int) -> InvalidInputError:
    return InvalidInputError(
        f"The body is larger than {max_body} bytes, the limit of this service; upload large values with PUT /blobs.",
        status=413,
        code="too_large",
    )


def decode_json(body: bytes) -> dict[str, Any]:
    """A JSON object; raises InvalidInputError: 400 that names the position, and 413."""
    check_containers(body)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError(f"The body is not JSON: {exc}.", status=400, code="malformed_body") from exc
    return _checked(value, "a JSON object")


def with_references(arguments: dict[str, Any], body: bytes | bytearray) -> ReadArguments:
    """The arguments that are JSON in `body`, with the references among them."""
    return ReadArguments(arguments, find_references(arguments) if has_marks(body) else ())


def decode_msgpack(body: bytes) -> dict[str, Any]:
    """A MessagePack map; raises InvalidInputError 400, 413."""
    try:
        value = unpackb(body, max_containers=MAX_CONTAINERS)
    except TooManyError as exc:
        raise _too_many() from exc
    except MalformedError as exc:
        raise InvalidInputError(
            f"The body is not MessagePack: {exc}.", status=400, code="malformed_body"
        ) from exc
    return _checked(value, "a MessagePack map")


def check_containers(body: bytes | bytearray) -> None:
    """Raises InvalidInputError 413 for JSON of very many lists and objects, of which each takes a multiple of its two bytes."""
    if len(body) <= MAX_CONTAINERS or _brackets(body) <= MAX_CONTAINERS:
        return
    # only now, because it takes time: those in texts are none
    if body.count(b'"') <= MAX_CONTAINERS:
        parts = body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
        if sum(map(_brackets, parts)) <= MAX_CONTAINERS:
            return
    raise _too_many()


def _brackets(body: bytes | bytearray) -> int:
    return body.count(b"[") + body.count(b"{")


def _too_many() -> InvalidInputError:
    return InvalidInputError(
        f"The body has more than {MAX_CONTAINERS} lists and maps, the limit of this service; send large arrays as tensors "
        "(application/vnd.socaity+msgpack) or files.",
        status=413,
        code="too_large",
    )


def unsupported(content_type: str) -> InvalidInputError:
    got = f"'{content_type}'" if content_type else "no content type"
    return InvalidInputError(
        f"The body must be application/json, multipart/form-data, application/x-www-form-urlencoded or {MSGPACK}; got {got}.",
        status=415,
        code="unsupported_media_type",
    )


def _checked(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict or not all(type(name) is str for name in value):
        raise InvalidInputError(
            f"The body must be {what} of the arguments by name, not a {type(value).__name__}.",
            status=400,
            code="malformed_body",
        )
    return value


async def _read_body(request: Request, route: Route, max_body: int) -> dict[str, Any]:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in ("multipart/form-data", "application/x-www-form-urlencoded"):
        check_length(request.headers, max_body)
        return await _read_form(request, route, max_body)
    body = await read_body(request, max_body)
    if not body:
        return {}
    if len(body) > MANY_BYTES:
        return await asyncio.to_thread(_decode, body, content_type)
    return _decode(body, content_type)


def _decode(body: bytes, content_type: str) -> ReadArguments:
    if content_type == "application/json" or (
        content_type.startswith("application/") and content_type.endswith("+json")
    ):
        return with_references(decode_json(body), body)
    if content_type == MSGPACK:
        arguments = decode_msgpack(body)
        return ReadArguments(arguments, find_references(arguments))
    raise unsupported(content_type)


async def _read_form(request: Request, route: Route, max_body: int) -> dict[str, Any]:
    limited = Request(request.scope, _limit(request.receive, max_body))
    try:
        form = await limited.form(max_part_size=max_body)
    except (HTTPException, MultiPartException) as exc:
        detail = exc.detail if isinstance(exc, HTTPException) else exc.message
        raise InvalidInputError(
            f"The form is malformed: {detail}", status=400, code="malformed_body"
        ) from exc
    try:
        return await _form_values(form, route)
    finally:
        await form.close()


async def _form_values(form: FormData, route: Route) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for name in form:
        parameter = route.by_name.get(name)
        values: list[Any] = []
        for item in form.getlist(name):
            if isinstance(item, UploadFile):
                values.append(_uploaded(item, await item.read(), parameter))
            else:
                if len(item) > MAX_CONTAINERS:
                    check_containers(item.encode("utf-8", "replace"))
                values.append(item if parameter is None else parameter.parse_text(item))
        arguments[name] = values[0] if len(values) == 1 else values
    return arguments


def _uploaded(item: UploadFile, data: bytes, parameter: Parameter | None) -> Any:
    """A file of a form: media where the parameter wants to know the type and the name, else its bytes."""
    if parameter is None or not parameter.has_media or parameter.is_tensor:
        return data
    declared = (item.content_type or "").partition(";")[0].strip().lower()
    found = guess_type(item.filename or "", data[:16])
    try:
        return Media(
            found if found != OCTETS else declared or OCTETS, data, safe_name(item.filename)
        ).to_wire()
    except ValueError as exc:
        raise InvalidInputError(f"The form is malformed: {exc}.", status=400, code="malformed_body") from exc


def _limit(receive: Receive, max_body: int) -> Receive:
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        size += len(message.get("body", b""))
        if size > max_body:
            raise too_large(max_body)
        return message

    return limited
