"""What a person sees while waiting: bars in a terminal or notebook, sparse lines in a log."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

from . import _lines, _readings
from ._lines import Line, Reading
from ._portal import Signal, portal
from ._steps import Step
from .protocol.events import JobStatus

logger = logging.getLogger(__name__)

_QUEUED, _RUNNING, _SUCCEEDED = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.SUCCEEDED
_FORK_GRACE = 1.0


class Display:
    """All that is shown of the jobs and groups that are waited for in this process.

    `begin` only notes the wait, for it is called for every job. A timer on the portal's loop, alive while anything is waited
    for, shows what lasts; `update`, called just before something ends, closes its line before the waiting code goes on.
    """

    show_after = 0.5
    """Seconds of waiting before anything is shown."""
    tick = 0.1
    let_go_after = 1.0
    """Seconds between two looks at who still waits; a line that nobody waits for at both is taken away."""
    max_lines = 8
    max_steps = 4
    """Lines for the steps of one pipeline, below its own."""
    max_drawing = 0.005
    """Seconds that the live views may take of one tick; the others wait for the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._reset
            )
        self._reset()

    def _reset(self) -> None:
        for line in self._open_lines() if hasattr(self, "_waits") else ():
            line.abandon()
        self._lock = threading.RLock()  # whoever draws holds it
        self._fresh: dict[Any, Context] = {}  # begun since the last tick
        self._waits: dict[Any, _Wait] = {}
        self._views: dict[Any, Context] = {}
        self._total: _Total | None = None
        self._cohort = 0.0  # when the oldest wait of those that are counted began
        self._ended = self._failed = 0
        self._look_at = 0.0
        self._awake = False
        self._timer: asyncio.TimerHandle | None = None
        self._take_back: Callable[[], None] | None = None

    # -- called by Job and JobGroup ----------------------------------------------------------------------------------

    def begin(self, waited: Any) -> None:
        """Somebody begins to wait for a Job or JobGroup; from any thread."""
        waited._display = self
        # with the context, output finds its notebook cell
        self._fresh[waited] = copy_context()
        if not self._awake:
            self._wake()

    def update(self, waited: Any) -> None:
        """Something was reported; if it is the end, the line is closed here, else the next tick draws."""
        status = getattr(waited, "_status", None)  # None: a group, which calls only at its end
        if status is _QUEUED or status is _RUNNING:
            return
        wait = None
        if self._fresh.pop(waited, None) is None:
            wait = self._waits.pop(waited, None)
        if status is None:
            done, failed = _readings.count(waited)
            self._ended += done
            self._failed += failed
        else:
            self._ended += 1
            if status is not _SUCCEEDED:
                self._failed += 1
        if self._total is not None or (wait is not None and wait.line is not None):
            try:
                with self._lock:
                    self._show_end(waited, wait)
            except Exception:
                logger.debug("the end of %r could not be shown", waited, exc_info=True)

    def watch(self, view: Any) -> None:
        """Have a LiveView drawn on every tick until what it shows has ended; from any thread."""
        self._views[view] = copy_context()
        if not self._awake:
            self._wake()

    def tell(self, text: str) -> None:
        """One line to the person at the keyboard; lines that nobody waits for any more go first."""
        with self._lock, suppress(Exception):
            stream = sys.stderr
            had_bar = any(line.is_live for line in self._open_lines())
            for waited, wait in list(self._waits.items()):
                if not _has_waiters(waited):
                    self._let_go(waited, wait)
            if had_bar:
                _lines.bar_class(False).write(text, file=stream)
            elif stream is not None:
                # a terminal has just echoed ^C
                stream.write(f"\n{text}\n" if stream.isatty() else f"{text}\n")
                stream.flush()

    # -- the timer ---------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._awake = True
        portal.call_soon(self._start_timer)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._arm()

    def _arm(self) -> None:
        if self._take_back is None:
            self._take_back = portal.at_exit(self._aclose)
        self._timer = asyncio.get_running_loop().call_later(self.tick, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._turn()
        if not self._waits and not self._fresh and not self._views:
            if self._take_back is not None:
                self._take_back()
                self._take_back = None
            self._awake = False
            if not self._fresh and not self._views:
                return
            self._awake = True  # begun between the two looks
        self._arm()

    async def _aclose(self) -> None:
        with self._lock, suppress(Exception):
            for line in self._open_lines():
                line.drop()
            self._waits.clear()
            self._views.clear()
            self._total = None

    def _turn(self) -> None:
        now = self._clock()
        try:
            with self._lock:
                self._take_fresh(now)
                if now >= self._look_at:
                    self._look_at = now + self.let_go_after
                    self._look_who_waits()
                self._draw(now)
        except Exception:
            logger.debug("the progress could not be shown", exc_info=True)
            self._waits.clear()
            self._total = None
        if self._views:
            self._draw_views(now)

    def _draw_views(self, now: float) -> None:
        enough = time.perf_counter() + self.max_drawing
        for view, context in list(self._views.items()):
            try:
                has_ended = context.run(view.draw, now)
            except Exception:
                logger.debug("the view of %r could not be drawn", view.shown, exc_info=True)
                has_ended = True
            self._views.pop(view, None)
            if not has_ended:
                self._views[view] = context  # behind the others, which come first if there is no time left
            if time.perf_counter() > enough:
                break

    def _take_fresh(self, now: float) -> None:
        for waited in list(self._fresh):
            context = self._fresh.pop(waited, None)
            if context is not None and not waited._ended:
                self._waits.setdefault(waited, _Wait(context, now))
        oldest = next(iter(self._waits.values()), None)
        if self._total is None and (oldest is None or oldest.began > self._cohort):
            self._cohort = now if oldest is None else oldest.began
            self._ended = self._failed = 0

    def _look_who_waits(self) -> None:
        for waited, wait in list(self._waits.items()):
            is_idle = not _has_waiters(waited)
            if waited._ended or (is_idle and (wait.is_idle or waited.done())):
                self._let_go(waited, wait)
            else:
                wait.is_idle = is_idle

    def _let_go(self, waited: Any, wait: _Wait) -> None:
        waited._display = None  # so that the next wait begins again
        self._waits.pop(waited, None)
        wait.drop()
        if self._total is not None and not self._waits:
            self._total.context.run(self._total.line.drop)
            self._total = None

    # -- drawing, under the lock -------------------------------------------------------------------------------------

    def _open_lines(self) -> list[Line]:
        lines = [line for wait in list(self._waits.values()) for line in wait.lines]
        return lines if self._total is None else [*lines, self._total.line]

    def _draw(self, now: float) -> None:
        if self._total is None:
            ready = self._ready(now)
            if len(ready) <= self.max_lines:
                room = self.max_lines - len(ready)
                for waited, wait in ready:
                    steps = _readings.steps_of(waited, now)
                    room -= wait.context.run(
                        _draw_wait, wait, waited, steps, now, room=min(room, self.max_steps)
                    )
                return
            self._open_total(ready, now)
        if self._total is not None:
            self._total.context.run(self._total.line.draw, self._read_total(now), now)

    def _ready(self, now: float) -> list[tuple[Any, _Wait]]:
        """What is waited for long enough to be shown; one more than there is room for is enough to know."""
        ready: list[tuple[Any, _Wait]] = []
        for waited, wait in list(self._waits.items()):
            if now - wait.began < self.show_after or len(ready) > self.max_lines:
                break
            if _is_member_of(waited, self._waits):
                wait.drop()
            elif _wants_line(waited) and not self._is_in_view(waited):
                ready.append((waited, wait))
        return ready

    def _is_in_view(self, waited: Any) -> bool:
        """Whether it is displayed in the very cell that waits for it; one further up may be out of sight."""
        return bool(self._views) and any(
            view.shown is waited and view.cell is not None and view.cell == current_cell()
            for view in list(self._views)
        )

    def _open_total(self, ready: list[tuple[Any, _Wait]], now: float) -> None:
        for wait in self._waits.values():
            wait.drop()
        context = ready[-1][1].context
        started = min(_readings.created(waited, now) for waited, _ in ready)
        line = context.run(
            _lines.open_line, _readings.read_count("jobs", *self._counts(), now - started), now
        )
        self._total = _Total(context, line, started)

    def _counts(self) -> tuple[int, int, int]:
        done, failed, total = self._ended, self._failed, self._ended
        for waited in [*self._waits, *self._fresh]:
            if _readings.is_group(waited):
                more, bad = _readings.count(waited)
                done, failed, total = done + more, failed + bad, total + len(waited._members)
            else:
                total += 1
        return done, failed, total

    def _read_total(self, now: float) -> Reading:
        assert self._total is not None
        return _readings.read_count("jobs", *self._counts(), now - self._total.started)

    def _show_end(self, waited: Any, wait: _Wait | None) -> None:
        now = self._clock()
        if wait is not None and wait.line is not None:
            wait.drop_steps()
            wait.context.run(wait.line.finish, *_readings.ending(waited, now))
        elif self._total is not None and not self._waits and not self._fresh:
            total, self._total = self._total, None
            text = f"jobs: {_readings.ended_text(self._ended, self._failed)} after {_readings.clock_text(now - total.started)}"
            total.context.run(total.line.finish, text, not self._failed)
            self._ended = self._failed = 0

    # -- fork: the child must not find the lock taken, nor the parent's lines -------------------------------------------

    def _before_fork(self) -> None:
        self._lock.acquire(timeout=_FORK_GRACE)

    def _after_fork(self) -> None:
        with suppress(RuntimeError):  # a stuck stderr kept it from us
            self._lock.release()


class _Wait:
    """One thing that is waited for: its line, and the lines of those of its steps that run."""

    __slots__ = ("began", "context", "is_idle", "line", "steps")

    def __init__(self, context: Context, began: float) -> None:
        self.context = context
        self.began = began
        self.is_idle = False
        self.line: Line | None = None
        self.steps: dict[Any, Line] | None = None

    @property
    def lines(self) -> list[Line]:
        own = [] if self.line is None else [self.line]
        return [*own, *self.steps.values()] if self.steps else own

    def drop(self) -> None:
        self.drop_steps()
        if self.line is not None:
            line, self.line = self.line, None
            self.context.run(line.drop)

    def drop_steps(self) -> None:
        steps, self.steps = self.steps, None
        for line in steps.values() if steps else ():
            self.context.run(line.drop)


@dataclass(slots=True)
class _Total:
    """The one line that stands for many."""

    context: Context
    line: Line
    started: float


def _draw_wait(wait: _Wait, waited: Any, steps: list[Step], now: float, *, room: int) -> int:
    """Returns how many lines it has for steps."""
    running = _readings.worth_a_line(steps)[:room] if steps and _lines.are_bars() else []
    reading = (
        _readings.read_pipeline(steps, now, with_names=not running) if steps else _readings.read(waited, now)
    )
    if wait.line is None:
        wait.line = _lines.open_line(reading, now)
    else:
        wait.line.draw(reading, now)
    if running or wait.steps:
        _draw_steps(wait, running, now)
    return len(running)


def _draw_steps(wait: _Wait, running: list[Step], now: float) -> None:
    if wait.steps is None:
        wait.steps = {}
    current = {step.job for step in running}
    for job in [job for job in wait.steps if job not in current]:
        wait.steps.pop(job).drop()
    for step in running:
        reading = _readings.read_step(step)
        if step.job in wait.steps:
            wait.steps[step.job].draw(reading, now)
        else:
            wait.steps[step.job] = _lines.open_line(reading, now)


# -- what a Job or JobGroup is asked -----------------------------------------------------------------------------------


def current_cell() -> object:
    """What tells the cell that runs from others; None outside of notebooks."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return getattr(get_ipython(), "execution_count", None) if get_ipython is not None else None


def _wants_line(waited: Any) -> bool:
    """False for a group that has no members yet, or whose service is silent."""
    if not _readings.is_group(waited):
        return True
    return bool(waited._members) and waited._members[0]._endpoint.service.shows_progress


def _has_waiters(waited: Any) -> bool:
    """Whether a thread or task waits; callbacks and groups do not count."""
    return any(
        getattr(waiter, "__name__", "") == "wake" or isinstance(getattr(waiter, "__self__", None), Signal)
        for waiter in _waiters_of(waited)
    )


def _is_member_of(waited: Any, groups: dict[Any, _Wait]) -> bool:
    owners = [getattr(waiter, "__self__", None) for waiter in _waiters_of(waited)]
    return any(_readings.is_group(owner) and owner in groups for owner in owners)


def _waiters_of(waited: Any) -> list[Any]:
    """The functions that are called at the end, also those that a Notice holds."""
    return [getattr(waiter, "wake", waiter) for waiter in list(waited._waiters or ())]


_display = Display()
begin = _display.begin
tell = _display.tell
watch = _display.watch
