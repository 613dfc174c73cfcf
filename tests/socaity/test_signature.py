"""From a description to a signature, and from a call to arguments."""

from __future__ import annotations

import inspect
import re
from typing import Any, Literal

import pytest

from socaity import InvalidInputError
from socaity._signature import make_bind, make_signature, python_type
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription

TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
ARRAY: dict[str, Any] = {"type": "array", "items": {}}
NAMED = {"type": "object", "additionalProperties": ARRAY}
FILE = {"type": "string", "x-media": "file"}
TENSOR = ParameterDescription(name="x", tensor=TensorDescription())


def parameter(name: str, schema: dict[str, Any] | None = None, **more: Any) -> ParameterDescription:
    if "default" in more:
        more["required"] = False
    return ParameterDescription(name=name, json_schema=schema or {}, **more)


def describe(*parameters: ParameterDescription, **more: Any) -> EndpointDescription:
    return EndpointDescription(name="draw", path="/draw", parameters=list(parameters), **more)


DRAW = describe(parameter("text", TEXT), parameter("steps", NUMBER, default=4))


def bind(description: EndpointDescription, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return make_bind(description)(args, kwargs)


@pytest.mark.parametrize(
    ("description", "text"),
    [
        (DRAW, "(text: str, steps: int = 4)"),
        (describe(), "()"),
        (describe(parameter("a", default=1), parameter("b", TEXT)), "(a: Any = 1, *, b: str)"),
        (describe(parameter("a-b"), parameter("class"), parameter("c")), "(c: Any)"),
        (describe(parameter("id"), parameter("id", location="query")), "(id: Any)"),
        (describe(parameter("a"), parameter("rest", variadic=True, required=False)), "(a: Any, **rest)"),
        (describe(parameter("a"), parameter("a", variadic=True, required=False)), "(a: Any, **a_)"),
        (
            describe(parameter("x", tensor=TensorDescription(dtype="float32", shape=[None, 3]))),
            "(x: 'Array[float32, ?×3]')",
        ),
        (
            describe(parameter("x", tensor=TensorDescription(dtype="int64", shape=[]))),
            "(x: 'Array[int64, scalar]')",
        ),
        (describe(parameter("t", tensor=TensorDescription(dtype="object", shape=[]))), "(t: str)"),
        (
            describe(parameter("t", tensor=TensorDescription(dtype="object", shape=[])), batched=True),
            "(t: str | list[str])",
        ),
        (
            describe(parameter("t", tensor=TensorDescription(dtype="object", shape=[2]))),
            "(t: 'Array[str, 2]')",
        ),
        (describe(parameter("f", location="file")), "(f: bytes)"),
        (describe(parameter("a", TEXT), returns={"type": "boolean"}), "(a: str) -> bool"),
        (describe(TENSOR, direct=True, returns=ARRAY), "(x: 'Array[any]') -> 'Array'"),
        (describe(TENSOR, direct=True, returns=NAMED), "(x: 'Array[any]') -> 'dict[str, Array]'"),
        (
            describe(TENSOR, direct=True, returns={"type": "object", "properties": {"a": ARRAY, "b": ARRAY}}),
            "(x: 'Array[any]') -> 'dict[str, Array]'",
        ),
        (describe(TENSOR, direct=True, returns={"anyOf": [ARRAY, NAMED]}), "(x: 'Array[any]')"),
        (describe(TENSOR, direct=True, returns={"type": "object"}), "(x: 'Array[any]') -> dict"),
        (describe(TENSOR, batched=True, returns={"type": "number"}), "(x: 'Array[any]') -> 'Array'"),
        (describe(TENSOR, batched=True), "(x: 'Array[any]')"),
        (describe(TENSOR, returns=ARRAY), "(x: 'Array[any]') -> list"),
        (describe(parameter("a", TEXT), direct=True, returns=ARRAY), "(a: str) -> list"),
        (describe(parameter("f", FILE), returns=FILE), "(f: 'pathlib.Path') -> 'socaity.Media'"),
    ],
)
def test_the_signature_says_what_can_be_given(description: EndpointDescription, text: str) -> None:
    shown = str(make_signature(description)).replace("typing.", "").removesuffix(" -> Any")
    assert shown == text


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({}, Any),
        (TEXT, str),
        ({"type": "number"}, float),
        ({"type": "array", "items": NUMBER}, list[int]),
        ({"type": "object", "additionalProperties": TEXT}, dict[str, str]),
        ({"anyOf": [NUMBER, {"type": "null"}]}, int | None),
        ({"type": ["string", "null"]}, str | None),
        ({"enum": ["a", "b"]}, Literal["a", "b"]),
        ({"const": 3}, Literal[3]),
        ({"$ref": "#/$defs/A", "$defs": {"A": NUMBER}}, int),
        ({"$ref": "#"}, Any),
        ({"type": "string", "format": "binary"}, bytes),
        ({"anyOf": []}, Any),
        ({"anyOf": [{"enum": [[1]]}, {"enum": [{}]}]}, Any),
        (True, Any),
    ],
)
def test_the_nearest_python_type(schema: Any, kind: Any) -> None:
    assert python_type(schema) == kind


