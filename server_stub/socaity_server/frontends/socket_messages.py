"""The messages of a client: what form each has, and what may stand in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from socaity.protocol.frames import CALL, CANCEL, DESCRIBE, FETCH, PUBLISH, RELEASE, SUBMIT, WATCH
from socaity.protocol.messagepack import MalformedError

__all__ = ["SHAPES", "check", "read_options", "walk"]

SHAPES: dict[int, tuple[str, tuple[Any, ...]]] = {
    CALL: (f"[{CALL}, n, endpoint, {{arguments}}, {{options}}?]", (int, int, str, dict)),
    SUBMIT: (f"[{SUBMIT}, n, endpoint, {{arguments}}, job id, {{options}}?]", (int, int, str, dict, str)),
    WATCH: (f"[{WATCH}, n, job id, after]", (int, int, str, int)),
    CANCEL: (f"[{CANCEL}, n, call number or job id]", (int, int, (int, str))),
    DESCRIBE: (f"[{DESCRIBE}, n]", (int, int)),
    FETCH: (f"[{FETCH}, n, call number]", (int, int, int)),
    RELEASE: (f"[{RELEASE}, call number]", (int, int)),
    PUBLISH: (f"[{PUBLISH}, n, call number or job id, [path]]", (int, int, (int, str), list)),
}

_MOST_URGENT = 10


def read_options(message: list[Any]) -> dict[str, Any]:
    """Take the options of a call off its message. Raises MalformedError."""
    given = message.pop()
    if not isinstance(given, dict):
        raise MalformedError("the options of a call are a map")
    timeout, priority = given.get("timeout"), given.get("priority", 0)
    if timeout is not None and (not isinstance(timeout, int | float) or not 0 <= timeout < math.inf):
        raise MalformedError("a timeout is a number of seconds")
    if type(priority) is not int or abs(priority) > _MOST_URGENT:
        raise MalformedError(f"a priority is a whole number from {-_MOST_URGENT} to {_MOST_URGENT}")
    return {"timeout": timeout, "priority": priority, "explain": given.get("explain") is True}


def check(message: list[Any]) -> bool:
    """Raises MalformedError for a message whose parts are not what its number says; else True."""
    form, types = SHAPES[message[0]]
    if len(message) != len(types) or any(
        not isinstance(part, kind) for part, kind in zip(message, types, strict=True)
    ):
        raise MalformedError(f"a message does not have the form {form}")
    return True


def walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item)
