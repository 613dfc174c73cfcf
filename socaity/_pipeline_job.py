"""The job of a pipeline: it runs the function, and its upstream are the steps that the function makes."""

from __future__ import annotations

import asyncio
import inspect
import time
import typing
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

from ._job import Job, JobReference, Notice
from ._links import Links, forget_depth, links_of
from ._parts import groups_in, jobs_in, replaced
from ._portal import _waiters_lock, portal
from ._progress import Progress
from ._references import cancel
from ._scope import Scope, current
from .exceptions import JobCancelled, JobFailed, SocaityError
from .protocol.events import JobStatus
from .transport import HeldResult

if typing.TYPE_CHECKING:
    from ._group import JobGroup
    from ._pipeline_function import PipelineEndpoint
    from .transport import Call

T_co = TypeVar("T_co", covariant=True)
_TOLD_STEPS = 3
"""Steps that a message names."""


class PipelineJob(Job[T_co]):
    """One call of a pipeline. Its `upstream` are its steps, in the order in which they were made."""

    __slots__ = (
        "_call",
        "_has_returned",
        "_result",
        "_returned",
        "_scope",
        "_shared",
        "_steps",
        "_steps_done",
    )

    def __init__(self, endpoint: PipelineEndpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._steps: dict[Job[Any], None] = {}
        self._shared: list[Job[Any]] = []
        """Those that are memoised, and may be steps of others as well: it is counted who takes them."""
        super().__init__(endpoint, {})
        self._links = Links()
        self._links.depth = 1 + max((links_of(job).depth for job in jobs_in((args, kwargs))), default=0)
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = (args, kwargs)
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
        scope.enter()
        context = copy_context()
        args, kwargs = self._call or ((), {})

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
            finally:
                scope.leave()

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
            if step._links is not None and step._links.key is not None:
                with _waiters_lock:
                    step._links.dependents += 1
                    self._shared.append(step)
            step._add_notice(Notice(self._step_done))
            if self._display is None and self._waiters:
                self._show()  # whoever waits could not be shown anything before

    def _step_done(self) -> None:
        self._steps_done += 1
        if self.done():
            return
        done, number = self._steps_done, len(self._steps)
        self._progress = Progress(min(done / number, 1.0), f"{done} of {number} steps")
        if self._display is not None:
            self._display.update(self)
        self._tell_listeners()

    def _shows_progress(self) -> bool:
        steps = self.upstream
        return bool(steps) and all(step._endpoint.service.shows_progress for step in steps)

    def _how_to_go_on(self) -> str:
        told = f"the pipeline {self._endpoint.name} runs on, as long as this process does. "
        told += "To wait again: job.result(), to stop it: job.cancel()"
        under_way = [step for step in self._calls() if not step.done()]
        steps = [str(step._keep_for_later()) for step in under_way[:_TOLD_STEPS]]
        return told + _listed("; its steps under way: ", steps, len(under_way))

    def _keep_for_later(self) -> None:
        """No service knows it."""

    def _elsewhere(self) -> str:
        steps = [step for step in self._calls() if not step._endpoint.description.direct]
        told = [f"service.job({step.id!r})" for step in steps[-_TOLD_STEPS:]]
        return "its function runs nowhere else" + _listed("; its steps have ids: ", told, len(steps))

    def _calls(self) -> list[Job[Any]]:
        """The steps, and those of the pipelines among them."""
        found: list[Job[Any]] = []
        for step in self.upstream:
            found += step._calls() if isinstance(step, PipelineJob) else [step]
        return found

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def fail(self, error: SocaityError) -> None:
        self._end_in(error)

    def _function_raised(self, exc: BaseException) -> None:
        for group in self._feeding():
            group._is_cancelled = True  # it makes no more; what is under way goes on
        step = next((one for one in self.upstream if one._error is exc), None)
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
        returned_groups = groups_in(value)
        for group in (*returned_groups, *self._feeding()):
            if not group._is_fed:
                group._when_fed(lambda: _tell_if_open(self, "_function_returned", value))
                return
            # the function has seen what became of a group whose results it has looked at
            if group._feed_error is not None and (group in returned_groups or not group._is_looked_at):
                self._function_raised(group._feed_error)
                return
        self._result = value
        self._has_returned = True
        returned, self._returned = self._returned, []
        for wake in returned:
            wake()
        missing = {id(one): one for one in (*self.upstream, *jobs_in(value)) if not one.done()}
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

    def _feeding(self) -> list[JobGroup[Any]]:
        """The groups of `map` that the function began, whether or not it returned them."""
        return [] if self._scope is None else self._scope.groups

    def _settle(self) -> None:
        """Every step has ended, or one has failed without which there is no result."""
        if self.done():
            return
        returned = jobs_in(self._result)
        failed = next((one for one in returned if one._error is not None), None)
        if failed is None:
            # a step that nobody looked at and nothing was made of: it was called for what it does
            failed = next((one for one in self.upstream if _fails_all(one)), None)
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
        for group in self._feeding():
            group._is_cancelled = True
        self._release_shared()
        for step in reversed(self.upstream):
            is_shared = step._links is not None and step._links.key is not None
            if not step.done() and not (is_shared and step._is_wanted()):
                cancel(step, upstream=True)
        self._end_cancelled("the pipeline was cancelled")

    def _release_shared(self) -> None:
        with _waiters_lock:
            shared, self._shared = self._shared, []
            for step in shared:
                assert step._links is not None
                step._links.dependents -= 1

    def _let_go(self) -> None:
        self._release_shared()
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.close()
        returned, self._returned = self._returned, []
        for wake in returned:
            wake()
        if self._error is None and forget_depth(self):
            self._call = None
            self._steps = {}

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
        for step in self.upstream:
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
        endpoint = typing.cast("PipelineEndpoint", self._endpoint)
        args, kwargs = self._call or ((), {})
        return endpoint.begin(args, kwargs, replay)

    def _key(self) -> bytes | None:
        if self._call is None:
            return None
        return typing.cast("PipelineEndpoint", self._endpoint).key_of(*self._call)


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


def _listed(before: str, told: list[str], number: int) -> str:
    return f"{before}{', '.join(told)}{', …' if number > len(told) else ''}" if told else ""


_: type[HeldResult] = _HeldParts
