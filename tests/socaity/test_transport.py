"""The seam: what the defaults of `Transport` do, and what a Target shows of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

import socaity
from socaity import ConfigurationError, JobLost, NotFoundError
from socaity._portal import portal
from socaity.protocol.events import JobEvent
from socaity.testing import ScriptedTransport
from socaity.transport import Call, Target

from .doubles import DEADLINE, HeldTransport, endpoint, held, on_loop

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


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("ws://user:hunter2@host:8000/ws", "ws://host:8000/ws"),
        ("http://hunter2@host", "http://host"),
        ("http://host/a/b?key=hunter2#hunter2", "http://host/a/b"),
        ("http://host?key=hunter2", "http://host"),
        ("http://host#hunter2", "http://host"),
        ("http://user:hunter2@[::1]:80/x/@y", "http://[::1]:80/x/@y"),
        ("http://user:hunter2@x@host/", "http://host/"),
        ("inprocess:", "inprocess:"),
    ],
)
def test_what_is_shown_of_a_target_holds_no_credentials(url: str, place: str) -> None:
    target = Target(url, api_key="hunter2", headers={"X-Key": "hunter2"})
    assert target.place == place
    assert repr(target) == f"Target({place!r}, timeout=10.0)"


def test_no_message_of_a_service_shows_the_credentials_of_its_url() -> None:
    wire = ScriptedTransport(endpoint())
    service = socaity.connect("held://user:hunter2@host:1/x?key=hunter2", transport=wire, progress=False)
    shown = [repr(service), service._repr_html_()]
    with pytest.raises(NotFoundError) as unknown:
        service["nothing"]
    service.close()
    with pytest.raises(ConfigurationError) as closed:
        service.job("a" * 32)
    with pytest.raises(socaity.ConnectError) as no_wire:
        on_loop(service._wire)
    with pytest.raises(ConfigurationError, match=r"'host:1' is no URL; write http://host:1 or") as no_url:
        socaity.connect("user:hunter2@host:1?key=hunter2")
    shown += [str(caught.value) for caught in (unknown, closed, no_wire, no_url)]
    assert "hunter2" not in "".join(shown)
    assert all("host:1" in text for text in shown)
