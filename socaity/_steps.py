"""A job and all it waits for as a list of steps: what every view, bar and timeline reads, taken at one moment."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .exceptions import JobCancelled, JobLost
from .protocol.events import JobStatus

MAX_STEPS = 5000
"""More steps than this are not looked at; nobody could see them."""


class StepState(StrEnum):
    """The status of a job, with what a pipeline adds to it: why it waits, and why it never ran."""

    WAITING = "waiting"
    """For the result of another step."""
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    CANCELLED = "cancelled"
    NOT_RUN = "not run"
    """Because a step that it needs did not succeed."""

    @property
    def is_over(self) -> bool:
        return self not in (StepState.WAITING, StepState.QUEUED, StepState.RUNNING)

    @property
    def is_cause(self) -> bool:
        """Whether other steps could not run because of it."""
        return self in (StepState.FAILED, StepState.LOST, StepState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Step:
    """One job at one moment. `needs` are the indexes of the steps whose results are its arguments."""

    job: Any
    name: str
    state: StepState
    needs: tuple[int, ...]
    fraction: float | None
    message: str
    place: int | None
    elapsed: float
    """Seconds since it started, of the whole if it has ended, or since the call while it has not started."""

    @property
    def error(self) -> str:
        """What went wrong, without the traceback of the server."""
        error = self.job._error
        return "" if error is None else Exception.__str__(error) or type(error).__name__

    @property
    def eta(self) -> float | None:
        """Seconds until its end, or None."""
        if self.state.is_over:
            return None
        eta: float | None = self.job.eta
        return eta

    def describe(self) -> str:
        """Its state in words: `queued, place 3`, `running, 40 %`."""
        if self.state is StepState.QUEUED and self.place is not None:
            return f"queued, place {self.place}"
        if self.state is StepState.RUNNING and self.fraction is not None:
            return f"running, {self.fraction:.0%}"
        return str(self.state)


def read_steps(jobs: Iterable[Any], *, now: float | None = None, limit: int = MAX_STEPS) -> list[Step]:
    """The steps of all `jobs`, each after what it needs; the order depends on nothing but the calls."""
    now = time.monotonic() if now is None else now
    ordered = _in_order(jobs, limit)
    index = {id(job): number for number, job in enumerate(ordered)}
    return [
        read_step(job, now=now, needs=tuple(index[id(up)] for up in _direct(job) if id(up) in index))
        for job in ordered
    ]


def _direct(job: Any) -> Sequence[Any]:
    """What a job needs itself. The job of a pipeline has all its steps as upstream: the last ones stand for them."""
    steps: Sequence[Any] = job.upstream
    if not hasattr(job, "_steps_done"):
        return steps
    inner = {id(up) for step in steps for up in step.upstream}
    return [step for step in steps if id(step) not in inner]


def read_step(job: Any, *, now: float, needs: tuple[int, ...] = ()) -> Step:
    """One job by itself."""
    progress = job._progress
    state = _state_of(job)
    return Step(
        job=job,
        name=one_line(job._endpoint.name),
        state=state,
        needs=needs,
        fraction=progress.fraction,
        message=one_line(progress.message or ""),
        place=job.queue_position,
        elapsed=_elapsed(job, now),
    )


def _in_order(jobs: Iterable[Any], limit: int) -> list[Any]:
    # without recursion: a chain may have thousands of steps
    ordered: list[Any] = []
    seen: set[int] = set()
    for target in jobs:
        path = [(target, iter(target.upstream))] if id(target) not in seen and len(seen) < limit else []
        seen.add(id(target))
        while path:
            job, rest = path[-1]
            up = next((one for one in rest if id(one) not in seen), None)
            if up is None or len(seen) >= limit:
                ordered.append(job)
                path.pop()
            else:
                seen.add(id(up))
                path.append((up, iter(up.upstream)))
    return ordered


def _state_of(job: Any) -> StepState:
    status: JobStatus = job._status
    error = job._error
    if status is JobStatus.RUNNING:
        return StepState.RUNNING
    if status is JobStatus.SUCCEEDED:
        return StepState.SUCCEEDED
    if status is JobStatus.QUEUED:
        is_ready = all(up.done() for up in job.upstream)
        return StepState.QUEUED if is_ready else StepState.WAITING
    if isinstance(error, JobCancelled):
        return StepState.CANCELLED
    if job._started is None and any(up._error is not None for up in job.upstream):
        return StepState.NOT_RUN
    return StepState.LOST if isinstance(error, JobLost) else StepState.FAILED


def _elapsed(job: Any, now: float) -> float:
    end = now if job._ended_at is None else job._ended_at
    start = job._created if job._started is None else job._started
    return max(0.0, float(end - start))


# -- what can be said of all of them ------------------------------------------------------------------------------------


def work_of(steps: Sequence[Step]) -> Sequence[Step]:
    """Those that are calls: a pipeline is no step of its own, but what it has made."""
    return [step for step in steps if not (hasattr(step.job, "_steps_done") and step.needs)]


def fraction_of(steps: Sequence[Step]) -> float | None:
    """How far all are together, each step counting the same; None while nothing is known."""
    steps = work_of(steps)
    if not steps:
        return None
    if len(steps) == 1 and not steps[0].state.is_over:
        return steps[0].fraction
    done = sum(1.0 if step.state.is_over else step.fraction or 0.0 for step in steps)
    return done / len(steps)


def count_of(steps: Sequence[Step]) -> str:
    """`2/5`: how many have succeeded."""
    steps = work_of(steps)
    return f"{sum(step.state is StepState.SUCCEEDED for step in steps)}/{len(steps)}"


def state_of(steps: Sequence[Step]) -> StepState:
    """The state of a pipeline as a whole, whose last step is the last of `steps`."""
    state = steps[-1].state
    if state is StepState.NOT_RUN:
        return StepState.FAILED
    if state is StepState.WAITING and any(
        step.state is StepState.RUNNING or step.state.is_over for step in steps
    ):
        return StepState.RUNNING
    return state


def explain(steps: Sequence[Step], *, limit: int = 3) -> str:
    """Which step of a pipeline went wrong, and which never ran because of it; empty if none did.

    `detect failed (step 2 of 5): out of memory. Not run because of it: read, draw, save.`
    """
    last = steps[-1:]
    work = work_of(steps)
    if any(step.state.is_cause for step in work):  # else the function of a pipeline failed by itself
        steps = work
    causes = [(number, step) for number, step in enumerate(steps, 1) if step.state.is_cause]
    if last and last[0].state is StepState.CANCELLED:
        # what it needed was cancelled with it
        causes = [(number, step) for number, step in causes if step.state is not StepState.CANCELLED]
    if not causes or len(steps) < 2:
        return ""
    said = []
    for number, step in causes[:limit]:
        verb = {StepState.LOST: "was lost", StepState.CANCELLED: "was cancelled"}.get(step.state, "failed")
        place = f"{step.name} {verb} (step {number} of {len(steps)})"
        why = one_line(step.error, 300).rstrip(". ")
        said.append(place if step.state is StepState.CANCELLED or not why else f"{place}: {why}")
    more = f" and {len(causes) - limit} more" if len(causes) > limit else ""
    not_run = [step.name for step in steps if step.state is StepState.NOT_RUN]
    is_lost = all(step.state is StepState.LOST for _, step in causes)
    word = "Had not started" if is_lost else "Not run because of it"
    rest = f" {word}: {names_of(not_run)}." if not_run else ""
    return f"{'; '.join(said)}{more}.{rest}"


def names_of(names: Sequence[str], limit: int = 5) -> str:
    """`read, draw ×12, save and 4 more`: the names in order, each once."""
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    texts = [name if count == 1 else f"{name} ×{count}" for name, count in counted.items()]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def duration(seconds: float) -> str:
    """`0 ms`, `0.3 ms`, `42 ms`, `3.1 s`, `1:05`, `2:03:09`."""
    seconds = max(seconds, 0.0)
    if seconds < 0.00005:
        return "0 ms"
    if seconds < 0.0095:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 0.995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.95 and not isinstance(seconds, int):
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_left(seconds: float) -> str:
    """`about 12 s left`; no promise is more exact than a second."""
    return f"about {duration(round(seconds))} left" if seconds >= 1 else "under 1 s left"


def one_line(text: object, limit: int = 120) -> str:
    """Without anything that moves the cursor, or that hides what is behind it, as marks that turn the direction do."""
    return "".join(char if char.isprintable() else " " for char in str(text)[:limit]).strip()
