"""Streams of answers over HTTP: events that are answers (`infer_stream`), or have a key for each output (`generate_stream`)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from socaity.exceptions import InvalidInputError, JobFailed, ProtocolError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, Tensor
from socaity.protocol.openinference.rest import read_response
from socaity.protocol.openinference.tensors import read_json, write_json

from .._httpx import HTTPResponse
from .._sse import SSEParser
from .models import Model, TensorMetadata

__all__ = ["generate_body", "read_event", "read_events", "read_generated"]


async def read_events(response: HTTPResponse) -> AsyncGenerator[Mapping[str, Any], None]:
    """The documents of the events, as they come. Raises ProtocolError, and JobFailed for one that is an error."""
    if response.content_type != "text/event-stream":
        raise ProtocolError(
            f"the server answered with {response.content_type or 'nothing'} instead of a stream"
        )
    parser = SSEParser()
    async for piece in response.pieces():
        for event in parser.feed(piece):
            yield _parsed(event.data)
    for event in parser.finish():  # the last one may not have ended in an empty line
        yield _parsed(event.data)


def _parsed(data: str) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"an event of the stream is not JSON: {data[:80]!r}") from exc
    if not isinstance(document, Mapping):
        raise ProtocolError(f"an event of the stream is no JSON object: {data[:80]!r}")
    error = document.get("error")
    if isinstance(error, str) and len(document) == 1:
        raise JobFailed(f"the service ended the stream with an error: {error}")
    return document


def read_event(url: str, document: Mapping[str, Any]) -> InferResponse:
    """An event of `infer_stream`: a whole answer. Raises ProtocolError."""
    try:
        return read_response(b"", None, loads=lambda _: document)
    except TensorError as exc:
        raise ProtocolError(f"{url} sent an event that is no answer: {exc}") from exc


def generate_body(request: InferRequest) -> dict[str, Any]:
    """A request for `generate_stream`: each input is a key of its own. Raises InvalidInputError."""
    body: dict[str, Any] = {"id": request.id} if request.id else {}
    for one in request.inputs:
        if one.data is None:
            continue
        try:
            values = write_json(one.data, one.datatype)
        except TensorError as exc:
            raise InvalidInputError(f"{request.model_name}({one.name}=…): {exc}") from exc
        body[one.name] = values[0] if len(values) == 1 else values
    parameters = {name: value for name, value in request.parameters.items() if name not in body}
    if parameters:
        body["parameters"] = parameters
    return body


def read_generated(url: str, document: Mapping[str, Any], model: Model) -> InferResponse:
    """Each output is a key of its own here; without a shape, which is flat unless the model says more."""
    outputs: list[Tensor] = []
    for declared in model.outputs.values():
        if declared.name not in document:
            continue
        value = document[declared.name]
        values = value if isinstance(value, list) else [value]
        try:
            outputs.append(_generated(declared, values))
        except TensorError as exc:
            raise ProtocolError(f"{url} sent an event that is no answer: {exc}") from exc
    return InferResponse(
        str(document.get("model_name", model.name)), outputs, str(document.get("model_version") or "")
    )


def _generated(declared: TensorMetadata, values: list[Any]) -> Tensor:
    data = read_json(declared.name, declared.datatype, (len(values),), values)
    if data.size == 1:
        data = data.reshape((1,) * len(declared.shape or (1,)))
    return Tensor(declared.name, declared.datatype, data.shape, data)
