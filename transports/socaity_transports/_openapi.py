"""An OpenAPI 3 document -> a description of the service, and for each endpoint where its arguments go; pure.

Source of the format: https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from socaity.exceptions import ProtocolError
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.schemas import find

__all__ = ["Argument", "Operation", "read_openapi"]

Location = Literal["body", "path", "query", "header", "cookie", "form", "file"]
BodyStyle = Literal["none", "flat", "whole", "form", "multipart"]

_METHODS = ("get", "post", "put", "patch", "delete")
_IDEMPOTENT = frozenset({"get", "put", "delete"})
_IGNORED_HEADERS = frozenset({"accept", "content-type", "authorization"})  # the specification says so
_STREAMS = frozenset(
    {"text/event-stream", "application/x-ndjson", "application/jsonl", "application/json-seq"}
)
_BODY_ORDER = (
    "application/json",
    "+json",
    "multipart/form-data",
    "application/x-www-form-urlencoded",
    "text/plain",
)
_MAX_NODES = 20_000
_MAX_NODES_IN_ALL = 200_000
_FEW_NODES = 100
_MAX_DEPTH = 16
_MAX_INLINE_DEPTH = 50
_MAX_PARTS = 1_000
_MAX_PARAMETERS = 100_000
_PLAIN_VALUES = frozenset({"default", "example", "examples", "enum", "const"})
_MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs"})


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its name in Python and on the wire, and how lists and objects are written there."""

    name: str
    wire_name: str
    location: Location
    style: str = "form"
    explode: bool = True
    is_list: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An endpoint and what its description does not say.

    `body` is `flat` where the properties of one JSON object became parameters, `whole` where one parameter is the body.
    """

    endpoint: EndpointDescription
    arguments: tuple[Argument, ...]
    body: BodyStyle
    body_is_required: bool


def read_openapi(document: Mapping[str, Any]) -> tuple[ServiceDescription, dict[str, Operation]]:
    """The description and the operations by name. Raises ProtocolError for what is not OpenAPI 3."""
    version = document.get("openapi")
    paths = document.get("paths")
    if not isinstance(version, str) or not version.startswith("3.") or not isinstance(paths, Mapping):
        found = f"Swagger {document['swagger']}" if "swagger" in document else "no OpenAPI 3.x document"
        raise ProtocolError(f"the description of the service is {found}; only OpenAPI 3.x can be read")
    schemas = _Schemas(document)
    found_operations = list(_operations(paths, schemas))
    operations: dict[str, Operation] = {}
    for name, (path, method, item) in zip(_names(found_operations), found_operations, strict=True):
        operations[name] = _operation(name, path, method, item, schemas)
    info = document.get("info")
    info = info if isinstance(info, Mapping) else {}
    description = ServiceDescription(
        title=str(info.get("title") or "service"),
        version=str(info.get("version") or ""),
        protocol=None,
        socket=None,
        endpoints=[operation.endpoint for operation in operations.values()],
    )
    return description, operations


def identifier(text: str) -> str:
    """`text` as a Python name."""
    name = re.sub(r"\W+", "_", text).strip("_") or "value"
    name = f"_{name}" if name[0].isdigit() else name
    return f"{name}_" if keyword.iskeyword(name) else name


# -- schemas ----------------------------------------------------------------------------------------------------------


class _Schemas:
    """Follows references inside the document, and puts what they name in their place.

    A short document can name itself so often that what it stands for would fill any memory. So one schema, and all of them
    together, grow only so large. What comes behind is left open: the service checks its arguments itself.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._left = 0
        self._left_in_all = _MAX_NODES_IN_ALL
        self._parameters = 0

    def follow(self, node: Any) -> dict[str, Any]:
        """`node`, or what its `$ref` names; empty if that is nowhere or goes round."""
        seen: set[str] = set()
        siblings: dict[str, Any] = {}
        while isinstance(node, Mapping) and isinstance(node.get("$ref"), str):
            reference = node["$ref"]
            if reference in seen or len(seen) > _MAX_INLINE_DEPTH:
                return siblings
            seen.add(reference)
            siblings = {**{key: value for key, value in node.items() if key != "$ref"}, **siblings}
            node = find(reference, self._document)
        return {**node, **siblings} if isinstance(node, Mapping) else siblings

    def count_parameter(self) -> None:
        """Raises ProtocolError for more than any service has."""
        self._parameters += 1
        if self._parameters > _MAX_PARAMETERS:
            raise ProtocolError(
                f"the OpenAPI document describes more than {_MAX_PARAMETERS:,} parameters; connect to a smaller one"
            )

    def inline(self, schema: Any) -> Any:
        """The schema without references; where it contains itself or grows too large, the inner one is left open."""
        room = self._left = max(_FEW_NODES, min(_MAX_NODES, self._left_in_all))
        inlined = self._inline(schema, (), 0)
        self._left_in_all -= room - self._left
        return inlined

    def _inline(self, schema: Any, above: tuple[str, ...], depth: int) -> Any:
        if not isinstance(schema, (dict, list)):
            return schema
        self._left -= 1
        if depth > _MAX_INLINE_DEPTH:
            return {}
        if above and self._left < 0:  # only what references have multiplied is left out
            return [] if isinstance(schema, list) else {}
        if isinstance(schema, list):
            self._left -= len(schema) // 8
            return [self._inline(item, above, depth + 1) for item in schema]
        self._left -= len(schema) // 8
        reference = schema.get("$ref")
        if isinstance(reference, str):
            siblings = {
                key: self._inline(value, above, depth + 1) for key, value in schema.items() if key != "$ref"
            }
            if reference in above or self._left < 0:
                return siblings
            target = find(reference, self._document)
            found = self._inline(target, (*above, reference), depth + 1)
            return {**(found if isinstance(found, dict) else {}), **siblings}
        return {
            key: self._inline_value(key, value, above, depth)
            for key, value in schema.items()
            if key != "discriminator"
        }

    def _inline_value(self, key: str, value: Any, above: tuple[str, ...], depth: int) -> Any:
        if key in _PLAIN_VALUES:
            return value
        if key in _MAPS_OF_SCHEMAS and isinstance(value, dict):
            self._left -= len(value) // 8
            return {name: self._inline(item, above, depth + 1) for name, item in value.items()}
        return self._inline(value, above, depth + 1)

    def merged(self, node: Any) -> dict[str, Any]:
        """An object schema with `$ref` and `allOf` at its top folded in; its properties are still references."""
        self._left = _MAX_PARTS
        return self._merged(node, 0)

    def _merged(self, node: Any, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = self.follow(node)
        parts = schema.get("allOf")
        self._left -= 1 + len(schema.get("properties") or ()) // 100
        if not isinstance(parts, list) or depth > _MAX_DEPTH or self._left < 0:
            return schema
        merged: dict[str, Any] = {}
        for part in (*parts, {key: value for key, value in schema.items() if key != "allOf"}):
            if self._left < 0:
                break
            part = self._merged(part, depth + 1)
            merged = {
                **merged,
                **part,
                "properties": {**(merged.get("properties") or {}), **(part.get("properties") or {})},
                "required": [*(merged.get("required") or ()), *(part.get("required") or ())],
            }
        return merged


# -- names ------------------------------------------------------------------------------------------------------------


def _operations(paths: Mapping[str, Any], schemas: _Schemas) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, node in paths.items():
        item = schemas.follow(node)
        for method in _METHODS:
            operation = item.get(method)
            if isinstance(operation, Mapping):
                shared = item.get("parameters") or []
                yield (
                    path,
                    method,
                    {**operation, "parameters": [*shared, *(operation.get("parameters") or [])]},
                )


def _names(operations: list[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Short names; those that meet get the method appended, and then a number."""
    short = [_short_name(path, method, item) for path, method, item in operations]
    counts = Counter(short)
    names: list[str] = []
    taken: set[str] = set()
    for name, (_, method, _) in zip(short, operations, strict=True):
        unique = name if counts[name] == 1 else f"{name}_{method}"
        number = 2
        candidate = unique
        while candidate in taken:
            candidate, number = f"{unique}_{number}", number + 1
        taken.add(candidate)
        names.append(candidate)
    return names


def _short_name(path: str, method: str, item: Mapping[str, Any]) -> str:
    operation_id = item.get("operationId")
    if not isinstance(operation_id, str) or not operation_id:
        words = [word for word in path.split("/") if word and not word.startswith("{")]
        return identifier("_".join(words) or method)
    # FastAPI makes `name` + path + method, with every other character replaced by `_`.
    suffix = re.sub(r"\W", "_", path) + f"_{method}"
    if operation_id.endswith(suffix) and len(operation_id) > len(suffix):
        return identifier(operation_id.removesuffix(suffix))
    return identifier(operation_id)


# -- operations -------------------------------------------------------------------------------------------------------


class _Parameters:
    """Collects parameters under names that are free."""

    def __init__(self, schemas: _Schemas) -> None:
        self.described: list[ParameterDescription] = []
        self.arguments: list[Argument] = []
        self._names: set[str] = set()
        self._schemas = schemas

    def add(
        self,
        wire_name: str,
        location: Location,
        schema: Any,
        *,
        required: bool,
        description: str | None,
        style: str = "form",
        explode: bool = True,
    ) -> None:
        self._schemas.count_parameter()
        schema = schema if isinstance(schema, dict) else {}
        name = identifier(wire_name)
        while name in self._names:
            name = f"{name}_{location}"
        self._names.add(name)
        self.described.append(
            ParameterDescription(
                name=name,
                required=required,
                default=schema.get("default"),
                json_schema=schema,
                description=description or schema.get("description"),
                location=location,
            )
        )
        self.arguments.append(Argument(name, wire_name, location, style, explode, "array" in _types(schema)))

    def has(self, wire_name: str) -> bool:
        return identifier(wire_name) in self._names


def _operation(name: str, path: str, method: str, item: dict[str, Any], schemas: _Schemas) -> Operation:
    parameters = _Parameters(schemas)
    for parameter in _merge_parameters(item["parameters"], schemas):
        _add_parameter(parameters, parameter, schemas)
    body, body_is_required, content_type = _add_body(
        parameters, schemas.follow(item.get("requestBody")), schemas
    )
    # A parameter with a default may not stand before one without.
    order = sorted(range(len(parameters.described)), key=lambda i: not parameters.described[i].required)
    returns, is_stream = _returns(item.get("responses"), schemas)
    endpoint = EndpointDescription(
        name=name,
        path=path,
        method=method.upper(),
        doc=item.get("description") or item.get("summary"),
        parameters=[parameters.described[i] for i in order],
        returns=returns,
        streaming=is_stream,
        idempotent=method in _IDEMPOTENT,
        content_type=content_type,
    )
    return Operation(endpoint, tuple(parameters.arguments), body, body_is_required)


def _merge_parameters(parameters: list[Any], schemas: _Schemas) -> list[dict[str, Any]]:
    """Those of the operation replace those of the path."""
    merged: dict[tuple[Any, Any], dict[str, Any]] = {}
    for node in parameters:
        parameter = schemas.follow(node)
        if isinstance(parameter.get("name"), str):
            merged[parameter["name"], parameter.get("in")] = parameter
    return list(merged.values())


def _add_parameter(parameters: _Parameters, parameter: dict[str, Any], schemas: _Schemas) -> None:
    location = parameter.get("in")
    if location not in ("path", "query", "header", "cookie"):
        return
    if location == "header" and parameter["name"].lower() in _IGNORED_HEADERS:
        return
    content = parameter.get("content")
    schema = parameter.get("schema")
    if isinstance(content, Mapping) and content:
        schema = next(iter(content.values())).get("schema")
    style = str(parameter.get("style") or ("form" if location in ("query", "cookie") else "simple"))
    parameters.add(
        parameter["name"],
        location,
        schemas.inline(schema),
        required=bool(parameter.get("required")) or location == "path",
        description=parameter.get("description"),
        style=style,
        explode=bool(parameter.get("explode", style == "form")),
    )


def _add_body(
    parameters: _Parameters, body: dict[str, Any], schemas: _Schemas
) -> tuple[BodyStyle, bool, str | None]:
    content = body.get("content")
    if not isinstance(content, Mapping) or not content:
        return "none", False, None
    content_type = _preferred(list(content))
    media = content[content_type]
    schema = media.get("schema") if isinstance(media, Mapping) else None
    required = bool(body.get("required"))
    plain_type = content_type.partition(";")[0].strip().lower()
    if plain_type == "multipart/form-data":
        return _add_form(parameters, schema, schemas, required, "multipart"), required, content_type
    if plain_type == "application/x-www-form-urlencoded":
        return _add_form(parameters, schema, schemas, required, "form"), required, content_type
    merged = schemas.merged(schema)
    properties = merged.get("properties")
    is_object = merged.get("type", "object") == "object" and isinstance(properties, Mapping) and properties
    if not is_object or not _is_json(plain_type) or any(parameters.has(name) for name in properties or ()):
        parameters.add(
            "body", "body", schemas.inline(schema), required=required, description=body.get("description")
        )
        return "whole", required, content_type
    for name, property_schema in (properties or {}).items():
        parameters.add(
            name,
            "body",
            schemas.inline(property_schema),
            required=required and name in (merged.get("required") or ()),
            description=None,
        )
    return "flat", required, content_type


def _add_form(
    parameters: _Parameters,
    schema: Any,
    schemas: _Schemas,
    required: bool,
    style: Literal["form", "multipart"],
) -> BodyStyle:
    merged = schemas.merged(schema)
    for name, property_schema in (merged.get("properties") or {}).items():
        inlined = schemas.inline(property_schema)
        parameters.add(
            name,
            "file" if style == "multipart" and _is_file(inlined) else "form",
            inlined,
            required=required and name in (merged.get("required") or ()),
            description=None,
        )
    return style


def _preferred(content_types: list[str]) -> str:
    for wanted in _BODY_ORDER:
        for content_type in content_types:
            plain = content_type.partition(";")[0].strip().lower()
            if plain == wanted or (wanted.startswith("+") and plain.endswith(wanted)):
                return content_type
    return content_types[0]


def _is_json(content_type: str) -> bool:
    return content_type == "application/json" or content_type.endswith("+json") or content_type == "*/*"


def _is_file(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    if schema.get("format") == "binary" or ("contentMediaType" in schema and "contentSchema" not in schema):
        return True
    inner = [schema.get("items"), *(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return any(_is_file(part) for part in inner)


def _types(schema: Mapping[str, Any]) -> set[str]:
    kind = schema.get("type")
    types = {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, builtins.list) else set()
    for part in (*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())):
        if isinstance(part, Mapping):
            types |= _types(part)
    return types


def _returns(responses: Any, schemas: _Schemas) -> tuple[dict[str, Any], bool]:
    """The schema of the result, and whether it comes as a stream."""
    if not isinstance(responses, Mapping):
        return {}, False
    codes = sorted(str(code) for code in responses if str(code).startswith("2")) or ["default"]
    for code in codes:
        node = responses.get(code, responses.get(int(code)) if code.isdigit() else None)
        content = schemas.follow(node).get("content")
        if not isinstance(content, Mapping) or not content:
            continue
        kinds = {kind.partition(";")[0].strip().lower(): kind for kind in content}
        as_json = content.get(kinds.get("application/json", ""))
        # FastAPI names JSON without a schema beside whatever else is declared.
        says_json = isinstance(as_json, Mapping) and bool(as_json.get("schema"))
        stream = next((kinds[kind] for kind in kinds if kind in _STREAMS), None)
        is_stream = stream is not None and not says_json
        media = as_json if says_json else content[stream or next(iter(content))]
        if not isinstance(media, Mapping):
            return {}, is_stream
        schema = schemas.inline(media.get("schema"))
        if is_stream and "itemSchema" in media:  # OpenAPI 3.2: what one event looks like
            schema = schemas.inline(media["itemSchema"])
            data = schema.get("properties", {}).get("data") if isinstance(schema, dict) else None
            schema = data.get("contentSchema", data) if isinstance(data, dict) else schema
        return schema if isinstance(schema, dict) else {}, is_stream
    return {}, False
