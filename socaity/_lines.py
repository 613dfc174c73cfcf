"""Where waiting is shown: a bar in a terminal, a widget in a notebook, now and then a line in a log."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {note}"
_NO_BAR = "{desc}: {note}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known at a moment of something that is waited for."""

    name: str
    fraction: float | None
    note: str


class Line(Protocol):
    """Where something is shown; opened with the first reading."""

    is_live: bool

    def draw(self, reading: Reading, now: float) -> None: ...

    def finish(self, text: str, is_good: bool) -> None:
        """Close, and leave `text` behind."""

    def drop(self) -> None:
        """Close and leave nothing."""

    def abandon(self) -> None:
        """Forget it without output, in the child of a fork."""


class Bar:
    """A bar of tqdm in a terminal or notebook."""

    is_live = True

    def __init__(self, reading: Reading, *, is_widget: bool) -> None:
        self._is_widget = is_widget
        self._reading = reading
        self._stream = sys.stderr
        self._bar = bar_class(is_widget)(reading, self._stream)

    def draw(self, reading: Reading, now: float) -> None:
        if reading != self._reading:
            self._reading = reading
            self._bar.show(reading)

    def finish(self, text: str, is_good: bool) -> None:
        if self._is_widget:
            name, _, note = text.partition(": ")
            self._bar.leave = True
            self._bar.show(Reading(name, 1.0 if is_good else self._reading.fraction, note))
            self._bar.close()
        else:
            self._bar.close()
            self._bar.write(text, file=self._stream)

    def drop(self) -> None:
        if self._is_widget:
            self._bar.n = 1.0  # tqdm colours an unfinished widget red and keeps it
        self._bar.close()

    def abandon(self) -> None:
        self._bar.disable = True
        self._bar._instances.discard(self._bar)


class LogLine:
    """Now and then a line, for logs: at the start, at the end, and between them when 10 s and 10 % have passed."""

    is_live = False
    interval = 10.0
    step = 0.1

    def __init__(self, reading: Reading, now: float) -> None:
        self._stream = sys.stderr
        self._write(reading, now)

    def _write(self, reading: Reading, now: float) -> None:
        self._last, self._last_at = reading, now
        percent = "" if reading.fraction is None else f"{reading.fraction:.0%}, "
        self._say(f"{reading.name}: {percent}{reading.note}")

    def _say(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def draw(self, reading: Reading, now: float) -> None:
        before = self._last.fraction
        if now - self._last_at < self.interval:
            return
        if before is not None and reading.fraction is not None and reading.fraction - before < self.step:
            return
        self._write(reading, now)

    def finish(self, text: str, is_good: bool) -> None:
        self._say(text)

    def drop(self) -> None:
        """What is in a log stays there."""

    def abandon(self) -> None:
        """Nothing is held."""


def open_line(reading: Reading, now: float) -> Line:
    if is_notebook():
        return Bar(reading, is_widget=find_spec("ipywidgets") is not None)
    if _is_terminal():
        return Bar(reading, is_widget=False)
    return LogLine(reading, now)


def are_bars() -> bool:
    """Whether lines are bars, which can come and go, or stay, as in a log."""
    return is_notebook() or _is_terminal()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


@cache
def bar_class(is_widget: bool) -> Any:
    from tqdm.std import tqdm as text_bar

    if is_widget:
        from tqdm.notebook import tqdm as base
    else:
        base = text_bar
    own_lock = threading.RLock()

    class OurBar(base):  # type: ignore[misc]
        monitor_interval = 0  # no thread of tqdm's own
        # tqdm's default lock fixes the start method of multiprocessing for the whole program
        _lock = own_lock

        def __init__(self, reading: Reading, stream: Any) -> None:
            type(self)._lock = getattr(text_bar, "_lock", own_lock)  # the user's bars may share the terminal
            self.note = reading.note
            super().__init__(
                desc=reading.name,
                total=1.0,
                initial=reading.fraction or 0.0,
                bar_format=_NO_BAR if reading.fraction is None else _BAR,
                file=stream,
                leave=False,
                **_size(stream),
            )

        def show(self, reading: Reading) -> None:
            self.note = reading.note
            self.n = reading.fraction or 0.0
            self.bar_format = _NO_BAR if reading.fraction is None else _BAR
            self.refresh()

        @property
        def format_dict(self) -> dict[str, Any]:
            return {**super().format_dict, "note": self.note}

    return OurBar


def _size(stream: Any) -> dict[str, Any]:
    try:
        is_unknown = (
            os.get_terminal_size(stream.fileno()).columns == 0
        )  # as in a container; tqdm would draw nothing
    except (OSError, ValueError):
        is_unknown = False
    return {"ncols": 80, "nrows": 24} if is_unknown else {"dynamic_ncols": True}
