"""`pipeline`: a plain function that calls endpoints, as one callable that gives one Job."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar

from ._job import Job, JobReference, Notice
from ._links import Links, links_of
from ._parts import groups_in, jobs_in, replaced
from ._portal import portal
from ._progress import Progress
from ._references import cancel
from ._retry import RetryPolicy
from ._scope import Scope, current, running
from ._service import Endpoint, Service
from .exceptions import ConfigurationError, JobCancelled, JobFailed, SocaityError
from .protocol.description import EndpointDescription
from .protocol.events import JobStatus
from .transport import HeldResult, Target, Transport

if typing.TYPE_CHECKING:
    from ._pipeline import JobGroup
    from .transport import Call

__all__ = ["PipelineFunction", "pipeline"]

P = ParamSpec("P")
R = TypeVar("R")
T_co = TypeVar("T_co", covariant=True)

_CONCURRENCY = 64
"""Calls of a pipeline that run at a time in `map`: each has a thread while its function runs."""


class PipelineFunction(Generic[P, R]):
    """A whole graph of steps as one function; calling it gives a `Job[R]` at once."""

    def __init__(self, function: Callable[P, Any]) -> None:
        functools.update_wrapper(self, function)
        self.__signature__ = _signature_of(function)
        self._endpoint = _PipelineEndpoint(function, self.__signature__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Begin; a wrong number of arguments raises TypeError, as of any function."""
        return self._begin(args, kwargs)

    def _begin(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Job[R]:
        return self._endpoint(*args, **kwargs)

    def map(self, *inputs: Iterable[Any], concurrency: int = _CONCURRENCY, **constant: Any) -> JobGroup[R]:
        """Like `Endpoint.map`."""
        return self._endpoint.map(*inputs, concurrency=concurrency, **constant)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        # a method may be a pipeline, too
        method = typing.cast("Callable[..., Any]", self)
        return self if instance is None else functools.partial(method, instance)

    def __repr__(self) -> str:
        return f"<pipeline {self._endpoint.name}{self.__signature__}>"


class PipelineJob(Job[T_co]):
    """One call of a pipeline. Its `upstream` are its steps, in the order in which they were made."""

    __slots__ = ("_call", "_has_returned", "_result", "_returned", "_scope", "_steps", "_steps_done")

    def __init__(self, endpoint: _PipelineEndpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._steps: dict[Job[Any], None] = {}
        super().__init__(endpoint, {})
        self._links = Links()
        self._call = (args, kwargs)
        self._steps_done = 0
        self._has_returned = False
        self._result: Any = None
        self._returned: list[Callable[[], None]] = []
        self._scope: Scope | None = None
        self._accepted = True
        self._status = JobStatus.RUNNING
        self._started = time.monotonic()

    def _get_upstream(self) -> tuple[Job[Any], ...]:
        return tuple(self._steps)

    def _set_upstream(self, value: tuple[Job[Any], ...]) -> None:
        """There is nothing to set: the steps come one after the other."""

    upstream = property(_get_upstream, _set_upstream)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]

    # -- from any thread -----------------------------------------------------------------------------------------------

    def _begin(self, function: Callable[..., Any], replay: dict[bytes, list[Job[Any]]] | None) -> None:
        scope = self._scope = Scope(self, replay)
        running.append(scope)
        context = copy_context()
        args, kwargs = self._call

        def work() -> None:
            current.set(scope)
            try:
                if inspect.iscoroutinefunction(function):
                    value = asyncio.run(function(*args, **kwargs))
                else:
                    value = function(*args, **kwargs)
            except BaseException as exc:  # the edge of the thread: whatever it is ends the job
                _tell(scope, "_function_raised", exc)
            else:
                _tell(scope, "_function_returned", value)

        portal.run_in_thread(lambda: context.run(work), "socaity-pipeline")

    def cancel(self, *, upstream: bool = True) -> bool:
        """Cancel the pipeline and those of its steps that have not ended; False if it has ended itself."""
        if self.done():
            return False
        portal.call_soon(self._stop)
        return True

    def _add_step(self, step: Job[Any]) -> None:
        if step not in self._steps:  # one that is memoised may be made twice
            self._steps[step] = None
            step._add_notice(Notice(self._step_done))

    def _step_done(self) -> None:
        self._steps_done += 1
        if self.done():
            return
        done, number = self._steps_done, len(self._steps)
        self._progress = Progress(min(done / number, 1.0), f"{done} of {number} steps")
        if self._display is not None:
            self._display.update(self)

    def _show(self) -> None:
        if all(step._endpoint.service.shows_progress for step in self._steps):
            super()._show()

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def fail(self, error: SocaityError) -> None:
        self._end_in(error)

    def _function_raised(self, exc: BaseException) -> None:
        step = next((one for one in self._steps if one._error is exc), None)
        if step is not None:
            self._end_in(self._failed_by(step))
        elif isinstance(exc, JobCancelled):
            self._end_in(exc)
        else:
            error = JobFailed(
                f"{self._endpoint.name} raised {type(exc).__name__}: {exc}",
                job_id=self.id,
                error_type=type(exc).__name__,
            )
            error.__cause__ = exc
            self._end_in(error)

    def _function_returned(self, value: Any) -> None:
        for group in groups_in(value):
            if not group._is_fed:
                group._when_fed(lambda: _tell_if_open(self, "_function_returned", value))
                return
            if group._feed_error is not None:
                self._function_raised(group._feed_error)
                return
        self._result = value
        self._has_returned = True
        returned, self._returned = self._returned, []
        for wake in returned:
            wake()
        missing = {id(one): one for one in (*self._steps, *jobs_in(value)) if not one.done()}
        left = len(missing)

        def one_done() -> None:
            nonlocal left
            left -= 1
            if left <= 0 or any(one._error is not None for one in jobs_in(value)):
                self._settle()

        for one in missing.values():
            one._add_notice(Notice(one_done))
        if not missing:
            self._settle()

    def _settle(self) -> None:
        """Every step has ended, or one has failed without which there is no result."""
        if self.done():
            return
        returned = jobs_in(self._result)
        failed = next((one for one in returned if one._error is not None), None)
        if failed is None:
            # a step that nobody looked at and nothing was made of: it was called for what it does
            failed = next((one for one in self._steps if _fails_all(one)), None)
        if failed is not None:
            self._end_in(self._failed_by(failed))
        elif all(one._ended for one in returned):
            self.succeed(_resolved(self._result))
        else:
            self.hold(_HeldParts(self._result))

    def _failed_by(self, step: Job[Any]) -> SocaityError:
        error = step._error
        assert error is not None
        name, text = step._endpoint.name, Exception.__str__(error)
        if getattr(error, "code", None) == "upstream_failed":
            what = text
        elif isinstance(error, JobCancelled):
            what = f"its step {name} (job {step.id}) was cancelled"
        else:
            what = f"its step {name} (job {step.id}) failed: {text}"
        failed = JobFailed(f"{self._endpoint.name} failed: {what}", job_id=self.id)
        failed.__cause__ = error
        return failed

    def _stop(self) -> None:
        """End as cancelled, with all steps that have not ended; the function makes no more."""
        if self.done():
            return
        if self._scope is not None:
            self._scope.is_stopped = True
        for step in reversed(list(self._steps)):
            if not step.done():
                cancel(step, upstream=True)
        self._end_cancelled("the pipeline was cancelled")

    def _let_go(self) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()
            running.remove(scope)
        returned, self._returned = self._returned, []
        for wake in returned:
            wake()

    # -- as a step of others -------------------------------------------------------------------------------------------

    def _target(self) -> JobReference:
        """Where its result comes from, if it is the result of a step; it need not come here first."""
        result = self._result
        if self._has_returned and isinstance(result, (Job, JobReference)):
            part = JobReference(result, ()) if isinstance(result, Job) else result
            target = part.job._target()
            return JobReference(target.job, (*target.path, *part.path))
        return super()._target()

    def _when_on_its_way(self, wake: Callable[[], None]) -> None:
        if not self._has_returned:
            self._returned.append(wake)

    def _made_anew(self) -> Job[Any]:
        from ._memo import key_of

        replay: dict[bytes, list[Job[Any]]] = {}
        for step in self._steps:
            if not step.done() or step._error is not None:
                continue
            if isinstance(step, PipelineJob):
                key = step._key()
            else:
                links = step._links
                arguments = step.arguments if links is None or links.arguments is None else links.arguments
                key = key_of(step._endpoint, arguments)
            if key is not None:
                replay.setdefault(key, []).append(step)
        endpoint = typing.cast(_PipelineEndpoint, self._endpoint)
        return endpoint.begin(self._call[0], self._call[1], replay)

    def _key(self) -> bytes | None:
        return typing.cast(_PipelineEndpoint, self._endpoint).key_of(*self._call)


class _HeldParts:
    """The result of a pipeline of which parts have stayed where they were made."""

    __slots__ = ("_is_fetched", "_result")

    def __init__(self, result: Any) -> None:
        self._result = result
        self._is_fetched = False

    def fetch(self, call: Call) -> None:
        if self._is_fetched:
            return
        self._is_fetched = True
        result = self._result
        parts = {id(one): one for one in jobs_in(result)}
        left = len(parts)

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if left:
                return
            error = next((one._error for one in parts.values() if one._error is not None), None)
            if error is None:
                call.succeed(_resolved(result))
            else:
                call.fail(error)

        for one in parts.values():
            one._add_notice(Notice(one_ended, looks=True))


class _PipelineEndpoint(Endpoint):
    """What stands for an endpoint where a pipeline runs: here."""

    def __init__(self, function: Callable[..., Any], signature: inspect.Signature) -> None:
        name = getattr(function, "__name__", "pipeline")
        super().__init__(
            _PipelineService(), EndpointDescription(name=name, path="", doc=inspect.getdoc(function))
        )
        self.__signature__ = signature
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Job[Any]:
        self.__signature__.bind(*args, **kwargs)
        scope = current.get()
        if scope is not None and scope.is_stopped:
            raise JobCancelled("the pipeline was cancelled, and makes no more steps")
        known = (
            scope.replay.get(self.key_of(args, kwargs) or b"") if scope is not None and scope.replay else None
        )
        job = known.pop(0) if known else self.begin(args, kwargs, None)
        if scope is not None and scope.job is not None:
            scope.job._add_step(job)
        return job

    def begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], replay: dict[bytes, list[Job[Any]]] | None
    ) -> PipelineJob[Any]:
        """Run the function on a thread of its own; steps that are in `replay` are not made again."""
        job: PipelineJob[Any] = PipelineJob(self, args, kwargs)
        job._begin(self._function, replay)
        return job

    def key_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
        """Tells calls of pipelines apart in this process."""
        from ._memo import key_of

        return key_of(self, {"function": id(self._function), "args": args, "kwargs": kwargs})


