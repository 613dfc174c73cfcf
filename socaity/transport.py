"""The seam between the client and a wire, written for people who add a transport.

Subclass `Transport`, implement `describe` and either `run` (one request that answers) or `submit` and `watch` (a service
that keeps jobs), register the class under the entry-point group `socaity.transports` with the URL scheme as its name, and
run `socaity.testing.TransportContract` against it. Everything runs on one asyncio loop that socaity owns: never block it.

What a transport does not do: retry, route, limit or record. Those are wrapped around it.
"""

from __future__ import annotations

import asyncio
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from .exceptions import JobLost, ProtocolError, SocaityError, TransportError, from_problem
from .protocol.events import JobEvent

if TYPE_CHECKING:
    from .protocol.description import EndpointDescription, ServiceDescription

__all__ = [
    "Blob",
    "Call",
    "CallOptions",
    "Exchange",
    "HeldResult",
    "Published",
    "Refer",
    "SmallPart",
    "Target",
    "Transport",
    "open_transport",
]

_BEHIND_PATH = re.compile(r"[?#]")


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """Where to connect and as whom. `app` is set instead of a URL for a router or ASGI app in this process."""

    url: str
    """May hold credentials: what people and logs see is `place`."""
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0
    app: Any = None

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0].lower()

    @property
    def place(self) -> str:
        """The URL without what may be secret: user and password, query and fragment."""
        scheme, slashes, rest = self.url.partition("://")
        rest = _BEHIND_PATH.split(rest, 1)[0]
        authority, slash, path = rest.partition("/")
        shown = _BEHIND_PATH.split(scheme, 1)[0]
        return f"{shown}{slashes}{authority.rpartition('@')[2]}{slash}{path}"

    def __repr__(self) -> str:
        return f"Target({self.place!r}, timeout={self.timeout!r}{'' if self.app is None else f', app={self.app!r}'})"

    def all_headers(self) -> dict[str, str]:
        """The headers of every request, with the key as a bearer token."""
        headers = dict(self.headers)
        if self.api_key is not None:
            headers.setdefault("Authorization", f"Bearer {self.api_key}")
        return headers


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What a caller may say about one call besides its arguments.

    `timeout`: seconds from the call to its answer, on the way and in the queue included. `priority`: a higher one overtakes
    some calls that came earlier (-10 to 10). `explain`: the service says where the time went.
    """

    timeout: float | None = None
    priority: int = 0
    explain: bool = False


Refer: TypeAlias = "Callable[[Call, Sequence[str | int]], Mapping[str, Any] | None]"
"""What stands in arguments for the result of another call, or a part of it; None if this wire has no word for it now."""


class Blob(Protocol):
    """Large bytes, wherever they are, with their SHA-256 in hex."""

    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...
    def pieces(self) -> Iterator[bytes]:
        """The bytes from the first to the last; may wait for a disk, so not for the loop. Can be walked again."""
        ...


@dataclass(frozen=True, slots=True)
class Published:
    """A result, or a part of it, that its service lets others read for a while: bytes under a hash. `url` is where they are
    had with the `token`, which is good for nothing else. `seconds`: for how long."""

    sha256: str
    size: int
    url: str
    token: str = field(repr=False)
    seconds: float


@dataclass(frozen=True, slots=True)
class SmallPart:
    """A part of a result that is too small to be published: the value as it is on the wire."""

    value: Any


class Exchange(Protocol):
    """How results pass from one service to another without being values in between. All of it on the loop."""

    @property
    def takes_published(self) -> bool:
        """Whether the service knows what `{"$packed": …}` means."""
        ...

    def fetches(self, url: str) -> bool:
        """Whether the service gets published results from such a URL itself."""
        ...

    def publish(
        self, call: Call, path: Sequence[str | int]
    ) -> Awaitable[Published | SmallPart | None] | None:
        """Have a result published as soon as it is there. None: this service cannot, or not now. What is awaited is None for
        a small result, which comes by itself; raises as a request does."""

    def download(self, published: Published) -> AsyncIterator[bytes]:
        """The bytes of what this service has published. Raises TransportError and APIError."""
        ...


class HeldResult(Protocol):
    """A result that stayed at the service, until somebody looks at it. When the last reference to it is gone, the
    service may forget it."""

    def fetch(self, call: Call) -> None:
        """Have the value brought, which ends in `call.succeed` or `call.fail`; does nothing the second time."""


class Call(Protocol):
    """What a transport needs of a job: what to send, and where its events go.

    All methods are called on the loop of the transport. `id` is the idempotency key: every try carries the same.
    `seq` is the last numbered event that was delivered; a resumed watch starts after it.
    """

    @property
    def id(self) -> str: ...
    @property
    def endpoint(self) -> EndpointDescription: ...
    @property
    def arguments(self) -> Mapping[str, Any]: ...
    @property
    def seq(self) -> int: ...
    @property
    def is_done(self) -> bool: ...
    @property
    def upstream(self) -> Sequence[Call]:
        """The calls whose results are arguments of this one. They are in `arguments` as values, unless the transport
        `takes_references`: then it asks for `arguments_with`."""
        ...

    @property
    def held(self) -> HeldResult | None:
        """What `hold` was given."""

    number: int
    """For the transport, which may give the call a number."""

    @property
    def context(self) -> Context | None:
        """The caller's context variables, if the transport `uses_context`; a copy of this call's own."""

    @property
    def options(self) -> CallOptions | None:
        """What the caller said about this call; mostly nothing."""

    @property
    def time_left(self) -> float | None:
        """Seconds of the timeout that are left; the server gets this number, because clocks differ."""

    def arguments_with(self, refer: Refer | None) -> Mapping[str, Any] | None:
        """The arguments, with references where results are not there yet; without `refer` none may be.

        None: the call waits, or has ended, and must not be sent. It is started again when it can go on.
        """

    def deliver(self, event: JobEvent) -> None:
        """Hand over an event. Late or repeated ones are ignored by the job."""

    def accept(self) -> None:
        """The service has the job: from here on a broken wire may be mended by watching it again, not by a new try."""

    def succeed(self, value: Any) -> None:
        """The result; the same as a `result` event without a number."""

    def hold(self, held: HeldResult) -> None:
        """The job has succeeded, and its result stayed where it is."""

    def explain(self, timing: Mapping[str, float]) -> None:
        """Where the time went, as the service says; before the end."""

    def fail(self, error: SocaityError) -> None:
        """The job ended in `error`, or was refused if it was not accepted."""


class Transport(ABC):
    """One wire to one service. Made by `open` without any input or output; used on one loop; closed once."""

    uses_context: bool = True
    """Whether calls run in the caller's context, as the default `start` does; False saves a copy of it per call."""

    @property
    def takes_references(self) -> bool:
        """Whether `start` may be given calls whose upstream has not ended; it then sends `call.arguments_with(…)`."""
        return False

    @property
    def exchange(self) -> Exchange | None:
        """How results of this service go to others, and those of others to it; None: as values through the client."""
        return None

    @classmethod
    @abstractmethod
    def open(cls, target: Target) -> Self:
        """A transport for `target`; connects when it is first used."""

    @abstractmethod
    async def describe(self) -> ServiceDescription:
        """Ask the service what can be called. Raises ConnectError, TransportTimeout, ProtocolError or APIError."""

    async def submit(self, call: Call) -> None:
        """Hand the job over; on return the service has it. Raises APIError if it refuses."""
        raise NotImplementedError(f"{type(self).__name__} implements neither submit() and watch() nor run()")

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """The events of a job after number `after`; ends with the terminal one. Raises NotFoundError."""
        raise NotImplementedError(f"{type(self).__name__} cannot attach to a job by its id")

    async def jobs(
        self, *, status: str | None = None, endpoint: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """The newest jobs that the service keeps, each as the JSON document of a job. Raises APIError if it refuses."""
        raise NotImplementedError(f"{type(self).__name__} cannot list jobs")

    @abstractmethod
    async def cancel(self, job_id: str) -> None:
        """Stop the job; returns when the service has confirmed. A job that has ended is no error."""

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        """Give the service the bytes under their hash, unless it has them; `{"$blob": sha256}` then stands for them.

        Must be safe to repeat. Raises TransportError, APIError if the service refuses, and NotImplementedError where this
        service has no such thing: the bytes then travel in the call.
        """
        raise NotImplementedError(f"{type(self).__name__} has no uploads")

    @abstractmethod
    async def aclose(self) -> None:
        """Close the wire; running jobs stay with the service."""

    async def run(self, call: Call) -> AsyncIterator[JobEvent]:
        """One call from submit to its terminal event."""
        await self.submit(call)
        call.accept()
        async for event in self.watch(call.id, after=call.seq):
            yield event

    def start(self, calls: Sequence[Call]) -> None:
        """Start a burst of calls; returns at once. The default runs a task per call.

        A transport that carries many calls in one frame overrides this and needs no task.
        """
        for call in calls:
            self._carry(call, self.run(call))

    def attach(self, call: Call) -> None:
        """Follow a job that was submitted before, from another process perhaps."""
        call.accept()
        self._carry(call, self.watch(call.id, after=call.seq))

    def _carry(self, call: Call, events: AsyncIterator[JobEvent]) -> None:
        """Deliver the events of one call in a task, which runs in the context of the caller."""
        has_begun = False

        async def drive() -> None:
            nonlocal has_begun
            has_begun = True
            await self._drive(call, events)

        def end(_: asyncio.Task[None]) -> None:
            if not has_begun:  # cancelled before its first step
                call.fail(JobLost("the connection was closed before the job was sent", job_id=call.id))
                self._spawn(_close(events), into="_closings")

        if call.context is not None:
            _say_asyncio(call.context)
        self._spawn(drive(), context=call.context).add_done_callback(end)

    def _spawn(
        self, coroutine: Coroutine[Any, Any, None], *, context: Context | None = None, into: str = "_tasks"
    ) -> asyncio.Task[None]:
        tasks: set[asyncio.Task[None]] = vars(self).setdefault(into, set())
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def _drive(self, call: Call, events: AsyncIterator[JobEvent]) -> None:
        """Deliver the events of one call; whatever happens, the call ends."""
        try:
            async for event in events:
                call.deliver(event)
                if event.is_terminal or call.is_done:
                    return
            raise ProtocolError("the service ended the events of the job without saying how the job ended")
        except SocaityError as exc:
            call.fail(exc)
        except asyncio.CancelledError:
            if not call.is_done:
                call.fail(JobLost("the connection was closed while the job was running", job_id=call.id))
            raise
        except Exception as exc:  # the edge of the task: a fault of the adapter must not hang the caller
            error = TransportError(f"the transport failed: {type(exc).__name__}: {exc}")
            error.__cause__ = exc
            call.fail(error)
        finally:
            await _close(events)

    async def _cancel_tasks(self) -> None:
        """For `aclose` of transports that use the default `start`."""
        tasks = list(vars(self).get("_tasks", ()))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*vars(self).get("_closings", ()), return_exceptions=True)


def _say_asyncio(context: Context) -> None:
    """A caller in trio has its variables say so, which anyio and others would believe on this loop."""
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None and context.get(sniffio.current_async_library_cvar) is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")


async def _close(events: AsyncIterator[JobEvent]) -> None:
    """Close a generator now, and not when the collector finds it."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


def open_transport(target: Target, *, name: str | None = None) -> Transport:
    """The transport for a target, found by its scheme, or by `name`. Raises ConfigurationError for an unknown one."""
    from ._registry import find_transport

    return find_transport(target.scheme, name).open(target)


def error_from_event(event: JobEvent, job_id: str) -> SocaityError:
    """The exception that an `error` event stands for."""
    return from_problem(event.data if isinstance(event.data, Mapping) else {}, job_id=job_id)
