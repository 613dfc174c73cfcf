"""JSON schemas of a service, read with care: a few lines of them can name more than anybody could ever walk through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MAX_DEPTH", "MAX_SCHEMAS", "SchemaWalk", "find"]

MAX_DEPTH = 12
MAX_SCHEMAS = 2_000
_PARTS_AT_ONCE = 100
_MISSING = object()


def find(reference: str, root: Any) -> Any:
    """What a `$ref` names within `root`; None if there is nothing, or if it is in another document."""
    if not reference.startswith("#"):
        return None
    target = root
    for part in filter(None, reference[1:].split("/")):
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping):
            target = target.get(part)
        elif isinstance(target, list) and part.isdecimal() and part.isascii() and len(part) < 10:
            target = target[int(part)] if int(part) < len(target) else None
        else:
            return None
    return target


class SchemaWalk:
    """A walk through the schema `root` and what it refers to, as deep and as wide as there is room for.

    Every schema that is looked at is entered first. Where references meet again and again the same schemas would be
    entered more often than a program can wait for; so there is room for so many only, and what comes behind is unknown.
    """

    def __init__(self, root: Any, *, schemas: int = MAX_SCHEMAS, depth: int = MAX_DEPTH) -> None:
        self.root = root
        self._left = schemas
        self._depth = depth
        self._found: dict[str, Any] = {}

    @property
    def is_over(self) -> bool:
        """Whether there is no room left."""
        return self._left <= 0

    def enter(self, schema: Any, depth: int) -> Mapping[str, Any] | None:
        """`schema`, if it is one and there is room for it; None: it may be anything.

        A schema with very many parts counts for several, because all of them are looked at.
        """
        if depth > self._depth or self._left <= 0 or not isinstance(schema, Mapping):
            return None
        parts = len(schema) + sum(len(part) for part in schema.values() if isinstance(part, (list, Mapping)))
        self._left -= 1 + parts // _PARTS_AT_ONCE
        return schema if self._left >= 0 else None

    def follow(self, reference: Any) -> Any:
        """What a `$ref` names; None if there is nothing."""
        if not isinstance(reference, str):
            return None
        found = self._found.get(reference, _MISSING)
        if found is _MISSING:
            found = self._found[reference] = find(reference, self.root)
        return found
