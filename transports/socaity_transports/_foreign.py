"""Calls of an endpoint of an OpenAPI document: arguments -> a request, the answer -> chunks and a result."""

from __future__ import annotations

import asyncio
import base64
import codecs
import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import ExitStack
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from socaity.exceptions import InvalidInputError, JobFailed, ProtocolError
from socaity.protocol.events import JobEvent

from ._httpx import HTTPRequest, HTTPResponse
from ._openapi import Argument, Operation
from ._sse import SSEParser

__all__ = ["build_request", "read_answer"]

CALL_TIMEOUT = 3600.0
"""Seconds without a byte of the answer; a host that is gone is noticed earlier by the keep-alive of the connection."""

_SEPARATORS = {"spaceDelimited": " ", "pipeDelimited": "|"}
_ENDS = frozenset({"[DONE]"})


# -- the request ------------------------------------------------------------------------------------------------------


async def build_request(
    operation: Operation, base: str, arguments: Mapping[str, Any], files: ExitStack, *, call_id: str
) -> HTTPRequest:
    """The request of a call. Opened files are put on `files`. Raises InvalidInputError."""
    known = {argument.name: argument for argument in operation.arguments}
    for name in arguments:
        if name not in known:
            raise InvalidInputError(f"{operation.endpoint.name}() has no parameter {name!r}", parameter=name)
    path = operation.endpoint.path
    params: list[tuple[str, str]] = []
    headers: dict[str, str] = {"Accept": "*/*"}
    cookies: list[str] = []
    for argument in operation.arguments:
        value = arguments.get(argument.name)
        if argument.location == "path":
            path = path.replace("{" + argument.wire_name + "}", _path_value(argument, value))
        elif value is None:
            if argument.location == "header" and argument.wire_name.lower() == "idempotency-key":
                headers[argument.wire_name] = call_id
        elif argument.location == "query":
            params.extend(_query_values(argument, value))
        elif argument.location == "header":
            headers[argument.wire_name] = _header_value(argument, value)
        elif argument.location == "cookie":
            cookies.append(f"{argument.wire_name}={quote(_text(value), safe='')}")
    if cookies:
        headers["Cookie"] = "; ".join(cookies)
    request = HTTPRequest(
        method=operation.endpoint.method,
        url=base + path,
        params=params,
        headers=headers,
        read_timeout=CALL_TIMEOUT,
    )
    return await _with_body(request, operation, arguments, files)


async def _with_body(
    request: HTTPRequest, operation: Operation, arguments: Mapping[str, Any], files: ExitStack
) -> HTTPRequest:
    given = {
        a.wire_name: arguments[a.name] for a in operation.arguments if a.name in arguments and _in_body(a)
    }
    if operation.body in ("form", "multipart"):
        form: dict[str, str | list[str]] = {}
        parts: list[tuple[str, tuple[str, Any, str]]] = []
        for argument in operation.arguments:
            value = given.get(argument.wire_name)
            if value is None:
                continue
            if argument.location == "file":
                items = value if isinstance(value, list) else [value]
                parts.extend([(argument.wire_name, await _file(argument, item, files)) for item in items])
            elif argument.location == "form":
                form[argument.wire_name] = _form_value(value)
        return dataclasses.replace(request, form=form, files=parts)
    if operation.body == "none" or (not given and not operation.body_is_required):
        return request
    content_type = operation.endpoint.content_type or "application/json"
    value = given if operation.body == "flat" else next(iter(given.values()), None)
    plain = content_type.partition(";")[0].strip().lower()
    if plain.endswith("json") or plain == "*/*":
        content, content_type = encode_json(value), "application/json" if plain == "*/*" else content_type
    else:
        content = await _raw(value)
    return dataclasses.replace(
        request, content=content, headers={**request.headers, "Content-Type": content_type}
    )


def _in_body(argument: Argument) -> bool:
    return argument.location in ("body", "form", "file")


