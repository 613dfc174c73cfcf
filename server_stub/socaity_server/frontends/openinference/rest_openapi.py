"""The routes of the Open Inference Protocol for `/openapi.json`."""

from __future__ import annotations

from typing import Any

__all__ = ["open_inference_paths"]

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_PARAMETERS = {
    "type": "object",
    "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}]},
}
_DATATYPE = {
    "type": "string",
    "enum": "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16 BYTES".split(),  # noqa: SIM905
}
_SIZES = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_STATES = {"type": "string", "enum": ["READY", "UNAVAILABLE", "LOADING", "UNLOADING", "UNKNOWN"]}


def open_inference_paths() -> dict[str, Any]:
    """The paths with their operations; the same whatever models there are."""
    paths: dict[str, Any] = {
        "/v2": _get("open_inference_server", "Name, version and extensions", _SERVER),
        "/v2/health/live": _get(
            "open_inference_live", "Whether the server is live", _flags("live"), busy=True
        ),
        "/v2/health/ready": _get(
            "open_inference_ready", "Whether all models are ready", _flags("live", "ready"), busy=True
        ),
        "/v2/models": _get(
            "open_inference_models",
            "The models that are served",
            _object({"models": {"type": "array", "items": {"type": "string"}}}),
        ),
        "/v2/models/stats": _get(
            "open_inference_all_statistics", "The statistics of all models", _STATISTICS
        ),
        "/v2/repository/index": _post(
            "open_inference_index",
            "Every model and its state",
            {"type": "object", "properties": {"ready": {"type": "boolean"}}},
            _INDEX,
            required=False,
        ),
    }
    for verb in ("load", "unload"):
        paths[f"/v2/repository/models/{{model_name}}/{verb}"] = _post(
            f"open_inference_{verb}",
            f"{verb.capitalize()} a model of the folder",
            {"type": "object", "properties": {"parameters": _PARAMETERS}},
            _object({"name": {"type": "string"}, verb: {"type": "boolean"}}),
            names=("model_name",),
            required=False,
        )
    for place, suffix, names in (
        ("/v2/models/{model_name}", "", ("model_name",)),
        ("/v2/models/{model_name}/versions/{model_version}", "_version", ("model_name", "model_version")),
    ):
        paths |= _of_model(place, suffix, names)
    return paths


def _of_model(place: str, suffix: str, names: tuple[str, ...]) -> dict[str, Any]:
    def get(verb: str, summary: str, schema: dict[str, Any], *, busy: bool = False) -> dict[str, Any]:
        return _get(f"open_inference_{verb}{suffix}", summary, schema, names=names, busy=busy)

    def post(
        verb: str, summary: str, body: dict[str, Any], answer: dict[str, Any], **extra: Any
    ) -> dict[str, Any]:
        return _post(f"open_inference_{verb}{suffix}", summary, body, answer, names=names, **extra)

    return {
        place: get("model", "Inputs, outputs and versions of a model", _MODEL),
        f"{place}/ready": get(
            "model_ready", "Whether a model is ready", {**_flags("ready"), "properties": _READY}, busy=True
        ),
        f"{place}/config": get("config", "The configuration of a model", {"type": "object"}),
        f"{place}/stats": get("statistics", "The statistics of a model", _STATISTICS),
        f"{place}/infer": post("infer", "Run a model", _REQUEST, _RESPONSE, binary=True),
        f"{place}/infer_stream": post(
            "infer_stream",
            "Run a model, whose answers come as Server-Sent Events",
            _REQUEST,
            _EVENTS,
            kind=_SSE,
        ),
        f"{place}/generate": post(
            "generate", "Run a model with a flat object", _GENERATE, {"type": "object"}
        ),
        f"{place}/generate_stream": post(
            "generate_stream", "Run a model with a flat object, as a stream", _GENERATE, _EVENTS, kind=_SSE
        ),
    }


_BINARY = (
    "With the header `Inference-Header-Content-Length` the body is JSON of so many bytes, and behind it the raw bytes of the "
    "tensors whose parameters have a `binary_data_size`; with 0 it is the data of the only input."
)
_SSE = "text/event-stream"
_EVENTS = {"type": "string"}
_READY = {"name": {"type": "string"}, "ready": {"type": "boolean"}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _flags(*names: str) -> dict[str, Any]:
    return _object({name: {"type": "boolean"} for name in names})


_TENSOR = _object({"name": {"type": "string"}, "datatype": _DATATYPE, "shape": _SHAPE})
_SERVER = _object(
    {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "extensions": {"type": "array", "items": {"type": "string"}},
    }
)
_MODEL = _object(
    {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": _TENSOR},
    }
)
_STATISTICS = _object({"model_stats": {"type": "array", "items": _object({"name": {"type": "string"}})}})
_INDEX = {
    "type": "array",
    "items": _object(
        {
            "name": {"type": "string"},
            "version": {"type": "string"},
            "state": _STATES,
            "reason": {"type": "string"},
        }
    ),
}
_DATA = {"description": "Row-major, nested or flat; left out where the data is binary."}
_REQUEST = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "inputs": {
            "type": "array",
            "items": {
                **_object({"name": {"type": "string"}, "shape": _SIZES, "datatype": _DATATYPE}),
                "properties": {
                    "name": {"type": "string"},
                    "shape": _SIZES,
                    "datatype": _DATATYPE,
                    "parameters": _PARAMETERS,
                    "data": _DATA,
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                "required": ["name"],
            },
        },
    },
    "required": ["inputs"],
}
_RESPONSE = {
    "type": "object",
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "parameters": _PARAMETERS,
        "outputs": {
            "type": "array",
            "items": {
                **_object({"name": {"type": "string"}, "shape": _SIZES, "datatype": _DATATYPE}),
                "properties": {
                    "name": {"type": "string"},
                    "shape": _SIZES,
                    "datatype": _DATATYPE,
                    "parameters": _PARAMETERS,
                    "data": {"type": "array"},
                },
            },
        },
    },
    "required": ["model_name", "outputs"],
}
_GENERATE = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "text_input": {"type": "string"}, "parameters": _PARAMETERS},
}


def _get(
    name: str, summary: str, schema: dict[str, Any], *, names: tuple[str, ...] = (), busy: bool = False
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _answer("The answer", schema)}
    if busy:
        responses["503"] = _answer("Not ready", {"anyOf": [schema, _ERROR]})
    return {"get": _operation(name, summary, names, responses)}


def _post(
    name: str,
    summary: str,
    body: dict[str, Any],
    answer: dict[str, Any],
    *,
    names: tuple[str, ...] = (),
    required: bool = True,
    binary: bool = False,
    kind: str = "application/json",
) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": {"description": "The answer", "content": {kind: {"schema": answer}}}}
    octets = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    if binary:
        responses["200"]["content"] |= octets
    operation = _operation(name, summary, names, responses)
    if binary:
        operation["description"] = _BINARY
    operation["requestBody"] = {
        "required": required,
        "content": {"application/json": {"schema": body}},
    }
    return {"post": operation}


def _operation(name: str, summary: str, names: tuple[str, ...], responses: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["open inference"],
        "parameters": [_parameter(one) for one in names],
        "responses": {**responses, "default": _answer("What is wrong", _ERROR)},
    }


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
