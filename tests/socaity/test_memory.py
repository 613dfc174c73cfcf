"""What unfinished jobs cost."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from .doubles import DEADLINE, held, on_loop

JOBS = 10_000


@pytest.mark.parametrize("is_watched", [False, True], ids=["alone", "in a group"])
def test_an_unfinished_job_costs_at_most_six_kilobytes(is_watched: bool) -> None:
    import socaity

    service, wire = held()
    ask = service.ask
    ask(0)
    wire.wait_for(1)
    gc.collect()
    tracemalloc.start()
    try:
        jobs = [ask(i) for i in range(JOBS)]
        group = socaity.gather(*jobs) if is_watched else None
        wire.wait_for(JOBS + 1)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] / JOBS < 6 * 1024
    finally:
        tracemalloc.stop()
    on_loop(lambda: [call.succeed(None) for call in wire.calls])
    assert all(job.done() for job in jobs)
    assert group is None or group.result(DEADLINE) == [None] * JOBS
    service.close()


def test_an_unfinished_job_on_the_socket_costs_at_most_six_kilobytes() -> None:
    """The session of the client keeps a number for each call, and the frames until they are acknowledged."""
    from socaity_transports._session import ClientSession

    frames: list[bytes] = []
    service, wire = held()
    ask = service.ask
    ask(0)
    wire.wait_for(1)

    async def open_session() -> ClientSession:
        session = ClientSession(wanted=lambda: None, timeout=DEADLINE)
        session.connect(frames.append)
        session._on_welcome({"session": "s", "resumed": False, "received": 0})
        return session

    from socaity._portal import portal

    session = portal.spawn(open_session()).result(DEADLINE)
    start: Callable[..., None] = session.start
    wire.start = start  # type: ignore[method-assign]
    frames.clear()
    gc.collect()
    tracemalloc.start()
    try:
        jobs = [ask(i) for i in range(JOBS)]
        on_loop(lambda: None)
        gc.collect()
        assert len(session._calls) == len(jobs) == JOBS
        assert tracemalloc.get_traced_memory()[0] / JOBS < 6 * 1024
    finally:
        tracemalloc.stop()
    service.close()