def encode_json(value: Any) -> bytes:
    """JSON of plain values, models, dates and arrays. Raises InvalidInputError for what JSON cannot carry."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInputError(f"an argument cannot be sent as JSON: {exc}") from exc


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # arrays and their numbers
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (UUID, Decimal, Path)):
        return str(value)
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} has no form in JSON")


def _text(value: Any) -> str:
    """A scalar as JSON would write it, without quotes; anything nested as JSON."""
    if isinstance(value, str):
        return value.value if isinstance(value, Enum) else value
    text = encode_json(value).decode()
    return str(json.loads(text)) if text.startswith('"') else text


def _path_value(argument: Argument, value: Any) -> str:
    text = (
        ",".join(map(_text, value))
        if isinstance(value, (list, tuple))
        else ""
        if value is None
        else _text(value)
    )
    if text in ("", ".", ".."):
        raise InvalidInputError(f"{argument.name}={text!r} cannot be part of a path", parameter=argument.name)
    return quote(text, safe="")


def _query_values(argument: Argument, value: Any) -> list[tuple[str, str]]:
    name = argument.wire_name
    if isinstance(value, (list, tuple, set, frozenset)) or (argument.is_list and hasattr(value, "tolist")):
        items = [_text(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
        if argument.explode:
            return [(name, item) for item in items]
        return [(name, _SEPARATORS.get(argument.style, ",").join(items))]
    if isinstance(value, Mapping) and argument.style == "deepObject":
        return [(f"{name}[{key}]", _text(item)) for key, item in value.items()]
    return [(name, _text(value))]


def _header_value(argument: Argument, value: Any) -> str:
    text = ",".join(map(_text, value)) if isinstance(value, (list, tuple)) else _text(value)
    if "\r" in text or "\n" in text or "\0" in text or not text.isascii():
        raise InvalidInputError(
            f"{argument.name} cannot be sent in a header: {text!r}", parameter=argument.name
        )
    return text


def _form_value(value: Any) -> str | list[str]:
    return (
        [_text(item) for item in value]
        if isinstance(value, (list, tuple)) and _is_flat(value)
        else _text(value)
    )


def _is_flat(items: Any) -> bool:
    return not any(isinstance(item, (Mapping, list, tuple)) for item in items)


async def _file(argument: Argument, value: Any, files: ExitStack) -> tuple[str, Any, str]:
    """(file name, content, media type). Contents: bytes, a text, a `Path`, an open binary file, or (name, content)."""
    name, media_type = argument.wire_name, "application/octet-stream"
    if isinstance(value, tuple) and len(value) in (2, 3) and isinstance(value[0], str):
        name, media_type = value[0], value[2] if len(value) == 3 else media_type
        value = value[1]
    if isinstance(value, Path):
        try:
            opened = await asyncio.to_thread(value.open, "rb")
        except OSError as exc:
            raise InvalidInputError(f"{argument.name}: {exc}", parameter=argument.name) from exc
        return (value.name if name == argument.wire_name else name), files.enter_context(opened), media_type
    if isinstance(value, str):
        return name, value.encode(), "text/plain; charset=utf-8"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return name, bytes(value), media_type
    if hasattr(value, "read"):
        file_name = getattr(value, "name", None)
        return (Path(file_name).name if isinstance(file_name, str) else name), value, media_type
    raise InvalidInputError(
        f"{argument.name} is a file: give bytes, a pathlib.Path, an open file or (name, bytes), "
        f"not a {type(value).__name__}",
        parameter=argument.name,
    )


async def _raw(value: Any) -> bytes:
    if isinstance(value, Path):
        return await asyncio.to_thread(value.read_bytes)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "read"):
        content = await asyncio.to_thread(value.read)
        return content if isinstance(content, bytes) else str(content).encode()
    return _text(value).encode()


# -- the answer -------------------------------------------------------------------------------------------------------


async def read_answer(response: HTTPResponse, operation: Operation) -> AsyncGenerator[JobEvent, None]:
    """Chunks if it is a stream, then the result. Raises TransportError if the answer is cut."""
    kind = response.content_type
    if kind == "text/event-stream":
        async for chunk in _events(response):
            yield JobEvent(0, "chunk", chunk)
    elif kind in ("application/x-ndjson", "application/jsonl", "application/json-lines"):
        async for chunk in _lines(response):
            yield JobEvent(0, "chunk", chunk)
    elif operation.endpoint.streaming and kind.startswith("text/"):
        decoder = codecs.getincrementaldecoder(response.encoding)("replace")
        async for piece in response.pieces():
            if text := decoder.decode(piece):
                yield JobEvent(0, "chunk", text)
        if text := decoder.decode(b"", final=True):
            yield JobEvent(0, "chunk", text)
    else:
        yield JobEvent(0, "result", await _whole(response, kind))
        return
    yield JobEvent(0, "result", None)


async def _whole(response: HTTPResponse, kind: str) -> Any:
    if kind == "application/json" or kind.endswith("+json"):
        return await response.document()
    body = await response.read()
    if kind.startswith("text/"):
        return body.decode(response.encoding, "replace")
    return body if body or kind else None


async def _events(response: HTTPResponse) -> AsyncIterator[Any]:
    parser = SSEParser(raw=True)
    async for piece in response.pieces():
        for event in parser.feed(piece):
            if event.data in _ENDS:
                return
            yield _chunk(event.event, event.data)
    for event in parser.finish():
        if event.data not in _ENDS:
            yield _chunk(event.event, event.data)


def _chunk(event: str, data: str) -> Any:
    if event == SSEParser.RAW:
        return data
    if event == "error":
        raise JobFailed(f"the service ended the stream with an error: {data}")
    return _parsed(data)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def _lines(response: HTTPResponse) -> AsyncIterator[Any]:
    rest: list[bytes] = []
    async for piece in response.pieces():
        *whole, last = piece.split(b"\n")
        for line in whole:
            text = b"".join((*rest, line)).strip()
            rest.clear()
            if text:
                yield _parsed(_decoded(text))
        if last:
            rest.append(last)
    if text := b"".join(rest).strip():
        yield _parsed(_decoded(text))


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as exc:
        raise ProtocolError("a line of the stream is not UTF-8") from exc
