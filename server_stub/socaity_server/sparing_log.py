"""`SparingLog`: warnings of what may happen very often, of which a few are enough."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from socaity.exceptions import JobFailed, SocaityError

__all__ = ["SparingLog", "one_line"]

_PERIOD = 60.0
_LINES = 5
"""Lines about one thing in each period."""
_THINGS = 20
"""Things in each period: whoever can make new ones must not fill the disk with them."""
_LONGEST = 500


class SparingLog:
    """Writes the first lines about a thing in each minute, and how many it has left out before. Belongs to one thread."""

    def __init__(self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._ends = 0.0
        self._lines: dict[Hashable, int] = {}
        self._left_out = 0

    def warn(self, thing: Hashable, text: str) -> None:
        """Write `text`, which is made one line, unless there were enough about this thing."""
        now = self._clock()
        if now >= self._ends:
            self._ends = now + _PERIOD
            self._lines.clear()
            if self._left_out:
                self._logger.warning("%d lines like the next one were left out", self._left_out)
                self._left_out = 0
        count = self._lines.get(thing, 0)
        if count == _LINES or (not count and len(self._lines) == _THINGS):
            self._left_out += 1
            return
        self._lines[thing] = count + 1
        self._logger.warning("%s", one_line(text))

    def failed(self, endpoint: str, error: BaseException, job_id: str = "") -> None:
        """A call of a function or model failed; what it was called with is not said."""
        kind = getattr(error, "error_type", None) or type(error).__name__
        # the text of a JobFailed begins with the type, and str() would add the traceback
        text = Exception.__str__(error) if isinstance(error, SocaityError) else str(error)
        if not (isinstance(error, JobFailed) and text.startswith(kind)):
            text = f"{kind}: {text}" if text else kind
        job = f" (job {job_id})" if job_id else ""
        self.warn((endpoint, kind), f"a call of {endpoint!r} failed{job}: {text}")


def one_line(text: str) -> str:
    """Without what could look like another line, or do something to a terminal, and not too long."""
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return "".join(one if one.isprintable() else " " for one in short)
