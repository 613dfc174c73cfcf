"""Where the time of a call or job of the socket went, for a client that asked."""

from __future__ import annotations

import time
from typing import Any

from socaity.protocol.events import JobEvent
from socaity.protocol.frames import FrameWriter

from ..waterfall import Waterfall

__all__ = ["JobTimes", "timing_of_call"]


def timing_of_call(ticket: Any, result: Any) -> dict[str, float]:
    """Seconds of a direct call that has ended, and how many rows were computed together."""
    timing = {"queued": 0.0, "batched": 0.0, "computed": 0.0, "encoded": _encoding_time(result), "rows": 1}
    known = Waterfall.of(ticket)
    if known is not None:
        timing["queued"] = max(known.opened - known.arrived, 0.0)
        timing["batched"] = max(known.started - known.opened, 0.0)
        timing["computed"] = max(known.ended - known.started, 0.0)
        timing["rows"] = known.batch_rows
    return timing


class JobTimes:
    """When a job came and began, told by its events."""

    def __init__(self, came: float) -> None:
        self._came = came
        self._leased: float | None = None
        self._began: float | None = None

    def note(self, event: JobEvent, now: float) -> list[dict[str, float]]:
        """Take an event; of the last one it gives the timing."""
        if event.kind == "status":
            if event.data["status"] == "running":
                self._began = now
            elif event.data["queue_position"] is None and self._leased is None:
                self._leased = now  # out of the queue; now it waits for other jobs
        if not event.is_terminal:
            return []
        began = now if self._began is None else self._began
        queued = (began if self._leased is None else self._leased) - self._came
        encoded = _encoding_time(event.data)
        return [{"queued": queued, "batched": 0.0, "computed": now - began, "encoded": encoded, "rows": 1}]


def _encoding_time(value: Any) -> float:
    """Seconds that it takes to pack a value; measured by doing it once more, as it is packed with other messages."""
    began = time.perf_counter()
    try:
        FrameWriter().pack([value])
    except Exception:  # what cannot be packed is told where it is sent
        return 0.0
    return time.perf_counter() - began
