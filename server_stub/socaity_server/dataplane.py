"""`DataPlane`: submit, watch, cancel, call. What every front end does, without knowing any protocol."""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeAlias

from socaity.exceptions import ConfigurationError, InvalidInputError, NotFoundError, ServerError
from socaity.protocol.description import ServiceDescription
from socaity.protocol.events import EventKind, JobEvent, JobStatus

from .arguments import JobArguments, fingerprint
from .batching.refusals import expired
from .direct import Cancellable, DirectRoute, OnDone
from .executor import LocalExecutor, PreparedJob
from .fetching import Fetcher
from .jobs.backend import BlobStore, JobBackend, JobRecord, Lease, Sink
from .jobs.blobs import DirectoryBlobStore
from .jobs.memory import MemoryJobBackend
from .publishing import Publishing
from .references import Reference, find_references, find_top_references
from .repository import ModelRepository
from .route import Route, suggestion
from .running import Run, Slots
from .statistics import ModelStatistics
from .upstream import Calls, Upstream

if TYPE_CHECKING:
    from .auth.guard import Guard

__all__ = ["Capture", "DataPlane"]

References: TypeAlias = Sequence[tuple[str, Reference]]
Capture: TypeAlias = Callable[[References], tuple[Calls, Awaitable[Any] | None]]
"""From references to the calls among them, and what has to be waited for before jobs are looked up."""

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_LAST_WORDS = 0.05
"""Seconds for the answers to those whose calls were not run."""
_CHUNKS_AHEAD = 64
"""What a generator may have yielded and nobody has taken yet."""
_LAST_SECONDS = 1.0
"""What each step of closing gets when the grace is over."""


