"""What a JSON schema of a service says, read with care: anything may stand anywhere in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ._stub_text import literal
from .protocol.schemas import SchemaWalk

__all__ = [
    "default_text",
    "is_binary",
    "is_number",
    "mapping",
    "properties",
    "strings",
]

_MAX_DEFAULT_ITEMS = 20
_BINARY = ("binary", "base64", "byte")


def default_text(value: Any, schema: Any, walk: SchemaWalk, depth: int = 0) -> str | None:
    """A default as source, if it fits the type that is written for `schema`; None if it has no such form."""
    entered = walk.enter(schema, depth)
    if entered is None:
        return None if walk.is_over else _free_text(value)
    schema = entered
    if "$ref" in schema:
        return default_text(value, walk.follow(schema["$ref"]), walk, depth + 1)
    if "enum" in schema or "const" in schema:
        allowed = schema["enum"] if "enum" in schema else [schema["const"]]
        is_one = isinstance(allowed, list) and any(
            type(one) is type(value) and one == value for one in allowed
        )
        return literal(value) if is_one and not isinstance(value, (list, Mapping)) else None
    for word in ("anyOf", "oneOf"):
        if isinstance(schema.get(word), list):
            texts = (default_text(value, one, walk, depth + 1) for one in schema[word])
            return next((text for text in texts if text is not None), None)
    parts = schema.get("allOf")
    if isinstance(parts, list):
        return default_text(value, parts[0] if len(parts) == 1 else None, walk, depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        texts = (default_text(value, {**schema, "type": one}, walk, depth + 1) for one in kind)
        return next((text for text in texts if text is not None), None)
    match kind:
        case "string" if isinstance(value, str) and not is_binary(schema) and "x-media" not in schema:
            return literal(value)
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            return literal(value)
        case "number" if is_number(value):
            return literal(value)
        case "boolean" if isinstance(value, bool):
            return literal(value)
        case "null" if value is None:
            return "None"
        case "array" if isinstance(value, list) and len(value) <= _MAX_DEFAULT_ITEMS:
            kinds: Any = [schema.get("items") or None] * len(value)
            if "prefixItems" in schema:
                kinds = schema["prefixItems"]
                if not isinstance(kinds, list) or not len(kinds) == len(value) == schema.get("maxItems"):
                    return None
            items = [default_text(item, one, walk, depth + 1) for item, one in zip(value, kinds, strict=True)]
            if any(item is None or item[0] in "({" for item in items):
                return None
            return f"({', '.join(map(str, items))}{',' if len(items) == 1 else ''})"
        case "object" if value == {} and not properties(schema):
            return "{}"
        case None if not properties(schema):
            return _free_text(value)
        case _:
            return None


def _free_text(value: Any) -> str | None:
    return literal(value) if value is None or isinstance(value, (str, bool, int, float)) else None


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    found = mapping(schema.get("properties"))
    return {name: part for name, part in found.items() if isinstance(name, str)}


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_binary(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") in _BINARY or "contentEncoding" in schema or "contentMediaType" in schema
