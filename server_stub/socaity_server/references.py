"""References inside arguments: `{"$blob": sha256}` to uploaded bytes, `{"$job": id, "path": […]}` to another job's result,
`{"$call": number, "path": […]}` to that of a direct call of the same session, and `{"$packed": sha256, "size": …, "from": URL,
"token": …}` to a result of another service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from socaity.exceptions import InvalidInputError
from socaity.protocol.messagepack import MAX_DEPTH

__all__ = [
    "ReadArguments",
    "Reference",
    "check_path",
    "find_references",
    "find_top_references",
    "follow",
    "has_marks",
    "replaced",
]

MAX_REFERENCES = 10_000
"""In the arguments of one call."""

_MARKS = frozenset({"$job", "$call", "$blob", "$packed"})
_MARKS_IN_BYTES = tuple(mark.encode() for mark in sorted(_MARKS))
_ESCAPED = b"\\u00"
"""How JSON may write any letter of a mark."""
_MOST_KEYS = 4
_MOST_STEPS = 2 * MAX_DEPTH


class Reference(NamedTuple):
    """`kind` is `job`, `call`, `blob` or `packed`; `path` leads into the result. `origin` of a packed one is where it may be
    fetched, if that was said: URL and token."""

    kind: str
    id: str
    path: tuple[Any, ...] = ()
    size: int = 0
    origin: tuple[Any, Any] | None = None


class ReadArguments(dict[str, Any]):
    """Arguments in which references were looked for already: these are all that there are."""

    def __init__(
        self, arguments: Mapping[str, Any], references: Sequence[tuple[str, Reference]] = ()
    ) -> None:
        super().__init__(arguments)
        self.references = list(references)


def has_marks(body: bytes | bytearray) -> bool:
    """Whether there may be references in a JSON document."""
    # most have no `$`, and looking for one byte is quickest
    return (b"$" in body and any(mark in body for mark in _MARKS_IN_BYTES)) or _ESCAPED in body


def find_references(arguments: Mapping[str, Any]) -> list[tuple[str, Reference]]:
    """All references with the parameter that they stand in; almost always none, and then cheap. Raises InvalidInputError."""
    if type(arguments) is ReadArguments:
        return arguments.references
    found: list[tuple[str, Reference]] = []
    for name, value in arguments.items():
        kind = type(value)
        if kind is dict or kind is list:
            for reference in _walk(value):
                found.append((name, reference))
                if len(found) > MAX_REFERENCES:
                    raise InvalidInputError(
                        f"The arguments of a call may hold {MAX_REFERENCES} references, and these have more.",
                        parameter=name,
                        status=413,
                        code="too_large",
                    )
    return found


def find_top_references(arguments: Mapping[str, Any]) -> list[tuple[str, Reference]]:
    """Of a batched route only whole arguments can be references: its lists are numbers."""
    if type(arguments) is ReadArguments:
        return [one for one in arguments.references if type(arguments[one[0]]) is dict]
    return find_references({name: value for name, value in arguments.items() if type(value) is dict})


def replaced(value: Any, values: Iterator[Any]) -> Any:
    """`value` with the next of `values` in the place of each reference, in the order of `find_references`."""
    if type(value) is dict:
        if _read(value) is not None:
            return next(values)
        return {key: replaced(item, values) if _may_hold(item) else item for key, item in value.items()}
    if type(value) is list and _holds_containers(value):
        return [replaced(item, values) if _may_hold(item) else item for item in value]
    return value


def follow(result: Any, path: Sequence[Any]) -> Any:
    """The part of `result` at `path`; raises LookupError, TypeError or OverflowError."""
    for step in path:
        result = result[step]
    return result


def check_path(path: Sequence[Any]) -> tuple[str | int, ...]:
    """The steps into a result. Raises InvalidInputError for what is neither a name nor a place: an array would take lists of
    places, and give more than it has."""
    if len(path) > _MOST_STEPS:
        raise InvalidInputError(f"The path of a reference has {_MOST_STEPS} steps at most, not {len(path)}.")
    for step in path:
        if type(step) is not str and type(step) is not int:
            raise InvalidInputError(
                f"A step in the path of a reference is a text or a whole number, not a {type(step).__name__}."
            )
    return tuple(path)


def _walk(value: Any, depth: int = 0) -> Iterator[Reference]:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"The arguments are nested deeper than {MAX_DEPTH}.", code="too_deep")
    if type(value) is dict:
        reference = _read(value)
        if reference is not None:
            yield reference
            return
        value = value.values()
    if _holds_containers(value):
        for item in value:
            if _may_hold(item):
                yield from _walk(item, depth + 1)


def _holds_containers(values: Iterable[Any]) -> bool:
    # one pass in C over the types keeps long lists of numbers cheap
    kinds = set(map(type, values))
    return dict in kinds or list in kinds


def _may_hold(item: Any) -> bool:
    return (type(item) is dict or type(item) is list) and bool(item)


def _read(value: dict[Any, Any]) -> Reference | None:
    if len(value) > _MOST_KEYS or _MARKS.isdisjoint(value):
        return None
    for kind, word, form in (("job", "$job", str), ("call", "$call", int)):
        found = value.get(word)
        if type(found) is form and value.keys() <= {word, "path"}:
            path = value.get("path")
            if path is None:
                return Reference(kind, str(found))
            return Reference(kind, str(found), check_path(path)) if isinstance(path, list | tuple) else None
    blob = value.get("$blob")
    if isinstance(blob, str) and len(value) == 1:
        return Reference("blob", blob)
    return _read_packed(value)


def _read_packed(value: dict[Any, Any]) -> Reference | None:
    found = value.get("$packed")
    if not isinstance(found, str) or value.keys() - _PACKED or "size" not in value:
        return None
    size = value["size"]
    if type(size) is not int or size < 0:
        return None
    origin = (value.get("from"), value.get("token")) if "from" in value else None
    return Reference("packed", found, size=size, origin=origin)


_PACKED = frozenset({"$packed", "size", "from", "token"})
