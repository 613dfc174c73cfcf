"""A live snapshot as lines of text for a terminal: pure, so that every width can be tested."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["History", "Rates", "clean", "draw", "fit", "paint", "width_of"]

Line: TypeAlias = list[tuple[str, str]]
"""Pieces of text, each with a style: a key of `_STYLES` or nothing."""

Rates: TypeAlias = Mapping[str, Sequence[float]]
"""The last calls per second of each model."""

NONE = "–"
HISTORY = 20
_STYLES = {"bold": "1", "dim": "2", "bad": "31", "good": "32", "warn": "33", "accent": "36", "head": "2"}
_STATES = {"ready": "good", "loading": "accent", "starting": "accent", "stopping": "warn", "failed": "bad"}
_BREAKER = {"open": "bad", "half_open": "warn"}
_JOBS = {"running": "accent", "succeeded": "good", "failed": "bad", "cancelled": "warn"}
_BLOCKS = "▁▂▃▄▅▆▇█"
_LEAST_NAME, _MOST_NAME = 10, 40
_BAR = 10


def draw(
    snapshot: Mapping[str, Any],
    *,
    width: int,
    height: int | None = None,
    note: tuple[str, str] = ("", ""),
    rates: Rates | None = None,
    later: float = 0.0,
) -> list[Line]:
    """The lines of a screen (`height` None: all). `note` is a text with its style for the upper right corner.

    `later` is how many seconds ago the snapshot was taken; `rates` gives the small curves.
    """
    lines = [_header(snapshot["service"], note, width, later), []]
    lines += _models(snapshot["models"], width, rates or {})
    queues = _queues(snapshot["queues"])
    if queues:
        lines += [[], queues]
    lines += [[], *_jobs(snapshot["jobs"], later)]
    if height is not None and len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], [(f"… {hidden} more lines", "dim")]]
    return lines


def paint(line: Line, *, width: int, colour: bool) -> str:
    """A line as text of at most `width` columns, with escape sequences for `colour`."""
    parts, left = [], width
    for text, style in line:
        if left <= 0:
            break
        if width_of(text) > left:
            text = fit(text, left).rstrip()
        left -= width_of(text)
        code = _STYLES.get(style)
        parts.append(f"\x1b[{code}m{text}\x1b[0m" if colour and code and text else text)
    return "".join(parts).rstrip(" ")


def clean(text: object) -> str:
    """Without what a terminal would act on: control characters, line ends, marks that turn the direction."""
    return "".join(
        " "
        if char in "\n\t"
        else "\ufffd"
        if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"
        else char
        for char in str(text)
    )


def width_of(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    return sum(map(_columns, text))


def fit(text: str, width: int) -> str:
    """Exactly `width` columns: filled with blanks, or cut with an ellipsis."""
    missing = width - width_of(text)
    if missing >= 0:
        return text + " " * missing
    kept, used = [], 0
    for char in text:
        if used + _columns(char) > width - 1:
            break
        kept.append(char)
        used += _columns(char)
    return "".join(kept) + "…" + " " * (width - 1 - used)


def _columns(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of the models; those of low `rank` stay longest when it gets narrow."""

    title: str
    width: int
    rank: int
    to_left: bool = False

    def cell(self, text: str) -> str:
        return (
            fit(text, self.width)
            if self.to_left
            else fit(" " * (self.width - width_of(text)) + text, self.width)
        )


_COLUMNS = {
    "state": _Column("STATE", 12, 0, to_left=True),
    "calls": _Column("CALLS/s", 8, 1),
    "rows": _Column("ROWS/s", 8, 6),
    "queue": _Column("QUEUE", 7, 2),
    "busy": _Column("BUSY", 6, 5),
    "batch": _Column("BATCH", 6, 7),
    "p50": _Column("p50", 8, 4),
    "p95": _Column("p95", 8, 3),
    "p99": _Column("p99", 8, 8),
    "failed": _Column("FAILED", 7, 4),
    "curve": _Column("CALLS", HISTORY, 9, to_left=True),
}


def _header(service: Mapping[str, Any], note: tuple[str, str], width: int, later: float) -> Line:
    uptime = None if service["uptime"] is None else service["uptime"] + later
    title = clean(service["title"])
    facts = [f"up {_span(uptime)}", f"mem {_bytes(service['memory'])}"]
    if service["cpu"] is not None:
        facts.insert(1, f"cpu {service['cpu'] * 100:.0f} %")
    line: Line = [
        (title, "bold"),
        (f" {clean(service['version'])}" if service["version"] else "", "dim"),
        ("  ", ""),
        (clean(service["state"]), _STATES.get(service["state"], "dim")),
        ("  " + "  ".join(facts), ""),
    ]
    gap = width - sum(width_of(text) for text, _ in [*line, note])
    if gap >= 2:
        return [*line, (" " * gap, ""), note]
    if note[1] == "bad":  # in a narrow terminal what is wrong comes first
        return [note, ("  ", ""), *line]
    return line


