"""Which pipeline the running code belongs to: it gets to know of every step that is made."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .exceptions import JobCancelled

if TYPE_CHECKING:
    from ._endpoint import Endpoint
    from ._group import JobGroup
    from ._job import Job
    from ._pipeline_job import PipelineJob

__all__ = ["Scope", "call_step", "current", "running"]


class Scope:
    """The inside of one call of a pipeline. `replay`: steps of an earlier call that need not be made again, by their key."""

    __slots__ = ("groups", "is_stopped", "job", "replay")

    def __init__(self, job: PipelineJob[Any], replay: dict[bytes, list[Job[Any]]] | None = None) -> None:
        self.job: PipelineJob[Any] | None = job
        self.replay = replay
        self.is_stopped = False
        self.groups: list[JobGroup[Any]] = []
        """What `map` has begun inside."""

    def enter(self) -> None:
        """One more thread makes steps of it."""
        running.append(self)

    def leave(self) -> None:
        running.remove(self)

    def close(self) -> None:
        """The pipeline has ended. (Contexts keep this object, and must not keep the job.)"""
        self.job = self.replay = None
        self.groups = []


running: list[Scope] = []
"""The scope of every thread that may make steps: a call in a process without any must not cost more for it. It outlasts the
job: the function of a pipeline that was cancelled goes on until it calls something."""

current: ContextVar[Scope | None] = ContextVar("socaity_pipeline", default=None)


def call_step(endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
    """Call an endpoint; if that happens inside of a pipeline it is told, or has the result of this step already."""
    scope = current.get()
    token = current.set(None)
    try:
        if scope is None:
            return endpoint(*args, **kwargs)
        if scope.is_stopped:
            raise JobCancelled("the pipeline was cancelled, and makes no more steps")
        job = None
        if scope.replay:
            from ._memo import key_of_call

            known = scope.replay.get(key_of_call(endpoint, args, kwargs) or b"")
            job = known.pop(0) if known else None
        job = endpoint(*args, **kwargs) if job is None else job
    finally:
        current.reset(token)
    pipeline = scope.job
    if pipeline is not None:
        pipeline._add_step(job)
    return job
