"""Where the time of a job went, or of each step of a pipeline: numbers, a drawing for terminals and one for notebooks."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ._attached import has_times
from ._steps import Step, StepState, duration, read_steps
from ._text_width import cut, padded, width_of

__all__ = ["Phase", "Span", "Timeline", "TimelineRow"]

_MAX_ROWS = 40
_NAME_WIDTH = 18
_NOTHING = 1e-9


class Phase(StrEnum):
    """What a job spent its time with."""

    WAITING = "waiting"
    """For the steps whose results it needs."""
    CLIENT = "client"
    """Until its request was handed to the wire."""
    NETWORK = "network"
    """On the way there and back; with `client`, where nobody knows when that ended."""
    QUEUED = "queued"
    BATCHED = "batched"
    """Until the batch was full, or its wait over."""
    COMPUTED = "computed"
    ENCODED = "encoded"
    UNKNOWN = "unknown"
    """At the service or on the way; a call with `with_options(explain=True)` says where."""


_LETTERS = {
    Phase.WAITING: "·",
    Phase.CLIENT: "c",
    Phase.NETWORK: "n",
    Phase.QUEUED: "q",
    Phase.BATCHED: "b",
    Phase.COMPUTED: "█",
    Phase.ENCODED: "e",
    Phase.UNKNOWN: "░",
}
_WORDS = {Phase.WAITING: "waiting for other steps", Phase.UNKNOWN: "service and network, not told apart"}


@dataclass(frozen=True, slots=True)
class Span:
    """`seconds` of one phase, from `start` seconds after the first call of the timeline."""

    phase: Phase
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One step: its spans in order, without gaps. `rows` is how many rows were computed together, where that was told."""

    name: str
    status: str
    start: float
    seconds: float
    spans: tuple[Span, ...]
    rows: int | None = None
    is_whole: bool = True
    """False for a job that was attached to by its id, while it is not known when it was called: its time begins here."""

    def of(self, phase: Phase | str) -> float:
        """Seconds in one phase."""
        return sum(span.seconds for span in self.spans if span.phase == phase)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Where the time went; print it, or end a notebook cell with it. `rows` has one entry for each step.

    What the service spent is known if it was asked (`endpoint.with_options(explain=True)`); without that, a job tells only
    when it was called, when it started and when it ended.
    """

    rows: tuple[TimelineRow, ...]
    seconds: float
    """From the first call to the last end, or until now."""
    is_finished: bool

    def totals(self) -> Mapping[Phase, float]:
        """Seconds in each phase, over all steps; steps may have overlapped."""
        sums = {phase: sum(row.of(phase) for row in self.rows) for phase in Phase}
        return {phase: seconds for phase, seconds in sums.items() if seconds > 0}

    @property
    def slowest(self) -> TimelineRow | None:
        """The step that worked longest, waiting for others not counted."""
        if len(self.rows) < 2:
            return None
        return max(self.rows, key=lambda row: row.seconds - row.of(Phase.WAITING))

    def text(self, width: int = 80) -> str:
        """A drawing of at most `width` columns, or 40 where that is less."""
        return _draw_text(self, width)

    def __str__(self) -> str:
        return self.text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _draw_html(self)


def timeline_of(job: Any, *, now: float | None = None) -> Timeline:
    """The timeline of a job and all the steps it needs, as far as it has come."""
    now = time.monotonic() if now is None else now
    steps = read_steps([job], now=now)
    origin = min(step.job._created for step in steps)
    rows = tuple(_row_of(step, origin, now) for step in steps)
    seconds = max(row.start + row.seconds for row in rows)
    return Timeline(rows, seconds, steps[-1].state.is_over)


def _row_of(step: Step, origin: float, now: float) -> TimelineRow:
    job = step.job
    created: float = job._created
    ended = now if job._ended_at is None else job._ended_at
    seconds = max(0.0, ended - created)
    timing: Mapping[str, float] = job.timing or {}
    parts = _parts_of(step, now, seconds, timing)
    spans = []
    at = created - origin
    for phase, length in parts:
        if length > 0:
            spans.append(Span(phase, at, length))
            at += length
    rows = timing.get("rows")
    return TimelineRow(
        step.name,
        str(step.state),
        created - origin,
        seconds,
        tuple(spans),
        None if rows is None else int(rows),
        has_times(job),
    )


def _parts_of(
    step: Step, now: float, seconds: float, timing: Mapping[str, float]
) -> Sequence[tuple[Phase, float]]:
    """How `seconds` divide, in order; their sum is `seconds`, whatever the clocks of the two sides say."""
    job = step.job
    created: float = job._created
    needed = [now if up._ended_at is None else up._ended_at for up in job.upstream]
    waited = min(seconds, max([0.0, *(end - created for end in needed)]))
    left = seconds - waited
    if step.state is StepState.NOT_RUN:
        return [(Phase.WAITING, seconds)]
    if not has_times(job):
        return [(Phase.UNKNOWN, seconds)]
    if timing:
        told = [(phase, max(0.0, float(timing.get(phase, 0.0)))) for phase in _TOLD]
        server = sum(length for _, length in told)
        if server > left:
            # the service had the step before its arguments were there, and counts from then
            waited = max(0.0, seconds - server)
            left = seconds - waited
        scale = min(1.0, left / server) if server else 0.0
        told = [(phase, length * scale) for phase, length in told]
        rest = left - sum(length for _, length in told)
        client = min(rest, _client_seconds(job, waited))
        there = back = (rest - client) / 2
        return [
            (Phase.WAITING, waited),
            (Phase.CLIENT, client),
            (Phase.NETWORK, there),
            *told,
            (Phase.NETWORK, back),
        ]
    client = min(left, _client_seconds(job, waited))
    if job._started is None:
        phase = Phase.UNKNOWN if step.state.is_over else Phase.QUEUED
        return [(Phase.WAITING, waited), (Phase.CLIENT, client), (phase, left - client)]
    running = min(left - client, max(0.0, created + seconds - job._started))
    queued = left - client - running
    return [
        (Phase.WAITING, waited),
        (Phase.CLIENT, client),
        (Phase.QUEUED, queued),
        (Phase.COMPUTED, running),
    ]


_TOLD = (Phase.QUEUED, Phase.BATCHED, Phase.COMPUTED, Phase.ENCODED)


def _client_seconds(job: Any, waited: float) -> float:
    """From when it could be sent until it was; 0 where nobody noted that."""
    sent: float | None = getattr(job, "_sent", None)
    return 0.0 if sent is None else max(0.0, sent - float(job._created) - waited)


# -- drawing -------------------------------------------------------------------------------------------------------------


def _draw_text(timeline: Timeline, width: int) -> str:
    width = max(40, width)
    rows = timeline.rows[-_MAX_ROWS:]
    name_width = min(_NAME_WIDTH, max(width_of(row.name) for row in rows))
    bar_width = width - name_width - 12
    scale = bar_width / timeline.seconds if timeline.seconds > _NOTHING else 0.0
    lines = []
    if len(timeline.rows) > len(rows):
        lines.append(f"… {len(timeline.rows) - len(rows)} steps before")
    for row in rows:
        name = padded(cut(row.name, name_width), name_width)
        lines.append(f"{name} |{_bar_text(row, scale, bar_width)}| {duration(row.seconds):>8}".rstrip())
    lines += _in_lines(_summary(timeline), width)
    return "\n".join(cut(line, width) for line in lines)


def _bar_text(row: TimelineRow, scale: float, width: int) -> str:
    cells = [" "] * width
    for span in row.spans:
        start = min(width - 1, round(span.start * scale))
        end = min(width, max(start + 1, round((span.start + span.seconds) * scale)))
        is_seen = span.seconds * scale >= 0.5 or all(cell == " " for cell in cells[start:end])
        if is_seen:
            cells[start:end] = _LETTERS[span.phase] * (end - start)
    return "".join(cells)


def _summary(timeline: Timeline) -> list[str]:
    return [*(f"{_LETTERS[phase]} {text}" for phase, text in _shares(timeline)), *_notes(timeline)]


def _shares(timeline: Timeline) -> list[tuple[Phase, str]]:
    """What the steps spent in each phase, and which part of their own time that is; waiting for each other is not."""
    total = timeline.totals()
    whole = sum(seconds for phase, seconds in total.items() if phase is not Phase.WAITING) or 1.0
    return [
        (
            phase,
            _words(phase)
            if phase is Phase.WAITING
            else f"{_words(phase)} {duration(seconds)} ({seconds / whole:.0%})",
        )
        for phase, seconds in total.items()
    ]


def _notes(timeline: Timeline) -> list[str]:
    notes = []
    slowest = timeline.slowest
    if slowest is not None:
        work = slowest.seconds - slowest.of(Phase.WAITING)
        notes.append(f"slowest: {slowest.name}, {duration(work)} of {duration(timeline.seconds)}")
    together = [row for row in timeline.rows if row.rows is not None and row.rows > 1]
    if together:
        notes.append("computed together: " + ", ".join(f"{row.name} {row.rows} rows" for row in together[:5]))
    partly = [row.name for row in timeline.rows if not row.is_whole]
    if partly:
        notes.append(f"only since it was attached to: {', '.join(partly[:5])}")
    if not timeline.is_finished:
        notes.append("not finished")
    return notes


def _in_lines(parts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for part in parts:
        if lines and width_of(lines[-1]) + 3 + width_of(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return lines


def _words(phase: Phase) -> str:
    return _WORDS.get(phase, str(phase))


def _draw_html(timeline: Timeline) -> str:
    from ._view import card

    rows = []
    scale = 1000 / timeline.seconds if timeline.seconds > _NOTHING else 0.0
    for row in timeline.rows[-_MAX_ROWS:]:
        words = ", ".join(f"{_words(span.phase)} {duration(span.seconds)}" for span in row.spans)
        bars = "".join(
            f'<rect data-phase="{span.phase}" x="{span.start * scale:.1f}" width="{max(span.seconds * scale, 0.8):.1f}" '
            f'height="16"><title>{_words(span.phase)} {duration(span.seconds)}</title></rect>'
            for span in row.spans
        )
        label = html.escape(f"{row.name}: {words}", quote=True)
        together = f' <span class="m">{row.rows} rows together</span>' if row.rows and row.rows > 1 else ""
        rows.append(
            f'<li><div><b>{html.escape(row.name)}</b>{together}</div><div class="what"><svg class="time" role="img" '
            f'viewBox="0 0 1000 16" preserveAspectRatio="none" aria-label="{label}">{bars}</svg></div>'
            f'<span class="end">{duration(row.seconds)}</span></li>'
        )
    hidden = len(timeline.rows) - len(rows)
    before = f'<div class="m">{hidden} steps before</div>' if hidden > 0 else ""
    legend = "".join(f'<span><i data-phase="{phase}"></i>{text}</span>' for phase, text in _shares(timeline))
    notes = html.escape(" · ".join(_notes(timeline)))
    return card(
        f'<header><b>Where the time went</b><span class="end">{duration(timeline.seconds)}</span></header>{before}'
        f'<ol class="steps times">{"".join(rows)}</ol><div class="legend">{legend}</div><div class="m">{notes}</div>',
        "timeline",
    )
