"""How many requests at once, and how many of one client in a while: on only where an operator asks for it."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from starlette.types import Scope

from socaity.exceptions import RateLimitError, ServerError, SocaityError

from ..settings import ModelSettings
from .access import path_below_mount

__all__ = ["Limits", "SlidingWindow"]

_MAX_CLIENTS = 10_000
_FREE = frozenset({"/health", "/metrics"})
"""What watches over the service is always answered."""


class SlidingWindow:
    """At most `limit` events in `period` seconds for each key. Pure: the time is passed in.

    Keys without recent events are forgotten, and the least recent one when there are too many.
    """

    def __init__(self, limit: int, period: float, max_keys: int = _MAX_CLIENTS) -> None:
        self._limit = limit
        self._period = period
        self._max_keys = max_keys
        self._events: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._events)

    def admit(self, key: str, now: float) -> float | None:
        """None, or the seconds after which `key` may come again."""
        self._forget(now)
        events = self._events.setdefault(key, deque())
        horizon = now - self._period
        while events and events[0] <= horizon:
            events.popleft()
        if len(events) >= self._limit:
            return events[0] + self._period - now
        events.append(now)
        self._events.move_to_end(key)
        return None

    def _forget(self, now: float) -> None:
        horizon = now - self._period
        while self._events:
            key, events = next(iter(self._events.items()))
            if events and events[-1] > horizon and len(self._events) <= self._max_keys:
                return
            del self._events[key]


class Limits:
    """What a request has to pass before it is looked at."""

    def __init__(
        self,
        *,
        max_concurrent: int | None,
        rate_limit: int | None,
        rate_period: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_concurrent = max_concurrent
        self._window = None if rate_limit is None else SlidingWindow(rate_limit, rate_period)
        self._period = rate_period
        self._clock = clock
        self._running = 0
        self._others: list[Callable[[], int]] = []

    @classmethod
    def of(cls, settings: ModelSettings) -> Limits | None:
        """None where nothing is limited."""
        if settings.max_concurrent is None and settings.rate_limit is None:
            return None
        return cls(
            max_concurrent=settings.max_concurrent,
            rate_limit=settings.rate_limit,
            rate_period=settings.rate_period,
        )

    def enter(self, scope: Scope) -> SocaityError | None:
        """The refusal, or None; then `leave` must follow."""
        if path_below_mount(scope) not in _FREE:
            # Only the address of the connection counts: headers such as X-Forwarded-For can be made up. Behind a proxy
            # the server that runs the application replaces it (uvicorn: --forwarded-allow-ips).
            client = scope.get("client")
            refusal = self.refusal(client[0] if client else "")
            if refusal is not None:
                return refusal
        self._running += 1
        return None

    def leave(self) -> None:
        """The request has been answered."""
        self._running -= 1

    def count_also(self, running: Callable[[], int]) -> None:
        """Add what `running` says to the requests that are being answered."""
        self._others.append(running)

    def refusal(self, client: str) -> SocaityError | None:
        """Why a request from that address may not be answered now, or None; then it is counted as one of its requests."""
        most = self._max_concurrent
        if most is not None and self._running + sum(count() for count in self._others) >= most:
            return ServerError(
                f"The service answers {most} requests at once, and all of them are taken.",
                status=503,
                code="too_many_requests",
                retry_after=1.0,
            )
        if self._window is None:
            return None
        retry_after = self._window.admit(client, self._clock())
        if retry_after is None:
            return None
        return RateLimitError(
            f"Too many requests in {self._period:g} seconds; wait {retry_after:.1f} s.",
            status=429,
            code="rate_limited",
            retry_after=retry_after,
        )
