"""How many columns of a terminal a text takes: wide characters take two, and marks on others none."""

from __future__ import annotations

import unicodedata

__all__ = ["cut", "padded", "width_of"]


def width_of(text: str) -> int:
    """The columns of one line."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def padded(text: str, width: int) -> str:
    """`text` with blanks behind it, up to `width` columns."""
    return text + " " * (width - width_of(text))


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as has room in `width` columns, with `…` behind it."""
    if width_of(text) <= width:
        return text
    used, kept = 1, []  # one for the dots
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…"


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
