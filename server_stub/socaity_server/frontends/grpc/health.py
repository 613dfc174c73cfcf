"""`HealthService`: `grpc.health.v1.Health`, which says whether the service, or one model, can be called.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import grpc

from socaity.exceptions import NotFoundError, RateLimitError

from ...auth.actions import Action
from .calls import Context, GRPCCalls
from .descriptors import descriptors

__all__ = ["HealthService"]

SERVICE_NAME = "grpc.health.v1.Health"
_INTERVAL = 1.0
"""Health is made of what many parts say (loading, breakers, hung models). Nobody announces all that, so it is looked at while
somebody watches."""
_MOST_WATCHERS = 1000
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)


class HealthService:
    """`services` says by name whether a service is ready; the name of the whole is `""`."""

    def __init__(self, calls: GRPCCalls, services: Mapping[str, Callable[[], bool]]) -> None:
        self._calls = calls
        self._services = services
        self._is_ending = False
        self._watchers = 0
        self._changed = asyncio.Event()
        self.pool = descriptors().pool

    def end(self) -> None:
        """From now on nothing serves here any more, and those who watch hear of it at once."""
        self._is_ending = True
        self._changed.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The methods, for a server."""
        request = descriptors()["grpc.health.v1.HealthCheckRequest"]
        lists = descriptors()["grpc.health.v1.HealthListRequest"]
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": self._calls.unary(request, self._check),
                "List": self._calls.unary(lists, self._list),
                "Watch": self._calls.stream(request, self._watch),
            },
        )

    def _status(self, name: str) -> int:
        is_ready = self._services.get(name)
        if is_ready is None:
            return SERVICE_UNKNOWN
        return SERVING if not self._is_ending and is_ready() else NOT_SERVING

    async def _check(self, request: Any, context: Context) -> Any:
        await self._calls.admit(context, f"/{SERVICE_NAME}/Check", Action.HEALTH)
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            raise NotFoundError(
                f"There is no service {request.service[:100]!r} here (known: {', '.join(filter(None, sorted(self._services)))})."
            )
        return _response(status)

    async def _list(self, request: Any, context: Context) -> Any:
        await self._calls.admit(context, f"/{SERVICE_NAME}/List", Action.HEALTH)
        answer = descriptors()["grpc.health.v1.HealthListResponse"]()
        for name in sorted(self._services):
            answer.statuses[name].status = self._status(name)
        return answer

    async def _watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        await self._calls.admit(context, f"/{SERVICE_NAME}/Watch", Action.HEALTH)
        if self._watchers >= _MOST_WATCHERS:
            raise RateLimitError("Too many watch the health of this service; ask with Check.", retry_after=60)
        self._watchers += 1
        said: int | None = None
        try:
            while True:
                status = self._status(request.service)
                if status != said:
                    yield _response(status)
                    said = status
                if self._is_ending:
                    return
                try:
                    async with asyncio.timeout(_INTERVAL):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            self._watchers -= 1


def _response(status: int) -> Any:
    return descriptors()["grpc.health.v1.HealthCheckResponse"](status=status)
