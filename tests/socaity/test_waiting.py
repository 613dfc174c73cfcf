"""Waiting costs no processor time, in a thread and in a loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import socaity

from .doubles import held

PATIENCE = 0.5


def in_thread(job: socaity.Job[Any]) -> None:
    with pytest.raises(TimeoutError):
        job.result(PATIENCE)


def in_loop(job: socaity.Job[Any]) -> None:
    async def wait() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await job

    asyncio.run(wait())


def in_group(job: socaity.Job[Any]) -> None:
    with pytest.raises(TimeoutError):
        socaity.gather(job).result(PATIENCE)


@pytest.mark.parametrize("wait", [in_thread, in_loop, in_group])
def test_waiting_costs_no_processor_time(wait: Callable[[socaity.Job[Any]], None]) -> None:
    service, wire = held()
    job = service.ask()
    wire.wait_for(1)
    before, began = time.process_time(), time.monotonic()  # of all threads of this process
    wait(job)
    assert time.monotonic() - began >= PATIENCE * 0.9
    # asking in a loop would cost all of the time; asking every few milliseconds, some of it
    assert time.process_time() - before < PATIENCE / 5
    service.close()
