"""Blocking work on threads that keep nobody waiting: not the event loop, and not the end of the program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

__all__ = ["in_background", "on_thread"]

T = TypeVar("T")


def in_background(function: Callable[[], T]) -> Future[T]:
    """Run on a daemon thread of its own: loading a model may take minutes and cannot be interrupted."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function()
        except BaseException as exc:  # for the one who waits
            future.set_exception(exc)
        else:
            future.set_result(result)

    Thread(target=work, name="model-repository", daemon=True).start()
    return future


async def on_thread(function: Callable[[], T], *, discard: Callable[[T], object] | None = None) -> T:
    """The result of `function`; when nobody waits for it any more, `discard` gets it, on a thread."""
    future = in_background(function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if discard is not None:

            def drop(done: Future[T]) -> None:
                if done.exception() is None:
                    in_background(lambda: discard(done.result()))

            future.add_done_callback(drop)
        raise
