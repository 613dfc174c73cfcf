"""What there is to say of a Job or JobGroup that is waited for, as readings of a line."""

from __future__ import annotations

from typing import Any

from ._attached import has_times, is_heard_of
from ._lines import Reading
from ._steps import Step, StepState, count_of, explain, fraction_of, names_of, one_line, read_steps
from .exceptions import JobLost

_MAX_STEPS = 500


def read(waited: Any, now: float) -> Reading:
    elapsed = now - created(waited, now)
    if is_group(waited):
        total = len(waited._members)
        name = one_line(waited._members[0]._endpoint.name) if waited._window else "jobs"
        return read_count(name, *count(waited), total if waited._is_fed else None, elapsed)
    name, message = one_line(waited._endpoint.name), one_line(waited._progress.message or "")
    fraction = waited._progress.fraction
    if fraction is None:
        return Reading(name, None, ", ".join(filter(None, (clock_text(elapsed), _state(waited), message))))
    left = waited.eta
    times = clock_text(elapsed) if left is None else f"{clock_text(elapsed)}<{clock_text(left)}"
    return Reading(name, min(max(fraction, 0.0), 1.0), ", ".join(filter(None, (times, message))))


def read_pipeline(steps: list[Step], now: float, *, with_names: bool) -> Reading:
    """`save: 46%, 2/5, 00:10<00:12, detect, read`: all steps as one; of a single one that runs also what it says."""
    target = steps[-1]
    left = target.eta
    elapsed = clock_text(now - created(target.job, now))
    times = elapsed if left is None else f"{elapsed}<{clock_text(left)}"
    active = worth_a_line(steps) if with_names else []
    names = names_of([step.name for step in active], 3)
    message = active[0].message if len(active) == 1 else ""
    notes = (count_of(steps), times, names, message)
    return Reading(target.name, fraction_of(steps), ", ".join(filter(None, notes)))


def read_step(step: Step) -> Reading:
    name = f"  {step.name}"
    elapsed = clock_text(step.elapsed)
    if step.fraction is None:
        return Reading(name, None, ", ".join(filter(None, (elapsed, step.describe(), step.message))))
    left = step.eta
    times = elapsed if left is None else f"{elapsed}<{clock_text(left)}"
    return Reading(name, step.fraction, ", ".join(filter(None, (times, step.message))))


def worth_a_line(steps: list[Step]) -> list[Step]:
    """Those that run, then those that wait in a queue of the service."""
    return [step for state in (StepState.RUNNING, StepState.QUEUED) for step in steps if step.state is state]


def read_count(name: str, done: int, failed: int, total: int | None, elapsed: float) -> Reading:
    times = clock_text(elapsed)
    fraction = done / total if total else None
    if fraction:
        times += f"<{clock_text(elapsed * (1 - fraction) / fraction)}"
    ended = f"{done}/{total}" if total is not None else f"{done} ended"
    notes = (ended, f"{failed} failed" if failed else "", times)
    return Reading(name, fraction, ", ".join(filter(None, notes)))


def _state(job: Any) -> str:
    if job._endpoint.service._trouble is not None:
        return f"{job._status}, connecting again"
    if not is_heard_of(job):
        return "no answer yet"
    place = job.queue_position
    return f"{job._status}, place {place}" if place is not None else str(job._status)


def ending(waited: Any, now: float) -> tuple[str, bool]:
    after = f" after {clock_text(now - created(waited, now))}"
    if is_group(waited):
        done, failed = count(waited)
        return f"{read(waited, now).name}: {ended_text(done, failed)}{after}", not failed
    name = one_line(waited._endpoint.name)
    after = after if has_times(waited) else ""
    service = waited._endpoint.service
    if isinstance(waited._error, JobLost) and service._wire_closed:
        # we went away, and not the service: a job whose events it numbers is kept there
        again = f"socaity.connect({service._target.place!r}).job({waited.id!r})"
        is_kept = waited._seq and service._target.app is None
        return f"{name}: left{after}{f'; it runs on: {again}' if is_kept else ''}", False
    steps = steps_of(waited, now)
    why = f" – {text}" if (text := explain(steps)) else f", {len(steps)} steps" if steps else ""
    how = StepState.LOST if isinstance(waited._error, JobLost) else waited._status
    return f"{name}: {how}{after}{why}", waited._error is None


def ended_text(done: int, failed: int) -> str:
    return f"{done - failed} of {done} succeeded"


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


# -- what they are asked --------------------------------------------------------------------------------


def is_group(waited: Any) -> bool:
    return hasattr(waited, "_members")


def steps_of(waited: Any, now: float) -> list[Step]:
    """The steps of a pipeline; none for a single job, where there are too many, and for a group, whose members are counted."""
    if is_group(waited) or not waited.upstream:
        return []
    steps = read_steps([waited], now=now, limit=_MAX_STEPS + 1)
    return steps if len(steps) <= _MAX_STEPS else []


def count(group: Any) -> tuple[int, int]:
    """How many members have ended, and how many of these not well."""
    return group._completed, sum(job._error is not None for job in group._members)


def created(waited: Any, now: float) -> float:
    """When it was called."""
    if is_group(waited):
        return min((job._created for job in waited._members[:1]), default=now)
    return waited._created  # type: ignore[no-any-return]
