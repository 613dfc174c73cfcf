"""Ids of jobs: cheap to give, unique over processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

__all__ = ["job_ids"]


class JobIds:
    """Ids of 32 hex digits: 96 random bits of the process and a counter; made into text only when somebody looks."""

    def __init__(self) -> None:
        self.next: Callable[[], int] = count(1).__next__
        self._prefixes: list[tuple[int, str]] = [(0, os.urandom(12).hex())]
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def text(self, number: int) -> str:
        prefix = next(prefix for start, prefix in reversed(self._prefixes) if start <= number)
        return f"{prefix}{number & 0xFFFFFFFF:08x}"

    def _renew(self) -> None:
        # parent and child go on counting from the same number
        self._prefixes.append((self.next(), os.urandom(12).hex()))


job_ids = JobIds()
