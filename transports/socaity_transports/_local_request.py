"""`LocalRequest`: a call that exists only as long as its request, because the service keeps no jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self, TypeVar

from socaity.exceptions import JobCancelled

__all__ = ["LocalRequest"]

T = TypeVar("T")


class LocalRequest:
    """Cancelled by dropping the request; `registry` has it by its id as long as it runs."""

    def __init__(self, call_id: str, registry: dict[str, LocalRequest]) -> None:
        self._call_id, self._registry = call_id, registry
        self._scope: asyncio.Timeout | None = None
        self._is_cancelled = False

    def __enter__(self) -> Self:
        self._registry[self._call_id] = self
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.pop(self._call_id, None)

    def cancel(self) -> None:
        self._is_cancelled = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def guard(self, start: Callable[[], Awaitable[T]]) -> T:
        """One wait of the request. Raises JobCancelled when `cancel` was called."""
        try:
            if not self._is_cancelled:
                async with asyncio.timeout(None) as self._scope:
                    return await start()
        except TimeoutError:
            if not self._is_cancelled:
                raise
        finally:
            self._scope = None
        raise JobCancelled("the job was cancelled and its request dropped", job_id=self._call_id)
