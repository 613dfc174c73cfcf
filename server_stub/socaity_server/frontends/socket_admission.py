"""`Admission`: whether the client of a session may do what its messages ask; and direct calls that wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

from socaity.exceptions import AuthenticationError

from ..auth.guard import SERVICE, Action, Guard, Principal, RequestContext, job_resource
from ..references import Reference
from ..route import Route
from .access import resource_of_endpoint
from .referring import what_is_read

__all__ = ["Admission", "GuardedCall", "Permission"]


class Admission:
    """One client and the guard. `principal` is who came with the last handshake of the session."""

    def __init__(
        self, guard: Guard, principal: Principal, context: RequestContext, names: Mapping[str, Route]
    ) -> None:
        self.principal = principal
        self.context = context
        self._guard = guard
        self._names = names

    def infer(self, name: str) -> Awaitable[None] | None:
        """To call an endpoint. None: permitted. Raises AuthenticationError, and ServerError 503."""
        return self._ask(Action.INFER, resource_of_endpoint(name, self._names))

    def describe(self) -> Awaitable[None] | None:
        """To read what the service says of itself."""
        return self._ask(Action.METADATA, SERVICE)

    def read_job(self, job_id: str) -> Awaitable[None] | None:
        """To follow a job, or to publish its result."""
        return self._ask(Action.JOB_READ, job_resource(job_id))

    def cancel_job(self, job_id: str) -> Awaitable[None] | None:
        """To end a job."""
        return self._ask(Action.JOB_CANCEL, job_resource(job_id))

    async def read(self, references: Sequence[tuple[str, Reference]]) -> None:
        """To read what a call refers to."""
        for action, resource in what_is_read(reference for _, reference in references):
            waiting = self._ask(action, resource)
            if waiting is not None:
                await waiting

    def check_time(self) -> None:
        """Raises AuthenticationError where the token has expired; for what was permitted when it began."""
        if self.principal.has_expired:
            raise AuthenticationError(
                "The token has expired; connect again with a new one.", code="token_expired"
            )

    def _ask(self, action: Action, resource: str) -> Awaitable[None] | None:
        return self._guard.authorize(self.principal, action, resource, self.context)


class Permission:
    """What a direct call awaits that refers to something: that it may be read, and before that `ready`. Nothing happens to one
    that nobody awaits."""

    __slots__ = ("_admission", "_ready", "_references")

    def __init__(
        self,
        admission: Admission,
        references: Sequence[tuple[str, Reference]],
        ready: Awaitable[Any] | None,
    ) -> None:
        self._admission = admission
        self._references = references
        self._ready = ready

    def __await__(self) -> Generator[Any, None, None]:
        if self._ready is not None:
            yield from self._ready.__await__()
        yield from self._admission.read(self._references).__await__()


class GuardedCall:
    """A direct call that begins when it is permitted; then it has a ticket. `refuse` gets what goes wrong before that."""

    __slots__ = ("_task", "ticket")

    def __init__(
        self,
        waiting: Awaitable[None],
        begin: Callable[[], object],
        refuse: Callable[[BaseException], None],
    ) -> None:
        self.ticket: object | None = None
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(
            self._run(waiting, begin, refuse)
        )

    def cancel(self) -> None:
        """Nobody wants it any more."""
        if self._task is not None:
            self._task.cancel()
        cancel = getattr(self.ticket, "cancel", None)
        if cancel is not None:
            cancel()

    async def _run(
        self,
        waiting: Awaitable[None],
        begin: Callable[[], object],
        refuse: Callable[[BaseException], None],
    ) -> None:
        try:
            await waiting
            self.ticket = begin()
        except Exception as exc:  # the edge of the task: somebody waits for an answer
            refuse(exc)
        finally:
            self._task = None
