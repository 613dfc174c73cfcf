"""`key=value` words as the arguments of an endpoint: the type of the parameter says how the text is read."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..protocol.description import EndpointDescription, ParameterDescription
from ..protocol.schemas import SchemaWalk
from .options import UsageError

__all__ = ["kinds_of", "read_arguments"]

_NPY = b"\x93NUMPY"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""As people write numbers: also `.5`, `1.` and `+1`, which JSON does not know."""
_KINDS = {"string", "integer", "number", "boolean", "null", "array", "object"}
_JSON_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
_WANTED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list as JSON, like '[1, 2]'",
    "object": "an object as JSON, like '{\"key\": 1}'",
    "tensor": "an array as JSON, like '[[1, 2]]', or @FILE.npy",
    "media": "@FILE, @- for the standard input, or a URL",
}


def read_arguments(words: Sequence[str], endpoint: EndpointDescription) -> dict[str, Any]:
    """The arguments that the words give: `key=value`, `key=@FILE`, `key=@-`, and `@FILE` for a JSON object of many.

    A text parameter takes the text as it is, bytes and files take `@FILE`, everything else is JSON. A list may be given
    as one JSON value, or item by item, by the same key once or several times. `key=@@text` is a text that begins with `@`.
    Raises UsageError.
    """
    source = _Source()
    arguments: dict[str, Any] = {}
    given: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("@"):
            arguments.update(_read_object(word[1:], source))
            continue
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(_how_to_write(word, endpoint))
        given.setdefault(key, []).append(text)
    parameters = {one.name: one for one in endpoint.parameters if not one.variadic}
    for key, texts in given.items():
        arguments[key] = _read_texts(key, texts, parameters.get(key), endpoint, source)
    return arguments


class _Source:
    """Files, and the standard input, which can be read once."""

    def __init__(self) -> None:
        self._is_read = False

    def read(self, name: str) -> bytes:
        if name != "-":
            try:
                return Path(name).read_bytes()
            except OSError as exc:
                raise UsageError(f"{name} cannot be read: {exc.strerror or exc}") from exc
        if self._is_read:
            raise UsageError("the standard input (@-) can be given to one argument only")
        self._is_read = True
        return sys.stdin.buffer.read()


def _how_to_write(word: str, endpoint: EndpointDescription) -> str:
    names = [one.name for one in endpoint.parameters if not one.variadic]
    start = f"arguments are written key=value, not {word!r}"
    if not names:
        return f"{start}; {endpoint.name} takes none"
    return f"{start}; did you mean {names[0]}={word!r}? ({endpoint.name} takes {', '.join(names)})"


def _read_object(name: str, source: _Source) -> dict[str, Any]:
    value = _json(source.read(name), f"@{name}")
    if not isinstance(value, dict):
        raise UsageError(
            f"@{name} gives the arguments as a JSON object, not as {_JSON_KINDS.get(type(value), 'null')}"
        )
    return value


