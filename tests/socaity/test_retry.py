"""When a refused submit is tried again, with which id and after how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import socaity
from socaity import (
    AuthenticationError,
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobLost,
    ProtocolError,
    RateLimitError,
    RetryPolicy,
    ServerError,
    TransportTimeout,
)
from socaity._portal import portal
from socaity.testing import ScriptedTransport, number_events

from .doubles import DEADLINE, endpoint, held, on_loop

FULL = ServerError("full", status=503, code="queue_full")
AT_ONCE = RetryPolicy(attempts=5, base_delay=0, max_delay=0)


def longest(low: float, high: float) -> float:
    return high


@pytest.mark.parametrize(
    ("attempt", "error", "elapsed", "delay"),
    [
        (1, FULL, 0, 0.2),
        (2, FULL, 0, 0.4),
        (5, FULL, 0, 3.2),
        (6, FULL, 0, None),
        (1, ConnectError("x"), 0, 0.2),
        (1, RateLimitError("x", retry_after=5), 0, 5.2),
        (1, RateLimitError("x", retry_after=61), 0, None),
        (1, FULL, 59.9, None),
        (1, FULL, 59.7, 0.2),
        (1, ServerError("x"), 0, None),
        (1, InvalidInputError("x"), 0, None),
        (1, AuthenticationError("x"), 0, None),
        (1, TransportTimeout("x"), 0, 0.2),
        (1, ProtocolError("x"), 0, None),
        (1, JobLost("x"), 0, None),
    ],
)
def test_the_delay_by_table(attempt: int, error: Any, elapsed: float, delay: float | None) -> None:
    found = RetryPolicy().next_delay(attempt, error, elapsed, longest)
    assert found == (None if delay is None else pytest.approx(delay))


def test_the_delay_is_bounded_for_any_number_of_attempts() -> None:
    policy = RetryPolicy(attempts=10**9, max_time=1e12)
    assert policy.next_delay(10**6, FULL, 0, longest) == 10.0


def test_the_jitter_begins_at_zero() -> None:
    assert RetryPolicy().next_delay(3, FULL, 0, lambda low, high: low) == 0.0


@pytest.mark.parametrize("error", [FULL, ConnectError("nobody there"), RateLimitError("slow", retry_after=0)])
def test_a_refused_submit_is_tried_again_with_the_same_id(error: Any) -> None:
    wire = ScriptedTransport(endpoint(), number_events(("result", 7)))
    wire.refuse(error, times=3)
    with socaity.connect("memory://test", transport=wire, retry=AT_ONCE, progress=False) as service:
        job = service.ask(1)
        assert job.result(DEADLINE) == 7
        assert wire.ids == [job.id] * 4


def test_the_last_refusal_is_the_error() -> None:
    wire = ScriptedTransport(endpoint())
    wire.refuse(FULL, times=9)
    with socaity.connect("memory://test", transport=wire, retry=AT_ONCE, progress=False) as service:
        assert service.ask().exception(DEADLINE) is FULL
        assert len(wire.ids) == 5


def test_what_is_wrong_is_not_tried_again() -> None:
    wire = ScriptedTransport(endpoint())
    wire.refuse(InvalidInputError("wrong"))
    with socaity.connect("memory://test", transport=wire, retry=AT_ONCE, progress=False) as service:
        with pytest.raises(InvalidInputError, match="wrong"):
            service.ask().result(DEADLINE)
        assert len(wire.ids) == 1


def test_an_accepted_job_is_not_submitted_again() -> None:
    service, wire = held(retry=AT_ONCE)
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "running"}))
    wire.fail(call, ConnectError("lost"))
    assert isinstance(job.exception(DEADLINE), ConnectError)
    assert len(wire.calls) == 1
    service.close()


class Clock:
    """Catches what the loop is asked to do later, so that no test waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.delays: list[float] = []
        self.due: list[Any] = []
        loop = portal.loop
        original = loop.call_later

        def call_later(delay: float, function: Any, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            if getattr(function, "__name__", "") != "_try_again":
                return original(delay, function, *args, **kwargs)
            self.delays.append(delay)
            self.due.append((function, args))
            return original(3600.0, lambda: None)

        monkeypatch.setattr(loop, "call_later", call_later)

    def tick(self) -> None:
        due, self.due = self.due, []
        for function, args in due:
            on_loop(lambda function=function, args=args: function(*args))


def test_retry_after_is_the_least_that_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    service, wire = held(retry=RetryPolicy())
    job = service.ask()
    wire.fail(wire.wait_for(1)[0], RateLimitError("slow down", retry_after=7.0))
    assert 7.0 <= clock.delays[0] <= 7.2
    assert len(wire.calls) == 1
    clock.tick()
    wire.succeed(wire.wait_for(2)[1], "at last")
    assert job.result(DEADLINE) == "at last"
    service.close()


def test_a_job_between_two_tries_is_cancelled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    service, wire = held(retry=RetryPolicy())
    job = service.ask()
    wire.fail(wire.wait_for(1)[0], FULL)
    job.cancel()
    assert isinstance(job.exception(DEADLINE), JobCancelled)
    assert wire.cancelled == []
    clock.tick()
    assert len(wire.calls) == 1
    service.close()


def test_closing_ends_a_job_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    service, wire = held(retry=RetryPolicy())
    job = service.ask()
    wire.fail(wire.wait_for(1)[0], FULL)
    service.close()
    assert isinstance(job.exception(DEADLINE), ConnectError)
    clock.tick()
    assert len(wire.calls) == 1
