"""Results that stayed at the server, as a client holds them."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from socaity.exceptions import JobLost
from socaity.protocol.frames import RELEASE
from socaity.protocol.link import Link

if TYPE_CHECKING:
    from socaity.transport import Call

    from ._session import ClientSession

__all__ = ["HeldAtServer", "HeldResults", "forgotten"]


class HeldResults:
    """The direct calls whose results the server holds and were not asked for yet, and those that it may forget."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._released: list[int] = []
        self._link: Link | None = None

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def use(self, link: Link) -> None:
        """A new session has begun: of the results of the old one nothing is left."""
        self._numbers.clear()
        self._link = link

    def add(self, number: int) -> None:
        """The server holds the result of this call."""
        self._numbers.add(number)

    def discard(self, number: int) -> None:
        """It was asked for."""
        self._numbers.discard(number)

    def release(self, number: int, link: Link) -> None:
        """Nobody will look at it."""
        if link is not self._link:
            return
        self._numbers.discard(number)
        if not self._released:
            asyncio.get_running_loop().call_soon(self._send_releases, link)
        self._released.append(number)

    def _send_releases(self, link: Link) -> None:
        released, self._released = self._released, []
        if link is self._link:
            link.send([[RELEASE, number] for number in released])


class HeldAtServer:
    """A result that the server holds, for as long as somebody has this object. A job's is with its job."""

    __slots__ = ("_is_fetched", "_loop", "_process", "_session", "is_of_job", "link", "number")

    def __init__(self, session: ClientSession, number: int, link: Link, *, is_of_job: bool) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._is_fetched = False
        self.is_of_job = is_of_job
        self.number = number
        self.link = link

    def fetch(self, call: Call) -> None:
        """Have it brought, once."""
        if not self._is_fetched:
            self._is_fetched = True
            self._session.fetch(self, call)

    def __del__(self) -> None:
        # any thread may drop the last reference; the child of a fork has no part in the parent's session
        if not self.is_of_job and self._process == os.getpid():
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._session.held.release, self.number, self.link)


def forgotten(call: Call) -> JobLost:
    """The end of a call whose result was held in a session that is over."""
    return JobLost(
        "the server held the result and does not know our session any more; call again, or job.retry()",
        job_id=call.id,
    )