class _PipelineService(Service):
    """The place of pipelines: this process."""

    def __init__(self) -> None:
        super().__init__(
            Target("pipeline:"), open_wire=_no_wire, retry=RetryPolicy(attempts=1), shows_progress=True
        )

    def _cancel(self, job: Job[Any]) -> None:
        if isinstance(job, PipelineJob):
            job._stop()


def _no_wire() -> Transport:
    raise ConfigurationError("a pipeline runs in this process; there is nothing to connect to")


def _fails_all(step: Job[Any]) -> bool:
    if step._error is None or isinstance(step._error, JobCancelled):
        return False
    return not links_of(step).is_seen


def _resolved(result: Any) -> Any:
    if isinstance(result, JobReference):
        return result.resolve(result.job._value)
    if isinstance(result, Job):
        return result._value
    if not jobs_in(result):
        return result

    def put(job: Job[Any], path: tuple[str | int, ...]) -> Any:
        return JobReference(job, path).resolve(job._value)

    return replaced(result, put)


def _tell(scope: Scope, what: str, value: Any) -> None:
    job = scope.job
    if job is not None:
        portal.call_soon(_tell_if_open, job, what, value)


def _tell_if_open(job: PipelineJob[Any], what: str, value: Any) -> None:
    if not job.done():
        getattr(job, what)(value)


