"""The view of something unfinished in a notebook, kept up to date in place: also when its cell has long ended.

No thread of its own: the timer of the display draws on socaity's loop, and the results, whose pictures may take a while, are
drawn on the loop of the notebook, so that they never hold up the wire.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from importlib import import_module
from itertools import count
from typing import Any

from . import _display
from ._job import Job, Notice
from ._lines import is_notebook
from ._view import html_of, html_of_group, preview_result

logger = logging.getLogger(__name__)

Publish = Callable[[dict[str, str], bool], None]
"""Shows a bundle of mime types; the second argument is True if it replaces what was shown before."""

_ids = count(1)


def show(shown: Any) -> None:
    """What IPython calls to display a Job or JobGroup (as `_ipython_display_`).

    Raises NotImplementedError, by which IPython takes `_repr_html_` and `repr`, for what has ended and outside of notebooks.
    """
    if not is_notebook() or _is_over(shown):
        raise NotImplementedError
    view = LiveView(shown, _publisher(), cell=_display.current_cell())
    view.open()
    if isinstance(shown, Job):
        shown._add_notice(Notice(_nothing, looks=True))  # displaying a job is looking at its result
    _display.watch(view)


class LiveView:
    """One display of one Job or JobGroup."""

    interval = 0.2
    """Seconds between two drawings, at least."""
    share = 20
    """Drawing takes at most one part in so many of the time of socaity's loop."""

    def __init__(self, shown: Any, publish: Publish, *, cell: object = None) -> None:
        self.shown = shown
        self.cell = cell
        self._publish = publish
        self._draw_html = html_of_group if hasattr(shown, "_members") else html_of
        self._pictures: dict[tuple[int, bool], str] = {}
        self._missing: dict[tuple[int, bool], Any] = {}
        self._last = ""
        self._due: float | None = None
        self._is_asked = False
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except (
            RuntimeError
        ):  # displayed by a thread of the user: results are drawn when it is displayed again
            self._loop = None
        self._context = copy_context()

    def open(self) -> None:
        """Show it for the first time, on the thread that displays it."""
        self._show(self._render(preview_result), is_update=False)

    def draw(self, now: float) -> bool:
        """Draw what has changed, if it is time; True if that was the end."""
        if self._due is None:
            self._due = now + self.interval  # it has just been shown
        if now < self._due:
            return False
        began = time.perf_counter()
        has_ended = _is_over(self.shown)
        page = self._render(self._known_picture)
        if page != self._last:
            self._show(page, is_update=True)
        self._due = now + max(self.interval, self.share * (time.perf_counter() - began))
        if self._missing and self._loop is not None and (has_ended or not self._is_asked):
            self._is_asked = True
            try:
                # a context can be entered only once at a time, and the timer runs in the other
                self._loop.call_soon_threadsafe(self._draw_pictures, context=self._context.copy())
            except RuntimeError:
                logger.debug("the loop of the notebook was closed")
        return has_ended

    def _render(self, preview: Callable[[Any, bool], str]) -> str:
        return self._draw_html(self.shown, preview=preview)

    def _known_picture(self, job: Any, is_small: bool) -> str:
        key = (id(job), is_small)
        if key not in self._pictures:
            self._missing[key] = job
        return self._pictures.get(key, "")

    def _draw_pictures(self) -> None:
        """On the loop of the notebook: between cells, or while one awaits."""
        for key, job in list(self._missing.items()):
            self._pictures[key] = preview_result(job, key[1])
            self._missing.pop(key, None)
        self._is_asked = False
        if _is_over(self.shown):
            self._show(self._render(_known_first(self._pictures)), is_update=True)

    def _show(self, page: str, *, is_update: bool) -> None:
        self._last = page
        self._publish({"text/plain": repr(self.shown), "text/html": page}, is_update)


def _known_first(pictures: dict[tuple[int, bool], str]) -> Callable[[Any, bool], str]:
    """Results that are drawn already are taken from `pictures`."""

    def preview(job: Any, is_small: bool) -> str:
        known = pictures.get((id(job), is_small))
        return preview_result(job, is_small) if known is None else known

    return preview


def _is_over(shown: Any) -> bool:
    """Whether nothing in its view will change; the results of the members of a group may stay at the service."""
    return bool(shown._ended if isinstance(shown, Job) else shown.done())


def _nothing() -> None:
    """The timer sees the end by itself."""


def _publisher() -> Publish:
    """Of the notebook this process is the kernel of."""
    ipython: Any = import_module("IPython.display")
    display_id = f"socaity-{next(_ids)}-{time.time_ns():x}"

    def publish(bundle: dict[str, str], is_update: bool) -> None:
        if is_update:
            ipython.update_display(bundle, raw=True, display_id=display_id)
        else:
            ipython.display(bundle, raw=True, display_id=display_id)

    return publish
