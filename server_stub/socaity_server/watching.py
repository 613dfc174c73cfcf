"""Follows a folder of models: says when files have changed and nobody is writing them any more."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from watchfiles import awatch

__all__ = ["IsSettled", "Quiet", "watch_folder"]

IsSettled: TypeAlias = Callable[[Iterable[Path]], bool]

_logger = logging.getLogger(__name__)
_LOOK_AGAIN = 5.0
_EVERYTHING = ""


class Quiet:
    """Which parts of a folder have been touched, and which of them long enough ago. A part is what lies directly in it:
    a slow copy of one model keeps no other waiting."""

    def __init__(self, root: Path, *, debounce: float) -> None:
        self.root = root.absolute()
        self._debounce = debounce
        self._touched: dict[str, float] = {}

    def touch(self, path: Path | None, now: float) -> bool:
        """Somebody has written there (None: everywhere). False: it does not matter."""
        part = _EVERYTHING if path is None else self._part(path)
        if part is None:
            return False
        self._touched[part] = now
        return True

    def next_at(self) -> float | None:
        """When the next part is settled unless it is touched again."""
        return min(self._touched.values()) + self._debounce if self._touched else None

    def settle(self, now: float) -> bool:
        """Forget what has been quiet for long enough; whether there was any."""
        settled = [part for part, at in self._touched.items() if now - at >= self._debounce]
        for part in settled:
            del self._touched[part]
        return bool(settled)

    def is_settled(self, paths: Iterable[Path]) -> bool:
        """Nobody has written these lately."""
        if not self._touched:
            return True
        if _EVERYTHING in self._touched:
            return False
        # a link within the folder is written where it leads to
        places = {place for path in paths for place in (path.absolute(), Path(os.path.realpath(path)))}
        return not any(self._part(place) in self._touched for place in places)

    def _part(self, path: Path) -> str | None:
        for root in (self.root, Path(os.path.realpath(self.root))):
            if path.is_relative_to(root):
                parts = path.relative_to(root).parts
                # `..data` is the link that Kubernetes exchanges when a mounted volume gets new files
                if any(
                    (one.startswith(".") and not one.startswith("..")) or one == "__pycache__"
                    for one in parts
                ):
                    return None
                return parts[0] if parts and not parts[0].startswith("..") else _EVERYTHING
        return _EVERYTHING


async def watch_folder(
    root: Path,
    sync: Callable[[IsSettled], Awaitable[None]],
    *,
    debounce: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `sync` when something below `root` has changed and was left alone for `debounce` seconds; runs until cancelled.

    It is called once at the beginning, for what has changed before the folder was watched.
    """
    quiet = Quiet(root, debounce=debounce)
    quiet.touch(None, clock())
    changed = asyncio.Event()
    pump = asyncio.create_task(_pump(quiet, changed, debounce, clock), name="model-watch-pump")
    try:
        while True:
            at = quiet.next_at()
            if at is None:
                await changed.wait()
                changed.clear()
            elif (delay := at - clock()) > 0:
                await asyncio.sleep(delay)
            elif quiet.settle(clock()):
                await sync(quiet.is_settled)
    finally:
        pump.cancel()
        await asyncio.wait([pump])


async def _pump(quiet: Quiet, changed: asyncio.Event, debounce: float, clock: Callable[[], float]) -> None:
    """Notes what the system says has changed. Ends only when cancelled: a folder may vanish and come back."""
    # changes must be heard of well before they count as settled
    step = max(1, min(50, int(debounce * 1000 / 8)))
    polling: bool | None = None
    while True:
        identity = _identity(quiet.root)
        try:
            changes = awatch(
                quiet.root,
                watch_filter=None,
                debounce=4 * step,
                step=step,
                rust_timeout=int(_LOOK_AGAIN * 1000),
                yield_on_timeout=True,
                force_polling=polling,
                ignore_permission_denied=True,
            )
            async with aclosing(changes):
                async for batch in changes:
                    now = clock()
                    touched = [quiet.touch(Path(path), now) for _, path in batch]
                    is_other = _identity(quiet.root) != identity
                    if is_other:
                        quiet.touch(None, now)
                    if is_other or any(touched):
                        changed.set()
                    if is_other:
                        break
        except FileNotFoundError:
            await asyncio.sleep(_LOOK_AGAIN)
        except (OSError, RuntimeError) as exc:
            if polling:
                _logger.warning("The folder %s cannot be watched: %s", quiet.root, exc)
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                _logger.warning("The folder %s is watched by looking at it: %s", quiet.root, exc)
            polling = True
        else:
            continue
        quiet.touch(None, clock())
        changed.set()


def _identity(root: Path) -> tuple[int, int] | None:
    """Another folder may take the place of this one, which the system does not tell."""
    try:
        stat = root.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
