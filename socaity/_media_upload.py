"""What happens to a call with large media before it is sent: encode, hash, upload once, and refer to it by its hash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any

from ._job import Job, Notice
from ._media import INLINE, Source
from ._portal import portal
from ._progress import Progress
from .exceptions import InvalidInputError, SocaityError, TransportError
from .protocol.media import is_media

if TYPE_CHECKING:
    from ._media_content import Content
    from ._service import Service

__all__ = ["Uploads", "takes_media"]

logger = logging.getLogger(__name__)

AT_ONCE = 4
"""How many uploads of one service go on at the same time."""
MAX_TRIES = 3
"""Of one upload whose connection breaks. Repeating it is safe: the name of the bytes is their hash."""
MAX_AGAIN = 2
"""How often the blobs of one call are uploaded again because the service has lost them."""
_MAX_KNOWN = 10_000
_PROGRESS_INTERVAL = 0.1
_HOLDERS = (dict, list)


def takes_media(schemas: Sequence[Any]) -> bool:
    """Whether one of the JSON schemas has media in it, so that arguments have to be looked at."""
    return any(_has_media(schema) for schema in schemas)


def _has_media(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return "x-media" in schema or any(map(_has_media, schema.values()))
    return isinstance(schema, list) and any(map(_has_media, schema))


class Uploads:
    """The uploads of one service; lives on the portal's loop. The same bytes travel once, whoever sends them.

    Its tasks run in contexts of their own: they work for several callers, who may be in loops of another kind.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: OrderedDict[str, None] = OrderedDict()
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[Job[Any], _Call] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def take(self, jobs: Sequence[Job[Any]]) -> list[Job[Any]]:
        """Those that can be sent now. The others are held, and given to `Service._start` when their media are there."""
        return [job for job in jobs if not self.hold(job, _arguments_of(job))]

    def hold(self, job: Job[Any], arguments: Mapping[str, Any]) -> bool:
        """Upload the media among these arguments of a job, and start it again with what stands for them; False if there
        are none, and the job can be sent."""
        if not _sources_in(arguments):
            return False
        self._begin(job, arguments)
        return True

    def again(self, job: Job[Any], error: SocaityError) -> bool:
        """Upload once more for a call that was refused because the service has lost a blob; False if that is not why."""
        call = self._calls.get(job)
        if call is None or getattr(error, "code", None) != "unknown_blob" or call.tries > MAX_AGAIN:
            return False
        for sha256 in call.sources:
            self._known.pop(sha256, None)
        self._begin(job, _restored(_arguments_of(job), call.sources))
        return True

    def close(self) -> None:
        """Stop all of it; the jobs are ended by the service."""
        for task in (*self._tasks, *(running.task for running in self._running.values())):
            task.cancel()

    def _begin(self, job: Job[Any], arguments: Mapping[str, Any]) -> None:
        call = self._calls.get(job)
        if call is None:
            call = self._calls[job] = _Call()
            # no done callback: that would look at the result, which may be held at the service
            job._add_notice(Notice(lambda: portal.call_soon(self._end, job)))
        call.tries += 1
        job._held = True  # a cancel ends it here
        call.task = asyncio.get_running_loop().create_task(
            self._prepare(job, arguments, call), context=Context()
        )
        self._tasks.add(call.task)
        call.task.add_done_callback(self._tasks.discard)

    def _end(self, job: Job[Any]) -> None:
        call = self._calls.pop(job, None)
        if call is not None and call.task is not None:
            call.task.cancel()

    async def _prepare(self, job: Job[Any], arguments: Mapping[str, Any], call: _Call) -> None:
        shown = _Shown(job)
        try:
            found = await self._replace(arguments, call, shown)
        except asyncio.CancelledError:
            if not job._ended:
                _refuse(job, TransportError("the service was closed before the media were uploaded"))
            raise
        except SocaityError as exc:
            _refuse(job, exc)
        except (
            Exception
        ) as exc:  # the edge of the task: encoders raise what they like, and nobody may wait for ever
            told = (
                exc if isinstance(exc, ValueError | OSError | ImportError) else f"{type(exc).__name__}: {exc}"
            )
            error = InvalidInputError(f"{job._endpoint.name}: an argument cannot be sent: {told}")
            error.__cause__ = exc
            _refuse(job, error)
        else:
            shown.clear()
            _set_arguments(job, found)
            self._service._start([job])

    async def _replace(self, arguments: Mapping[str, Any], call: _Call, shown: _Shown) -> Any:
        """The arguments with every source replaced; all of them are uploaded side by side."""
        sources = _sources_in(arguments)
        tasks = [asyncio.ensure_future(self._send(source, call, shown)) for source in sources]
        try:
            sent = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        places = {id(source): value for source, value in zip(sources, sent, strict=True)}
        return _replaced(arguments, places)

    async def _send(self, source: Source, call: _Call, shown: _Shown) -> Any:
        content = await asyncio.to_thread(source.content)
        content.owner = source  # which closes its file when nobody refers to it any more
        try:
            if content.size > INLINE:
                await asyncio.to_thread(content.hash)
                call.sources[content.sha256] = source
                try:
                    await self._upload(content, shown)
                except NotImplementedError:  # this wire knows no blobs
                    logger.debug(
                        "%r has no uploads; %d bytes travel in the call", self._service, content.size
                    )
                else:
                    return source.wire(content, {"$blob": content.sha256})
            return source.wire(content, await asyncio.to_thread(content.whole))
        finally:
            self._close(content)

    def _close(self, content: Content) -> None:
        """Now, or when the upload of it is over, which goes on for others when this call is cancelled."""
        running = self._running.get(content.sha256)
        if running is not None and running.content is content:
            running.task.add_done_callback(lambda _: content.close())
        else:
            content.close()

    async def _upload(self, content: Content, shown: _Shown) -> None:
        if content.sha256 in self._known:
            self._known.move_to_end(content.sha256)
            return
        running = self._running.get(content.sha256)
        if running is None:
            running = self._running[content.sha256] = _Running(content)
            running.task = asyncio.get_running_loop().create_task(
                self._transfer(content, running), context=Context()
            )
            running.task.add_done_callback(lambda task: self._transferred(content.sha256, task))
        running.shown.append(shown.part(content.size))
        # whoever gives up must not end it for the others
        await asyncio.shield(running.task)

    def _transferred(self, sha256: str, task: asyncio.Task[None]) -> None:
        self._running.pop(sha256, None)
        if not task.cancelled():
            task.exception()  # read: all who waited for it may have been cancelled

    async def _transfer(self, content: Content, running: _Running) -> None:
        async with self._room:
            for left in range(MAX_TRIES - 1, -1, -1):
                try:
                    await self._service._wire().upload(content, progress=running.note)
                    break
                except TransportError as exc:
                    if not left:
                        raise
                    logger.debug("an upload broke (%s); trying again", exc)
                except InvalidInputError as exc:
                    if exc.code == "hash_mismatch":
                        content.forget_hash()
                    raise
        self._known[content.sha256] = None
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)


