"""Text of others as Python source: names, literals and docstrings that can be nothing else."""

from __future__ import annotations

import builtins
import keyword
import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

__all__ = ["Names", "class_name", "docstring", "is_name", "literal", "quoted"]

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_MAX_NAME = 80


def is_name(text: str) -> bool:
    """Whether `text` can stand as the name of a parameter or field and means the same there."""
    return (
        text.isidentifier()
        and not keyword.iskeyword(text)
        and unicodedata.normalize("NFKC", text) == text  # Python normalises names, the wire does not
        and not text.startswith("__")  # __debug__, and what type checkers take for positional only
    )


class Names:
    """Names of one scope; each is given once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._numbers: dict[str, int] = {}

    def give(self, text: str, fallback: str) -> str:
        """`text` if it is a name and free, else the nearest one that is."""
        name = text if is_name(text) else _near(text, fallback)
        found, number = name, self._numbers.get(name, 1)
        while found in self._taken:
            number += 1
            found = f"{name}_" if number == 2 else f"{name}_{number}"
        self._taken.add(found)
        self._numbers[name] = number
        return found


def _near(text: str, fallback: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text)[:_MAX_NAME].strip("_")
    if not name:
        return fallback
    if name[0].isdigit():
        name = f"{fallback}_{name}"
    return f"{name}_" if keyword.iskeyword(name) else name


def class_name(text: str) -> str:
    """`image options` -> `ImageOptions`."""
    words = re.findall(r"[A-Za-z0-9]+", text[:_MAX_NAME])
    name = "".join(word[0].upper() + word[1:] for word in words)
    if not name:
        return "Record"
    if name[0].isdigit() or keyword.iskeyword(name) or hasattr(builtins, name):
        name = f"Record{name}"
    return name


def quoted(text: str) -> str:
    """A string literal on one line. What cannot be seen is escaped: no text can pretend to be code."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if number > 0xFFFF:
        return f"\\U{number:08x}"
    return f"\\u{number:04x}"


def docstring(text: str, indent: str = "") -> str:
    """A docstring in triple quotes, as a block that is indented by `indent`."""
    lines = [line.expandtabs(4).rstrip() for line in re.split(r"\r\n|\r|\n", text.strip())]
    shown = ["".join(one if one == '"' else _escaped(one) for one in line) for line in lines]
    body = "\n".join([shown[0], *(indent + line if line else "" for line in shown[1:])])
    body = re.sub(r'""+|"$', lambda quotes: '\\"' * len(quotes[0]), body)
    end = f"\n{indent}" if len(lines) > 1 else ""
    return f'{indent}"""{body}{end}"""'


def literal(value: Any) -> str:
    """A number, text, boolean or None as Python writes it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    raise TypeError(f"{type(value).__name__} has no literal")
