"""What a person sees while waiting: bars in a terminal or notebook, sparse lines in a log."""

from __future__ import annotations

import sys
from typing import Any


def tell(text: str) -> None:
    """One line to the person at the keyboard."""
    sys.stderr.write(f"\n{text}\n")
    sys.stderr.flush()


def begin(waited: Any) -> None:
    """Somebody begins to wait for a Job or JobGroup."""
