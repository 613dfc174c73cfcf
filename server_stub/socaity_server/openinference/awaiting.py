"""A call with a callback as something to await; cancelling whoever awaits cancels the call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from socaity.protocol.openinference.messages import InferResponse

from ..direct import Cancellable, OnDone

__all__ = ["awaited"]


async def awaited(submit: Callable[[OnDone], Cancellable]) -> InferResponse:
    """What `submit`, which is given the callback, gives to it."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def on_done(response: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(response)
        else:
            future.set_exception(error)

    call = submit(on_done)
    try:
        found: InferResponse = await future
    except asyncio.CancelledError:
        call.cancel()
        raise
    return found
