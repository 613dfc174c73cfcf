"""`Departure`: notices that the client of a request has gone while its answer is computed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

__all__ = ["Departure", "setter"]

_MOMENT = 0.02
"""Seconds after which it is looked whether the client is there still."""


class Departure:
    """Ends `future` with ClientDisconnect when the client goes. Looks only for calls that take a moment: looking costs a
    task."""

    def __init__(self, receive: Receive, future: asyncio.Future[Any]) -> None:
        loop = asyncio.get_running_loop()
        self._receive = receive
        self._future = future
        self._task: asyncio.Task[None] | None = None
        self._timer = loop.call_later(_MOMENT, self._look)

    def forget(self) -> None:
        """It does not matter any more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            # its CancelledError refers to its frame, and that to this: a circle, with the answer in it
            self._task = None

    def _look(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._future.done():
            self._future.set_exception(ClientDisconnect())


def setter(future: asyncio.Future[Any]) -> Callable[[Any, BaseException | None], None]:
    """The callback of a call whose outcome goes into `future`."""

    def on_done(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return on_done
