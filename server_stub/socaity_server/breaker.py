"""The circuit breaker of a model: calls of a model that fails are refused until a trial call succeeds. Pure; times are passed in.

The pattern is that of M. Nygard, *Release It!* (2nd edition, 2018), with the failure and slow-call rates of Resilience4j.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from .model_config import BreakerConfig

__all__ = ["BreakerState", "CircuitBreaker"]

BreakerState = Literal["closed", "open", "half_open"]

_BUCKETS = 10
_SLOW = 10.0
_SLOWEST_QUICK = 0.05
"""Seconds below which no batch is slow by comparison: a model of microseconds waits for the scheduler now and then."""
_RECOVERY_TIME = 5.0
_PROBE_TIMEOUT = 10.0
_SHORTEST = 0.001


class CircuitBreaker:
    """Closed until too many calls fail or are slow; then open for `recovery_time`; then half open, for one probe at a time.

    `record` is told of what models did, and of nothing else: calls with bad input (4xx), cancelled, expired and refused ones
    say nothing about the model. A probe that ends as one of those is abandoned (`abandon`). One that is never heard of again
    is given up after `probe_timeout` seconds (default: the recovery time, at least 10), so that it cannot keep the others
    out for ever; pass at least the time that a call may take.

    All methods belong to one thread. `now` is in seconds of any monotonic clock. `on_change(state, reason)` is called after
    every change.
    """

    def __init__(
        self,
        config: BreakerConfig,
        on_change: Callable[[BreakerState, str | None], None] | None = None,
        *,
        probe_timeout: float | None = None,
    ) -> None:
        self.is_closed = True
        """For callers in a hurry: `admit` need not be asked."""
        self.state: BreakerState = "closed"
        self.opened_at: float | None = None
        """When it last opened; None while it is closed."""
        self.reason: str | None = None
        """Why it is not closed, for people."""
        self.opens = 0
        """How often it opened, failed probes included."""
        self.on_change = on_change
        self._config = config
        self._recovery_time = _RECOVERY_TIME if config.recovery_time is None else config.recovery_time
        self._window = _Window(config.window)
        self._cause = ""
        self._probe_timeout = (
            max(self._recovery_time, _PROBE_TIMEOUT) if probe_timeout is None else probe_timeout
        )
        self._probe_until: float | None = None

    def admit(self, now: float) -> float | None:
        """None: the call may run. Else the seconds after which it may be tried again."""
        if self.is_closed:
            return None
        if self.state == "open":
            assert self.opened_at is not None
            left = self.opened_at + self._recovery_time - now
            if left > 0:
                return max(left, _SHORTEST)
            self._change("half_open", self.reason)
        elif self._probe_until is not None and now < self._probe_until:
            # Its outcome may come at any moment, and is known by then at the latest.
            return max(min(self._probe_until - now, self._recovery_time), _SHORTEST)
        self._probe_until = now + self._probe_timeout
        return None

    def abandon(self) -> None:
        """The probe was cancelled, refused or had bad input: another one may try."""
        self._probe_until = None

    def record(self, now: float, *, succeeded: int, failed: int, seconds: float, usual: float) -> None:
        """A batch took `seconds`; of its calls, `succeeded` and `failed` had such an outcome.

        `usual` is how long a batch of its size takes (0.0: not known). Where `slow_seconds` is not configured, ten times as
        long is slow, but nothing below 50 ms is. While a probe runs, a batch that began before it decides as well: it is as
        good a witness.
        """
        calls = succeeded + failed
        if not self._config.enabled or self.state == "open":
            return
        if not calls:
            self.abandon()
            return
        is_slow = self._is_slow(seconds, usual)
        if self.state == "half_open":
            if self._probe_until is not None:
                self._decide(now, failed, is_slow)
            return
        self._window.add(now, calls, failed, calls if is_slow else 0)
        if failed or is_slow:
            self._open_if_due(now)

    def _is_slow(self, seconds: float, usual: float) -> bool:
        limit = self._config.slow_seconds
        if limit is None:
            limit = max(_SLOW * usual, _SLOWEST_QUICK) if usual > 0 else math.inf
        return seconds > limit

    def _decide(self, now: float, failed: int, is_slow: bool) -> None:
        self._probe_until = None
        if not failed and not is_slow:
            self._window.clear()
            self._change("closed", None)
            return
        what = "failed" if failed else "was too slow"
        self._open(now, f"{self._cause}, and a trial call {what}")

    def _open_if_due(self, now: float) -> None:
        config, window = self._config, self._window
        calls = window.calls
        if calls < config.minimum_calls:
            return
        if window.failed and window.failed >= config.failure_rate * calls:
            self._cause = f"{window.failed} of {calls} calls failed within {config.window:g} s"
        elif window.slow and window.slow >= config.slow_rate * calls:
            self._cause = f"{window.slow} of {calls} calls were too slow within {config.window:g} s"
        else:
            return
        self._open(now, self._cause)

    def _open(self, now: float, reason: str) -> None:
        self.opens += 1
        self.opened_at = now
        self._change("open", reason)

    def _change(self, state: BreakerState, reason: str | None) -> None:
        self.state = state
        self.reason = reason
        self.is_closed = state == "closed"
        if self.is_closed:
            self.opened_at = None
        if self.on_change is not None:
            self.on_change(state, reason)


class _Window:
    """Counts of about the last `seconds`, in a ring of buckets that are forgotten one by one."""

    __slots__ = ("_buckets", "_slot", "_width", "calls", "failed", "slow")

    def __init__(self, seconds: float) -> None:
        self._width = max(seconds, _SHORTEST) / _BUCKETS
        self.clear()

    def clear(self) -> None:
        self._buckets = [(0, 0, 0)] * _BUCKETS
        self._slot = -1
        self.calls = self.failed = self.slow = 0

    def add(self, now: float, calls: int, failed: int, slow: int) -> None:
        self._forget_until(now)
        at = self._slot % _BUCKETS
        old = self._buckets[at]
        self._buckets[at] = (old[0] + calls, old[1] + failed, old[2] + slow)
        self.calls += calls
        self.failed += failed
        self.slow += slow

    def _forget_until(self, now: float) -> None:
        slot = math.floor(now / self._width)
        if slot <= self._slot:
            return
        for number in range(max(self._slot + 1, slot - _BUCKETS + 1), slot + 1):
            at = number % _BUCKETS
            calls, failed, slow = self._buckets[at]
            self.calls -= calls
            self.failed -= failed
            self.slow -= slow
            self._buckets[at] = (0, 0, 0)
        self._slot = slot