class DataPlane:
    """The routes, the jobs and the batchers of one service. Everything belongs to the loop that called `start`."""

    def __init__(
        self,
        *,
        title: str = "socaity",
        version: str = "",
        max_body: int | None = None,
        model_timeout: float = math.inf,
        backend: Callable[[], JobBackend] = MemoryJobBackend,
        blobs: Callable[[], BlobStore] = DirectoryBlobStore,
    ) -> None:
        self.title = title
        self.version = version
        self.max_body = max_body
        self.model_timeout = model_timeout
        """Seconds for a call of a model whose configuration says nothing."""
        self.repository: ModelRepository | None = None
        """The folder of models, where there is one: it knows why a model is not there."""
        self.started_at: float | None = None
        self._statistics: dict[str, ModelStatistics] = {}
        self._loading: asyncio.Task[Any] | None = None
        self._retired: dict[asyncio.Task[None], DirectRoute] = {}
        self._close_by = math.inf
        self.upstream = Upstream(self)
        self.instance = secrets.token_hex(8)
        self.fetch_from: tuple[str, ...] = ()
        """The origins of other services from which results are fetched; nothing else ever is."""
        self.max_fetch = 2**30
        self.fetch_timeout = 60.0
        self.guard: Guard | None = None
        """Whom front ends ask who a caller is, and what they may do; None where authentication is off."""
        self.public_url: str | None = None
        """Where other services reach this one, if not where its clients do."""
        self.routes: dict[str, Route] = {}
        self._make_backend = backend
        self._make_blobs = blobs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closing = False
        self._description: ServiceDescription | None = None
        self._direct: dict[str, DirectRoute] = {}
        self._slots: dict[str, Slots] = {}
        self._executors: dict[str, LocalExecutor] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        self.backend: JobBackend
        self.blobs: BlobStore
        self.publishing: Publishing
        self.fetcher: Fetcher

    @property
    def max_referred(self) -> int:
        """How many bytes references may bring to one call: as much as an upload may have, or arguments that are sent."""
        return max(self.max_fetch, self.max_body or 0)

    # Life

    @property
    def is_ready(self) -> bool:
        """Started, and not stopping."""
        return self._loop is not None and not self._is_closing

    @property
    def is_loading(self) -> bool:
        """The models of the folder are being loaded for the first time."""
        return self._loading is not None and not self._loading.done()

    @property
    def is_closing(self) -> bool:
        """Stopping, or stopped."""
        return self._is_closing

    async def start(self) -> None:
        """Open the back-end and begin to run jobs; does nothing where it is running already."""
        loop = asyncio.get_running_loop()
        if self._loop is loop and not self._is_closing:
            return
        if self._loop is not None and not self._loop.is_closed() and self._loop is not loop:
            raise ConfigurationError(
                "This service runs on another event loop already; make a second router for this one."
            )
        self._executors.clear()
        self._direct.clear()
        self._slots.clear()
        self.backend = self._make_backend()
        self.blobs = self._make_blobs()
        self.publishing = Publishing()
        self.fetcher = Fetcher(deadline=self.fetch_timeout)
        # Nothing is awaited between here and the last line in the memory back-end; a second start sees `_loop`.
        self._loop, self._is_closing, self._close_by = loop, False, math.inf
        self.started_at = time.monotonic()
        await self.backend.open()
        for route in self.routes.values():
            self._start_route(route)
        if self.repository is not None:
            self._loading = loop.create_task(self.repository.load_all())

    async def drain(self, grace: float = 10.0) -> None:
        """Take no more work, and give what waits or runs `grace` seconds to end; then jobs are cancelled."""
        if self._loop is None or self._is_closing:
            return
        self._is_closing = True
        self._close_by = time.monotonic() + grace
        if self._loading is not None:
            self._loading.cancel()
        await asyncio.gather(
            *[executor.aclose(grace) for executor in self._executors.values()],
            *[direct.batcher.drain(grace) for direct in self._direct.values()],
        )
        for direct in self._direct.values():
            direct.batcher.refuse_waiting()
        await asyncio.sleep(_LAST_WORDS)

    async def aclose(self, grace: float = 10.0) -> None:
        """`drain`, then give everything back, which takes some seconds more at most; `start` may follow.

        Models that were added one by one stay loaded: the router has them, and serves them again after the next start.
        """
        if self._loop is None:
            return
        await self.drain(grace)
        left = max(self._close_by - time.monotonic(), _LAST_SECONDS)
        retired = list(self._retired.items())
        if retired:
            await asyncio.wait([task for task, _ in retired], timeout=left)
        for task, _ in retired:
            task.cancel()
        directs = [*self._direct.values(), *[direct for task, direct in retired if not task.done()]]
        await asyncio.gather(*[direct.batcher.aclose(left) for direct in directs])
        if self.repository is not None:
            await self.repository.aclose(left)
        for slots in self._slots.values():
            slots.threads.close()
        await self.backend.close()
        if isinstance(self.blobs, DirectoryBlobStore):
            self.blobs.close()
        await self.publishing.close()
        if self.guard is not None:
            await self.guard.aclose()
        self._loop = None

    async def settled(self, timeout: float = 60.0) -> None:
        """Wait until the models of the folder have been loaded for the first time, for at most `timeout` seconds."""
        if self._loading is not None and not self._loading.done():
            await asyncio.wait([self._loading], timeout=timeout)

    # Routes

    def add(self, route: Route) -> None:
        """Serve a route; its name must be new."""
        if route.name in self.routes:
            raise ConfigurationError(
                f"There are two endpoints of the name {route.name!r}: {self.routes[route.name].path} and {route.path}."
            )
        self.routes[route.name] = route
        self._description = None
        if self.is_ready:
            self._start_route(route)

    def replace(self, route: Route) -> None:
        """Serve `route` instead of the model of its name, from the next call on; calls that wait or run end where they are."""
        old = self._direct.get(route.name)
        self.routes[route.name] = route
        self._description = None
        if self.is_ready:
            self._start_route(route)
        if old is not None:
            self._retire(old)

    def remove(self, name: str) -> None:
        """Serve the model of that name no longer; calls that wait or run end as usual."""
        self.routes.pop(name, None)
        self._description = None
        old = self._direct.pop(name, None)
        if old is not None:
            self._retire(old)

    async def retired(self, name: str | None = None) -> None:
        """Wait until no call is left of what was replaced or removed up to now, under that name or any."""
        tasks = [task for task, direct in self._retired.items() if name in (None, direct.route.name)]
        if tasks:
            await asyncio.wait(tasks)

    def _retire(self, old: DirectRoute) -> None:
        async def finish() -> None:
            await old.batcher.drain(old.timeout if old.timeout != math.inf else None)
            await old.batcher.aclose()

        task = asyncio.get_running_loop().create_task(finish())
        self._retired[task] = old
        task.add_done_callback(self._retired.pop)

    def route(self, name: str) -> Route:
        """The route of that name; raises NotFoundError that names near ones, or ServerError 503 for a model that is not ready."""
        try:
            return self.routes[name]
        except KeyError:
            absent = None if self.repository is None else self.repository.why_absent(name)
            if absent is not None:
                raise absent from None
            if self.is_loading:
                raise ServerError(
                    f"The models are being loaded still, and {name!r} may be one of them.",
                    status=503,
                    code="model_loading",
                    retry_after=1.0,
                ) from None
            known = ", ".join(sorted(self.routes)) or "none"
            hint = suggestion(name, self.routes)
            raise NotFoundError(
                f"There is no endpoint {name!r}{hint}. Endpoints: {known}.", code="endpoint_not_found"
            ) from None

    def describe(self) -> ServiceDescription:
        """What the service says of itself."""
        if self._description is None:
            self._description = ServiceDescription(
                title=self.title,
                version=self.version,
                instance=self.instance,
                max_body=self.max_body,
                endpoints=[route.describe() for route in self.routes.values()],
            )
        return self._description

    def load(self) -> dict[str, dict[str, int]]:
        """How many jobs wait and run, for each queue."""
        return {
            name: {"waiting": self.backend.depth(name), "running": executor.running}
            for name, executor in self._executors.items()
        }

    def direct_routes(self) -> Mapping[str, DirectRoute]:
        """The batched routes and models that are served, by name."""
        return self._direct

    def direct(self, route: Route) -> DirectRoute:
        """The batcher's side of a batched route; `direct(route).call` is the bound fast path."""
        self._check_open()
        direct = self._direct.get(route.name)
        if direct is None:  # withdrawn while its request was on the way
            self.route(route.name)
            raise NotFoundError(f"There is no model {route.name!r} any more.", code="endpoint_not_found")
        return direct

    # Jobs

    async def submit(
        self,
        route: Route,
        arguments: Mapping[str, Any],
        *,
        key: str | None = None,
        owner: str = "",
        validated: bool = False,
        calls: Calls | None = None,
    ) -> JobRecord:
        """Make a job, or find the one that the same key made before. `calls`: the direct calls that it refers to.

        Raises InvalidInputError (also `idempotency_key_reused`) and QueueFull. The record may change later.
        """
        self._check_open()
        payload = JobArguments(arguments)
        references = [] if validated else find_references(arguments)
        if validated:
            payload.checked = arguments
        elif references:
            route.check_names(arguments)
            payload.checked = None
        else:
            payload.checked = route.validate(arguments)
        payload.context = copy_context()
        payload.calls = calls
        # a second submit may refer to other calls, or have the values
        is_comparable = key is not None and not (references and calls is not None)
        record = JobRecord(
            id=uuid.uuid4().hex if key is None else self.job_id(key, route, owner),
            queue=route.name,
            payload=payload,
            owner=owner,
            fingerprint=fingerprint(arguments) if is_comparable else "",
            waits=any(reference.kind != "blob" for _, reference in references),
        )
        if references:
            known = await self.backend.get(record.id)
            if known is None:
                await self.upstream.check(references, owner, calls)
        if await self.backend.submit(record):
            return record
        known = await self.backend.get(record.id)
        if known is None:  # it ran out between the two
            return await self.submit(route, arguments, key=key, owner=owner, validated=validated, calls=calls)
        is_same = "" in (known.fingerprint, record.fingerprint) or known.fingerprint == record.fingerprint
        if known.queue != record.queue or known.owner != owner or not is_same:
            raise InvalidInputError(
                "This Idempotency-Key was used before with another endpoint or other arguments; use a new key.",
                code="idempotency_key_reused",
            )
        return known

    def job_id(self, key: str, route: Route, owner: str = "") -> str:
        """32 hex digits are the id itself; any other key is hashed with the endpoint and the owner."""
        if _JOB_ID.fullmatch(key):
            return key
        return hashlib.sha256(f"{owner}\0{route.name}\0{key}".encode()).hexdigest()[:32]

    async def get(self, job_id: str, owner: str = "") -> JobRecord:
        """A snapshot; raises NotFoundError, also for a job of another owner."""
        self._check_started()
        record = await self.backend.get(job_id)
        if record is None or record.owner != owner:
            raise _no_job(job_id)
        return record

    def watch(
        self, job_id: str, sink: Sink, *, after: int = 0, owner: str | None = None
    ) -> Callable[[], None]:
        """Give all events after number `after` to `sink`: the past ones before this returns, then the live ones.

        Returns the function that ends the watch. Raises NotFoundError. A front end that knows owners calls `get` first.
        """
        self._check_started()
        stop = self.backend.watch(job_id, sink, after=after)
        if stop is None:
            raise _no_job(job_id)
        return stop

    async def events(self, job_id: str, *, after: int = 0, owner: str = "") -> AsyncIterator[JobEvent]:
        """The events after number `after` until the terminal one; raises NotFoundError."""
        await self.get(job_id, owner)
        async for event in self.backend.events(job_id, after=after):
            yield event

    async def wait(self, job_id: str, timeout: float | None = None, owner: str = "") -> JobRecord:
        """The job when it has ended, or as it is after `timeout` seconds."""
        record = await self.get(job_id, owner)
        if record.status.is_terminal or (timeout is not None and timeout <= 0):
            return record
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def sink(event: JobEvent) -> None:
            if event.is_terminal and not ended.done():
                ended.set_result(None)

        stop = self.watch(job_id, sink)
        timer = None if timeout is None else loop.call_later(timeout, _settle, ended)
        try:
            await ended
        finally:
            stop()
            if timer is not None:
                timer.cancel()
        return await self.get(job_id, owner)

    async def cancel(self, job_id: str, owner: str = "") -> JobRecord:
        """Ask the job to end; one that has ended stays as it is."""
        await self.get(job_id, owner)
        await self.backend.cancel(job_id)
        return await self.get(job_id, owner)

    async def list(
        self,
        *,
        owner: str = "",
        endpoint: str | None = None,
        status: JobStatus | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Sequence[JobRecord]:
        """Jobs, newest first; `after` is the id of the last one of the page before."""
        self._check_started()
        return await self.backend.list(owner=owner, queue=endpoint, status=status, limit=limit, after=after)

    # Calls without a job

    def call(
        self,
        route: Route,
        arguments: Mapping[str, Any],
        on_done: OnDone,
        *,
        timeout: float | None = None,
        priority: int = 0,
        capture: Capture | None = None,
        owner: str = "",
    ) -> Cancellable:
        """Call a batched route: `on_done(result, None)` or `on_done(None, error)` comes later on the loop, never from here.

        `capture` gives the results of the calls that the arguments refer to, where there can be such. It fails with 504
        `deadline_exceeded` after `timeout` seconds. Raises InvalidInputError, and ServerError 503 as `DirectRoute.call` does.
        """
        direct = self._direct.get(route.name)
        if direct is None or self._is_closing:
            self._check_open()
            raise ConfigurationError(f"{route.name!r} is not batched: submit a job.")
        try:
            if timeout is None and not priority:
                return direct.call(arguments, on_done)
            deadline = math.inf if timeout is None else time.monotonic() + timeout
            return direct.call(arguments, on_done, deadline=deadline, priority=priority)
        except InvalidInputError:
            references = find_references(arguments)
            if not references:
                raise
            direct.statistics.failures["invalid"] -= 1  # nothing is wrong with it, as far as is known
        calls, ready = (None, None) if capture is None else capture(references)
        later = _LaterCall()
        work = self._call_referring(
            route,
            arguments,
            references,
            later,
            timeout=timeout,
            priority=priority,
            calls=calls,
            ready=ready,
            owner=owner,
        )
        self._call_later(later, work, on_done)
        return later

    async def invoke(self, route: Route, arguments: Mapping[str, Any], *, owner: str = "") -> Any:
        """Run a route without a job and give its result (of a generator: the list of what it yields).

        Cancelling the caller cancels the work.
        """
        self._check_open()
        if any(type(value) is dict or type(value) is list for value in arguments.values()):
            # what a batched route takes is seldom a reference, and often very many numbers
            if route.kind != "batched" or find_top_references(arguments):
                references = find_references(arguments)
            else:
                references = []
            if references:
                await self.upstream.check(references, owner)
                arguments = await self.upstream.resolve(arguments, references, owner, name=route.name)
        if route.kind == "batched":
            return await self._call_batched(route, arguments)
        chunks: list[Any] = []

        async def emit(kind: EventKind, data: Any) -> bool:
            if kind == "chunk":
                chunks.append(data)
            return True

        run = Run(
            route, route.validate(arguments), slots=self._slots[route.name], emit=emit, context=copy_context()
        )
        result = await run.result()
        return chunks if route.streaming else result

    async def chunks(self, route: Route, arguments: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Run a generator without a job and give what it yields, one by one. Closing the iterator ends the work.

        It is not run far ahead of whoever iterates.
        """
        self._check_open()
        ready: asyncio.Queue[Any] = asyncio.Queue(_CHUNKS_AHEAD)
        end = object()

        async def emit(kind: EventKind, data: Any) -> bool:
            if kind == "chunk":
                await ready.put(data)
            return True

        async def run() -> None:
            try:
                await work.result()
            finally:
                await ready.put(end)

        values = route.validate(arguments)
        work = Run(route, values, slots=self._slots[route.name], emit=emit, context=copy_context())
        task = asyncio.get_running_loop().create_task(run())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            while (chunk := await ready.get()) is not end:
                yield chunk
            await task
        finally:
            if not task.done():
                task.cancel()
                while not ready.empty():  # room for the end
                    ready.get_nowait()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()

    # Inside

    def _call_later(self, later: _LaterCall, work: Coroutine[Any, Any, Any], on_done: OnDone) -> None:
        """A direct call whose arguments are not there yet: the one that takes a task."""

        def finish(task: asyncio.Task[Any]) -> None:
            self._calls.discard(task)
            later.task = None
            if not task.cancelled():
                exc = task.exception()
                if exc is not None:
                    exc.__traceback__ = None  # its frames refer to it: a circle
                on_done(None if exc else task.result(), exc)

        later.task = asyncio.get_running_loop().create_task(work)
        self._calls.add(later.task)
        later.task.add_done_callback(finish)

    async def _call_referring(
        self,
        route: Route,
        arguments: Mapping[str, Any],
        references: References,
        later: _LaterCall,
        *,
        timeout: float | None,
        priority: int,
        calls: Calls | None,
        ready: Awaitable[Any] | None,
        owner: str,
    ) -> Any:
        """A direct call, as soon as what its arguments refer to is there, within its time."""
        arrived = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                if ready is not None:
                    await ready
                await self.upstream.check(references, owner, calls)
                resolved = await self.upstream.resolve(
                    arguments, references, owner, name=route.name, calls=calls
                )
        except TimeoutError:
            raise expired(route.name) from None
        left = None if timeout is None else max(arrived + timeout - time.monotonic(), 0.0)
        return await self._call_batched(route, resolved, later, timeout=left, priority=priority)

    def _start_route(self, route: Route) -> None:
        if route.kind == "batched":
            statistics = self._statistics.setdefault(route.name, ModelStatistics())
            self._direct[route.name] = DirectRoute(route, statistics=statistics, timeout=self.model_timeout)
        if route.direct:
            return
        slots = self._slots[route.name] = Slots(route)
        self.backend.configure_queue(route.name, limit=route.queue_size, concurrency=route.concurrency)
        executor = LocalExecutor(
            route, self.backend, slots, prepare=self._prepare, call_batched=self._call_batched
        )
        self._executors[route.name] = executor
        executor.start()

    def _check_started(self) -> None:
        if self._loop is None:
            raise ServerError("The service is not running.", status=503, code="unavailable", retry_after=1.0)

    def _check_open(self) -> None:
        self._check_started()
        if self._is_closing:
            raise ServerError("The service is stopping.", status=503, code="unavailable", retry_after=1.0)

    async def _call_batched(
        self,
        route: Route,
        arguments: Mapping[str, Any],
        later: _LaterCall | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
    ) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def on_done(result: Any, exc: BaseException | None) -> None:
            if future.done():
                return
            if exc is None:
                future.set_result(result)
            else:
                future.set_exception(exc)

        ticket = self.call(route, arguments, on_done, timeout=timeout, priority=priority)
        if later is not None:
            later.ticket = ticket
        try:
            return await future
        except asyncio.CancelledError:
            ticket.cancel()
            raise

    def _prepare(self, route: Route, lease: Lease) -> PreparedJob:
        payload = lease.payload
        values = payload.checked if isinstance(payload, JobArguments) else None
        context = (payload.context if isinstance(payload, JobArguments) else None) or copy_context()
        if values is not None:
            return PreparedJob(values, context.copy())
        references = find_references(payload)
        if not references:
            return PreparedJob(route.validate(payload), context.copy())

        calls = payload.calls if isinstance(payload, JobArguments) else None

        async def wait_for_arguments() -> Mapping[str, Any]:
            owner = await self._owner(lease.job_id)
            resolved = await self.upstream.resolve(payload, references, owner, name=route.name, calls=calls)
            return resolved if route.kind == "batched" else route.validate(resolved)

        return PreparedJob(wait_for_arguments, context.copy())

    async def _owner(self, job_id: str) -> str:
        record = await self.backend.get(job_id)
        return "" if record is None else record.owner


class _LaterCall:
    """A direct call whose arguments are waited for; then it has a ticket of the batcher."""

    __slots__ = ("task", "ticket")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.ticket: Cancellable | None = None

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()


def _no_job(job_id: str) -> NotFoundError:
    return NotFoundError(f"There is no job {job_id!r} (any more).", code="job_not_found")


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
