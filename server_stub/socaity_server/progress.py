"""`JobProgress`, through which a running function tells how far it is, and the channel that carries it to the loop."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from typing import Any

from socaity.exceptions import JobCancelled

_MANY = 512


class JobProgress:
    """Tells the caller how far the job is, and the function whether it is still wanted. Usable from any thread.

    `progress` is a number from 0 to 1 that never falls (None: unknown), `message` a line of text. Setting either after
    the job was cancelled raises `JobCancelled`; after the job's end it does nothing.
    """

    __slots__ = ("_channel", "_fraction", "_is_dirty", "_text")

    def __init__(self, channel: Channel | None = None) -> None:
        self._channel = channel
        self._fraction: float | None = None
        self._text: str | None = None
        self._is_dirty = False

    @property
    def progress(self) -> float | None:
        return self._fraction

    @progress.setter
    def progress(self, value: float | None) -> None:
        self.raise_if_cancelled()
        if value is None:
            self._fraction = None
        else:
            value = float(value)
            if math.isnan(value):
                return
            self._fraction = max(self._fraction or 0.0, min(max(value, 0.0), 1.0))
        self._changed()

    @property
    def message(self) -> str | None:
        return self._text

    @message.setter
    def message(self, value: str | None) -> None:
        self.raise_if_cancelled()
        self._text = None if value is None else str(value)
        self._changed()

    # The spelling of the first published router.
    _progress = progress
    _message = message

    def log(self, text: str) -> None:
        """Add a line to the job's log."""
        self.raise_if_cancelled()
        if self._channel is not None:
            self._channel.put("log", {"message": str(text)})

    @property
    def cancelled(self) -> bool:
        """Nobody wants the result any more."""
        return self._channel is not None and self._channel.is_cancelled

    def raise_if_cancelled(self) -> None:
        """Raise `JobCancelled` if nobody wants the result any more."""
        if self.cancelled:
            raise JobCancelled("The job was cancelled.")

    def __repr__(self) -> str:
        return f"<JobProgress {self._fraction} {self._text!r}>"

    def _changed(self) -> None:
        if self._channel is not None and not self._is_dirty:
            self._is_dirty = True
            self._channel.put("progress", self)

    def _take(self) -> dict[str, Any]:
        """The state to publish; what changes from now on is published again."""
        self._is_dirty = False
        return {"fraction": self._fraction, "message": self._text}


class Channel:
    """Carries what a running function says to the loop, in order, with one wake-up per burst."""

    __slots__ = ("_closed", "_items", "_loop", "_room", "_scheduled", "_waiter", "is_cancelled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[tuple[str, Any]] = deque()
        self._scheduled = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._room: threading.Event | None = None
        self.is_cancelled = False

    def put(self, kind: str, data: Any = None) -> None:
        """Add an item, from any thread; after `close` it is dropped."""
        if self._closed:
            return
        self._items.append((kind, data))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                self._closed = True

    def wait_for_room(self) -> None:
        """Block the calling thread while the loop is far behind."""
        while len(self._items) > _MANY and not (self._closed or self.is_cancelled):
            if self._room is None:
                self._room = threading.Event()
            self._room.clear()
            if len(self._items) > _MANY:
                self._room.wait(1.0)

    async def take(self) -> list[tuple[str, Any]]:
        """All that has come, at least one item."""
        while not self._items:
            self._waiter = self._loop.create_future()
            await self._waiter
        items = list(self._items)
        for _ in items:
            self._items.popleft()
        self._make_room()
        return items

    def cancel(self) -> None:
        self.is_cancelled = True
        self._make_room()

    def close(self) -> None:
        self._closed = True
        self._items.clear()
        self._make_room()

    def _make_room(self) -> None:
        if self._room is not None:
            self._room.set()

    def _wake(self) -> None:
        self._scheduled = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
