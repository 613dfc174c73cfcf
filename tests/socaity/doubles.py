"""A transport that the test answers by hand, and short ways to make endpoints and services."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import socaity
from socaity._portal import portal
from socaity.exceptions import SocaityError
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Call, Target, Transport

DEADLINE = 20.0
T = TypeVar("T")


def on_loop(function: Callable[[], T]) -> T:
    """Run a function on socaity's loop and wait for it."""

    async def run() -> T:
        return function()

    return portal.spawn(run()).result(DEADLINE)


def endpoint(
    name: str = "ask", *parameters: ParameterDescription, schema: Mapping[str, Any] | None = None, **more: Any
) -> EndpointDescription:
    """An endpoint with the parameters given, or one optional `value` of any type (or of `schema`)."""
    given = list(parameters) or [
        ParameterDescription(name="value", required=False, json_schema=dict(schema or {}))
    ]
    return EndpointDescription(name=name, path=f"/{name}", parameters=given, **more)


class HeldTransport(Transport):
    """Keeps the calls until the test ends them."""

    def __init__(self, *endpoints: EndpointDescription) -> None:
        self.description = ServiceDescription(title="held", endpoints=list(endpoints or [endpoint()]))
        self.calls: list[Call] = []
        self.bursts: list[int] = []
        self.cancelled: list[str] = []
        self.is_closed = False
        self._changed = threading.Condition()

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls()

    async def describe(self) -> ServiceDescription:
        return self.description

    def start(self, calls: Sequence[Call]) -> None:
        with self._changed:
            self.calls.extend(calls)
            self.bursts.append(len(calls))
            self._changed.notify_all()

    def attach(self, call: Call) -> None:
        self.start([call])

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)
        for call in self.calls:
            if call.id == job_id:
                call.fail(socaity.JobCancelled("cancelled", job_id=job_id))

    async def aclose(self) -> None:
        self.is_closed = True
        for call in self.calls:
            call.accept()
            call.fail(socaity.JobLost("closed", job_id=call.id))

    # -- for the test, from any thread ---------------------------------------------------------------------------------

    def wait_for(self, count: int) -> list[Call]:
        """The calls, as soon as there are `count`."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, DEADLINE)
            return list(self.calls)

    def deliver(self, call: Call, *events: tuple[Any, Any]) -> None:
        """Deliver events, numbered on from the last."""

        def hand_over() -> None:
            for kind, data in events:
                call.deliver(JobEvent(call.seq + 1, kind, data))

        on_loop(hand_over)

    def succeed(self, call: Call, value: Any = None) -> None:
        on_loop(lambda: call.succeed(value))

    def fail(self, call: Call, error: SocaityError) -> None:
        on_loop(lambda: call.fail(error))


def held(*endpoints: EndpointDescription, **options: Any) -> tuple[socaity.Service, HeldTransport]:
    """A service whose calls the test answers."""
    transport = HeldTransport(*endpoints)
    return socaity.connect(
        "held://test", transport=lambda target: transport, **{"progress": False, "retry": 1, **options}
    ), transport