def _models(models: Sequence[Mapping[str, Any]], width: int, rates: Rates) -> list[Line]:
    if not models:
        return [[("MODELS", "head")], [("No models are served.", "dim")]]
    name_width = max(width_of(clean(model["name"])) for model in models)
    name_width = min(max(name_width, _LEAST_NAME), _MOST_NAME)
    shown, left = set(), width - min(name_width, max(width // 3, _LEAST_NAME))
    for key, column in sorted(_COLUMNS.items(), key=lambda item: item[1].rank):
        if key == "curve" and not rates:
            continue
        left -= column.width + 2
        if left < 0:
            break
        shown.add(key)
    used = sum(_COLUMNS[key].width + 2 for key in shown)
    name_width = max(min(name_width, width - used), 1)
    columns = [(key, column) for key, column in _COLUMNS.items() if key in shown]
    head = [fit("MODEL", name_width), *(column.cell(column.title) for _, column in columns)]
    lines: list[Line] = [[("  ".join(head), "head")]]
    for model in models:
        lines.append(_model(model, name_width, columns, rates.get(model["name"], ())))
        breaker = model.get("breaker")
        if model["served"] and model["reason"]:
            lines.append([("  ", ""), (clean(model["reason"]), "dim")])
        if breaker and breaker["state"] != "closed" and breaker["reason"]:
            lines.append([("  ", ""), (f"the circuit opened: {clean(breaker['reason'])}", "dim")])
    return lines


def _model(
    model: Mapping[str, Any],
    name_width: int,
    columns: Iterable[tuple[str, _Column]],
    history: Sequence[float],
) -> Line:
    line: Line = [(fit(clean(model["name"]), name_width), "bold")]
    if not model["served"]:
        why = model["reason"] or model["backend"] or ""
        state = _COLUMNS["state"].cell(clean(model["state"]))
        return [*line, ("  ", ""), (state, _STATES.get(model["state"], "dim")), ("  " + clean(why), "dim")]
    rates, running = model["rates"] or {}, model["running"]
    failed = sum(count for reason, count in model["totals"]["failed"].items() if reason != "cancelled")
    breaker = model["breaker"]
    tripped = None if breaker is None or breaker["state"] == "closed" else breaker["state"]
    cells = {
        "state": (
            "circuit open" if tripped == "open" else "half open" if tripped else clean(model["state"]),
            _BREAKER.get(tripped, "dim") if tripped else _STATES.get(model["state"], "dim"),
        ),
        "calls": (_rate(rates.get("calls")), ""),
        "rows": (_rate(rates.get("rows")), ""),
        "queue": (_count(model["queue"]["rows"]), "warn" if model["queue"]["rows"] else ""),
        "busy": (f"{running['busy']}/{running['instances']}", ""),
        "batch": (NONE if model["batch_rows"]["mean"] is None else f"{model['batch_rows']['mean']:.1f}", ""),
        **{key: (_time(model["latency"][key]), "") for key in ("p50", "p95", "p99")},
        "failed": (_count(failed), "bad" if rates.get("failed") else "dim" if not failed else ""),
        "curve": (_curve(history), "accent"),
    }
    for key, column in columns:
        text, style = cells[key]
        line += [("  ", ""), (column.cell(text), style)]
    return line


def _queues(queues: Sequence[Mapping[str, Any]]) -> Line:
    texts = [f"{clean(one['name'])} {one['running']} running, {one['waiting']} waiting" for one in queues]
    return [("QUEUES  ", "head"), (" · ".join(texts), "")] if texts else []


def _jobs(jobs: Sequence[Mapping[str, Any]], later: float) -> list[Line]:
    if not jobs:
        return [[("JOBS", "head")], [("No jobs.", "dim")]]
    lines: list[Line] = [[("JOBS", "head")]]
    name_width = min(max(width_of(clean(job["endpoint"])) for job in jobs), _MOST_NAME)
    for job in jobs:
        status = job["status"]
        is_running = status == "running"
        fraction = job["fraction"] if is_running else None
        seconds = (job["seconds"] or 0.0) + (later if is_running else 0.0)
        when = _span(job["age"] + later if status == "queued" else seconds)
        lines.append(
            [
                (f"{clean(job['id'])[:8]:8}  ", "dim"),
                (fit(clean(job["endpoint"]), name_width), "bold"),
                ("  ", ""),
                (fit(clean(status), 9), _JOBS.get(status, "dim")),
                ("  ", ""),
                (_bar(fraction), "accent"),
                (f"  {'' if fraction is None else format(fraction, '.0%'):>4}  ", ""),
                (fit(when, 12), "dim"),
                (f"  {clean(job['message'] or '')}", ""),
            ]
        )
    return lines


def _bar(fraction: float | None) -> str:
    if fraction is None:
        return " " * _BAR
    done = round(min(max(fraction, 0.0), 1.0) * _BAR)
    return "█" * done + "░" * (_BAR - done)


def _curve(history: Sequence[float]) -> str:
    top = max(history, default=0.0) or 1.0
    return "".join(_BLOCKS[min(int(value / top * len(_BLOCKS)), len(_BLOCKS) - 1)] for value in history)


def _count(value: float) -> str:
    if value < 100_000:
        return f"{value:,.0f}"
    return f"{value / 1000:,.0f}k" if value < 10_000_000 else f"{value / 1_000_000:,.0f}M"


def _rate(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.1f}" if 0 < value < 100 else _count(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    milliseconds = seconds * 1000
    if milliseconds < 1:
        return f"{milliseconds:.2f} ms"
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    return (
        f"{milliseconds:.0f} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
        if seconds < 100
        else f"{seconds:.0f} s"
    )


def _span(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02} min"
    return f"{whole // 86400} d {whole // 3600 % 24:02} h"


def _bytes(value: int | None) -> str:
    if value is None:
        return NONE
    mebibytes = value / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 10_240 else f"{mebibytes / 1024:.1f} GiB"


class History:
    """The last calls per second of each model, for the curves."""

    def __init__(self) -> None:
        self.rates: dict[str, deque[float]] = {}

    def take(self, snapshot: Mapping[str, Any]) -> None:
        names = {model["name"] for model in snapshot["models"]}
        for name in self.rates.keys() - names:
            del self.rates[name]
        for model in snapshot["models"]:
            if model.get("rates"):
                past = self.rates.setdefault(model["name"], deque(maxlen=HISTORY))
                past.append(model["rates"]["calls"])
