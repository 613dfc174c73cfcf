"""Where the time of one request went: queued, batched with how many, computed, encoded."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

from .batching.ticket import Ticket

__all__ = ["Waterfall"]


@dataclass(slots=True)
class Waterfall:
    """The moments of one request, in seconds of `time.monotonic`.

    It `arrived` in the batcher; a free instance waited for more calls from `opened` on; its batch `started` and `ended` on
    an instance; the caller was `answered`; the answer was `finished` as bytes.
    """

    arrived: float
    opened: float
    started: float
    ended: float
    answered: float
    finished: float
    rows: int
    batch_calls: int
    batch_rows: int

    @classmethod
    def of(cls, ticket: Any) -> Self | None:
        """What is known of a call that has ended; None where it did not pass a batcher."""
        ticket = getattr(ticket, "ticket", ticket)  # of a call that a circuit breaker lets through
        if not isinstance(ticket, Ticket) or ticket.run is None:
            return None
        run, now = ticket.run, time.monotonic()
        return cls(
            arrived=ticket.arrived,
            opened=min(max(run.opened, ticket.arrived), run.started),
            started=run.started,
            ended=run.ended,
            answered=now,
            finished=now,
            rows=ticket.rows,
            batch_calls=run.calls,
            batch_rows=run.rows,
        )

    def encoded(self, now: float) -> None:
        """The answer is ready to be sent."""
        self.finished = now

    @property
    def steps(self) -> list[tuple[str, float, float]]:
        """Name, start and length of each step, the start counted from the arrival."""
        return [
            ("queued", 0.0, max(self.opened - self.arrived, 0.0)),
            ("batched", self.opened - self.arrived, max(self.started - self.opened, 0.0)),
            ("computed", self.started - self.arrived, self.ended - self.started),
            ("delivered", self.ended - self.arrived, max(self.answered - self.ended, 0.0)),
            ("encoded", self.answered - self.arrived, self.finished - self.answered),
        ]

    def document(self, model: str) -> dict[str, Any]:
        """For people and programs; times in milliseconds."""
        return {
            "model": model,
            "rows": self.rows,
            "batch": {"calls": self.batch_calls, "rows": self.batch_rows},
            "total_ms": _ms(self.finished - self.arrived),
            "steps": [
                {"step": name, "start_ms": _ms(start), "ms": _ms(length)}
                for name, start, length in self.steps
            ],
        }

    def server_timing(self) -> bytes:
        """As a `Server-Timing` header (W3C), which browsers draw."""
        parts = [f"{name};dur={_ms(length):g}" for name, _, length in self.steps]
        parts.append(f'batch;desc="{self.batch_calls} calls, {self.batch_rows} rows"')
        return ", ".join(parts).encode()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