@pytest.mark.parametrize(
    ("args", "kwargs", "sent"),
    [
        (("a",), {}, {"text": "a"}),
        (("a", 5), {}, {"text": "a", "steps": 5}),
        ((), {"steps": 5.0, "text": "a"}, {"text": "a", "steps": 5}),
    ],
)
def test_only_what_was_given_is_sent(
    args: tuple[Any, ...], kwargs: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert bind(DRAW, *args, **kwargs) == sent


@pytest.mark.parametrize(
    ("args", "kwargs", "why", "name"),
    [
        ((), {}, "draw() needs the argument 'text': draw(text: str, steps: int = 4)", "text"),
        (("a", 1, 2), {}, "draw() takes 2 arguments (text, steps), got 3", None),
        (("a",), {"text": "b"}, "draw() got 'text' twice", "text"),
        (("a",), {"step": 1}, "draw() has no argument 'step'; did you mean 'steps'?", "step"),
        (("a",), {"zzz": 1}, "draw() has no argument 'zzz' (known: text, steps)", "zzz"),
        ((5,), {}, "draw(text=…): expected a string, got int 5", "text"),
        (("a",), {"steps": "x"}, "draw(steps=…): expected an integer, got str 'x'", "steps"),
    ],
)
def test_a_wrong_call_names_the_parameter(
    args: tuple[Any, ...], kwargs: dict[str, Any], why: str, name: str | None
) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(why)) as caught:
        bind(DRAW, *args, **kwargs)
    assert caught.value.parameter == name


def test_names_that_are_none_of_python_go_by_keyword() -> None:
    assert bind(describe(parameter("a-b"), parameter("class")), **{"a-b": 1, "class": 2}) == {
        "a-b": 1,
        "class": 2,
    }


def test_further_arguments_are_passed_on_where_the_function_takes_them() -> None:
    description = describe(parameter("a"), parameter("rest", variadic=True, required=False))
    assert bind(description, 1, b=2, c=[3]) == {"a": 1, "b": 2, "c": [3]}


def test_a_required_parameter_after_an_optional_one_goes_by_keyword() -> None:
    description = describe(parameter("a", default=1), parameter("b"))
    assert bind(description, 5, b=6) == {"a": 5, "b": 6}
    with pytest.raises(InvalidInputError, match="takes 2 arguments"):
        bind(description, 5, 6)


def test_the_signature_is_a_real_one() -> None:
    signature = make_signature(DRAW)
    assert signature.bind("a", steps=3).arguments == {"text": "a", "steps": 3}
    assert signature.parameters["steps"].default == 4
    assert isinstance(signature, inspect.Signature)


def test_what_contains_itself_is_said_to() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(
        InvalidInputError, match=r"^draw\(text=…\): it contains itself, or is nested too deep"
    ):
        bind(describe(parameter("text")), endless)
