"""Counts the calls of functions, so that a test of speed says the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Fails inside as soon as more Python functions are called than `calls`; also ends what would never end."""
    left = calls

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        if event == "call":
            left -= 1
            assert left >= 0, f"more than {calls:,} calls"

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
