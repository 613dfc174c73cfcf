"""When a refused submit is tried again, and after how long: pure policy."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .exceptions import APIError, ConfigurationError, ProtocolError, SocaityError, TransportError

__all__ = ["RetryPolicy"]

_RETRIED_STATUS = frozenset({408, 425, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full-jitter exponential back-off: before try n+1 wait a random time up to `min(max_delay, base_delay · 2ⁿ)` seconds.

    A `Retry-After` of the service is the least that is waited. Tried again is what failed before the job was accepted: with
    a TransportError other than a ProtocolError (no connection, a broken one, no answer in time), or with the status 408,
    425, 429, 502, 503 or 504. Such a try may have reached the service. All tries carry the same id, so that a service that
    keeps jobs runs it once; a service that does not know the id may run it again. Where that can happen our HTTP transport
    repeats only an idempotent endpoint and what surely did not run; other transports say so with `accept`. `max_time` bounds
    the whole, in seconds. `RetryPolicy(attempts=1)` never tries again. Raises
    ConfigurationError for numbers that cannot be meant.

    Source of the formula: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    attempts: int = 6
    base_delay: float = 0.1
    max_delay: float = 10.0
    max_time: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int) or self.attempts < 1:
            raise ConfigurationError(f"attempts must be a whole number from 1 on, got {self.attempts!r}")
        for name in ("base_delay", "max_delay", "max_time"):
            seconds: Any = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
                raise ConfigurationError(f"{name} must be a number of seconds from 0 on, got {seconds!r}")

    def next_delay(
        self,
        attempt: int,
        error: SocaityError,
        elapsed: float,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> float | None:
        """Seconds to wait after failed try number `attempt` (from 1), or None to give up."""
        if attempt >= self.attempts or not self.is_retried(error):
            return None
        delay = uniform(0.0, min(self.max_delay, self.base_delay * 2.0 ** min(attempt, 60)))
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None:
            delay += retry_after  # the jitter is added, so that those who were refused together do not return together
        return delay if elapsed + delay <= self.max_time else None

    @staticmethod
    def is_retried(error: SocaityError) -> bool:
        """Whether a call that ended so, before it was accepted, is sent again."""
        if isinstance(error, TransportError):
            # the id of the job makes a repeated submit safe; where it does not, the transport says so (`accept`)
            return not isinstance(error, ProtocolError)
        return isinstance(error, APIError) and error.status in _RETRIED_STATUS
