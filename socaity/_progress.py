"""How far a job is."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """`fraction` from 0 to 1, or None while it is unknown; `message` is what the function says of itself."""

    fraction: float | None = None
    message: str | None = None
