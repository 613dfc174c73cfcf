"""A description of a few lines that stands for more than fits anywhere is read in a moment, in every place that reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from socaity import InvalidInputError
from socaity._endpoint import Endpoint
from socaity._media_decode import make_decode
from socaity._signature import make_bind
from socaity._stub import write_stub
from socaity.cli import complete
from socaity.cli.arguments import kinds_of, read_arguments
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.schemas import MAX_DEPTH, MAX_SCHEMAS, SchemaWalk, find
from tests.calls import at_most

ENOUGH = 200_000
LEVELS = 6


def levels(make: Callable[[dict[str, Any]], dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
    """Definitions of which each names the next one many times."""
    definitions = {f"A{level}": make({"$ref": f"#/$defs/A{level + 1}"}) for level in range(LEVELS)}
    return {"$ref": "#/$defs/A0", "$defs": {**definitions, f"A{LEVELS}": last}}


def nested(inner: dict[str, Any], number: int) -> dict[str, Any]:
    """Many lists and maps, all of them different."""
    for bit in f"{number:b}":
        if bit == "1":
            inner = {"type": "array", "items": inner}
        else:
            inner = {"type": "object", "additionalProperties": inner}
    return inner


TEXT = {"type": "string"}
HUGE = {
    "options": levels(lambda inner: {"anyOf": [inner] * 40}, TEXT),
    "parts": levels(lambda inner: {"allOf": [inner] * 40}, TEXT),
    "lists": levels(lambda inner: {"anyOf": [nested(inner, number) for number in range(40)]}, TEXT),
    "choices": levels(lambda inner: {"oneOf": [inner] * 40}, {"enum": [str(one) for one in range(1000)]}),
    "tuples": levels(
        lambda inner: {"type": "array", "prefixItems": [inner] * 40, "maxItems": 40, "minItems": 40}, TEXT
    ),
    "records": levels(
        lambda inner: {
            "type": "object",
            "properties": {f"p{one}": {**inner, "title": str(one)} for one in range(40)},
        },
        {"anyOf": [{"type": "object", "properties": {"x": TEXT}}] * 40},
    ),
    "types": levels(
        lambda inner: {"anyOf": [inner] * 40}, {"type": ["string", "object"] * 50, "properties": {"x": TEXT}}
    ),
}


def described(schema: dict[str, Any]) -> EndpointDescription:
    parameter = ParameterDescription(name="x", required=False, default=[[0]], json_schema=schema)
    return EndpointDescription(name="ask", path="/ask", parameters=[parameter], returns=schema)


@pytest.mark.parametrize("kind", sorted(HUGE))
def test_endpoint_is_made(kind: str) -> None:
    with at_most(ENOUGH):
        endpoint = Endpoint(None, described(HUGE[kind]))  # type: ignore[arg-type]
        assert len(str(endpoint.__signature__)) < 1_000_000


@pytest.mark.parametrize("kind", sorted(HUGE))
def test_stub_is_written(kind: str) -> None:
    # `docstring` and `quoted` look at every character
    with at_most(4 * ENOUGH):
        source = write_stub(ServiceDescription(endpoints=[described(HUGE[kind])]), "http://h")
    compile(source, "stub", "exec")
    assert len(source) < 1_000_000


@pytest.mark.parametrize("kind", sorted(HUGE))
def test_command_line_reads_and_completes_arguments(kind: str) -> None:
    endpoint = described(HUGE[kind])
    with at_most(ENOUGH):
        assert kinds_of(endpoint.parameters[0], endpoint)
        read_arguments(["x=[]"], endpoint)
        assert len(set(complete._values(endpoint.parameters[0]))) <= 1000


@pytest.mark.parametrize("kind", sorted(HUGE))
def test_results_are_looked_through_for_media(kind: str) -> None:
    with at_most(ENOUGH):
        assert make_decode(described(HUGE[kind])) is None
    deep: dict[str, Any] = {"x-media": "image"}
    for _ in range(5_000):
        deep = {"items": deep}
    assert make_decode(described(deep)) is not None


@pytest.mark.parametrize("value", [5, [[[[5]]]], {"p1": {"p2": {"p3": 5}}}, "fits"])
@pytest.mark.parametrize("kind", sorted(HUGE))
def test_values_are_checked(kind: str, value: Any) -> None:
    bind = make_bind(described(HUGE[kind]))
    said = ""
    with at_most(10 * ENOUGH):
        try:
            bound = bind((value,), {})
        except InvalidInputError as exc:
            said = str(exc)
        else:
            assert bound == {"x": value}
    assert len(said) < 3_000


def test_options_that_fit_but_not_together_are_checked_once() -> None:
    """What has succeeded is not tried again either."""
    hard = levels(
        lambda inner: {
            "anyOf": [*({"allOf": [inner, False], "title": str(one)} for one in range(20)), inner]
        },
        TEXT,
    )
    with at_most(5 * ENOUGH):
        assert make_bind(described(hard))(("fits",), {}) == {"x": "fits"}


def test_long_lists_are_still_checked_to_their_end() -> None:
    schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/Item"},
        "$defs": {"Item": {"anyOf": [{"$ref": "#/$defs/Count"}, TEXT]}, "Count": {"type": "integer"}},
    }
    bind = make_bind(described(schema))
    values = [one if one % 2 else str(one) for one in range(80_000)]
    assert bind((values,), {}) == {"x": values}
    with pytest.raises(InvalidInputError, match=r"\[80000\]: expected an integer"):
        bind(([*values, None],), {})


def test_walk_ends_in_every_direction() -> None:
    wide = SchemaWalk({}, schemas=3)
    assert [wide.enter(TEXT, 0) for _ in range(4)] == [TEXT, TEXT, TEXT, None]
    assert wide.is_over
    deep = SchemaWalk({})
    assert deep.enter(TEXT, MAX_DEPTH) == TEXT
    assert deep.enter(TEXT, MAX_DEPTH + 1) is None
    assert deep.enter("text", 0) is None
    assert not deep.is_over
    many = SchemaWalk({})
    assert many.enter({"enum": ["a"] * 100 * MAX_SCHEMAS}, 0) is None  # one schema, and all its room
    assert many.is_over


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", "whole"),
        ("#/$defs/a~1b", 1),
        ("#/$defs/c~0d", 2),
        ("#/$defs/e~01f", 3),
        ("#/list/1", "second"),
        ("#/list/2", None),
        ("#/list/²", None),
        ("#/list/-1", None),
        ("#/list/" + "1" * 10_000, None),
        ("#/$defs/none/further", None),
        ("http://elsewhere/#/$defs/a", None),
    ],
)
def test_reference_names_what_it_says(reference: str, found: Any) -> None:
    root = {"$defs": {"a/b": 1, "c~d": 2, "e~1f": 3}, "list": ["first", "second"]}
    assert find(reference, root) == (root if found == "whole" else found)
    assert SchemaWalk(root).follow(reference) == (root if found == "whole" else found)
    assert SchemaWalk(root).follow(["#"]) is None
