"""`pipeline`: a plain function that calls endpoints, as one callable that gives one Job."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, ParamSpec, TypeVar

from ._endpoint import Endpoint
from ._job import Job
from ._pipeline_job import PipelineJob
from ._retry import RetryPolicy
from ._scope import current
from ._service import Service
from ._signature import wrong_call
from .exceptions import ConfigurationError, JobCancelled
from .protocol.description import EndpointDescription
from .transport import Target, Transport

if typing.TYPE_CHECKING:
    from ._group import JobGroup

__all__ = ["PipelineFunction", "pipeline"]

P = ParamSpec("P")
R = TypeVar("R")

_CONCURRENCY = 64
"""Calls of a pipeline that run at a time in `map`: each has a thread while its function runs."""


class PipelineFunction(Generic[P, R]):
    """A whole graph of steps as one function; calling it gives a `Job[R]` at once."""

    def __init__(self, function: Callable[P, Any]) -> None:
        functools.update_wrapper(self, function)
        self.__signature__ = _signature_of(function)
        self._endpoint = PipelineEndpoint(function, self.__signature__)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Begin; arguments that do not fit raise TypeError, as of any function."""
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

    def __reduce__(self) -> str:
        """By its name, as functions are: the other process imports the module."""
        return str(getattr(self, "__qualname__", self._endpoint.name))

    def __repr__(self) -> str:
        return f"<pipeline {self._endpoint.name}{self.__signature__}>"


class PipelineEndpoint(Endpoint):
    """What stands for an endpoint where a pipeline runs: here."""

    def __init__(self, function: Callable[..., Any], signature: inspect.Signature) -> None:
        name = getattr(function, "__name__", "pipeline")
        super().__init__(
            _PipelineService(), EndpointDescription(name=name, path="", doc=inspect.getdoc(function))
        )
        self.__signature__ = signature
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Job[Any]:
        try:
            self.__signature__.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(str(wrong_call(self.name, self.__signature__, kwargs, exc))) from None
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
