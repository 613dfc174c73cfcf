"""The life of a job as numbered events, and the words for its state."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal, NamedTuple

EventKind = Literal["status", "progress", "log", "chunk", "result", "error"]
TERMINAL_KINDS = frozenset({"result", "error"})


class JobStatus(StrEnum):
    """Where a job is; the last three are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class JobEvent(NamedTuple):
    """One event of a job; `seq` counts from 1 without a gap (0: made on this side, not part of the numbering).

    The shape of `data` for every kind is in `docs/wire-protocol.md`.
    """

    seq: int
    kind: EventKind
    data: Any

    @property
    def is_terminal(self) -> bool:
        return self.kind in TERMINAL_KINDS
