"""What a check lets through, changes and refuses."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import io
import math
import re
import uuid
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from socaity import InvalidInputError
from socaity._job import Job, JobReference
from socaity._schema import UnfinishedError, compile_check, plain
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription

from .doubles import endpoint, held

ENDPOINT = EndpointDescription(name="ask", path="/ask")
BATCHED = EndpointDescription(name="ask", path="/ask", batched=True)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED


class Model(BaseModel):
    points: list[Point]


class AlwaysGPU:
    """Stands for a torch tensor: `detach` and `cpu` come before numpy."""

    dtype = "torch.float32"
    shape = (2,)

    def detach(self) -> AlwaysGPU:
        return self

    def cpu(self) -> np.ndarray:
        return np.ones(2, dtype=np.float32)


def check(schema: dict[str, Any], value: Any, **parameter: Any) -> Any:
    one = ParameterDescription(name="value", json_schema=schema, **parameter)
    return compile_check(one, ENDPOINT)(value)


def check_tensor(value: Any, dtype: str | None, shape: list[int | None] | None, batched: bool = False) -> Any:
    one = ParameterDescription(name="value", tensor=TensorDescription(dtype=dtype, shape=shape))
    return compile_check(one, BATCHED if batched else ENDPOINT)(value)


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}},
    "required": ["x"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "value", "sent"),
    [
        ({}, {"a": object}, {"a": object}),
        ({"type": "string"}, "", ""),
        ({"type": "string"}, Path("/a/b"), "/a/b"),
        ({"type": "string"}, uuid.UUID(int=1), str(uuid.UUID(int=1))),
        ({"type": "string"}, datetime.date(2024, 1, 2), "2024-01-02"),
        ({"type": "string"}, Colour.RED, "red"),
        ({"type": "string", "pattern": r"\p{L}+"}, "any", "any"),  # no Python pattern: the server checks
        ({"type": "string", "pattern": "^a.c$"}, "abc", "abc"),
        ({"type": "integer"}, 3, 3),
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, np.int8(3), 3),
        ({"type": "number"}, 3, 3),
        ({"type": "number"}, np.float32(0.5), 0.5),
        ({"type": "number", "multipleOf": 0.1}, 0.3, 0.3),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": False}, 0, 0),
        ({"type": "boolean"}, True, True),
        ({"type": "boolean"}, np.bool_(False), False),
        ({"type": "null"}, None, None),
        ({"type": ["integer", "null"]}, None, None),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5", "5"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 5, 5),
        ({"allOf": [{"type": "integer"}, {"minimum": 2, "type": "integer"}]}, 2, 2),
        ({"enum": ["red", None, 1]}, Colour.RED, "red"),
        ({"const": 1}, 1, 1),
        ({"type": "array"}, (1, 2), [1, 2]),
        ({"type": "array", "items": {"type": "integer"}}, [1.0], [1]),
        ({"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, ["a", 1], ["a", 1]),
        (POINT, Point(1), {"x": 1, "colour": "red"}),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1.0}, {"a": 1}),
        (TREE, {"children": [{"children": []}]}, {"children": [{"children": []}]}),
        ({"$ref": "#/$defs/Missing/0"}, 1, 1),
        ({"type": "string", "format": "binary"}, bytearray(b"ab"), b"ab"),
        ({"type": "string", "contentEncoding": "base64"}, io.BytesIO(b"ab"), b"ab"),
        ({"type": "string", "format": "binary"}, io.StringIO("ab"), b"ab"),
        ({}, Model(points=[Point(1)]), {"points": [{"x": 1, "colour": "red"}]}),
        ({}, [Point(1), (Colour.RED,)], [{"x": 1, "colour": "red"}, ["red"]]),
        ({}, {Colour.RED: 1, 2: 3}, {"red": 1, 2: 3}),
        ({"type": "unheard of"}, 1, 1),
        ({"allOf": [True]}, 1, 1),
    ],
)  # fmt: skip
def test_fitting_values_are_sent_in_plain_form(schema: dict[str, Any], value: Any, sent: Any) -> None:
    checked = check(schema, value)
    assert checked == sent
    assert type(checked) is type(sent)


@pytest.mark.parametrize(
    ("schema", "value", "why"),
    [
        ({"type": "string"}, 5, "expected a string, got int 5"),
        ({"type": "string", "minLength": 2}, "a", "2 to any number of characters, got 1"),
        ({"type": "string", "maxLength": 2}, "abc", "0 to 2 characters, got 3"),
        ({"type": "string", "pattern": "^a"}, "b", "matches '^a'"),
        ({"type": "integer"}, True, "expected an integer, got bool True"),
        ({"type": "integer"}, 1.5, "expected an integer, got float 1.5"),
        ({"type": "integer"}, "1", "expected an integer"),
        ({"type": "integer"}, math.nan, "expected an integer"),
        ({"type": "number"}, 1j, "expected a number"),
        ({"type": "number", "minimum": 1, "maximum": 2}, 3, ">= 1 and <= 2, got 3"),
        ({"type": "number", "exclusiveMinimum": 1}, 1, "> 1, got 1"),
        ({"type": "number", "exclusiveMaximum": 1}, 1, "< 1, got 1"),
        ({"type": "number", "minimum": 0, "exclusiveMinimum": True}, 0, "> 0, got 0"),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": True}, 1, "< 1, got 1"),
        ({"type": "integer", "multipleOf": 5}, 7, "multiple of 5"),
        ({"type": "number", "multipleOf": 0.5}, 0.7, "multiple of 0.5"),
        ({"type": "number", "multipleOf": 0.5}, math.inf, "multiple of 0.5"),
        ({"type": "boolean"}, 1, "expected true or false"),
        ({"type": "null"}, 0, "expected None"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "a", "an integer, got str 'a' or expected None"),
        ({"enum": ["a", 1]}, True, "one of 'a', 1, got bool True"),
        ({"type": "array"}, "abc", "expected a list"),
        ({"type": "array", "minItems": 1}, [], "1 to any number of items, got 0"),
        ({"type": "array", "items": {"type": "integer"}}, [1, "a"], "[1]: expected an integer"),
        (POINT, {"x": "a"}, "['x']: expected an integer"),
        (POINT, {}, "missing 'x'"),
        (POINT, {"x": 1, "z": 2}, "unknown key 'z' (known: x, colour)"),
        (POINT, 5, "expected a mapping"),
        ({"allOf": [False]}, 1, "nothing is allowed"),
        ({"type": "string", "format": "binary"}, 5, "expected bytes, a path or an open file"),
        ({}, {"a": [{(1, 2): 3}]}, "a mapping has the key"),
        ({"type": "object"}, {(1, 2): 3}, "only text and numbers can be keys"),
        (TREE, {"children": [{"children": 5}]}, "['children']: [0]: ['children']: expected a list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_the_place_and_the_reason(
    schema: dict[str, Any], value: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        check(schema, value)


def test_none_is_allowed_where_it_is_the_default() -> None:
    assert check({"type": "integer"}, None, required=False) is None
    with pytest.raises(ValueError):
        check({"type": "integer"}, None)


def test_a_path_is_read_where_bytes_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x00\x01")
    assert check({"type": "string", "format": "binary"}, path) == b"\x00\x01"


def test_a_file_is_passed_on() -> None:
    file = io.BytesIO(b"")
    assert check({}, file, location="file") is file


@given(st.integers() | st.floats(), st.integers(-5, 5), st.integers(-5, 5))
def test_a_number_passes_exactly_if_it_is_within_the_bounds(value: float, low: int, high: int) -> None:
    try:
        checked = check({"type": "number", "minimum": low, "maximum": high}, value)
    except ValueError:
        assert value < low or value > high
    else:
        assert checked is value
        assert not value < low
        assert not value > high


@given(st.integers(-(2**70), 2**70) | st.floats() | st.booleans() | st.text() | st.none())
def test_an_integer_stays_exact(value: Any) -> None:
    is_whole = type(value) is int or (type(value) is float and value.is_integer())
    try:
        checked = check({"type": "integer"}, value)
    except ValueError:
        assert not is_whole
    else:
        assert is_whole
        assert type(checked) is int
        assert checked == value


@given(st.text(), st.integers(0, 4), st.integers(0, 4))
def test_a_string_passes_exactly_if_its_length_is_within_the_bounds(text: str, low: int, high: int) -> None:
    schema = {"type": "string", "minLength": low, "maxLength": high}
    try:
        assert check(schema, text) is text
    except ValueError:
        assert not low <= len(text) <= high
    else:
        assert low <= len(text) <= high


@given(st.integers(-50, 50), st.sampled_from([0.1, 0.25, 0.01, 3.0]))
def test_a_float_that_is_written_as_a_multiple_passes(n: int, step: float) -> None:
    check({"type": "number", "multipleOf": step}, n * step)
    check({"type": "number", "multipleOf": step}, float(f"{n * step:.6g}"))


# -- jobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {},
        *({"type": kind} for kind in ("string", "integer", "number", "boolean", "null", "array", "object")),
        {"enum": [1]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"type": "string", "format": "binary"},
    ],
)
def test_no_schema_takes_a_job_for_a_value(schema: dict[str, Any]) -> None:
    service, _ = held()
    job: Job[Any] = Job(service.ask, {})
    for value in (job, job["a"][0]):
        with pytest.raises(UnfinishedError):
            check(schema, value)
    with pytest.raises(UnfinishedError):
        check_tensor(job, None, None)
    with pytest.raises(UnfinishedError):
        check_tensor([job], "float32", [None])
    with pytest.raises(UnfinishedError):
        check({}, job, location="file")
    service.close()


def test_jobs_are_found_at_any_depth() -> None:
    service, _ = held()
    job: Job[Any] = Job(service.ask, {})
    for value in ([job], {"a": [job]}, (1, {"b": JobReference(job, ("c",))})):
        with pytest.raises(UnfinishedError):
            plain(value)
    service.close()


def test_flat_lists_are_not_copied() -> None:
    values = [1, 2.0, "a", None]
    assert plain(values) is values


# -- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "given", "sent_shape"),
    [
        (np.ones((2, 3), np.float32), "float32", [2, 3], "float32", (2, 3)),
        (np.ones((2, 3), np.float32), None, None, "float32", (2, 3)),
        (np.ones((2, 3)), "float32", [None, 3], "float32", (2, 3)),
        ([[1, 2, 3]], "float32", [1, 3], "float32", (1, 3)),
        ((1, 2), "uint8", [2], "uint8", (2,)),
        ([], "int64", [None], "int64", (0,)),
        (5, "float32", [], "float32", ()),
        (np.array([1, 0], bool), "float64", [2], "float64", (2,)),
        (np.array([1, 2], np.uint64), "int32", [2], "int32", (2,)),
        (memoryview(b"ab"), "uint8", [2], "uint8", (2,)),
        (AlwaysGPU(), "float32", [2], "float32", (2,)),
    ],
)
def test_arrays_and_lists_become_the_declared_dtype(
    value: Any, dtype: str | None, shape: list[int | None] | None, given: str, sent_shape: tuple[int, ...]
) -> None:
    checked = check_tensor(value, dtype, shape)
    assert (checked.dtype.name, checked.shape) == (given, sent_shape)


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "why"),
    [
        (np.ones(3), "float64", [2], "expected float64 [2], got float64 [3]"),
        (np.ones(2, complex), "float64", [2], "expected float64 [2], got complex128 [2]"),
        (np.array([300]), "uint8", [1], "values outside 0 … 255"),
        (np.array([-1]), "uint8", [1], "values outside 0 … 255"),
        (np.array([2**40]), "int32", [1], "values outside"),
        (np.array([1e6]), "float16", [1], "float64 values that are too large for it"),
        (np.array([10**6]), "float16", [1], "int64 values that are too large for it"),
        ([1.0, -1e39], "float32", [2], "float64 values that are too large for it"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "float32", [2], "masked elements; give array.filled"),
        ([0.5], "int64", [1], "expected int64 [1], got float64 [1]"),
        ([[1], [2, 3]], "int64", None, "rows of different lengths"),
        (["a"], "float32", None, "got str 'a' inside"),
        ("abc", "float32", None, "got str 'abc'"),
        (None, "float32", None, "got NoneType None"),
        ({"a": 1}, "float32", None, "got dict"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    value: Any, dtype: str, shape: list[int | None] | None, why: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        check_tensor(value, dtype, shape)


def test_a_batched_endpoint_takes_one_item_or_many() -> None:
    assert check_tensor(np.ones(3), "float64", [3], batched=True).shape == (3,)
    assert check_tensor(np.ones((5, 3)), "float64", [3], batched=True).shape == (5, 3)
    with pytest.raises(ValueError, match=re.escape("[3] or [n, 3]")):
        check_tensor(np.ones((5, 4)), "float64", [3], batched=True)


def test_an_array_of_the_right_dtype_is_not_copied() -> None:
    array = np.ones(3, np.float32)
    assert check_tensor(array, "float32", [3]) is array


@pytest.mark.parametrize(
    "wrap",
    [
        lambda bad: [bad],
        lambda bad: {"a": ({"b": bad},)},
        lambda bad: type("Rows", (list,), {})([bad]),
        lambda bad: {"a": MappingProxyType(bad)},
    ],
)
@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "array"}])
def test_a_key_that_has_no_form_on_the_wire_is_found_however_deep(wrap: Any, schema: dict[str, Any]) -> None:
    service, wire = held(endpoint("ask", schema=schema))
    with pytest.raises(InvalidInputError):
        service.ask(wrap({(1, 2): 3}))
    assert not wire.calls
    service.close()
