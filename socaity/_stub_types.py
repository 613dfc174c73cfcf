"""From the JSON schemas of a service to Python types as text, and the classes that these need."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ._stub_schema import (
    default_text,
    is_binary,
    is_number,
    mapping,
    properties,
    strings,
)
from ._stub_text import Names, class_name, docstring, is_name, literal, quoted
from .protocol.schemas import MAX_DEPTH, SchemaWalk

__all__ = ["StubTypes"]

Side = Literal["argument", "value", "either"]
"""An argument may be given in more forms than a value has, and as a job that has not ended. What stands in a class may be in
both."""

_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_NOISE = ("title", "description", "examples", "deprecated", "required")
_MAX_OPTIONS = 200
_MAX_TEXT = 10_000
_MAX_STEPS = 100_000
_MAX_INTEGER = 2**53
"""What type checkers take in a Literal without fail."""


class _Walk(SchemaWalk):
    """A walk that also knows which objects are the same, whatever they are called and wherever they were met."""

    def __init__(self, schema: Any) -> None:
        super().__init__(schema)
        self.defaults = SchemaWalk(schema)
        self._forms: dict[int, tuple[Any, str, tuple[str, ...]]] = {}
        self._steps = _MAX_STEPS

    def form(self, schema: Mapping[str, Any]) -> str | None:
        """The same text for the same object; None if it refers to more than can be compared."""
        own, references = self._form(schema)
        forms: dict[str, str] = {}
        waiting = list(references)
        while waiting:
            reference = waiting.pop()
            if reference in forms:
                continue
            forms[reference], inner = self._form(self.follow(reference))
            waiting += inner
            self._steps -= 1 + len(inner)
            if self._steps < 0:
                return None
        return _digest([own, sorted(forms.items())])

    def _form(self, schema: Any) -> tuple[str, tuple[str, ...]]:
        """That of one schema alone, and what it refers to."""
        known = self._forms.get(id(schema))
        if known is None:
            references: dict[str, None] = {}
            stripped = _without_noise(schema, references)
            # with the schema itself, so that no other one gets its id
            known = self._forms[id(schema)] = schema, _digest(stripped), tuple(references)
        return known[1:]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a schema stands."""

    walk: _Walk
    hint: str
    side: Side
    depth: int = 0
    above: tuple[str, ...] = ()

    def inside(self, hint: str | None = None, side: Side | None = None, above: str | None = None) -> _Place:
        return _Place(
            self.walk,
            self.hint if hint is None else hint,
            side or self.side,
            self.depth + 1,
            self.above if above is None else (*self.above, above),
        )


@dataclass(slots=True)
class _Record:
    """A class that was written for an object schema."""

    name: str
    required: frozenset[str]


