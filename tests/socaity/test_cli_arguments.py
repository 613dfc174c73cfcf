"""`key=value` words become arguments as the type of the parameter says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.cli.arguments import read_arguments
from socaity.cli.complete import split_line
from socaity.cli.options import UsageError, shown, url_of
from socaity.cli.output import to_json
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription

STRING = {"type": "string"}
IMAGE = {"type": "string", "contentEncoding": "base64", "x-media": "image"}


def read(schema: dict[str, Any], *texts: str, **more: Any) -> Any:
    parameter = ParameterDescription(name="x", json_schema=schema, **more)
    endpoint = EndpointDescription(name="ask", path="/ask", parameters=[parameter])
    return read_arguments([f"x={text}" for text in texts], endpoint)["x"]


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (STRING, "5", "5"),
        (STRING, "", ""),
        (STRING, "null", "null"),
        (STRING, "@@home", "@home"),
        ({"anyOf": [STRING, {"type": "null"}]}, "null", "null"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        ({"type": "integer"}, "-3", -3),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "number"}, ".5", 0.5),
        ({"type": "number"}, "+1.", 1.0),
        ({"type": "boolean"}, "false", False),
        ({"type": "array", "items": STRING}, '["a"]', ["a"]),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "null", None),
        ({"anyOf": [STRING, {"type": "integer"}]}, "5", 5),
        ({"anyOf": [STRING, {"type": "number"}]}, "5", 5),
        ({"anyOf": [STRING, {"type": "integer"}]}, "five", "five"),
        ({"anyOf": [STRING, {"type": "integer"}]}, "true", "true"),
        ({}, "[1]", [1]),
        ({}, "plain", "plain"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, "7", 7),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "7", 7),
        ({"type": "string", "format": "binary"}, "text", b"text"),
        (IMAGE, "https://host/cat.png", "https://host/cat.png"),
    ],
)
def test_text_is_read_by_the_type_of_the_parameter(schema: dict[str, Any], text: str, expected: Any) -> None:
    value = read(schema, text)
    assert value == expected
    assert type(value) is type(expected)


def test_list_may_be_given_by_one_key_several_times() -> None:
    assert read({"type": "array", "items": STRING}, "1", "b") == ["1", "b"]
    optional = {"anyOf": [{"type": "array", "items": {"type": "integer"}}, {"type": "null"}]}
    assert read(optional, "1", "2", required=False) == [1, 2]
    with pytest.raises(UsageError, match="given 2 times"):
        read(STRING, "a", "b")


@pytest.mark.parametrize(
    ("items", "text", "expected"),
    [
        ({"type": "number"}, "1", [1]),
        (STRING, "red", ["red"]),
        (STRING, "1", ["1"]),
        (STRING, "@@home", ["@home"]),
        (STRING, '["red"]', ["red"]),
        ({"type": "object"}, '{"a": 1}', [{"a": 1}]),
        ({"type": "array", "items": STRING}, '[["a"]]', [["a"]]),
    ],
)
def test_list_of_one_is_written_as_one_of_many(items: dict[str, Any], text: str, expected: list[Any]) -> None:
    assert read({"type": "array", "items": items}, text) == expected


def test_list_that_may_be_none_or_a_text_is_read_as_it_was() -> None:
    optional = {"anyOf": [{"type": "array", "items": STRING}, {"type": "null"}]}
    assert read(optional, "null") is None
    assert read(optional, "red") == ["red"]
    assert read({"anyOf": [{"type": "array", "items": STRING}, STRING]}, "red") == "red"
    with pytest.raises(UsageError, match="a list as JSON"):
        read({"type": "array", "items": {"type": "number"}}, "[1")
    with pytest.raises(UsageError, match="expected a number"):
        read({"type": "array", "items": {"type": "number"}}, "x")


ONE_TEXT = TensorDescription(dtype="object", shape=[])


@pytest.mark.parametrize(
    ("tensor", "batched", "texts", "expected"),
    [
        (ONE_TEXT, False, ["abc"], "abc"),
        (ONE_TEXT, False, ["[1]"], "[1]"),
        (ONE_TEXT, True, ["5"], "5"),
        (ONE_TEXT, True, ['["a", "b"]'], ["a", "b"]),
        (ONE_TEXT, True, ["a", "b"], ["a", "b"]),
        (TensorDescription(dtype="object", shape=[2]), False, ['["a", "b"]'], ["a", "b"]),
        (TensorDescription(), True, ["abc"], "abc"),
        (TensorDescription(), True, ["[1, 2]"], [1, 2]),
    ],
)
def test_models_of_text_take_text(
    tensor: TensorDescription, batched: bool, texts: list[str], expected: Any
) -> None:
    parameter = ParameterDescription(name="x", tensor=tensor)
    endpoint = EndpointDescription(
        name="ask", path="/ask", parameters=[parameter], batched=batched, direct=True
    )
    assert read_arguments([f"x={text}" for text in texts], endpoint) == {"x": expected}


def test_files_are_read_by_the_type_of_the_parameter(tmp_path: Path) -> None:
    text, array, picture = tmp_path / "a.txt", tmp_path / "a.npy", tmp_path / "a.png"
    text.write_text("[1, 2]\n")
    np.save(array, np.arange(3))
    picture.write_bytes(b"\x89PNG\xff")
    tensor = {"tensor": TensorDescription()}
    assert read(STRING, f"@{text}") == "[1, 2]\n"
    assert read({"type": "array"}, f"@{text}") == [1, 2]
    assert read({}, f"@{text}") == [1, 2]
    assert read({"type": "string", "contentEncoding": "base64"}, f"@{text}") == b"[1, 2]\n"
    assert read({}, f"@{array}", **tensor).tolist() == [0, 1, 2]
    assert read({}, f"@{text}", **tensor) == [1, 2]
    assert read(IMAGE, f"@{picture}") == picture
    assert read({}, f"@{picture}", location="file") == picture
    assert read({}, f"@{picture}") == b"\x89PNG\xff"
    assert read({"type": "array", "items": IMAGE}, f"@{picture}") == [picture]
    assert read({"type": "array", "items": IMAGE}, f"@{picture}", f"@{text}") == [picture, text]


@pytest.mark.parametrize(
    ("schema", "name", "message"),
    [
        (STRING, "picture.png", "no UTF-8 text"),
        ({"type": "integer"}, "words.txt", "is not JSON"),
        (IMAGE, "missing.png", "there is no file"),
    ],
)
def test_file_of_the_wrong_kind_is_refused(
    schema: dict[str, Any], name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(UsageError, match=message):
        read(schema, f"@{tmp_path / name}")


def test_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(UsageError, match=r"cannot be read as \.npy"):
        read({}, f"@{tmp_path / 'a.npy'}", tensor=TensorDescription())


def test_file_without_its_sign_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"png")
    with pytest.raises(UsageError, match="did you mean x=@"):
        read(IMAGE, str(tmp_path / "cat.png"))
    with pytest.raises(UsageError, match="expected @FILE"):
        read(IMAGE, "cat")


def test_results_as_json() -> None:
    value = {1: np.float32(1.5), "a": [np.arange(2), b"hi", float("nan"), {2}], "b": (None, True)}
    assert to_json(value) == {"1": 1.5, "a": [[0, 1], "aGk=", None, [2]], "b": [None, True]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("socaity ", ["socaity", ""]),
        ("socaity ca", ["socaity", "ca"]),
        ("socaity call 'http://h' ", ["socaity", "call", "http://h", ""]),
        ("socaity call h paint text='a c", ["socaity", "call", "h", "paint", "text=a c"]),
        ('socaity call h paint text="', ["socaity", "call", "h", "paint", "text="]),
    ],
)
def test_line_that_is_being_typed_is_split_as_a_shell_would(line: str, words: list[str]) -> None:
    assert split_line(line) == words


def test_urls() -> None:
    assert url_of("127.0.0.1:8000") == "http://127.0.0.1:8000"
    assert url_of("wss://host/ws") == "wss://host/ws"
    assert shown("http://user:secret@host:1/path/") == "http://host:1/path"
    for text in ("", "http://", "http://h:port"):
        with pytest.raises(UsageError):
            url_of(text)
