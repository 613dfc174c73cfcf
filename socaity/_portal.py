"""The one background loop on which all transports run, and how other threads and loops wait for what happens there.

The loop is started by the first call, never by an import. Two rules keep it fast: what a burst of calls brings is handed
over with one wake-up, and what a burst of results wakes is woken with one call per waiting loop.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from typing import Any, Generic, TypeVar

from .exceptions import SocaityError, TransportTimeout

logger = logging.getLogger(__name__)
T = TypeVar("T")

# On Windows a lock that is waited for cannot be interrupted with Ctrl-C; there the wait is cut in slices.
_WAIT_SLICE = 0.25 if sys.platform == "win32" else None
_EXIT_GRACE = 2.0
_LAST_TASKS = 0.5
"""Seconds for what is cancelled at the exit."""


class Waitable:
    """Something that ends once, on the portal's loop, and may be waited for from any thread, asyncio or trio.

    No lock, event or future exists until somebody waits. The order of the steps is the whole trick: the finishing side
    sets `_ended` first and looks for waiters then, the waiting side adds itself first and looks at `_ended` then.
    """

    __slots__ = ("_ended", "_waiters")

    def __init__(self) -> None:
        self._ended = False
        self._waiters: list[Callable[[], None]] | None = None

    def _end(self) -> None:
        self._ended = True
        if self._waiters is not None:
            _wake_all(self)

    def _has_ended(self) -> bool:
        # a method, because type checkers do not know that another thread may have changed the attribute
        return self._ended

    def _when_ended(self, function: Callable[[], None]) -> None:
        """Call `function` once after the end: on the loop, or here and now if the end has come."""
        if not self._ended:
            _add_waiter(self, function)
            if not (self._has_ended() and _remove_waiter(self, function)):
                return
        function()

    def _wait(self, timeout: float | None) -> bool:
        """Block this thread until the end; False if `timeout` seconds passed first."""
        if self._ended:
            return True
        if portal.is_own_thread:
            raise RuntimeError(
                "waiting here would wait for ever: this code runs on socaity's own loop (a done callback?); "
                "hand the work to another thread"
            )
        lock = threading.Lock()
        lock.acquire()
        release = _once(lock.release)
        _add_waiter(self, release)
        if self._has_ended():
            _remove_waiter(self, release)
            return True
        try:
            return _acquire(lock, timeout)
        finally:
            if not self._ended:
                _remove_waiter(self, release)

    def _wait_async(self) -> Generator[Any, Any, None]:
        """Suspend this task, in asyncio or trio, until the end."""
        if self._ended:
            return
        if "asyncio" in sys.modules and asyncio._get_running_loop() is not None:
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def wake() -> None:
                portal.wake(loop, future)

            _add_waiter(self, wake)
            if self._has_ended():
                _remove_waiter(self, wake)
                return
            try:
                yield from future
            finally:
                if not self._ended:
                    _remove_waiter(self, wake)
        else:
            yield from self._wait_trio().__await__()

    async def _wait_trio(self) -> None:
        import trio

        token = trio.lowlevel.current_trio_token()
        event = trio.Event()

        def wake() -> None:
            try:
                token.run_sync_soon(event.set)
            except trio.RunFinishedError:
                logger.debug("a waiting trio run had ended")

        _add_waiter(self, wake)
        try:
            if not self._has_ended():
                await event.wait()
        finally:
            _remove_waiter(self, wake)


# Guards the lists of waiters only; the portal takes it for a job only if somebody waits for that job.
_waiters_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    # held over the fork, so that no other thread holds it then: the child would wait for that thread for ever
    os.register_at_fork(
        before=_waiters_lock.acquire,
        after_in_parent=_waiters_lock.release,
        after_in_child=_waiters_lock.release,
    )


def _add_waiter(waitable: Waitable, wake: Callable[[], None]) -> None:
    with _waiters_lock:
        if waitable._waiters is None:
            waitable._waiters = [wake]
        else:
            waitable._waiters.append(wake)


def _remove_waiter(waitable: Waitable, wake: Callable[[], None]) -> bool:
    """True if it was there, and so has not been called and never will be."""
    with _waiters_lock:
        if waitable._waiters is not None and wake in waitable._waiters:
            waitable._waiters.remove(wake)
            return True
    return False


def _wake_all(waitable: Waitable) -> None:
    with _waiters_lock:
        waiters, waitable._waiters = waitable._waiters, None
    for wake in waiters or ():
        wake()


def _once(release: Callable[[], None]) -> Callable[[], None]:
    def wake() -> None:
        try:
            release()
        except RuntimeError:  # released before
            logger.debug("a waiter was woken twice")

    return wake


def _acquire(lock: threading.Lock, timeout: float | None) -> bool:
    if _WAIT_SLICE is None:
        return lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _WAIT_SLICE if deadline is None else min(_WAIT_SLICE, deadline - time.monotonic())
        if lock.acquire(timeout=max(0.0, left)):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            return False


class Signal(Waitable):
    """A Waitable that anybody may end."""

    __slots__ = ()

    def set(self) -> None:
        self._end()

    def wait(self, timeout: float | None = None) -> bool:
        return self._wait(timeout)

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait_async()


class Outcome(Waitable, Generic[T]):
    """The end of a coroutine that runs on the portal."""

    __slots__ = ("_error", "_task", "_value")

    def __init__(self) -> None:
        super().__init__()
        self._value: T | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> None:
        try:
            self._value = await coroutine
        except BaseException as exc:
            self._error = exc
        self._end()

    def result(self, timeout: float | None) -> T:
        if not self._wait(timeout):
            raise TransportTimeout(f"no answer within {timeout:g} s")
        return self._get()

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self._wait_async()
        return self._get()

    def _get(self) -> T:
        if self._error is not None:
            raise _detached(self._error)
        return self._value  # type: ignore[return-value]


def _detached(error: BaseException) -> BaseException:
    """An error that can be raised again and again without its traceback growing."""
    return error.with_traceback(None) if isinstance(error, SocaityError) else error


class Portal:
    """A loop on a daemon thread. `generation` changes when a fork has left the loop behind."""

    def __init__(self) -> None:
        self.generation = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._woken: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        self._closers: list[Callable[[], Coroutine[Any, Any, None]]] = []
        # What runs on the loop is not the caller's: else a trio run there would be taken for one here, by anyio and others
        # who read it from a context variable, and the first caller's variables would live as long as the wire.
        self.context = Context()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    @property
    def is_own_thread(self) -> bool:
        return self._thread is not None and threading.get_ident() == self._thread.ident

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started if it does not run yet."""
        if self._loop is None:
            with self._lock:
                if self._loop is None:
                    self._start()
        assert self._loop is not None
        return self._loop

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(loop,), name="socaity-portal", daemon=True)
        self._thread.start()
        atexit.register(self._shut_down)
        self._loop = loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        with suppress(ImportError):
            from sniffio import thread_local

            # calls run in the context of their caller, in which anyio may have noted that trio runs
            thread_local.name = "asyncio"
        try:
            loop.run_forever()
        finally:
            loop.close()

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Run `function` on the loop."""
        self.loop.call_soon_threadsafe(function, *args, context=self.context)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Outcome[T]:
        """Run a coroutine on the loop; wait for the outcome from any thread or loop."""
        outcome: Outcome[T] = Outcome()

        def start() -> None:
            outcome._task = asyncio.get_running_loop().create_task(outcome._run(coroutine))

        self.call_soon(start)
        return outcome

    def wake(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
        """Set a future of another loop; all that one turn of our loop wakes there goes over in one call."""
        if not self.is_own_thread:
            _set_futures_of(loop, [future])
            return
        futures = self._woken.get(loop)
        if futures is None:
            self._woken[loop] = futures = []
            if len(self._woken) == 1:
                self.loop.call_soon(self._hand_over)
        futures.append(future)

    def _hand_over(self) -> None:
        woken, self._woken = self._woken, {}
        for loop, futures in woken.items():
            _set_futures_of(loop, futures)

    def run_in_thread(self, function: Callable[[], object], name: str) -> None:
        """Run something that may block on a daemon thread of its own."""
        threading.Thread(target=function, name=name, daemon=True).start()

    def at_exit(self, close: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
        """Have `close` awaited on the loop when the interpreter exits; returns the function that takes it back."""
        self._closers.append(close)

        def take_back() -> None:
            if close in self._closers:
                self._closers.remove(close)

        return take_back

    def _shut_down(self) -> None:
        """Close the wires politely, but never hold up the exit of the interpreter."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return

        async def close_all() -> None:
            closers, self._closers = self._closers, []
            try:
                async with asyncio.timeout(_EXIT_GRACE):
                    await asyncio.gather(*(close() for close in closers), return_exceptions=True)
            except TimeoutError:
                logger.debug("a wire did not close in time")
            stop, quiet = loop.time() + _LAST_TASKS, 0
            while quiet < 2:
                # a generator that nobody reads any more is closed by a task, whose end may drop another generator, for which
                # there is a task only in the next turn of the loop but one
                await asyncio.sleep(0)
                left = asyncio.all_tasks() - {asyncio.current_task()}
                quiet = 0 if left else quiet + 1
                for task in left:
                    task.cancel()
                if left and (await asyncio.wait(left, timeout=max(0.0, stop - loop.time())))[1]:
                    return

        def begin() -> None:
            task = loop.create_task(close_all())
            task.add_done_callback(lambda done: (done.cancelled() or done.exception(), loop.stop()))

        loop.call_soon_threadsafe(begin)
        thread.join(_EXIT_GRACE + 1.0)

    def _forget(self) -> None:
        # fork() copies the loop but not its thread; closing it would wait for ever and would end the parent's sockets.
        if self._loop is not None:
            self.leave_behind(self._loop)
        self.generation += 1
        self._lock = threading.Lock()
        self._loop = self._thread = None
        self._woken = {}
        self._closers = []
        self.context = Context()  # the parent's loop may have been inside the other one
        atexit.unregister(self._shut_down)

    @staticmethod
    def leave_behind(thing: object) -> None:
        """Keep what is the parent's, in the child of a fork, so that no destructor touches the parent's sockets."""
        _forgotten.append(thing)


_forgotten: list[object] = []


def _set_futures_of(loop: asyncio.AbstractEventLoop, futures: list[asyncio.Future[None]]) -> None:
    try:
        loop.call_soon_threadsafe(_set_futures, futures)
    except RuntimeError:  # that loop was closed while its task waited
        logger.debug("a waiting loop was closed")


def _set_futures(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Outbox(Generic[T]):
    """Carries items from any thread to the loop, a burst at a time.

    `put` must stay this short: append, look at the flag, wake. The flag is cleared before the items are taken, so an item
    that is added meanwhile is either taken now or wakes the loop again.
    """

    __slots__ = ("_items", "_take", "_woken")

    def __init__(self, take: Callable[[list[T]], None]) -> None:
        self._items: deque[T] = deque()
        self._take = take
        self._woken = False

    def put(self, item: T) -> None:
        self._items.append(item)
        if not self._woken:
            self._woken = True
            portal.loop.call_soon_threadsafe(self._deliver, context=portal.context)

    def _deliver(self) -> None:
        self._woken = False
        items = self._items
        taken: list[T] = []
        try:
            while True:
                taken.append(items.popleft())
        except IndexError:
            pass
        if taken:
            self._take(taken)


portal = Portal()
