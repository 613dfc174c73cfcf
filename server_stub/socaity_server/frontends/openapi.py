"""What `/openapi.json` says of a route: written from the description, so that FastAPI checks nothing per request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from socaity.protocol.description import ParameterDescription
from socaity.protocol.events import JobStatus
from socaity.protocol.media import MARK, OCTETS

from ..route import Route
from .responses import MSGPACK, PROBLEM

__all__ = ["operation", "plain"]

_ANY: dict[str, Any] = {"application/json": {"schema": {}}}
_VARIABLES: dict[str, Any] = {
    "job_id": {"type": "string", "minLength": 1},
    "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
}
_QUERY: dict[str, Any] = {
    "after": {"type": "string", "description": "The last that is known"},
    "encoding": {"type": "string", "enum": ["json", "msgpack"]},
    "endpoint": {"type": "string"},
    "job_id": {"type": "string", "minLength": 1},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "status": {"type": "string", "enum": [*JobStatus]},
    "sync": {"type": "boolean", "description": "Wait until the job has ended"},
    "wait": {"type": "number", "minimum": 0, "description": "Seconds to wait for the job at most"},
}
_PROBLEM = {"description": "What went wrong", "content": {PROBLEM: {"schema": {"type": "object"}}}}


def plain(path: str = "", query: Sequence[str] = (), *, takes_bytes: bool = False) -> dict[str, Any]:
    """An operation of the service itself, with the variables of its path and the `query` that it understands."""
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _VARIABLES[name]}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [{"name": name, "in": "query", "schema": _QUERY[name]} for name in query]
    found: dict[str, Any] = {
        "responses": {"200": {"description": "OK", "content": _ANY}, "default": _PROBLEM}
    }
    if parameters:
        found["parameters"] = parameters
    if takes_bytes:
        content = {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def operation(route: Route, method: str) -> dict[str, Any]:
    """The request and the answers of a route."""
    description = route.describe()
    parameters = [parameter for parameter in description.parameters if not parameter.variadic]
    schema: dict[str, Any] = {
        "type": "object",
        "title": f"{route.name} arguments",
        "properties": {parameter.name: _schema(parameter) for parameter in parameters},
        "additionalProperties": any(parameter.variadic for parameter in description.parameters),
    }
    required = [parameter.name for parameter in parameters if parameter.required]
    if required:
        schema["required"] = required
    operation: dict[str, Any] = {"responses": _responses(route, description.returns), "tags": ["endpoints"]}
    if method == "GET":
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": "query",
                "required": parameter.required,
                "schema": _schema(parameter),
            }
            for parameter in parameters
        ]
    elif parameters or description.parameters:
        content: dict[str, Any] = {"application/json": {"schema": schema}, MSGPACK: {"schema": schema}}
        if not any(parameter.tensor for parameter in parameters):
            content["multipart/form-data"] = {"schema": _as_form(schema)}
        operation["requestBody"] = {"required": bool(required), "content": content}
    operation["x-socaity"] = description.model_dump(
        mode="json", include={"name", "streaming", "batched", "direct", "idempotent", "queue_size"}
    )
    return operation


def _as_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The same in a form, where bytes are files: not base64 text."""
    properties = {name: _file_schema(one) for name, one in schema["properties"].items()}
    return {**schema, "properties": properties}


def _file_schema(schema: Any) -> Any:
    if not isinstance(schema, dict) or not _holds_media(schema):
        return schema
    if "x-media" not in schema:
        return {
            key: [_file_schema(one) for one in part] if isinstance(part, list) else _file_schema(part)
            for key, part in schema.items()
        }
    form = {key: part for key, part in schema.items() if key not in ("contentEncoding", "x-media")}
    return {"contentMediaType": OCTETS, **form, "type": "string", "format": "binary"}


def _as_result(schema: Any) -> Any:
    """The schema of a result as it is in JSON: media are maps."""
    if not isinstance(schema, dict) or not _holds_media(schema):
        return schema
    if schema.get("x-media") == "bytes":
        return schema
    if "x-media" in schema:
        data = (
            {"type": "object"}
            if schema["x-media"] == "table"
            else {"type": "string", "contentEncoding": "base64"}
        )
        return {
            "type": "object",
            "properties": {MARK: {"type": "string"}, "data": data, "name": {"type": "string"}},
            "required": [MARK, "data"],
        }
    return {
        key: [_as_result(one) for one in part] if isinstance(part, list) else _as_result(part)
        for key, part in schema.items()
    }


def _holds_media(schema: Any) -> bool:
    if isinstance(schema, dict):
        return "x-media" in schema or any(map(_holds_media, schema.values()))
    return isinstance(schema, list) and any(map(_holds_media, schema))


def _schema(parameter: ParameterDescription) -> dict[str, Any]:
    schema = dict(parameter.json_schema)
    if parameter.tensor is not None:
        schema["x-tensor"] = parameter.tensor.model_dump()
    if not parameter.required:
        schema.setdefault("default", parameter.default)
    return schema


def _responses(route: Route, returns: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _as_result(returns)}}
    if returns.get("x-media") is not None and returns["x-media"] != "table":
        file = {
            "type": "string",
            "format": "binary",
            "contentMediaType": returns.get("contentMediaType", OCTETS),
        }
        content[returns.get("contentMediaType", OCTETS)] = {"schema": file}
    result: dict[str, Any] = {"description": "The result", "content": content}
    if route.streaming and route.queue_size is None:
        result = {
            "description": "The events of the job",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    responses: dict[str, Any] = {"default": _PROBLEM}
    job = {"description": "The job", "content": {"application/json": {"schema": {"type": "object"}}}}
    if route.queue_size is not None:
        responses["200"] = {
            **job,
            "description": "The job, which has ended (with ?sync=true or Prefer: wait)",
        }
        responses["202"] = job
    else:
        responses["200"] = result
        if not route.direct:
            responses["202"] = {**job, "description": "The job (with Prefer: respond-async)"}
    return responses
