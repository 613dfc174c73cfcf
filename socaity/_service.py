"""A Service: what `connect` gives."""

from __future__ import annotations

import asyncio
import difflib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from ._endpoint import Endpoint
from ._job import Job, Notice
from ._media_upload import Uploads, takes_media
from ._portal import Outbox, Outcome, portal
from ._retry import RetryPolicy
from .exceptions import (
    ConfigurationError,
    ConnectError,
    NotFoundError,
    SocaityError,
    TransportError,
    TransportTimeout,
)
from .protocol.description import EndpointDescription, ServiceDescription
from .transport import Target, Transport

if TYPE_CHECKING:
    from ._memo import Memo

__all__ = ["Service"]

logger = logging.getLogger(__name__)
_making = threading.Lock()
"""Held while a service gets its memory of calls, of which two threads would else make one each."""
_DESCRIBE_GRACE = 5.0
_CANCEL_DEADLINE = 10.0
_LAST_CANCELS = 2.0
"""Seconds that closing waits for the service to confirm cancels."""
_TIMEOUT_GRACE = 1.0
"""Seconds that the answer of a server may take longer than the timeout it was given."""


class Service:
    """A connected service; its endpoints are attributes, `service.predict("a cat")`, or items, `service["predict"]`.

    Made by `socaity.connect`, which returns at once; the endpoints are asked for on first use (which waits for the answer),
    in `with` and `async with`, or by `refresh()`. Usable from any thread and any number of event loops.
    """

    def __init__(
        self,
        target: Target,
        *,
        open_wire: Callable[[], Transport],
        retry: RetryPolicy,
        shows_progress: bool,
    ) -> None:
        self._target = target
        self._open_wire = open_wire
        self._retry = retry
        self.shows_progress = shows_progress
        self._description: ServiceDescription | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._closed = False
        self._wire_closed = False
        """As seen on the loop: what was called before `close` is still sent."""
        self._transport: Transport | None = None
        self._takes_media = False
        self._reset()

    def _reset(self) -> None:
        self._generation = portal.generation
        if self._transport is not None:
            portal.leave_behind(self._transport)
            self._transport = None
        self._interrupted: dict[str, Job[Any]] = {}
        self._between_tries: dict[Job[Any], asyncio.TimerHandle] = {}
        self._behind: dict[Job[Any], list[Callable[[], None]]] = {}
        """What waits for a job that is not on the wire: it can go as soon as that is."""
        self._outbox: Outbox[Job[Any]] = Outbox(self._start)
        self._memos: Memo | None = None
        self._uploads: Uploads | None = None
        self._cancels: set[asyncio.Task[None]] = set()
        self._take_back: Callable[[], None] | None = None

    # -- endpoints ---------------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """All endpoints by name; asks the service on first use."""
        if self._description is None:
            self.refresh()
        return MappingProxyType(self._endpoints)

    def refresh(self) -> Self:
        """Ask the service again what can be called; waits for the answer.

        Raises ConnectError, TransportTimeout, ProtocolError or APIError.
        """
        self._describe().result(self._target.timeout + _DESCRIBE_GRACE)
        return self

    def __getattr__(self, name: str) -> Endpoint:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except NotFoundError as exc:
            raise AttributeError(str(exc)) from exc

    def __getitem__(self, name: str) -> Endpoint:
        endpoints = self.endpoints
        if name not in endpoints:
            close = difflib.get_close_matches(name, endpoints, 1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(endpoints)) or 'none'}"
            )
            if not endpoints and self._target.place.startswith(("http://", "https://")):
                hint += f"; a model that speaks only Open Inference is at oip+{self._target.place}"
            raise NotFoundError(
                f"{self._target.place} has no endpoint {name!r}; {hint}", code="unknown_endpoint"
            )
        return endpoints[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.endpoints)

    def __dir__(self) -> list[str]:
        try:
            names: Iterable[str] = self.endpoints
        except SocaityError:  # completion must not raise when the service is away
            names = ()
        return sorted({*super().__dir__(), *names})

    def job(self, job_id: str) -> Job[Any]:
        """The job with this id: the same object after a wait for it was interrupted here, else attached anew.

        Returns at once; what the service says of the job comes a moment later. An id that the service does not know gives a
        job that ends in NotFoundError.
        """
        self._check_open()
        _check_id(job_id)
        if job_id in self._interrupted:
            return self._interrupted.pop(job_id)
        job: Job[Any] = Job(_AttachedEndpoint(self), {}, job_id)
        job._accepted = True
        portal.call_soon(self._attach, job)
        return job

    # -- life --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the wire. Running jobs go on at the service, their Job objects here end as JobLost."""
        if portal.is_own_thread:
            raise RuntimeError("close() would wait for ever on socaity's own loop")
        self._closing().result(_CANCEL_DEADLINE)

    async def aclose(self) -> None:
        """The same without blocking the event loop."""
        await self._closing()

    def __enter__(self) -> Self:
        return self.refresh()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._describe()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __await__(self) -> Generator[Any, Any, Self]:
        """`service = await socaity.connect(url)`: with the endpoints known, without blocking the event loop."""
        yield from self._describe().__await__()
        return self

    def __repr__(self) -> str:
        known = f"{len(self._endpoints)} endpoints" if self._description is not None else "not asked yet"
        return f"<Service {self._target.place} ({known})>"

    def _repr_html_(self) -> str:
        from ._view import html_of_service

        return html_of_service(self)

    # -- on the way to the wire ----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError(
                f"the service {self._target.place} was closed; call socaity.connect again"
            )
        if self._generation != portal.generation:
            self._reset()  # we are the child of a fork: the wire is the parent's

    @property
    def _memo(self) -> Memo:
        """The memoised jobs."""
        if self._memos is None:
            from ._memo import Memo

            with _making:
                if self._memos is None:
                    self._memos = Memo()
        return self._memos

    def _submit(self, job: Job[Any]) -> None:
        if self._closed or self._generation != portal.generation:
            self._check_open()
        self._outbox.put(job)

    def _wire(self) -> Transport:
        if self._wire_closed:
            raise ConnectError(f"the service {self._target.place} was closed here")
        if self._generation != portal.generation:
            self._reset()
        if self._transport is None:
            self._transport = self._open_wire()
            self._take_back = portal.at_exit(self._transport.aclose)
        return self._transport

    @property
    def _trouble(self) -> str | None:
        """What keeps calls from the service just now, if the transport says that."""
        return getattr(self._transport, "trouble", None)

    def _start(self, jobs: list[Job[Any]]) -> None:
        jobs = [job for job in jobs if not job._ended]
        now = time.monotonic()
        has_upstream = False
        for job in jobs:
            job._held = False
            job._sent = now
            if job.upstream:
                has_upstream = True
        try:
            wire = self._wire()
            if self._takes_media and self._uploads is None:
                self._uploads = Uploads(self)
            if has_upstream and not wire.takes_references:
                jobs = [job for job in jobs if not job.upstream or _has_values(job)]
            if self._uploads is not None:
                jobs = self._uploads.take(jobs)  # the others come back when their media are there
            wire.start(jobs)
        except Exception as exc:  # the edge of the loop: a fault of the adapter must not hang the callers
            for job in jobs:
                job.fail(_as_ours(exc))
        if self._behind:
            for wake in [wake for job in jobs if not job._held for wake in self._behind.pop(job, ())]:
                wake()

    def _attach(self, job: Job[Any]) -> None:
        try:
            self._wire().attach(job)
        except Exception as exc:  # as in _start
            job.fail(_as_ours(exc))

    def _try_again(self, job: Job[Any]) -> None:
        self._between_tries.pop(job, None)
        self._start([job])

    def _retry_later(self, job: Job[Any], error: SocaityError) -> bool:
        """Take the job over after a refusal; False if it is not worth another try."""
        if self._uploads is not None and self._uploads.again(job, error):
            return True
        delay = self._retry.next_delay(job._attempt, error, time.monotonic() - job._created)
        if delay is None or self._closed:
            return False
        time_left = job.time_left
        if time_left is not None and delay >= time_left:
            return False
        job._attempt += 1
        job._held = True
        logger.debug("job %s was refused (%s); try %d in %.2f s", job.id, error, job._attempt, delay)
        timer = asyncio.get_running_loop().call_later(delay, self._try_again, job)
        self._between_tries[job] = timer
        return True

    def _keep_time(self, job: Job[Any]) -> None:
        """End the job at the timeout of its endpoint, if there is one."""
        options = job.options
        if options is not None and options.timeout is not None:
            portal.call_soon(self._end_at_timeout, job, options.timeout)

    def _end_at_timeout(self, job: Job[Any], timeout: float) -> None:
        """The server answers in time; this is for the case that it cannot be reached or has gone."""
        timer = asyncio.get_running_loop().call_later(
            timeout + _TIMEOUT_GRACE - (time.monotonic() - job._created), self._time_is_over, job, timeout
        )
        job._add_notice(Notice(lambda: portal.call_soon(timer.cancel)))

    def _time_is_over(self, job: Job[Any], timeout: float) -> None:
        if not job._ended:
            self._cancel(job)
            job.fail(TransportTimeout(f"no answer came within {timeout:g} s"))

    def _cancel(self, job: Job[Any]) -> None:
        if job._held:  # between two tries, or waiting for an argument: no service has it
            timer = self._between_tries.pop(job, None)
            if timer is not None:
                timer.cancel()
            job._end_cancelled("cancelled before it was sent")
        elif not job._ended:
            task = asyncio.get_running_loop().create_task(self._cancel_on_wire(job))
            self._cancels.add(task)
            task.add_done_callback(self._cancels.discard)
            task.add_done_callback(_log_failure)

    async def _cancel_on_wire(self, job: Job[Any]) -> None:
        try:
            async with asyncio.timeout(_CANCEL_DEADLINE):
                wire = self._transport or self._wire()  # also while it is being closed
                await wire.cancel(job.id)
        except (SocaityError, TimeoutError) as exc:
            if not job._accepted:
                job._end_cancelled(f"cancelled before the service accepted it ({exc})")
            else:
                logger.warning("job %s could not be cancelled and runs on: %s", job.id, exc)

    def _describe(self) -> Outcome[None]:
        self._check_open()
        return portal.spawn(self._read_description())

    async def _read_description(self) -> None:
        description = await self._wire().describe()
        endpoints = {}
        for one in description.endpoints:
            known = self._endpoints.get(one.name)
            endpoints[one.name] = (
                known if known is not None and known.description == one else Endpoint(self, one)
            )
        self._takes_media = any(
            takes_media([parameter.json_schema for parameter in one.parameters])
            for one in description.endpoints
        )
        self._endpoints = endpoints
        self._description = description

    def _closing(self) -> Outcome[None]:
        if self._generation != portal.generation:
            self._reset()
        self._closed = True
        return portal.spawn(self._close_wire())

    async def _close_wire(self) -> None:
        if self._cancels:  # what was cancelled just before is told so
            await asyncio.wait(self._cancels, timeout=_LAST_CANCELS)
        transport, self._transport = self._transport, None
        self._wire_closed = True
        if self._take_back is not None:
            self._take_back()
        waiting, self._between_tries = self._between_tries, {}
        for job, timer in waiting.items():
            timer.cancel()
            job.fail(ConnectError(f"the service {self._target.place} was closed before the job was accepted"))
        if self._uploads is not None:
            self._uploads.close()
        if transport is not None:
            await transport.aclose()


class _AttachedEndpoint(Endpoint):
    """Stands for the endpoint of a job that was attached to by its id: only the service knows which it is."""

    has_times = False
    """When the job was called is not known either."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, EndpointDescription(name="job", path=""))
        self.may_stream = True


def _check_id(job_id: object) -> None:
    if not isinstance(job_id, str):
        hint = "; its id is job.id" if isinstance(job_id, Job) else ""
        raise TypeError(f"service.job takes the id of a job, which is text, not {job_id!r}{hint}")


def _has_values(job: Job[Any]) -> bool:
    """Put the values of its upstream into the arguments of a job; False if it waits for them, or has ended."""
    arguments = job.arguments_with(None)
    if arguments is None:
        return False
    job.arguments = arguments
    return True


def _as_ours(exc: Exception) -> SocaityError:
    if isinstance(exc, SocaityError):
        return exc
    error = TransportError(f"the transport failed: {type(exc).__name__}: {exc}")
    error.__cause__ = exc
    return error


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("cancelling a job failed", exc_info=task.exception())
