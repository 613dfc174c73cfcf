"""The scripted double behaves like a service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import socaity
from socaity import (
    ConfigurationError,
    ConnectError,
    JobCancelled,
    JobFailed,
    JobLost,
    NotFoundError,
    ServerError,
)
from socaity.protocol.description import ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.testing import ScriptedTransport, number_events
from socaity.transport import Call, Target

from .doubles import DEADLINE, endpoint, on_loop


def connect(transport: ScriptedTransport, **options: Any) -> socaity.Service:
    return socaity.connect("memory://test", transport=transport, **{"progress": False, "retry": 1, **options})


def test_the_documented_example() -> None:
    transport = ScriptedTransport(endpoint("ask"), number_events(("result", 42)))
    with connect(transport) as service:
        assert service.ask(1).result(DEADLINE) == 42
        assert service.ask().result(DEADLINE) == 42
        assert transport.calls == [("ask", {"value": 1}), ("ask", {})]
    assert transport.is_closed


def test_without_a_script_every_call_gives_none() -> None:
    with connect(ScriptedTransport(ServiceDescription(endpoints=[endpoint("ask")]))) as service:
        assert service.ask().result(DEADLINE) is None


def test_a_script_may_be_a_generator() -> None:
    def script(call: Call) -> Iterator[JobEvent]:
        yield JobEvent(1, "progress", {"fraction": 0.5, "message": "half"})
        yield JobEvent(2, "chunk", call.arguments["value"])
        yield JobEvent(3, "result", None)

    with connect(ScriptedTransport(endpoint(streaming=True), script)) as service:
        job = service.ask("a")
        assert list(job) == ["a"]
        assert job.progress.message == "half"


def test_a_script_may_be_asynchronous_and_its_job_cancelled_and_watched_again() -> None:
    async def script(call: Call) -> AsyncIterator[JobEvent]:
        yield JobEvent(1, "log", {"message": "begun"})
        await asyncio.Event().wait()

    transport = ScriptedTransport(endpoint(), script)
    with connect(transport) as service:
        job = service.ask()
        with pytest.raises(TimeoutError):
            job.result(0.01)
        transport.lose_connection()
        assert isinstance(job.exception(DEADLINE), JobLost)
        again = service.job(job.id)
        again.cancel()
        assert isinstance(again.exception(DEADLINE), JobCancelled)
        assert again.logs == ["begun"]
        assert transport.cancelled == [job.id]
        assert isinstance(service.job("f" * 32).exception(DEADLINE), NotFoundError)


def test_what_a_script_raises_fails_the_job() -> None:
    def script(call: Call) -> Iterator[JobEvent]:
        yield JobEvent(1, "log", {"message": "begun"})
        raise ValueError("broken")

    with connect(ScriptedTransport(endpoint(), script)) as service:
        error = service.ask().exception(DEADLINE)
        assert isinstance(error, JobFailed)
        assert (error.error_type, error.logs) == ("ValueError", ("begun",))


def test_what_a_script_raises_at_once_refuses_the_call() -> None:
    def script(call: Call) -> Any:
        raise ServerError("full", status=503, code="queue_full")

    with connect(ScriptedTransport(endpoint(), script)) as service:
        with pytest.raises(ServerError, match="full"):
            service.ask().result(DEADLINE)


def test_tries_are_refused_as_often_as_wanted() -> None:
    transport = ScriptedTransport(endpoint())
    transport.refuse(ConnectError("away"), times=2)
    with connect(transport, retry=socaity.RetryPolicy(attempts=3, base_delay=0)) as service:
        assert service.ask().result(DEADLINE) is None
    assert len(set(transport.ids)) == 1
    assert len(transport.ids) == 3


def test_events_without_an_end_leave_the_job_running_until_the_close() -> None:
    transport = ScriptedTransport(endpoint(), number_events(("log", {"message": "a"})))
    with connect(transport) as service:
        job = service.ask()
        with pytest.raises(TimeoutError):
            job.result(0.01)
        on_loop(lambda: None)
    assert isinstance(job.exception(DEADLINE), JobLost)


def test_a_double_is_not_made_by_a_url() -> None:
    with pytest.raises(ConfigurationError, match="pass the double itself"):
        ScriptedTransport.open(Target("memory://test"))
