"""Pipelines of a held service that a test drives step by step, and moves in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import socaity
from socaity.exceptions import SocaityError
from socaity.protocol.description import EndpointDescription, ParameterDescription
from socaity.transport import Call

from .doubles import HeldTransport, endpoint, held

STEPS = ("load", "detect", "read", "draw", "save")


def _step(name: str) -> EndpointDescription:
    inputs = [ParameterDescription(name=one, required=False, json_schema={}) for one in ("value", "other")]
    return endpoint(name, *inputs, doc=f"Does {name}.\n\nAnd more.")


class Pipeline:
    """`load → detect → read → draw → save`, where draw also needs what load gave; nothing has run yet."""

    def __init__(self) -> None:
        self.service, self.wire = held(*map(_step, STEPS))
        self.load = self.service["load"]("page.png")
        self.detect = self.service["detect"](self.load)
        self.read = self.service["read"](self.detect)
        self.draw = self.service["draw"](self.read, other=self.load)
        self.save = self.service["save"](self.draw)

    @property
    def jobs(self) -> tuple[socaity.Job[Any], ...]:
        return (self.load, self.detect, self.read, self.draw, self.save)

    def close(self) -> None:
        self.service.close()

    def call_of(self, job: socaity.Job[Any]) -> Call:
        """The call of a step at the service, as soon as it is there."""
        number = 1
        while True:
            calls = self.wire.wait_for(number)
            found = [call for call in calls if call.id == job.id]
            if found:
                return found[0]
            number = len(calls) + 1

    def run(self, job: socaity.Job[Any], fraction: float | None = None, message: str | None = None) -> None:
        events: list[tuple[Any, Mapping[str, Any]]] = [
            ("status", {"status": "running", "queue_position": None})
        ]
        if fraction is not None or message is not None:
            events.append(("progress", {"fraction": fraction, "message": message}))
        self.wire.deliver(self.call_of(job), *events)

    def queue(self, job: socaity.Job[Any], place: int) -> None:
        self.wire.deliver(self.call_of(job), ("status", {"status": "queued", "queue_position": place}))

    def log(self, job: socaity.Job[Any], *lines: str) -> None:
        self.wire.deliver(self.call_of(job), *(("log", {"message": line}) for line in lines))

    def succeed(self, *jobs: socaity.Job[Any], value: Any = None) -> None:
        for job in jobs:
            self.wire.succeed(self.call_of(job), value)

    def fail(self, job: socaity.Job[Any], error: SocaityError) -> None:
        self.wire.fail(self.call_of(job), error)

    def end(self) -> None:
        """Wait until the last step has ended, in whatever way."""
        self.save.exception(20)


def set_times(
    job: socaity.Job[Any], *, created: float, started: float | None = None, ended: float | None = None
) -> None:
    """Put a job in time, in seconds."""
    job._created, job._started = created, started
    job._ended_at = ended


def single(name: str = "draw") -> tuple[socaity.Job[Any], HeldTransport, Call]:
    """One job at a service of its own."""
    service, wire = held(endpoint(name))
    job = service[name]()
    return job, wire, wire.wait_for(1)[0]
