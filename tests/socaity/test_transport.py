"""The seam: what the defaults of `Transport` do, and what a Target shows of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

import socaity
from socaity import JobLost
from socaity._portal import portal
from socaity.protocol.events import JobEvent
from socaity.testing import ScriptedTransport
from socaity.transport import Call

from .doubles import DEADLINE, HeldTransport, endpoint, held

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


class Watched:
    """Events that never come, and that say how they were treated."""

    def __init__(self) -> None:
        self.begun = False
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[JobEvent]:
        return self

    async def __anext__(self) -> JobEvent:
        self.begun = True
        await asyncio.Event().wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed += 1


class Waiting(ScriptedTransport):
    events: Watched

    def run(self, call: Call) -> AsyncIterator[JobEvent]:
        self.events = Watched()
        return self.events


@pytest.mark.parametrize("turns", [0, 3])
def test_a_call_that_is_cancelled_ends_and_closes_its_events_whether_it_began_or_not(turns: int) -> None:
    service, _ = held()
    job = service.ask()
    wire = Waiting(endpoint())

    async def start_and_close() -> None:
        wire.start([job])
        for _ in range(turns):
            await asyncio.sleep(0)
        await wire.aclose()

    portal.spawn(start_and_close()).result(DEADLINE)
    assert isinstance(job.exception(DEADLINE), JobLost)
    assert (wire.events.begun, wire.events.closed) == (turns > 0, 1)
    service.close()


def test_the_work_sees_the_context_variables_of_the_caller() -> None:
    seen: list[str] = []

    def script(call: Call) -> Any:
        seen.append(WHO.get())
        return [JobEvent(1, "result", None)]

    wire = ScriptedTransport(endpoint(), script)
    with socaity.connect("memory://test", transport=wire, progress=False) as service:
        token = WHO.set("Ada")
        try:
            service.ask().result(DEADLINE)
            service.ask(service.ask()).result(DEADLINE)
        finally:
            WHO.reset(token)
        service.ask().result(DEADLINE)
    assert seen == ["Ada", "Ada", "Ada", "nobody"]


def test_a_transport_that_does_not_use_the_context_costs_no_copy() -> None:
    class Plain(HeldTransport):
        uses_context = False

    with socaity.connect("memory://test", transport=Plain(), progress=False) as service:
        assert service.ask().context is None
    with socaity.connect("memory://test", transport=HeldTransport(), progress=False) as service:
        assert service.ask().context is not None
