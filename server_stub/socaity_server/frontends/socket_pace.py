"""`Pace`: keeps a client that takes its answers slowly from being sent more than the server can keep for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized

from socaity.protocol.link import Link

__all__ = ["Pace"]

_FAR_BEHIND = 1 / 8
"""A client that has to acknowledge so much, as a part of what it may, is looked at."""
_TOO_FAR_BEHIND = 4
"""One that has to acknowledge so many times what it may is given up at once."""
_FRAME_COST = 256
"""What a frame takes that waits, besides its bytes."""


class Pace:
    """Of one session, whose calls are `running`.

    While there is no room, frames wait here, unacknowledged, so that the client stops to send: only their acknowledgements
    are looked at, which make room. `take` acts on a frame when there is some, and `give_up` ends a client that goes on all the
    same, or for which there is far too much already.
    """

    def __init__(
        self, link: Link, running: Sized, *, take: Callable[[bytes], None], give_up: Callable[[], None]
    ) -> None:
        self._link = link
        self._running = running
        self._take = take
        self._give_up = give_up
        self.far_behind = link.max_unacknowledged * _FAR_BEHIND
        """Of what is sent while there are so many bytes unacknowledged, `sent` is to be told."""
        self.is_full = False
        """What the client sends now waits: `hold_back`."""
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._answer_bytes = 0.0
        """Of one of the last answers."""

    def sent(self, count: int, before: int) -> None:
        """So many messages were sent, with so many bytes unacknowledged before."""
        self._answer_bytes = max(self._link.backlog - before, 0) / count
        self._look()

    def hold_back(self, data: bytes) -> None:
        """Take a frame that comes while it is full. Raises what `take` raises."""
        if self._link.take_ack(data):
            self._waiting.append(data)
            self._waiting_bytes += len(data) + _FRAME_COST
        self._look()
        while self._waiting and not self.is_full:
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame) + _FRAME_COST
            self._take(frame)
            self._look()

    def forget(self) -> None:
        """The connection is gone: what was not acknowledged comes again, if the client does."""
        self._waiting.clear()
        self._waiting_bytes = 0

    def _look(self) -> None:
        """Find out whether there is room for more answers, those of the calls that run included."""
        link = self._link
        backlog, most = link.backlog, link.max_unacknowledged
        if backlog + self._waiting_bytes > _TOO_FAR_BEHIND * most or link.is_overdue:
            self.is_full = True
            self._give_up()
            return
        expected = len(self._running) * self._answer_bytes
        # a client that has taken what there was may go on, however long its calls run
        self.is_full = backlog > self.far_behind and backlog + expected > most
