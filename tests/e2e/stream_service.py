"""A stream that is quicker than its reader; run in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

from socaity_server import JobProgress, SocaityRouter

router = SocaityRouter(grace=0.5)


@router.add_route("/burst", concurrency=8)
def burst(job_progress: JobProgress, number: int) -> Iterator[int]:
    """Many numbers at once, and no end before the job is cancelled."""
    yield from range(number)
    while not job_progress.cancelled:
        time.sleep(0.01)
