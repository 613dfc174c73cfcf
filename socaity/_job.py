"""A Job: the one object with two faces, for threads and for event loops."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from . import _display
from ._job_ids import job_ids
from ._job_reference import JobReference, checked_key
from ._portal import Signal, Waitable, _add_waiter, _remove_waiter, _waiters_lock, portal
from ._progress import Progress
from .exceptions import JobCancelled, JobError, JobFailed, JobLost, NotFoundError, ProtocolError, SocaityError
from .protocol.events import JobEvent, JobStatus
from .transport import CallOptions, HeldResult, Refer, error_from_event

if TYPE_CHECKING:
    from pathlib import Path

    from ._endpoint import Endpoint
    from ._links import Links
    from ._timeline import Timeline
    from .protocol.description import EndpointDescription

__all__ = ["Job", "JobReference"]

logger = logging.getLogger(__name__)
T_co = TypeVar("T_co", covariant=True)
_NO_PROGRESS = Progress()
_MODEL_CODES = frozenset({"model_not_found", "model_unloaded", "version_not_found"})
"""What a function may fail with that loads models: here it is not the job that is not found."""


class Notice:
    """A waiter of our own, which needs to know of the end of a job, and the value only if it `looks`. One that `wants` the
    job keeps it from being cancelled with what is behind it."""

    __slots__ = ("looks", "wake", "wants")

    def __init__(self, wake: Callable[[], None], *, looks: bool = False, wants: bool = False) -> None:
        self.wake = wake
        self.looks = looks
        self.wants = wants

    def __call__(self) -> None:
        self.wake()


class Job(Waitable, Generic[T_co]):
    """A call that was made and may not have ended: `.result()`, `await`, `for` and `async for` all work.

    Waiting never cancels: a timeout or Ctrl-C leaves the job running, only `cancel()` stops it. A result can be read any
    number of times, by any number of threads and tasks.
    """

    __slots__ = (
        "_accepted",
        "_attempt",
        "_changed",
        "_chunks",
        "_created",
        "_display",
        "_ended_at",
        "_endpoint",
        "_error",
        "_generation",
        "_held",
        "_id",
        "_links",
        "_logs",
        "_position",
        "_progress",
        "_remote",
        "_sent",
        "_seq",
        "_started",
        "_status",
        "_value",
        "arguments",
        "context",
        "number",
        "upstream",
    )

    _sent: float
    """When it was handed to the wire; not there before that."""
    upstream: tuple[Job[Any], ...]
    """The jobs whose results, or parts of them, are arguments of this one: each once, in the order in which they come."""

    def __init__(self, endpoint: Endpoint, arguments: Mapping[str, Any], job_id: str | None = None) -> None:
        self._ended = False
        self._waiters = None
        self._endpoint = endpoint
        self.arguments = arguments
        self._id: int | str = job_ids.next() if job_id is None else job_id
        self._status = JobStatus.QUEUED
        self._value: Any = None
        self._error: SocaityError | None = None
        self._seq = 0
        self._accepted = False
        self._held = False
        self._attempt = 1
        self._created = time.monotonic()
        self._generation = portal.generation
        self._started: float | None = None
        self._progress = _NO_PROGRESS
        self._position: int | None = None
        self._chunks: list[Any] | None = None
        self._logs: list[str] | None = None
        self._changed: Signal | None = None
        self._display: Any = None
        self._ended_at: float | None = None
        self._remote: HeldResult | None = None
        self._links: Links | None = None
        self.context: Context | None = None
        self.number = 0
        self.upstream = ()

    @property
    def options(self) -> CallOptions | None:
        """What `Endpoint.with_options` said."""
        return self._endpoint.options

    @property
    def time_left(self) -> float | None:
        """Seconds until the timeout of `Endpoint.with_options`, at least 0; None without one."""
        options = self._endpoint.options
        if options is None or options.timeout is None:
            return None
        return max(self._created + options.timeout - time.monotonic(), 0.0)

    # -- what a person sees ------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The id under which the service knows the job; also the idempotency key of its submit."""
        if type(self._id) is int:
            self._id = job_ids.text(self._id)
        return self._id  # type: ignore[return-value]

    @property
    def status(self) -> JobStatus:
        """`queued`, `running`, `succeeded`, `failed` or `cancelled`. Once terminal it stays.

        It is what was last heard of the job. Of one that `Service.job` attached to that is nothing until the service has
        answered: `queued` then stands for that, as for a call that has just been made.
        """
        return self._status

    @property
    def progress(self) -> Progress:
        """How far it is, as last reported; 1 after success."""
        if self._status is JobStatus.SUCCEEDED:
            return Progress(1.0, self._progress.message)
        return self._progress

    @property
    def queue_position(self) -> int | None:
        """Its place in the queue, 1 being the next, or None if it is not waiting or nobody said."""
        return self._position if self._status is JobStatus.QUEUED else None

    @property
    def eta(self) -> float | None:
        """Seconds until the end: from its progress so far, or from how long the service takes for such a job and how many are
        before it; None while there is nothing to go by."""
        if self.done():
            return 0.0
        fraction, now = self._progress.fraction, time.monotonic()
        if self._started is not None and fraction:
            return (now - self._started) * (1 - fraction) / fraction
        due = None if self._links is None else self._links.due
        return None if due is None else max(0.0, due - now)

    @property
    def timing(self) -> Mapping[str, float] | None:
        """What the service says of where the time went, if it was asked (`endpoint.with_options(explain=True)`): the seconds
        `queued`, `batched`, `computed` and `encoded`, and how many `rows` were computed together."""
        return None if self._links is None else self._links.timing

    @property
    def logs(self) -> list[str]:
        """What the function logged so far."""
        return list(self._logs or ())

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._ended or self._remote is not None

    def cancelled(self) -> bool:
        """Whether it was cancelled before it ended by itself."""
        return self._status is JobStatus.CANCELLED

    def result(self, timeout: float | None = None) -> T_co:
        """The value; of a streaming function the list of all chunks.

        Raises JobFailed, JobCancelled or JobLost if it did not succeed, the refusal (an APIError or TransportError) if it
        never started, and the built-in TimeoutError after `timeout` seconds, in which case the job runs on.
        """
        if not self._ended:
            self._wait_shown(timeout)
        if self._error is not None:
            raise self._seen_error()
        return self._value  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> SocaityError | None:
        """The error the job ended in, or None if it succeeded; waits like `result`."""
        if not self.done():
            signal = Signal()
            notice = Notice(signal.set, wants=True)
            self._add_notice(notice)
            try:
                if not self._interruptible(self._shown, signal.wait, timeout):
                    raise self._too_late(timeout)
            finally:
                _remove_waiter(self, notice)
        if self._error is not None:
            self._seen_error()
        return self._error

    def __await__(self) -> Generator[Any, Any, T_co]:
        if not self._ended:
            self._show()
            yield from self._wait_async()
        if self._error is not None:
            raise self._seen_error()
        return self._value  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        """The chunks of a stream, from the first; raises at the end if the stream did not end well."""
        self._check_streaming()
        index = 0
        while True:
            for chunk in self._chunks_from(index):
                index += 1
                yield chunk
            signal = self._next_change(index)
            if signal is not None:
                self._interruptible(signal.wait)
            elif self._stream_is_read(index):
                return

    async def __aiter__(self) -> AsyncIterator[Any]:
        """The same for `async for`."""
        self._check_streaming()
        index = 0
        while True:
            for chunk in self._chunks_from(index):
                index += 1
                yield chunk
            signal = self._next_change(index)
            if signal is not None:
                await signal
            elif self._stream_is_read(index):
                return

    def cancel(self, *, upstream: bool = True) -> bool:
        """Ask the service to stop the job; False if it has ended.

        Returns at once. The job ends as `cancelled` when the service confirms; a job that was not sent yet ends here. The
        unfinished jobs whose results it takes are cancelled with it, if nobody else wants them: no other unfinished job,
        group or callback, and nobody who waits. `upstream=False` leaves them alone. In the child of a fork the jobs of the
        parent have ended as JobLost.
        """
        self._end_if_left_behind()
        if self.done():
            return False
        if self._links is None:
            portal.call_soon(self._endpoint.service._cancel, self)
        else:
            from ._references import cancel

            portal.call_soon(cancel, self, upstream)
        return True

    def retry(self) -> Job[T_co]:
        """The same call again, as a new job; the job itself if it has not failed.

        Steps before it that failed, or were cancelled, are made again as well; the results of the others are used as they
        are. Raises ConfigurationError for a job that `Service.job` attached to, whose arguments are not known here.
        """
        from ._again import retry

        return retry(self)

    def add_done_callback(self, function: Callable[[Job[T_co]], object]) -> None:
        """Call `function(job)` when it has ended, or now if it has.

        It runs on socaity's own thread and must not block there; what it raises is logged.
        """
        from ._callbacks import DoneCallback

        self._when_ended(DoneCallback(self, function))

    def remove_done_callback(self, function: Callable[[Job[T_co]], object]) -> int:
        """Do not call `function` at the end; returns how often it had been added."""
        from ._callbacks import DoneCallback

        waiters = list(self._waiters or ())
        found = [one for one in waiters if isinstance(one, DoneCallback) and one.function == function]
        return sum(_remove_waiter(self, one) for one in found)

    def add_progress_callback(self, function: Callable[[Job[T_co]], object]) -> None:
        """Call `function(job)` whenever its status, its progress, its place in the queue or its log was reported anew.

        It runs on socaity's own thread and must not block there; what it raises is logged. It is not called for what was
        before, nor for the end: see `add_done_callback`.
        """
        self._end_if_left_behind()
        more = self._more()
        with _waiters_lock:
            more.listeners = (*more.listeners, function)

    def __getitem__(self, key: str | int) -> JobReference:
        """A part of the result to come, to be passed on as an argument: `job["images"][0]`."""
        return JobReference(self, (checked_key(key),))

    def __bool__(self) -> NoReturn:
        """Refused, also after the end: whether it was meant of the job or of its result, nobody can see."""
        raise TypeError(
            f"{self!r} is a job, not its result, and always true; write job.result() (or await it), or "
            "`job is not None`"
        )

    def __copy__(self) -> Job[T_co]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} belongs to this process; {self._elsewhere()}")

    def __deepcopy__(self, memo: object) -> Job[T_co]:
        return self  # as of a file: what holds jobs may be copied

    def __repr__(self) -> str:
        from ._attached import is_heard_of

        if not is_heard_of(self):
            return f"<Job {self.id} (no answer yet)>"
        return f"<Job {self._endpoint.name} {self.id} {self._status}>"

    def save(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, timeout: float | None = None
    ) -> Path | list[Path]:
        """Wait, and write the result to a file, or a folder of files; returns where it is.

        Raises as `result`, FileExistsError without `overwrite`, and ValueError for a form that does not suit the result.
        """
        from ._media_save import save_result

        return save_result(self.result(timeout), path, overwrite=overwrite)

    def timeline(self) -> Timeline:
        """Where the time went, for each step; print it, or end a notebook cell with it."""
        from ._timeline import timeline_of

        return timeline_of(self)

    def _repr_html_(self) -> str:
        from ._view import html_of

        return html_of(self)

    def _ipython_display_(self) -> None:
        from ._live_view import show

        show(self)

    # -- what a transport sees (protocol `socaity.transport.Call`); always on the portal's loop -------------------------

    @property
    def endpoint(self) -> EndpointDescription:
        return self._endpoint.description

    @property
    def seq(self) -> int:
        return self._seq

    @property
    def is_done(self) -> bool:
        return self._ended

    @property
    def held(self) -> HeldResult | None:
        return self._remote

    def accept(self) -> None:
        self._accepted = True

    def arguments_with(self, refer: Refer | None) -> Mapping[str, Any] | None:
        from ._references import arguments_with

        return arguments_with(self, refer)

    def explain(self, timing: Mapping[str, float]) -> None:
        self._more().timing = {str(name): float(seconds) for name, seconds in timing.items()}

    def hold(self, held: HeldResult) -> None:
        """It has succeeded; the value comes when somebody looks."""
        if self.done():
            return
        self._accepted = True
        self._status = JobStatus.SUCCEEDED
        self._ended_at = time.monotonic()
        self._remote = held
        self._let_go()
        if self._display is not None:
            self._display.update(self)
        with _waiters_lock:
            quiet: list[Callable[[], None]] = []
            others: list[Callable[[], None]] = []
            for one in self._waiters or ():
                (quiet if isinstance(one, Notice) and not one.looks else others).append(one)
            self._waiters = others or None
        for notice in quiet:
            notice()
        if self._waiters is not None or self._changed is not None:
            self._fetch()

    def deliver(self, event: JobEvent) -> None:
        try:
            self._take(event)
        except (TypeError, ValueError, LookupError, AttributeError) as exc:
            error = ProtocolError(f"event {event!r:.200} of job {self.id} is malformed: {exc}")
            error.__cause__ = exc
            self._accepted = True
            self.fail(error)

    def _take(self, event: JobEvent) -> None:
        if self._ended:
            return
        seq, kind, data = event
        if seq:
            if seq <= self._seq:
                return  # seen before a reconnect
            if seq > self._seq + 1 and not _is_cancel(kind, data):
                self.fail(ProtocolError(f"events {self._seq + 1} to {seq - 1} of job {self.id} are missing"))
                return
            self._seq = seq
        self._accepted = True
        if kind == "chunk":
            decode = self._endpoint.decode_chunk
            if decode is not None:
                try:
                    data = decode(data)
                except Exception as exc:  # the user's own type refused the chunk
                    self.fail(_as_failed(exc, self.id, "a chunk"))
                    return
            if self._chunks is None:
                self._chunks = []
            self._chunks.append(data)
        elif kind == "result":
            self.succeed(data)
            return
        elif kind == "error":
            self.fail(error_from_event(event, self.id))
            return
        else:
            self._note(kind, data)
        if self._changed is not None:
            self._signal_change()
        if self._display is not None:
            self._display.update(self)
        if kind != "chunk" and self._links is not None and self._links.listeners:
            self._tell_listeners()

    def _tell_listeners(self) -> None:
        for function in self._more().listeners:
            try:
                function(self)
            except Exception:
                logger.exception("a progress callback of job %s raised", self.id)

    def _note(self, kind: str, data: Any) -> None:
        if kind == "status":
            status = JobStatus(data["status"])
            if status.is_terminal:
                return  # only a result or an error ends a job
            self._status = status
            self._position = data.get("queue_position")
            eta = data.get("eta")
            if eta is not None:
                self._more().due = time.monotonic() + float(eta)
            elif self._links is not None:
                self._links.due = None
            if status is JobStatus.RUNNING and self._started is None:
                self._started = time.monotonic()
        elif kind == "progress":
            fraction, message = data.get("fraction"), data.get("message")
            self._progress = Progress(
                None if fraction is None else min(1.0, max(0.0, float(fraction))),
                None if message is None else str(message),
            )
        elif kind == "log":
            if self._logs is None:
                self._logs = []
            self._logs.append(str(data.get("message")))

    def succeed(self, value: Any) -> None:
        if self._ended:
            return
        decode = self._endpoint.decode
        streams = bool(self._chunks) or (self._endpoint.may_stream and self._endpoint.description.streaming)
        if self._chunks or (streams and value is None):
            value = self._chunks = self._chunks or []
        if decode is not None:
            try:
                value = decode(value)
            except Exception as exc:  # the user's own type refused the value
                self.fail(_as_failed(exc, self.id))
                return
        if streams and self._chunks is None:  # a service may answer as a whole where it could have streamed
            self._chunks = value if isinstance(value, list) else [value]
        self._value = value
        self._status = JobStatus.SUCCEEDED
        self._finish()

    def fail(self, error: SocaityError) -> None:
        if self._ended:
            return
        if self._remote is not None and not isinstance(error, JobError):
            error = JobLost(f"its result stayed at the service and cannot be had: {error}", job_id=self.id)
        elif self.upstream:
            from ._refusals import take_refusal

            taken = take_refusal(self, error)
            if taken is None:
                return
            error = taken
        if not self._accepted and self._endpoint.service._retry_later(self, error):
            return
        self._end_in(error)

    def _end_in(self, error: SocaityError) -> None:
        if self._ended:
            return
        if (
            self._accepted
            and self._seq
            and isinstance(error, NotFoundError)
            and error.code not in _MODEL_CODES
        ):
            error = JobLost(f"the service no longer knows the job: {error}", job_id=self.id)
        if isinstance(error, JobError):
            if error.job_id is None:
                error.job_id = self.id
            if self._logs and not error.logs:
                error.logs = tuple(self._logs)
        self._error = error
        self._status = JobStatus.CANCELLED if isinstance(error, JobCancelled) else JobStatus.FAILED
        self._finish()

    def _end_cancelled(self, why: str) -> None:
        self._accepted = True  # no further try
        self._end_in(JobCancelled(why, job_id=self.id))

    def _renew(self) -> None:
        """A new call, as far as the service can see."""
        self._id = job_ids.next()
        self._seq = 0
        self._accepted = False
        self._status = JobStatus.QUEUED
        self._started = self._position = None

    def _finish(self) -> None:
        if self._ended_at is None:
            self._ended_at = time.monotonic()
        if self._display is not None:
            self._display.update(self)  # its line is closed before the waiting code goes on and prints
        if self._links is not None:
            self._let_go()
        self._end()
        if self._changed is not None:
            self._signal_change()

    def _let_go(self) -> None:
        """It needs those before it no longer."""
        if self.upstream:
            from ._links import forget_past, release

            release(self)
            forget_past(self)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _wait_shown(self, timeout: float | None) -> None:
        if not self._interruptible(self._shown, self._wait, timeout):
            raise self._too_late(timeout)

    def _shown(self, wait: Callable[[float | None], bool], timeout: float | None) -> bool:
        self._show()
        return wait(timeout)

    def _too_late(self, timeout: float | None) -> TimeoutError:
        why = self._endpoint.service._trouble or "it runs on"
        return TimeoutError(f"job {self.id} is still {self._status} after {timeout:g} s; {why}")

    def _fetch(self) -> None:
        if not self._ended and self._remote is not None:
            self._remote.fetch(self)

    def _has_ended(self) -> bool:
        # asked by everyone who has begun to wait for the value
        if self._remote is not None and not self._ended:
            portal.call_soon(self._fetch)
        return self._ended

    def _add_notice(self, notice: Notice) -> None:
        """Tell `notice` of the end, or now if it has come."""
        self._end_if_left_behind()
        if notice.looks:
            super()._when_ended(notice)
            return
        if not self.done():
            _add_waiter(self, notice)
            if not (self.done() and _remove_waiter(self, notice)):
                return
        notice()

    def _target(self) -> JobReference:
        """Where the result comes from: most jobs make it themselves."""
        return JobReference(self, ())

    def _when_on_its_way(self, wake: Callable[[], None]) -> None:
        """Call `wake` as soon as it is known where the result comes from, if that is not known now."""

    def _made_anew(self) -> Job[Any] | None:
        """The call made again in a way of its own; None for the usual one."""
        return None

    def _is_wanted(self) -> bool:
        """Whether somebody would miss the result."""
        if self._changed is not None or (self._links is not None and self._links.dependents > 0):
            return True
        return any(not isinstance(one, Notice) or one.wants for one in list(self._waiters or ()))

    def _show(self) -> None:
        self._end_if_left_behind()
        if self._display is None and not self._ended and self._shows_progress():
            _display.begin(self)

    def _shows_progress(self) -> bool:
        return self._endpoint.service.shows_progress

    def _interruptible(self, wait: Callable[..., bool], *args: Any) -> bool:
        try:
            return wait(*args)
        except KeyboardInterrupt:
            _display.tell(f"Stopped waiting; {self._how_to_go_on()}")
            raise

    def _how_to_go_on(self) -> str:
        """What somebody is told who has stopped waiting."""
        again = self._keep_for_later()
        return f"job {self.id} runs on. To wait again: {again}.result(), to stop it: .cancel()"

    def _keep_for_later(self) -> str | None:
        """How to come by this object again after a wait was interrupted; None if only by what holds it now."""
        self._endpoint.service._interrupted[self.id] = self
        return f"service.job({self.id!r})"

    def _elsewhere(self) -> str:
        """What another process can do, as it cannot have this object."""
        if self._endpoint.description.direct:
            return "no other can attach to it, for it has no id at the service"
        return f"service.job({self.id!r}) attaches to it from any other"

    def _when_ended(self, function: Callable[[], None]) -> None:
        self._end_if_left_behind()
        super()._when_ended(function)

    def _end_if_left_behind(self) -> None:
        """Nothing reaches a job of the parent in the child of a fork, and nothing of it may reach the parent's wire."""
        if self._ended or self._generation == portal.generation:
            return
        self._waiters = self._changed = self._display = None  # threads, loops and lines of the parent
        self._accepted = True  # no further try
        self.fail(
            JobLost(
                f"job {self.id} belongs to the parent process; {self._elsewhere()}",
                job_id=self.id,
            )
        )

    def _check_streaming(self) -> None:
        if not self._endpoint.may_stream and not self._chunks:
            raise TypeError(f"{self._endpoint.name} does not stream; use job.result() or await")

    def _chunks_from(self, index: int) -> list[Any]:
        return self._chunks[index:] if self._chunks is not None else []

    def _next_change(self, index: int) -> Signal | None:
        """A signal for what comes after chunk `index`, or None if something is there already."""
        if self._ended:
            return None
        self._end_if_left_behind()
        with _waiters_lock:
            signal = self._changed
            if signal is None:
                signal = self._changed = Signal()
        if self._has_ended() or (self._chunks is not None and len(self._chunks) > index):
            return None
        return signal

    def _signal_change(self) -> None:
        signal, self._changed = self._changed, None
        if signal is not None:
            signal.set()

    def _stream_is_read(self, index: int) -> bool:
        if not self._ended or (self._chunks is not None and len(self._chunks) > index):
            return False
        if self._error is not None:
            raise self._seen_error()
        return True

    def _seen_error(self) -> SocaityError:
        assert self._error is not None
        self._more().is_seen = True
        return self._error.with_traceback(None)

    def _more(self) -> Links:
        """What most jobs do not need, made when it is."""
        if self._links is None:
            from ._links import Links

            with _waiters_lock:
                if self._links is None:
                    self._links = Links()
        return self._links


def _is_cancel(kind: str, data: Any) -> bool:
    """Whether it is the one event before which others may be left out."""
    return kind == "error" and data.get("code") == "cancelled"


def _as_failed(exc: Exception, job_id: str, what: str = "the result") -> JobFailed:
    error = JobFailed(
        f"{what} does not fit the declared type: {exc}", job_id=job_id, error_type=type(exc).__name__
    )
    error.__cause__ = exc
    return error
