"""References inside arguments: `{"$blob": sha256}` to uploaded bytes, `{"$job": id, "path": […]}` to another job's result,
`{"$call": number, "path": […]}` to that of a direct call of the same session, and `{"$packed": sha256, "size": …, "from": URL,
"token": …}` to a result of another service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from socaity.exceptions import InvalidInputError
from socaity.protocol.messagepack import MAX_DEPTH

__all__ = ["Reference", "find_references", "follow", "resolve"]


class Reference(NamedTuple):
    """`kind` is `job`, `call`, `blob` or `packed`; `path` leads into the result. `origin` of a packed one is where it may be
    fetched, if that was said: URL and token."""

    kind: str
    id: str
    path: tuple[Any, ...] = ()
    size: int = 0
    origin: tuple[Any, Any] | None = None


Fetch: TypeAlias = Callable[[Reference, str], Awaitable[Any]]


def find_references(arguments: Mapping[str, Any]) -> list[tuple[str, Reference]]:
    """All references with the parameter that they stand in; almost always none, and then cheap."""
    found: list[tuple[str, Reference]] = []
    for name, value in arguments.items():
        kind = type(value)
        if kind is dict or kind is list:
            found.extend((name, reference) for reference in _walk(value))
    return found


async def resolve(value: Any, fetch: Fetch, parameter: str) -> Any:
    """`value` with every reference replaced by what `fetch` gives for it."""
    if type(value) is dict:
        reference = _read(value)
        if reference is not None:
            return await fetch(reference, parameter)
        return {key: await resolve(item, fetch, parameter) for key, item in value.items()}
    if type(value) is list and any(True for _ in _walk(value)):
        return [await resolve(item, fetch, parameter) for item in value]
    return value


def follow(result: Any, path: Sequence[Any]) -> Any:
    """The part of `result` at `path`; raises LookupError or TypeError."""
    for step in path:
        result = result[step]
    return result


def _walk(value: Any, depth: int = 0) -> Iterator[Reference]:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"The arguments are nested deeper than {MAX_DEPTH}.", code="too_deep")
    if type(value) is dict:
        reference = _read(value)
        if reference is not None:
            yield reference
            return
        for item in value.values():
            if type(item) in (dict, list):
                yield from _walk(item, depth + 1)
    else:
        # One pass in C over the types keeps long lists of numbers cheap.
        kinds = set(map(type, value))
        if dict in kinds or list in kinds:
            for item in value:
                if type(item) in (dict, list):
                    yield from _walk(item, depth + 1)


def _read(value: dict[Any, Any]) -> Reference | None:
    if len(value) > 2:
        return _read_packed(value)
    for kind, word, form in (("job", "$job", str), ("call", "$call", int)):
        found = value.get(word)
        if type(found) is form and value.keys() <= {word, "path"}:
            path = value.get("path") or ()
            return Reference(kind, str(found), tuple(path)) if isinstance(path, list | tuple) else None
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
