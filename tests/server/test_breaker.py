"""The circuit breaker opens for failures and slowness of the model only, and lets one call at a time try again."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from socaity_server.breaker import BreakerState, CircuitBreaker
from socaity_server.model_config import BreakerConfig

CONFIG = BreakerConfig(minimum_calls=4, window=10.0, recovery_time=5.0)


def succeed(breaker: CircuitBreaker, now: float, calls: int = 1) -> None:
    breaker.record(now, succeeded=calls, failed=0, seconds=0.01, usual=0.01)


def fail(breaker: CircuitBreaker, now: float, calls: int = 1) -> None:
    breaker.record(now, succeeded=0, failed=calls, seconds=0.01, usual=0.01)


def opened(config: BreakerConfig = CONFIG) -> CircuitBreaker:
    """A breaker that opened at 100.0."""
    breaker = CircuitBreaker(config)
    fail(breaker, 100.0, config.minimum_calls)
    assert breaker.state == "open"
    return breaker


def test_closed_breaker_admits() -> None:
    breaker = CircuitBreaker(CONFIG)
    assert breaker.is_closed
    assert breaker.admit(0.0) is None
    assert breaker.reason is None
    assert breaker.opened_at is None


def test_failures_open_it_when_there_were_enough_calls() -> None:
    breaker = CircuitBreaker(CONFIG)
    fail(breaker, 1.0, 3)
    assert breaker.is_closed
    fail(breaker, 1.1)
    assert breaker.state == "open"
    assert not breaker.is_closed
    assert breaker.opened_at == 1.1
    assert breaker.reason == "4 of 4 calls failed within 10 s"
    assert breaker.opens == 1


def test_rate_below_the_limit_does_not_open_it() -> None:
    breaker = CircuitBreaker(CONFIG)
    succeed(breaker, 1.0, 100)
    fail(breaker, 1.1, 99)
    assert breaker.is_closed
    fail(breaker, 1.2)
    assert not breaker.is_closed


def test_failures_that_are_over_do_not_count() -> None:
    breaker = CircuitBreaker(CONFIG)
    fail(breaker, 1.0, 3)
    fail(breaker, 12.0, 3)
    assert breaker.is_closed
    fail(breaker, 1e6, 3)
    assert breaker.is_closed


def test_failures_count_for_most_of_the_window() -> None:
    breaker = CircuitBreaker(CONFIG)
    fail(breaker, 1.0, 3)
    fail(breaker, 9.9)
    assert not breaker.is_closed


def test_clock_that_stands_still_or_jumps_back_does_no_harm() -> None:
    breaker = CircuitBreaker(CONFIG)
    fail(breaker, 50.0, 2)
    fail(breaker, 1.0, 2)
    assert breaker.state == "open"


def test_open_breaker_says_how_long_it_stays_open() -> None:
    breaker = opened()
    assert breaker.admit(101.0) == pytest.approx(4.0)
    assert breaker.admit(104.9999) == pytest.approx(0.001)
    assert breaker.state == "open"


def test_half_open_breaker_admits_exactly_one() -> None:
    breaker = opened()
    assert breaker.admit(105.0) is None
    assert breaker.state == "half_open"
    assert not breaker.is_closed
    assert [breaker.admit(105.0) is None for _ in range(5)] == [False] * 5
    assert breaker.admit(106.0) == pytest.approx(5.0)


def test_probe_that_succeeds_closes_it_and_forgets_the_failures() -> None:
    breaker = opened()
    breaker.admit(105.0)
    succeed(breaker, 105.1)
    assert breaker.state == "closed"
    assert breaker.is_closed
    assert breaker.reason is None
    assert breaker.opened_at is None
    fail(breaker, 105.2, 3)
    assert breaker.is_closed


def test_probe_that_fails_opens_it_again_for_as_long() -> None:
    breaker = opened()
    breaker.admit(105.0)
    fail(breaker, 105.5)
    assert breaker.state == "open"
    assert breaker.opens == 2
    assert breaker.opened_at == 105.5
    assert breaker.reason == "4 of 4 calls failed within 10 s, and a trial call failed"
    assert breaker.admit(106.5) == pytest.approx(4.0)
    breaker.admit(110.5)
    fail(breaker, 110.6)
    assert breaker.reason == "4 of 4 calls failed within 10 s, and a trial call failed"


def test_slow_probe_opens_it_again() -> None:
    breaker = opened()
    breaker.admit(105.0)
    breaker.record(106.0, succeeded=1, failed=0, seconds=1.0, usual=0.01)
    assert breaker.state == "open"
    assert breaker.reason is not None
    assert breaker.reason.endswith("and a trial call was too slow")


def test_probe_that_is_abandoned_makes_room_for_the_next() -> None:
    breaker = opened()
    breaker.admit(105.0)
    breaker.abandon()
    assert breaker.state == "half_open"
    assert breaker.admit(105.1) is None
    assert breaker.admit(105.2) is not None


def test_probe_without_an_outcome_of_the_model_makes_room_for_the_next() -> None:
    breaker = opened()
    breaker.admit(105.0)
    breaker.record(105.1, succeeded=0, failed=0, seconds=0.01, usual=0.01)
    assert breaker.state == "half_open"
    assert breaker.admit(105.2) is None


def test_lost_probe_does_not_keep_others_out_for_ever() -> None:
    breaker = opened()
    assert breaker.admit(105.0) is None
    assert breaker.admit(114.9) == pytest.approx(0.1)
    assert breaker.admit(115.0) is None
    assert breaker.admit(115.1) is not None


def test_probe_may_take_as_long_as_the_caller_says() -> None:
    breaker = CircuitBreaker(CONFIG, probe_timeout=60.0)
    fail(breaker, 100.0, 4)
    breaker.admit(105.0)
    assert breaker.admit(164.0) is not None
    assert breaker.admit(165.0) is None


def test_batches_that_end_while_it_is_open_change_nothing() -> None:
    breaker = opened()
    succeed(breaker, 101.0, 1000)
    fail(breaker, 101.0, 1000)
    assert breaker.state == "open"
    assert breaker.opens == 1
    assert breaker.opened_at == 100.0


def test_old_batch_does_not_decide_before_there_is_a_probe() -> None:
    breaker = opened()
    breaker.admit(105.0)
    breaker.abandon()
    succeed(breaker, 105.1)
    fail(breaker, 105.2)
    assert breaker.state == "half_open"


def test_slow_calls_open_it() -> None:
    breaker = CircuitBreaker(CONFIG)
    for number in range(4):
        breaker.record(number, succeeded=1, failed=0, seconds=1.0, usual=0.05)
    assert breaker.state == "open"
    assert breaker.reason == "4 of 4 calls were too slow within 10 s"


def test_configured_limit_says_what_is_slow() -> None:
    breaker = CircuitBreaker(dataclasses.replace(CONFIG, slow_seconds=0.02))
    breaker.record(1.0, succeeded=100, failed=0, seconds=0.02, usual=0.001)
    assert breaker.is_closed
    breaker.record(2.0, succeeded=400, failed=0, seconds=0.021, usual=0.1)
    assert not breaker.is_closed


@pytest.mark.parametrize(("seconds", "usual"), [(0.049, 1e-5), (0.9, 0.1), (100.0, 0.0)])
def test_jitter_and_the_unknown_are_not_slow(seconds: float, usual: float) -> None:
    breaker = CircuitBreaker(CONFIG)
    for number in range(100):
        breaker.record(number * 0.01, succeeded=10, failed=0, seconds=seconds, usual=usual)
    assert breaker.is_closed


def test_disabled_breaker_stays_closed() -> None:
    breaker = CircuitBreaker(dataclasses.replace(CONFIG, enabled=False))
    fail(breaker, 1.0, 1000)
    assert breaker.is_closed


def test_rate_of_zero_still_needs_a_failure() -> None:
    breaker = CircuitBreaker(dataclasses.replace(CONFIG, failure_rate=0.0, slow_rate=0.0))
    succeed(breaker, 1.0, 1000)
    assert breaker.is_closed
    fail(breaker, 1.0)
    assert not breaker.is_closed


def test_every_change_is_told() -> None:
    told: list[tuple[BreakerState, str | None]] = []
    breaker = CircuitBreaker(CONFIG, on_change=lambda state, reason: told.append((state, reason)))
    fail(breaker, 100.0, 4)
    breaker.admit(105.0)
    succeed(breaker, 105.1)
    why = "4 of 4 calls failed within 10 s"
    assert told == [("open", why), ("half_open", why), ("closed", None)]


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, outcomes and pauses."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.breaker = CircuitBreaker(CONFIG, probe_timeout=20.0)
        self.probe_at: float | None = None
        self.has_failed = False

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        was_closed = self.breaker.is_closed
        wait = self.breaker.admit(self.now)
        if was_closed:
            assert wait is None
        elif wait is None:
            assert self.probe_at is None or self.now - self.probe_at >= 20.0 - 1e-6, "two probes at a time"
            self.probe_at = self.now
            assert self.breaker.state == "half_open"
        else:
            assert 0 < wait <= 5.0 + 1e-6

    @rule()
    def retry_as_told(self) -> None:
        if self.breaker.state == "open":
            wait = self.breaker.admit(self.now)
            if wait is not None:
                self.now += wait + 1e-6
                assert self.breaker.admit(self.now) is None
            self.probe_at = self.now

    @rule(calls=st.integers(1, 10))
    def batch_succeeds(self, calls: int) -> None:
        had_probe, was = self.probe_at is not None, self.breaker.state
        succeed(self.breaker, self.now, calls)
        if was == "half_open" and had_probe:
            assert self.breaker.state == "closed"
            self.probe_at = None
        else:
            assert self.breaker.state == was

    @rule(calls=st.integers(1, 10))
    def batch_fails(self, calls: int) -> None:
        had_probe, was = self.probe_at is not None, self.breaker.state
        fail(self.breaker, self.now, calls)
        self.has_failed = True
        if was == "half_open":
            assert self.breaker.state == ("open" if had_probe else "half_open")
            self.probe_at = None

    @precondition(lambda self: self.probe_at is not None)
    @rule()
    def probe_is_abandoned(self) -> None:
        self.breaker.abandon()
        self.probe_at = None

    @invariant()
    def opens_for_failures_only(self) -> None:
        assert self.has_failed or self.breaker.is_closed

    @invariant()
    def attributes_agree(self) -> None:
        breaker = self.breaker
        assert breaker.is_closed == (breaker.state == "closed") == (breaker.reason is None)
        assert breaker.is_closed == (breaker.opened_at is None)


TestAnyOrder = BreakerMachine.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=25)
