"""Jobs inside of arguments: where they stand, and arguments with something else in their places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ._group import JobGroup
from ._job import Job, JobReference
from ._media import size_of
from ._schema import plain

__all__ = ["groups_in", "holds_media", "is_large", "jobs_in", "not_there", "replaced"]

LARGE = 64 * 1024
"""A result of a job that has more bytes than this is referred to even when it is here: it need not travel again."""
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})

Put = Callable[["Job[Any]", "tuple[str | int, ...]"], Any]


def jobs_in(value: Any) -> list[Job[Any]]:
    """All jobs in a value, as often as they stand there."""
    found: list[Job[Any]] = []

    def put(up: Job[Any], path: tuple[str | int, ...]) -> None:
        found.append(up)

    replaced(value, put)
    return found


def groups_in(value: Any) -> list[JobGroup[Any]]:
    """All groups in a value."""
    found: list[JobGroup[Any]] = []
    replaced(value, not_there, found.append)
    return found


def replaced(value: Any, put: Put, note_group: Callable[[JobGroup[Any]], None] | None = None) -> Any:
    """`value` with `put(job, path)` in the place of every job, and a group as the list of its members; what holds them
    becomes plain."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, Job):
        return put(value, ())
    if isinstance(value, JobReference):
        return put(value.job, value.path)
    if isinstance(value, JobGroup):
        if note_group is not None:
            note_group(value)
        return [put(member, ()) for member in value.jobs]
    if kind is list or kind is tuple:
        if _ATOMS.issuperset(map(type, value)):
            return value
        items = [replaced(item, put, note_group) for item in value]
        return items if kind is list else tuple(items)
    if isinstance(value, Mapping):
        return {key: replaced(item, put, note_group) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(item, put, note_group) for item in value]
    if size_of(value) is not None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: replaced(getattr(value, name), put, note_group) for name in names}
    dump = getattr(value, "model_dump", None)
    if dump is not None and hasattr(value, "model_fields_set"):
        return replaced(dump(mode="python", warnings=False), put, note_group)  # a job fits no field
    return plain(value)


def holds_media(value: Any) -> bool:
    """Whether it is a picture, sound, table or file, or a list or map with one."""
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        return not _ATOMS.issuperset(map(type, items)) and any(map(holds_media, items))
    return size_of(value) is not None


def is_large(value: Any) -> bool:
    """Whether a value takes more than LARGE bytes on the wire, or a little less."""
    return _bytes_of(value, LARGE) > LARGE


def _bytes_of(value: Any, enough: int) -> int:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    size = size_of(value)
    if size is not None:
        return size
    total = int(getattr(value, "nbytes", 0) or 9)
    if isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            total += _bytes_of(item, enough)
            if total > enough:
                break
    return total


def not_there(up: Job[Any], path: tuple[str | int, ...]) -> None:
    """What `replaced` puts where only the places matter."""
    return None