def _json(data: bytes | str, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{where} is not JSON: {exc}") from exc


def _read_texts(
    key: str,
    texts: list[str],
    parameter: ParameterDescription | None,
    endpoint: EndpointDescription,
    source: _Source,
) -> Any:
    kinds = {"any"} if parameter is None else kinds_of(parameter, endpoint)
    schema = {} if parameter is None else parameter.json_schema
    walk = SchemaWalk(schema)
    item = _kinds(_array_of(schema, walk).get("items"), walk) if "array" in kinds else set()
    if kinds == {"string", "tensor"}:
        item = {"string"}
    is_file = texts[0].startswith("@") and bool(item & {"media", "bytes"})
    is_item = _is_one_item(texts[0], kinds, item)
    if len(texts) == 1 and not is_file and not is_item:
        return _read(key, texts[0], kinds, source)
    if not item:
        raise UsageError(f"{key} is given {len(texts)} times, and takes one value")
    return [_read(key, text, item, source) for text in texts]


def _is_one_item(text: str, kinds: set[str], item: set[str]) -> bool:
    """Whether a text for a list is its only item: a program that gives the items one by one may have just one."""
    if not item or kinds - {"array", "null"} or "array" in item:
        return False
    return text.startswith("@@") or (not text.startswith(("[", "@")) and text != "null")


def _read(key: str, text: str, kinds: set[str], source: _Source) -> Any:
    if text.startswith("@@"):
        return _from_text(key, text[1:], kinds)
    if text.startswith("@"):
        return _from_file(key, text[1:], kinds, source)
    return _from_text(key, text, kinds)


def _from_text(key: str, text: str, kinds: set[str]) -> Any:
    wanted = kinds - {"null"}
    if wanted == {"string"}:
        return text
    if "media" in kinds and "any" not in kinds:
        if text.startswith(("http://", "https://", "data:")):
            return text
        if Path(text).is_file():
            raise UsageError(f"{key} is a file; did you mean {key}=@{text}?")
        if not wanted & _KINDS:
            raise UsageError(f"{key}={_short(text)}: expected {_WANTED['media']}")
    if wanted == {"bytes"}:
        return text.encode()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if kinds & {"string", "any"}:
            return text
        if "number" in kinds and _NUMBER.fullmatch(text):
            return float(text)
        expected = " or ".join(_WANTED[kind] for kind in sorted(wanted) if kind in _WANTED)
        hint = f"; did you mean {key}={text.lower()}?" if text in ("True", "False") else ""
        raise UsageError(f"{key}={_short(text)}: expected {expected or 'JSON'}{hint}") from None
    if "string" in kinds and "any" not in kinds and not _is_one_of(value, wanted - {"string"}):
        return text
    return value


def _is_one_of(value: Any, kinds: set[str]) -> bool:
    kind = _JSON_KINDS.get(type(value))
    return (
        kind in kinds or (kind == "integer" and "number" in kinds) or (kind == "array" and "tensor" in kinds)
    )


def _from_file(key: str, name: str, kinds: set[str], source: _Source) -> Any:
    if "media" in kinds and name != "-":
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{key}: there is no file {name}")
        return path
    data = source.read(name)
    if kinds & {"media", "bytes"}:
        return data
    if kinds & {"tensor", "any"} and data.startswith(_NPY):
        return _read_npy(key, name, data)
    where = f"{key}=@{name}"
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        if "any" in kinds:
            return data
        what = "neither .npy nor JSON" if "tensor" in kinds else "no UTF-8 text"
        raise UsageError(f"{where} is {what}: {exc}") from exc
    # a file for an array that may also be text is an array: an empty one is a mistake
    is_array = "tensor" in kinds and "string" not in kinds
    if kinds & {"string", "any"} and not is_array:
        return _from_text(key, text, kinds)
    return _json(text, where)


def _read_npy(key: str, name: str, data: bytes) -> Any:
    try:
        import numpy as np
    except ImportError as exc:
        raise UsageError(
            f"{key}=@{name} is a .npy file, and numpy is not installed: pip install numpy"
        ) from exc
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as exc:
        raise UsageError(f"{key}=@{name} cannot be read as .npy: {exc}") from exc


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")


# -- what a parameter takes -------------------------------------------------------------------------------------------


def kinds_of(parameter: ParameterDescription, endpoint: EndpointDescription) -> set[str]:
    """The kinds of values a parameter takes: those of JSON, `bytes`, `media` (a file), `tensor` and `any`."""
    tensor = parameter.tensor
    if tensor is not None:
        if tensor.dtype == "object":
            return {"string"} if tensor.shape == [] and not endpoint.batched else {"string", "tensor"}
        return {"any", "tensor"} if tensor.dtype is None and endpoint.direct else {"tensor"}
    if parameter.location == "file":
        return {"media"}
    return _kinds(parameter.json_schema, SchemaWalk(parameter.json_schema))


def _kinds(schema: Any, walk: SchemaWalk, depth: int = 0) -> set[str]:
    schema = walk.enter(schema, depth)
    if schema is None:
        return {"any"}
    if "$ref" in schema:
        return _kinds(walk.follow(schema["$ref"]), walk, depth + 1)
    if "x-media" in schema:
        return {"bytes"} if schema["x-media"] == "bytes" else {"media", *_plain_kinds(schema)}
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return {_JSON_KINDS.get(type(one), "null") for one in values} if isinstance(values, list) else {"any"}
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list):
            return set().union(*(_kinds(one, walk, depth + 1) for one in schema[word]))
    found = _plain_kinds(schema)
    if "string" in found and (
        schema.get("format") in ("binary", "base64", "byte") or "contentEncoding" in schema
    ):
        return {"bytes"}
    return found or ({"object"} if "properties" in schema else {"any"})


def _plain_kinds(schema: Mapping[str, Any]) -> set[str]:
    kind = schema.get("type")
    named = kind if isinstance(kind, list) else [kind]
    found = {one for one in named if isinstance(one, str)} & _KINDS
    if "x-media" in schema:
        return {"array", "object"} if schema["x-media"] == "table" else set()
    return found


def _array_of(schema: Any, walk: SchemaWalk, depth: int = 0) -> Mapping[str, Any]:
    """The array among what a schema allows."""
    schema = walk.enter(schema, depth)
    if schema is None:
        return {}
    if "$ref" in schema:
        return _array_of(walk.follow(schema["$ref"]), walk, depth + 1)
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list):
            return next((one for part in schema[word] if (one := _array_of(part, walk, depth + 1))), {})
    return schema if "array" in _plain_kinds(schema) else {}
