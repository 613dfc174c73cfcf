"""A Job, JobGroup or Service as a piece of HTML that needs nothing else: no script, no asset, no style of the page around it.

Everything is read once and drawn from what was read; what a service says is text and never markup.
"""

from __future__ import annotations

import html
import inspect
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import _graph
from ._attached import has_times, is_heard_of
from ._preview import LIMIT, SIDE, preview
from ._steps import (
    Step,
    StepState,
    count_of,
    duration,
    explain,
    fraction_of,
    names_of,
    one_line,
    read_steps,
    state_of,
    time_left,
)
from ._view_style import CLASS, STYLE

Preview = Callable[[Any, bool], str]
"""What to show of the result of a job; the second argument is True where there is little room."""

_MAX_ROWS = 12
_MAX_PREVIEWS = 6
_MAX_ERROR = 2000
_MAX_LOGS = 12
_ORDER = (
    StepState.SUCCEEDED,
    StepState.FAILED,
    StepState.LOST,
    StepState.CANCELLED,
    StepState.NOT_RUN,
    StepState.RUNNING,
    StepState.QUEUED,
    StepState.WAITING,
)


def preview_result(job: Any, is_small: bool) -> str:
    """The result of a job that has succeeded, drawn here and now; one that stayed at the service is not asked for."""
    if not job._ended:
        return "" if is_small else '<span class="m">The result is at the service; result() brings it.</span>'
    if is_small:
        return preview(job._value, limit=LIMIT // 10, side=SIDE // 4)
    return preview(job._value)


def html_of(job: Any, *, now: float | None = None, preview: Preview = preview_result) -> str:
    """One job with all the steps it needs."""
    now = time.monotonic() if now is None else now
    steps = read_steps([job], now=now)
    target = steps[-1]
    parts = [_job_head(steps, now), _bar(steps)]
    if target.message and not target.state.is_over:
        parts.append(f'<div class="m">{_escape(target.message)}</div>')
    if len(steps) > 1:
        parts += [
            _why(explain(steps), steps),
            _graph_of(steps),
            _rows(steps, steps, preview, shown_below=target),
        ]
    parts.append(_error_of(target, is_said=len(steps) > 1))
    if target.state is StepState.SUCCEEDED:
        parts.append(_result(preview(job, False)))
    elif not target.state.is_over and job._chunks:
        parts.append(_result(f'<span class="m">{len(job._chunks):,} received so far</span>'))
    parts.append(_logs_of(job))
    return _card("".join(parts), f"job {target.name}", state_of(steps))


def html_of_group(group: Any, *, now: float | None = None, preview: Preview = preview_result) -> str:
    """A group: how many of its jobs are how far, the graph if they are pipelines, and the jobs a person would look for."""
    now = time.monotonic() if now is None else now
    members = list(group._members)
    steps = read_steps(members, now=now)
    of_job = {id(step.job): step for step in steps}
    jobs = [of_job[id(job)] for job in members if id(job) in of_job]
    done = sum(step.state.is_over for step in jobs)
    failed = sum(step.state.is_over and step.state is not StepState.SUCCEEDED for step in jobs)
    total = f"{len(members):,}" if group._is_fed else f"{len(members):,} so far"
    parts = [
        f"<header><b>{_escape(names_of([step.name for step in jobs], 3) or 'jobs')}</b>"
        f'<span class="m">{done:,} of {total} ended{f", {failed:,} failed" if failed else ""}</span>'
        f'<span class="end">{_times_of_group(jobs, steps, now, is_fed=group._is_fed)}</span></header>',
        _counts(steps),
    ]
    if len(steps) > len(jobs):
        parts.append(_graph_of(steps, is_group=len(jobs) > 1))
    shown = _worth_a_look(jobs)
    places = {id(job): number for number, job in enumerate(members)}
    labels = {id(step.job): f"[{places[id(step.job)]}]" for step in shown}
    parts.append(_rows(shown, steps, preview, labels=labels))
    if len(jobs) > len(shown):
        parts.append(f'<div class="m">and {len(jobs) - len(shown):,} more</div>')
    state = StepState.RUNNING if not group.done() else StepState.FAILED if failed else StepState.SUCCEEDED
    return _card("".join(parts), f"group of {len(members)} jobs", state)


def html_of_service(service: Any) -> str:
    """A service: what can be called, and the jobs whose wait was interrupted. Asks the service nothing."""
    endpoints = sorted(service._endpoints.items())
    if service._description is None:
        about = "not asked yet what it has; first use asks, or .refresh()"
    else:
        about = f"{len(endpoints)} endpoint{'' if len(endpoints) == 1 else 's'}"
    closed = '<span class="pill">closed</span>' if service._closed else ""
    parts = [
        f'<header><b>{_escape(one_line(service._target.place))}</b>{closed}<span class="m">{about}</span></header>'
    ]
    if endpoints:
        rows = [
            f"<tr><td><code>{_escape(_cut(name + str(inspect.signature(one)), 300))}</code></td>"
            f"<td>{_escape(_cut((one.__doc__ or '').partition(chr(10))[0], 200))}</td></tr>"
            for name, one in endpoints[:100]
        ]
        more = f'<div class="m">and {len(endpoints) - 100} more</div>' if len(endpoints) > 100 else ""
        parts.append(
            '<table class="endpoints"><thead><tr><th scope="col">call</th><th scope="col">what it does</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table>{more}"
        )
    jobs = list(service._interrupted.values())
    if jobs:
        parts.append('<div class="result m">Running on after their wait was interrupted:</div>')
        steps = read_steps(jobs[:_MAX_ROWS])
        targets = {id(job) for job in jobs}
        labels = {id(job): str(job.id) for job in jobs}
        shown = [step for step in steps if id(step.job) in targets]
        parts.append(_rows(shown, steps, _no_preview, labels=labels))
    return _card("".join(parts), f"service {service._target.place}", None)


def card(inner: str, label: str) -> str:
    """The frame around everything that is shown in a notebook."""
    return _card(inner, label, None)


# -- the parts -----------------------------------------------------------------------------------------------------------


def _card(inner: str, label: str, state: StepState | None) -> str:
    kind = "" if state is None else f' data-state="{state}"'
    return f'{STYLE}<div class="{CLASS}" role="group" aria-label="{_escape(one_line(label))}"{kind}>{inner}</div>'


def _job_head(steps: Sequence[Step], now: float) -> str:
    target = steps[-1]
    count, pill = "", _pill(target)
    if len(steps) > 1:
        state = state_of(steps)
        count = f'<span class="m">{count_of(steps)} steps</span>'
        pill = f'<span class="pill" data-state="{state}">{state}</span>'
    job_id = _escape(str(target.job.id))
    return (
        f'<header><b>{_escape(target.name)}</b>{pill}{count}<code class="m">{job_id}</code>'
        f'<span class="end">{_times(target, _since_call(target, now))}</span></header>'
    )


def _since_call(step: Step, now: float) -> float:
    job = step.job
    return float((now if job._ended_at is None else job._ended_at) - job._created)


def _times(step: Step, elapsed: float) -> str:
    left = step.eta
    known = [duration(elapsed)] if has_times(step.job) else []
    return ", ".join(known if left is None else [*known, time_left(left)])


def _times_of_group(jobs: Sequence[Step], steps: Sequence[Step], now: float, *, is_fed: bool) -> str:
    if not jobs:
        return ""
    start = min(step.job._created for step in jobs)
    ended = [step.job._ended_at for step in jobs]
    if is_fed and all(one is not None for one in ended):
        return duration(max(ended) - start)
    fraction = fraction_of(steps)
    elapsed = float(now - start)
    is_known = is_fed and fraction is not None and 0 < fraction < 1
    left = elapsed * (1 - fraction) / fraction if is_known and fraction else None
    return duration(elapsed) + (f", {time_left(left)}" if left is not None else "")


def _pill(step: Step) -> str:
    words = step.describe() if is_heard_of(step.job) else "no answer yet"
    return f'<span class="pill" data-state="{step.state}">{_escape(words)}</span>'


def _bar(steps: Sequence[Step]) -> str:
    target = steps[-1]
    if target.state.is_over and len(steps) == 1:
        return ""
    if len(steps) > 1:
        return _counts(steps, with_legend=False)
    return _progress(target)


def _progress(step: Step) -> str:
    """A bar for what runs; without a fraction one that says only that it runs."""
    if step.state is not StepState.RUNNING:
        return ""
    label = f'role="progressbar" aria-label="{_escape(step.name)}"'
    if step.fraction is None:
        return f'<div class="bar unknown" {label}><i></i></div>'
    return (
        f'<div class="bar" {label} aria-valuemin="0" aria-valuemax="100" aria-valuenow="{step.fraction * 100:.0f}">'
        f'<i style="width:{step.fraction:.1%}"></i></div>'
    )


def _counts(steps: Sequence[Step], *, with_legend: bool = True) -> str:
    """One bar in parts: how many are in which state; what runs counts by its fraction."""
    states = Counter(step.state for step in steps)
    share = 100 / max(1, len(steps))
    parts = []
    for state in _ORDER:
        width = states[state] * share
        if state is StepState.RUNNING:
            width = sum(step.fraction or 0.0 for step in steps if step.state is state) * share
        if width and state not in (StepState.QUEUED, StepState.WAITING):
            parts.append(f'<i data-state="{state}" style="width:{width:.2f}%"></i>')
    words = ", ".join(f"{states[state]:,} {state}" for state in _ORDER if states[state])
    done = sum(step.state.is_over for step in steps)
    bar = (
        f'<div class="bar" role="progressbar" aria-label="{words}" aria-valuemin="0" aria-valuemax="{len(steps)}" '
        f'aria-valuenow="{done}">{"".join(parts)}</div>'
    )
    return f'{bar}<div class="m">{words}</div>' if with_legend else bar


def _graph_of(steps: Sequence[Step], *, is_group: bool = False) -> str:
    layout = _graph.lay_out(steps, is_group=is_group)
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="graph of the steps">'
        f"{_graph.draw(layout, kind='across')}{_graph.draw(layout, is_vertical=True, kind='down')}</div>"
    )


