"""What is known of a job that `Service.job` attached to: at first nothing but its id."""

from __future__ import annotations

from typing import Any

from .protocol.events import JobStatus

__all__ = ["has_times", "is_heard_of"]


def is_heard_of(job: Any) -> bool:
    """False as long as the service has said nothing of it, not even that it is queued."""
    return has_times(job) or bool(job._seq) or job.done() or job._status is not JobStatus.QUEUED


def has_times(job: Any) -> bool:
    """Whether its times are those of the job, and not from when somebody attached to it."""
    return getattr(job._endpoint, "has_times", True)
