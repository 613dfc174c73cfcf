"""What a parameter takes, in lines for people: its type, its limits and the keys of objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._signature import annotation_of, python_type
from ..protocol.description import EndpointDescription, ParameterDescription
from ..protocol.schemas import SchemaWalk

__all__ = ["parameter_lines"]

_INDENT = "    "


def parameter_lines(one: ParameterDescription, endpoint: EndpointDescription) -> Iterator[str]:
    """One line for the parameter, one for what is said of it, and those of its keys, further in."""
    if one.variadic:
        yield f"**{one.name}: any other"
        return
    default = "" if one.required else f" = {one.default!r}"
    yield f"{one.name}: {_name(annotation_of(one, endpoint))}{_limits(one.json_schema, one.json_schema)}{default}"
    yield from _told(one.description)
    if one.tensor is None:
        yield from _keys(one.json_schema, SchemaWalk(one.json_schema), (), 0)


def _name(kind: Any) -> str:
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


def _told(description: Any) -> Iterator[str]:
    if isinstance(description, str) and description.strip():
        yield f"{_INDENT}{' '.join(description.split())}"


def _keys(schema: Any, walk: SchemaWalk, above: tuple[str, ...], depth: int) -> Iterator[str]:
    """The keys of the objects in a schema; those of one that is in itself once."""
    entered = walk.enter(schema, depth)
    if entered is None:
        return
    reference = entered.get("$ref")
    if isinstance(reference, str):
        if reference not in above:
            yield from _keys(walk.follow(reference), walk, (*above, reference), depth + 1)
        return
    for part in _parts(entered):
        yield from _keys(part, walk, above, depth + 1)
    properties = entered.get("properties")
    if not isinstance(properties, Mapping):
        return
    required = entered.get("required")
    for name, part in properties.items():
        default = ""
        if isinstance(part, Mapping) and "default" in part:
            default = f" = {part['default']!r}"
        elif not isinstance(required, list) or name not in required:
            default = " (may be left out)"
        kind = _name(python_type(part, root=walk.root))
        yield f"{_INDENT}{name}: {kind}{_limits(part, walk.root)}{default}"
        inner = [*_told(part.get("description") if isinstance(part, Mapping) else None)]
        inner += _keys(part, walk, above, depth + 1)
        yield from (_INDENT + line for line in inner)


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """What a schema allows, or holds as items and values of any key."""
    for word in ("anyOf", "oneOf", "allOf"):
        options = schema.get(word)
        yield from options if isinstance(options, list) else ()
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), Mapping):
            yield schema[word]


# -- limits -----------------------------------------------------------------------------------------------------------


def _limits(schema: Any, root: Any) -> str:
    found = dict.fromkeys(_limits_within(schema, SchemaWalk(root), 0))
    return "".join(f", {one}" for one in found)


def _limits_within(schema: Any, walk: SchemaWalk, depth: int) -> Iterator[str]:
    entered = walk.enter(schema, depth)
    if entered is None:
        return
    if "$ref" in entered:
        yield from _limits_within(walk.follow(entered["$ref"]), walk, depth + 1)
        return
    for word in ("anyOf", "oneOf", "allOf"):
        options = entered.get(word)
        for one in options if isinstance(options, list) else ():
            yield from _limits_within(one, walk, depth + 1)
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {entered[word]}" for word, sign in signs.items() if _is_number(entered.get(word))]
    if bounds:
        yield " and ".join(bounds)
    if _is_number(entered.get("multipleOf")):
        yield f"a multiple of {entered['multipleOf']}"
    for least, most, unit in (("minLength", "maxLength", "characters"), ("minItems", "maxItems", "items")):
        low, high = entered.get(least), entered.get(most)
        if _is_number(low) and _is_number(high):
            yield f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
        elif _is_number(low):
            yield f"at least {low} {unit}"
        elif _is_number(high):
            yield f"at most {high} {unit}"
    if isinstance(entered.get("pattern"), str):
        yield f"like {entered['pattern']}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