def _rows(
    shown: Sequence[Step],
    steps: Sequence[Step],
    preview: Preview,
    *,
    shown_below: Step | None = None,
    labels: Mapping[int, str] | None = None,
) -> str:
    """A row for each step, with a small picture of what came out of it; of many only those worth a look."""
    chosen = _worth_a_look(shown)
    drawn = 0
    rows = []
    for step in chosen:
        small = ""
        is_shown = (
            step.state is StepState.SUCCEEDED and step is not shown_below and step.job._value is not None
        )
        if is_shown and drawn < _MAX_PREVIEWS:
            drawn += 1
            small = preview(step.job, True)
        rows.append(_row(step, steps, small, labels))
    hidden = len(shown) - len(chosen)
    if hidden > 0:
        rows.append(f'<li><div class="wide m">and {hidden:,} more steps</div></li>')
    return f'<ol class="steps">{"".join(rows)}</ol>' if rows else ""


def _row(step: Step, steps: Sequence[Step], small: str, labels: Mapping[int, str] | None) -> str:
    what = [_pill(step)]
    text = step.message if not step.state.is_over else ""
    if labels is not None and step.needs:
        state, text = _of_pipeline(step)
        what = [f'<span class="pill" data-state="{state}">{state}</span>']
    elif step.state is StepState.NOT_RUN:
        text = f"needs {names_of([steps[need].name for need in step.needs if steps[need].job._error is not None])}"
    elif step.state is StepState.WAITING:
        text = f"for {names_of([steps[need].name for need in step.needs if not steps[need].state.is_over])}"
    elif step.error and step.state is not StepState.CANCELLED:
        text = _cut(one_line(step.error, 201), 200)
    if text:
        what.append(f'<span class="m">{_escape(text)}</span>')
    if small:
        small = f"<div>{small}</div>"
    label = "" if labels is None else f' <code class="m">{_escape(labels[id(step.job)])}</code>'
    times = "" if step.state in (StepState.WAITING, StepState.NOT_RUN) else _times(step, step.elapsed)
    return (
        f'<li><div><b>{_escape(step.name)}</b>{label}</div><div class="what">{" ".join(what)}{_progress(step)}{small}</div>'
        f'<span class="end">{times}</span></li>'
    )


