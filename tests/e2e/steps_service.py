"""Five steps of a pipeline, of which `read` does what its page says; run in a process of its own."""

from __future__ import annotations

import threading

from socaity_server import JobProgress, SocaityRouter

router = SocaityRouter()
_never = threading.Event()


@router.add_route("/load", queue_size=10)
def load(page: str) -> str:
    return page


@router.add_route("/detect", queue_size=10)
def detect(page: str) -> str:
    return page


@router.add_route("/read", queue_size=10)
def read(job_progress: JobProgress, page: str) -> str:
    """Fail, or stay until it is stopped."""
    if page == "broken":
        raise ValueError("the page cannot be read")
    job_progress.progress, job_progress.message = 0.5, "half of the words"
    while not _never.wait(0.01):
        job_progress.message = "half of the words"  # raises once it is cancelled
    return page


@router.add_route("/draw", queue_size=10)
def draw(text: str) -> str:
    return text


@router.add_route("/save", queue_size=10)
def save(drawing: str) -> str:
    return drawing