def _signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """With what the job gives as the return annotation: `Job[str]` is a text in the end."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except Exception:  # an annotation that is imported for the type checker only
        return inspect.signature(function)
    returns = signature.return_annotation
    if typing.get_origin(returns) is Job:
        returns = typing.get_args(returns)[0]
    return signature.replace(return_annotation=returns)


@typing.overload
def pipeline(function: Callable[P, Coroutine[Any, Any, Job[R]]]) -> PipelineFunction[P, R]: ...
@typing.overload
def pipeline(function: Callable[P, Coroutine[Any, Any, R]]) -> PipelineFunction[P, R]: ...
@typing.overload
def pipeline(function: Callable[P, Job[R]]) -> PipelineFunction[P, R]: ...
@typing.overload
def pipeline(function: Callable[P, JobGroup[R]]) -> PipelineFunction[P, list[R]]: ...
@typing.overload
def pipeline(function: Callable[P, R]) -> PipelineFunction[P, R]: ...
def pipeline(function: Callable[..., Any]) -> Any:
    """Make a function that calls endpoints one callable, which gives one Job with one progress bar.

        @socaity.pipeline
        def describe(prompt: str) -> Job[str]:
            picture = service.paint(prompt)
            return service.caption(image=picture["images"][0])

        describe("a cat").result()

    The function runs on a thread of its own, with the caller's context; it may wait for results to decide what comes next.
    It may be `async def`. What it returns may be a job, or hold jobs: the result has their results. All steps that it made
    are the `upstream` of the job. It ends when they have ended, and fails if it raises, if a job that it returns fails, or
    if a step fails whose error it has not seen. Cancelling it cancels its steps; `retry()` calls the function again with the
    steps that succeeded as they are. Passed to `router.add_route(…)` of a server, it is an endpoint of its own.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(
            f"{getattr(function, '__name__', function)} is a generator; a pipeline returns what it gives"
        )
    return PipelineFunction(function)


_: type[HeldResult] = _HeldParts