def _of_pipeline(step: Step) -> tuple[StepState, str]:
    """How far the pipeline is that ends in this member of a group."""
    own = read_steps([step.job])
    running = [one.name for one in own if one.state is StepState.RUNNING]
    text = explain(own) or f"{count_of(own)} steps{f', {names_of(running)}' if running else ''}"
    return state_of(own), text


def _worth_a_look(steps: Sequence[Step]) -> list[Step]:
    """At most a dozen, in their order: first what went wrong, then what runs, then the first that succeeded."""
    if len(steps) <= _MAX_ROWS:
        return list(steps)
    wanted: list[int] = []
    for states, limit in (
        ((StepState.FAILED, StepState.LOST, StepState.CANCELLED), 5),
        ((StepState.RUNNING,), 5),
        ((StepState.SUCCEEDED,), _MAX_ROWS),
        ((StepState.QUEUED, StepState.NOT_RUN), 2),
    ):
        found = [number for number, step in enumerate(steps) if step.state in states]
        wanted += found[: min(limit, _MAX_ROWS - len(wanted))]
    return [steps[number] for number in sorted(wanted)]


def _why(text: str, steps: Sequence[Step]) -> str:
    if not text:
        return ""
    is_soft = not any(step.state in (StepState.FAILED, StepState.LOST) for step in steps)
    return f'<div class="why{" soft" if is_soft else ""}">{_escape(text)}</div>'


def _error_of(step: Step, *, is_said: bool) -> str:
    error = step.job._error
    if error is None:
        return ""
    text = ""
    if not is_said:
        soft = " soft" if step.state is StepState.CANCELLED else ""
        shown = "".join(
            char if char.isprintable() or char == "\n" else " " for char in step.error[:_MAX_ERROR]
        )
        text = f'<div class="why{soft}">{_escape(type(error).__name__)}: {_escape(shown)}</div>'
    for cause in _chain_of(error):
        trace = getattr(cause, "remote_traceback", None)
        if trace:
            text += f"<details><summary>Traceback of the server</summary><pre>{_escape(str(trace)[-4000:])}</pre></details>"
            break
    return text


def _chain_of(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain and len(chain) < 20:
        chain.append(at)
        at = at.__cause__
    return chain


def _logs_of(job: Any) -> str:
    logs = job._logs
    if not logs:
        return ""
    last = [one_line(line, 300) for line in logs[-_MAX_LOGS:]]
    before = f"… {len(logs) - len(last):,} lines before\n" if len(logs) > len(last) else ""
    lines = _escape(before + "\n".join(last))
    return f"<details><summary>{len(logs):,} log line{'' if len(logs) == 1 else 's'}</summary><pre>{lines}</pre></details>"


def _result(inner: str) -> str:
    return f'<div class="result">{inner}</div>' if inner else ""


def _no_preview(job: Any, is_small: bool) -> str:
    return ""


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
