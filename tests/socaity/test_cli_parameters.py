"""What is told of a parameter: its type, its limits and the keys of objects."""

from __future__ import annotations

from typing import Any

import pytest

from socaity.cli.parameters import parameter_lines
from socaity.protocol.description import EndpointDescription, ParameterDescription

POINT = {
    "type": "object",
    "properties": {
        "x": {"type": "number", "exclusiveMinimum": 0, "description": "to the\nright"},
        "name": {"type": "string", "minLength": 1},
        "next": {"$ref": "#/$defs/Point"},
    },
    "required": ["x"],
}


def lines(schema: dict[str, Any], **more: Any) -> list[str]:
    parameter = ParameterDescription(name="value", json_schema=schema, **more)
    return list(parameter_lines(parameter, EndpointDescription(name="ask", path="/", parameters=[parameter])))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 10}, "int, >= 0 and <= 10"),
        ({"type": "number", "multipleOf": 0.5}, "float, a multiple of 0.5"),
        ({"type": "string", "minLength": 2}, "str, at least 2 characters"),
        ({"type": "string", "maxLength": 5, "pattern": "^a"}, "str, at most 5 characters, like ^a"),
        ({"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer"}}, "list[int], 2 items"),
        ({"type": "array", "minItems": 1, "maxItems": 3}, "list, 1 to 3 items"),
        ({"anyOf": [{"type": "integer", "maximum": 3}, {"type": "null"}]}, "Optional[int], <= 3"),
        ({"type": "integer", "minimum": "none"}, "int"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer", "minimum": 1}}}, "int, >= 1"),
        ({}, "Any"),
    ],
)
def test_limits_are_told(schema: dict[str, Any], told: str) -> None:
    assert lines(schema) == [f"value: {told}"]
    assert lines(schema, required=False, default=3) == [f"value: {told} = 3"]


def test_keys_of_an_object_are_told_once() -> None:
    keys = [
        "    x: float, > 0",
        "        to the right",
        "    name: str, at least 1 characters (may be left out)",
        "    next: dict (may be left out)",
    ]
    for schema in (
        {"$ref": "#/$defs/Point"},
        {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        {"anyOf": [{"$ref": "#/$defs/Point"}, {"type": "null"}]},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/Point"}},
    ):
        assert lines({**schema, "$defs": {"Point": POINT}}, description="where")[1:] == ["    where", *keys]


def test_any_others_are_told() -> None:
    assert lines({}, variadic=True) == ["**value: any other"]


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": 5},
        {"properties": {"a": None}},
        {"properties": {"a": {"$ref": "#"}}},
        {"anyOf": 5, "items": "x", "required": "a", "$ref": 7},
        {"type": "object", "properties": {"a": {"properties": {"b": {"$ref": "#/properties/a"}}}}},
    ],
)
def test_what_is_no_schema_is_let_be(schema: dict[str, Any]) -> None:
    assert lines(schema)[0].startswith("value: ")