class _Call:
    """A call with media: what was uploaded of it, by hash."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self.tries = 0
        self.task: asyncio.Task[None] | None = None


class _Running:
    """One upload and those who watch it."""

    task: asyncio.Task[None]

    def __init__(self, content: Content) -> None:
        self.content = content
        self.shown: list[Callable[[int], None]] = []

    def note(self, sent: int) -> None:
        """So many bytes are sent."""
        for show in self.shown:
            show(sent)


class _Shown:
    """The uploads of one job as its progress, which the display shows as a bar."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        self._sizes: list[int] = []
        self._sent: list[int] = []
        self._drawn = 0.0

    def part(self, size: int) -> Callable[[int], None]:
        """Another upload of so many bytes; returns what is told how many are sent."""
        index = len(self._sizes)
        self._sizes.append(size)
        self._sent.append(0)

        def note(sent: int) -> None:
            self._sent[index] = sent
            now = time.monotonic()
            if now - self._drawn >= _PROGRESS_INTERVAL:
                self._drawn = now
                self._draw()

        return note

    def clear(self) -> None:
        """The uploads are over: what follows is the progress of the job itself."""
        if self._drawn:
            self._set(Progress())

    def _draw(self) -> None:
        sent, total = sum(self._sent), sum(self._sizes)
        self._set(Progress(min(1.0, sent / total), f"uploading {sent / 1e6:.0f} of {total / 1e6:.0f} MB"))

    def _set(self, progress: Progress) -> None:
        job = self._job
        if not job._ended:
            job._progress = progress
            if job._display is not None:
                job._display.update(job)


def _sources_in(value: Any) -> list[Source]:
    """The sources in arguments, each once."""
    found: dict[int, Source] = {}
    left = [value]
    while left:
        one = left.pop()
        for item in one.values() if isinstance(one, Mapping) else one:
            if type(item) is Source:
                found[id(item)] = item
            elif type(item) in _HOLDERS:
                left.append(item)
    return list(found.values())


def _replaced(value: Any, places: Mapping[int, Any]) -> Any:
    if type(value) is Source:
        return places[id(value)]
    if isinstance(value, Mapping):
        return {key: _replaced(item, places) for key, item in value.items()}
    if type(value) is list and any(type(item) is Source or type(item) in _HOLDERS for item in value):
        return [_replaced(item, places) for item in value]
    return value


def _restored(value: Any, sources: Mapping[str, Source]) -> Any:
    """The arguments with the sources in the place of what stood for them."""
    if isinstance(value, Mapping):
        data = value.get("data") if is_media(value) else value
        if isinstance(data, Mapping) and data.keys() == {"$blob"} and data["$blob"] in sources:
            return sources[data["$blob"]]
        return {key: _restored(item, sources) for key, item in value.items()}
    if type(value) is list and any(type(item) in _HOLDERS for item in value):
        return [_restored(item, sources) for item in value]
    return value


def _arguments_of(job: Job[Any]) -> Mapping[str, Any]:
    """Those that were given; where jobs are among them they are kept beside the job."""
    linked = None if job._links is None else job._links.arguments
    return job.arguments if linked is None else linked


def _set_arguments(job: Job[Any], arguments: Mapping[str, Any]) -> None:
    job.arguments = arguments
    if job._links is not None and job._links.arguments is not None:
        job._links.arguments = arguments


def _refuse(job: Job[Any], error: SocaityError) -> None:
    """End a job that was never sent."""
    job._accepted = True
    job.fail(error)