class StubTypes:
    """Writes types; `definitions` are the classes they name, `uses` what the module has to import for them."""

    def __init__(self, names: Names, in_use: frozenset[str]) -> None:
        self.uses: set[str] = set()
        self.class_names: list[str] = []
        self._names = names
        self._in_use = in_use
        self._definitions: dict[str, str] = {}
        self._records: dict[tuple[str, str], list[_Record]] = {}

    @property
    def definitions(self) -> list[str]:
        """The source of the classes, in the order in which they were met."""
        return [self._definitions[name] for name in self.class_names]

    def argument(self, schema: Any, hint: str) -> str:
        """The type of a parameter."""
        inner = self._type(schema, _Place(_Walk(schema), hint, "argument"))
        return inner if inner == "Any" else self._use("Input", f"Input[{inner}]")

    def tensor(self) -> str:
        """The type of a parameter that takes an array."""
        self.uses |= {"npt", "Any"}
        return self._use("Input", "Input[npt.ArrayLike]")

    def value(self, schema: Any, hint: str) -> str:
        """The type of a result or chunk."""
        return self._type(schema, _Place(_Walk(schema), hint, "value"))

    def arrays(self, schema: Any, hint: str) -> str:
        """The type of a result that is an array, or a map of arrays by name; `Any` where the service does not know."""
        schema = mapping(schema)
        if not schema or "anyOf" in schema:
            return self._use("Any", "Any")
        self.uses |= {"npt", "Any"}
        names = list(properties(schema))
        if not names and schema.get("type") != "object":
            return "npt.NDArray[Any]"
        if not names or "" in names:  # no key of a TypedDict
            return "dict[str, npt.NDArray[Any]]"
        fields = [(name, "npt.NDArray[Any]", True) for name in names]
        name = self._names.give(class_name(hint), "Record")
        self.class_names.append(name)
        self._definitions[name] = self._typed_dict(name, fields, "")
        return name

    # -- types -------------------------------------------------------------------------------------------------------

    def _type(self, schema: Any, place: _Place) -> str:
        text = self._text(place.walk.enter(schema, place.depth), place)
        return text if len(text) <= _MAX_TEXT else self._use("Any", "Any")

    def _text(self, schema: Mapping[str, Any] | None, place: _Place) -> str:
        if schema is None:
            return self._use("Any", "Any")
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]), place)
        if "x-media" in schema:
            return self._media(schema["x-media"], place.side)
        if "enum" in schema:
            return self._choice(schema["enum"])
        if "const" in schema:
            return self._choice([schema["const"]])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._union(schema[word], place)
        parts = schema.get("allOf")
        if isinstance(parts, list):
            return self._type(parts[0] if len(parts) == 1 else None, place.inside())
        kind = schema.get("type")
        if isinstance(kind, list):
            return self._union([{**schema, "type": one} for one in kind[:_MAX_OPTIONS]], place)
        if kind == "string" and is_binary(schema):
            return self._media("bytes", place.side)
        if kind == "array":
            return self._list(schema, place)
        if kind == "object" or (kind is None and properties(schema)):
            return self._object(schema, place)
        return _SCALARS[kind] if isinstance(kind, str) and kind in _SCALARS else self._use("Any", "Any")

    def _use(self, name: str, text: str) -> str:
        self.uses.add(name)
        return text

    def _media(self, kind: Any, side: Side) -> str:
        if kind == "bytes":
            return self._use("File", "File") if side == "argument" else "bytes"
        if kind == "file" and side == "argument":
            return self._use("File", "File | str | socaity.Media")
        if kind == "file" and side == "value":
            return "socaity.Media"
        # a picture, sound or table: which class it is depends on what is installed where it is used
        return self._use("Any", "Any")

    def _choice(self, values: Any) -> str:
        if not isinstance(values, list) or not 0 < len(values) <= _MAX_OPTIONS:
            return self._use("Any", "Any")
        texts = []
        for value in values:
            if isinstance(value, int) and abs(value) > _MAX_INTEGER:
                return "int" if all(isinstance(one, int) for one in values) else self._use("Any", "Any")
            if isinstance(value, float) or not isinstance(value, (str, int, bool, type(None))):
                return "float" if all(is_number(one) for one in values) else self._use("Any", "Any")
            if isinstance(value, str) and len(value) > _MAX_TEXT:
                return self._use("Any", "Any")
            texts.append(literal(value))
        return self._use("Literal", f"Literal[{', '.join(dict.fromkeys(texts))}]")

    def _union(self, options: Any, place: _Place) -> str:
        if not isinstance(options, list) or not 0 < len(options) <= _MAX_OPTIONS:
            return self._use("Any", "Any")
        texts = list(dict.fromkeys(self._type(option, place.inside()) for option in options))
        if "Any" in texts:
            return self._use("Any", "Any")
        texts.sort(key=lambda text: text == "None")
        return " | ".join(texts)

    def _list(self, schema: Mapping[str, Any], place: _Place) -> str:
        firsts = schema.get("prefixItems")
        if isinstance(firsts, list) and firsts and len(firsts) == schema.get("maxItems"):
            parts = place.inside(side="value" if place.side == "value" else "either")
            inner = [self._type(one, parts) for one in firsts[:_MAX_OPTIONS]]
            return f"tuple[{', '.join(inner)}]"
        item = self._type(schema.get("items") or None, place.inside())
        if place.side != "argument":
            return f"list[{item}]"
        return self._use("Inputs", f"Inputs[{item}]")

    def _object(self, schema: Mapping[str, Any], place: _Place) -> str:
        rest = schema.get("additionalProperties")
        if _is_record(schema):
            return self._record(schema, place.hint, place)
        inner = None if properties(schema) or rest is True else rest
        item = self._type(inner or None, place.inside())
        if place.side != "argument":
            return f"dict[str, {item}]"
        if item != "Any":
            item = self._use("Input", f"Input[{item}]")
        return self._use("Mapping", f"Mapping[str, {item}]")

    def _reference(self, reference: str, place: _Place) -> str:
        target = place.walk.follow(reference)
        name = reference.rpartition("/")[2]
        if (
            reference in place.above
        ):  # an alias that contains itself has no form that can also be checked at run time
            if isinstance(target, Mapping) and _is_record(target):
                return self._record(target, name, place)
            return self._use("Any", "Any")
        return self._type(target, place.inside(hint=name, above=reference))

    # -- classes -----------------------------------------------------------------------------------------------------

    def _record(self, schema: Mapping[str, Any], hint: str, place: _Place) -> str:
        """The class of an object; the same one where the same object was met before.

        What a function takes and gives back differs only in that every key of a result is there.
        """
        title = schema.get("title")
        wanted = class_name(title if isinstance(title, str) else hint)
        form = place.walk.form(schema)
        if form is None:
            return self._use("Any", "Any")
        key = (wanted, form)
        required = frozenset(strings(schema.get("required")))
        known = self._records.setdefault(key, [])
        for one in known:
            if one.required <= required:
                return one.name
        record = _Record(self._names.give(wanted, "Record"), required)
        known.append(record)
        self.class_names.append(record.name)
        inside = place.inside(side="either")
        fields = [
            (name, self._type(part, inside.inside(hint=f"{record.name} {name}")), name in required)
            for name, part in properties(schema).items()
        ]
        text = schema.get("description")
        doc = text if isinstance(text, str) and text.strip() else ""
        body = self._dataclass(record.name, fields, doc, schema, place.walk)
        self._definitions[record.name] = body or self._typed_dict(record.name, fields, doc)
        return record.name

    def _dataclass(
        self,
        name: str,
        fields: list[tuple[str, str, bool]],
        doc: str,
        schema: Mapping[str, Any],
        walk: _Walk,
    ) -> str | None:
        """None where a field has no such name, or may be left out without a default that could be written."""
        lines = ["@dataclass(kw_only=True, slots=True)", f"class {name}:"]
        if doc:
            lines += [docstring(doc, "    "), ""]
        needs_field = False
        for field, annotation, is_required in fields:
            if not is_name(field) or field.startswith("_") or field in self._in_use:
                return None
            if is_required:
                lines.append(f"    {field}: {annotation}")
                continue
            part = properties(schema)[field]
            if not isinstance(part, Mapping) or "default" not in part:
                return None
            default = default_text(part["default"], part, walk.defaults)
            if default is None:
                return None
            if default[0] in "({" and not annotation.startswith("tuple["):
                needs_field = True
                made = default if default[0] == "{" else _as_list(default)
                default = f"field(default_factory=lambda: {made})"
            lines.append(f"    {field}: {annotation} = {default}")
        self.uses.update({"dataclass", "field"} if needs_field else {"dataclass"})
        # a name that is used in an annotation must mean the same inside of the class
        if {field for field, _, _ in fields} & set(self.class_names):
            return None
        return "\n".join(lines)

    def _typed_dict(self, name: str, fields: list[tuple[str, str, bool]], doc: str) -> str:
        self.uses.add("TypedDict")
        lines = [f"{name} = TypedDict(", f"    {quoted(name)},", "    {"]
        for field, annotation, is_required in fields:
            if not is_required:
                annotation = self._use("NotRequired", f"NotRequired[{annotation}]")
            lines.append(f"        {quoted(field)}: {quoted(annotation)},")
        lines += ["    },", ")"]
        if doc:
            lines.append(docstring(doc))
        return "\n".join(lines)


def _as_list(text: str) -> str:
    return f"[{text[1:-1].removesuffix(',')}]"


def _is_record(schema: Mapping[str, Any]) -> bool:
    is_object = schema.get("type") in ("object", None) and not {"$ref", "anyOf", "oneOf", "enum"} & set(
        schema
    )
    has_names = bool(properties(schema)) and "" not in properties(schema)
    return is_object and has_names and schema.get("additionalProperties") in (None, False)


def _without_noise(node: Any, references: dict[str, None], depth: int = 0, is_names: bool = False) -> Any:
    """`node` without what changes no type; the references in it are noted."""
    if depth > 4 * MAX_DEPTH:
        return None
    if isinstance(node, Mapping):
        reference = node.get("$ref")
        if isinstance(reference, str) and not is_names:
            references[reference] = None
        return {
            str(key): _without_noise(value, references, depth + 1, key == "properties" and not is_names)
            for key, value in node.items()
            if is_names or key not in _NOISE
        }
    if isinstance(node, (list, tuple)):
        return [_without_noise(one, references, depth + 1) for one in node]
    return node


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=repr).encode()).hexdigest()
