"""`Passage`: the result of a job of one service on its way to another, without being a value here.

The first service publishes it under its hash; the second fetches it there, if its operator allows that, or gets it in pieces
from here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ._links import arguments_of, links_of
from ._parts import replaced
from .exceptions import SocaityError
from .transport import Published, SmallPart

if TYPE_CHECKING:
    from ._job import Job
    from .transport import Exchange, Transport

__all__ = ["Passage", "Path", "passages_of"]

logger = logging.getLogger(__name__)

_MARGIN = 60.0
"""Seconds before the end of a publication from which on it is asked for anew: the service may be busy."""
_PIECE = 2**18
_SCALARS = frozenset({"boolean", "integer", "null", "number"})

Path = tuple["str | int", ...]


class Passage:
    """When it `is_over` and the result `arrives`, `reference` is what stands for it in arguments; else it has to come as a
    value."""

    __slots__ = ("_wakes", "arrives", "is_over", "reference", "until")

    def __init__(self) -> None:
        self.is_over = self.arrives = False
        self.reference: Any = None
        self.until = float("inf")
        """From when on the reference is too old."""
        self._wakes: list[Callable[[], None]] = []

    def when_over(self, wake: Callable[[], None]) -> None:
        """Call `wake` when it is known how it ended."""
        if self.is_over:
            wake()
        else:
            self._wakes.append(wake)

    def end(self) -> None:
        """It is known now."""
        self.is_over = True
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()


def passages_of(job: Job[Any], source: Job[Any]) -> dict[tuple[int, Path], Passage] | None:
    """How the result of an unfinished job of another service, or its parts, come to the service of `job`; None if some of it
    has to come as a value."""
    paths: dict[Path, None] = {}

    def put(step: Job[Any], path: Path) -> None:
        target = step._target()
        if target.job is source:
            paths[(*target.path, *path)] = None

    replaced(arguments_of(job), put)
    found = {}
    for path in paths:
        passage = _passage(job, source, path)
        if passage is None or (passage.is_over and not passage.arrives):
            return None
        found[(id(source), path)] = passage
    return found


def _passage(job: Job[Any], source: Job[Any], path: Path) -> Passage | None:
    """Begun if it is not under way; None: as a value."""
    links = links_of(job)
    there, here = _wire(source), _wire(job)
    described = source._endpoint.description
    if links.by_value or there is None or here is None or described.streaming:
        return None
    kind = described.returns.get("type")
    if not path and isinstance(kind, str) and kind in _SCALARS:
        return None  # too small for it, as is known before
    publisher, taker = there.exchange, here.exchange
    if publisher is None or taker is None or not taker.takes_published:
        return None
    service = job._endpoint.service
    table = links_of(source).passages
    if table is None:
        table = links_of(source).passages = {}
    key = (service, path, links.may_fetch)
    known = table.get(key)
    if known is not None and time.monotonic() < known.until:
        links.crosses = True
        return known
    answer = publisher.publish(source, path)
    if answer is None:
        return None
    links.crosses = True
    passage = table[key] = Passage()
    work = _pass_on(passage, answer, publisher, taker, here, may_fetch=links.may_fetch)
    task = asyncio.get_running_loop().create_task(work, context=Context())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return passage


_tasks: set[asyncio.Task[None]] = set()
"""The event loop does not keep them. They end with the wires that they use."""


async def _pass_on(
    passage: Passage,
    answer: Awaitable[Published | SmallPart | None],
    publisher: Exchange,
    taker: Exchange,
    wire: Transport,
    *,
    may_fetch: bool,
) -> None:
    # knows the job only by its answer: who has dropped it must not be kept waiting for this
    try:
        published = await answer
        if published is None:
            return
        if isinstance(published, SmallPart):
            passage.reference = published.value
        else:
            reference: dict[str, Any] = {"$packed": published.sha256, "size": published.size}
            if may_fetch and taker.fetches(published.url) and published.seconds > 0:
                passage.until = time.monotonic() + max(published.seconds - _MARGIN, published.seconds / 2)
                reference |= {"from": published.url, "token": published.token}
                logger.info("%d bytes pass from %s to the next service", published.size, published.url)
            else:
                carried = _Carried(published, publisher, asyncio.get_running_loop())
                await wire.upload(carried, progress=_unseen)
                logger.info(
                    "%d bytes were carried from %s to the next service", published.size, published.url
                )
            passage.reference = reference
        passage.arrives = True
    except (SocaityError, NotImplementedError) as exc:
        logger.info("a result does not pass from one service to the other (%s); it is sent as a value", exc)
    except Exception:  # the edge of the task: a fault of an adapter must not hang the job
        logger.exception("a result could not be passed on; it is sent as a value")
    finally:
        passage.end()


class _Carried:
    """A published result as a blob to upload: downloaded while it is sent, a piece at a time. See `socaity.transport.Blob`."""

    def __init__(self, published: Published, publisher: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self.sha256 = published.sha256
        self.size = published.size
        self._published = published
        self._publisher = publisher
        self._loop = loop

    def pieces(self) -> Iterator[bytes]:
        """For a thread; the download is on the loop."""
        stream = self._publisher.download(self._published)
        try:
            while piece := asyncio.run_coroutine_threadsafe(_next_piece(stream), self._loop).result():
                yield piece
        finally:
            # not waited for: the generator may be closed on the loop itself
            closing = _close(stream)
            self._loop.call_soon_threadsafe(_keep, closing)


async def _next_piece(stream: AsyncIterator[bytes]) -> bytes:
    """Some of it in one piece, because each costs a change of threads; empty at the end."""
    pieces, size = [], 0
    async for piece in stream:
        pieces.append(piece)
        size += len(piece)
        if size >= _PIECE:
            break
    return b"".join(pieces)


async def _close(stream: AsyncIterator[bytes]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        with suppress(SocaityError):
            await close()


def _keep(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.get_running_loop().create_task(work, context=Context())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _unseen(sent: int) -> None:
    """Nobody watches the progress."""


def _wire(job: Job[Any]) -> Transport | None:
    return getattr(job._endpoint.service, "_transport", None)
