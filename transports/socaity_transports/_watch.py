"""Follow a job of our server over HTTP: pushed events, else held requests, else polling."""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from typing import Any, cast

from socaity.exceptions import (
    APIError,
    ConnectError,
    JobLost,
    NotFoundError,
    ProtocolError,
    TransportError,
    TransportTimeout,
)
from socaity.protocol.events import EventKind, JobEvent, JobStatus
from socaity.protocol.messagepack import MalformedError, unpackb

from ._httpx import MESSAGEPACK, HTTPClient, HTTPRequest
from ._sse import ServerSentEvent, SSEParser

__all__ = ["JobWatch", "WatchTimes", "events_of_document"]

_KINDS = frozenset({"status", "progress", "log", "chunk", "result", "error"})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """All the seconds of a watch.

    The server says something at once and then every 15 s: without a `first_byte` something on the way keeps the stream
    back, and a later `silence` means that it is cut. `give_up` is how long the service may be unreachable.
    """

    first_byte: float = 10.0
    silence: float = 45.0
    hold: float = 30.0
    answer: float = 15.0
    give_up: float = 60.0
    base_delay: float = 0.1
    max_delay: float = 5.0
    first_poll: float = 0.2
    max_poll: float = 5.0


class _StreamUseless(Exception):
    """Events cannot be pushed through whatever is between us and the server."""


class JobWatch:
    """One watch of one job; `events` is used once.

    `known` says that the service has accepted the job, so that not finding it means that it is lost. `streaming` says
    whether the job gives chunks (None: unknown), which only its events carry.
    """

    def __init__(
        self,
        client: HTTPClient,
        base: str,
        job_id: str,
        *,
        after: int = 0,
        known: bool = False,
        streaming: bool | None = None,
        times: WatchTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._client = client
        self._url = f"{base}/jobs/{job_id}"
        self._job_id = job_id
        self._seq = after
        self._known = known
        self._streaming = streaming
        self._times = times or WatchTimes()
        self._clock, self._sleep, self._uniform = clock, sleep, uniform
        self._down_since: float | None = None
        self._failures = 0
        self._has_chunks = False
        self._has_bytes = False

    @property
    def is_known(self) -> bool:
        """Whether the service has said that it has, or had, the job."""
        return self._known

    async def events(self) -> AsyncGenerator[JobEvent, None]:
        """All events after `after`, ending with the terminal one. Raises NotFoundError, JobLost or APIError."""
        useless_streams = 0
        while useless_streams < 2:
            before, started = self._seq, self._clock()
            self._has_bytes = False
            try:
                async with aclosing(self._pushed()) as pushed:
                    async for event in pushed:
                        yield event
                        if event.is_terminal:
                            return
            except _StreamUseless:
                break
            except (TransportError, APIError) as exc:
                if await self._back_off(exc):
                    continue
            # The stream ended before the job did, which is no end of the job.
            lasted = self._has_bytes and self._clock() - started >= self._times.first_byte
            if self._seq > before or lasted:
                useless_streams = 0
            else:
                useless_streams += 1
            await self._sleep(self._uniform(0.0, self._times.base_delay))
        async with aclosing(self._asked()) as asked:
            async for event in asked:
                yield event

    async def end(self, document: Mapping[str, Any]) -> AsyncGenerator[JobEvent, None]:
        """The events of a job that had ended when it was first heard of. What its function told on the way is worth a request."""
        progress = document.get("progress")
        if isinstance(progress, Mapping) and progress.get("message") is not None:
            async with aclosing(self._told()) as told:
                async for event in told:
                    yield event
                    if event.is_terminal:
                        return
        for event in events_of_document(document):
            yield event

    # -- pushed ---------------------------------------------------------------------------------------------------

    async def _pushed(self) -> AsyncGenerator[JobEvent, None]:
        """The events of one connection; ends without a terminal one if it is cut."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if self._seq:
            headers["Last-Event-ID"] = str(self._seq)
        request = HTTPRequest(
            url=f"{self._url}/events",
            params=[("encoding", "msgpack")],
            headers=headers,
            read_timeout=self._times.silence,
        )
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self._times.first_byte):
                    response = await stack.enter_async_context(self._client.stream(request))
            except TimeoutError as exc:
                if isinstance(exc, TransportTimeout):
                    raise
                raise _StreamUseless from exc
            if not response.is_success:
                raise await response.error(job_id=self._job_id)
            if response.content_type != "text/event-stream":
                raise _StreamUseless
            self._reached()
            parser = SSEParser()
            pieces = response.pieces()
            ended = False
            try:
                while (piece := await self._next_piece(pieces)) is not None:
                    for sent in parser.feed(piece):
                        event = _decode(sent)
                        if event is None or (event.seq and event.seq <= self._seq):
                            continue
                        self._seq = event.seq or self._seq
                        self._has_chunks = self._has_chunks or event.kind == "chunk"
                        ended = event.is_terminal
                        yield event
                        if ended:
                            return
            finally:
                if ended:
                    await _drain(pieces)

    async def _next_piece(self, pieces: AsyncIterator[bytes]) -> bytes | None:
        """The next bytes; None if the stream has ended or is as silent as a cut one."""
        try:
            async with asyncio.timeout(self._times.silence if self._has_bytes else self._times.first_byte):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return None
        except TimeoutError as exc:
            if self._has_bytes or isinstance(exc, TransportTimeout):
                return None
            raise _StreamUseless from exc
        self._has_bytes = True
        return piece

    # -- asked ----------------------------------------------------------------------------------------------------

    async def _asked(self) -> AsyncGenerator[JobEvent, None]:
        """Held requests; polling where something on the way does not hold them."""
        state = _State()
        holds = True
        interval = self._times.first_poll
        while True:
            started = self._clock()
            try:
                document, retry_after = await self._document(self._times.hold if holds else 0.0)
            except (TransportError, APIError) as exc:
                if isinstance(exc, TransportTimeout) and holds:
                    holds = False  # something on the way drops requests that take long
                await self._back_off(exc)
                continue
            events = events_of_document(document, state)
            if events and events[-1].is_terminal:
                async for event in self._end(events):
                    yield event
                return
            if events:
                interval = self._times.first_poll
            for event in events:
                yield event
            if holds:
                holds = self._clock() - started >= self._times.hold / 2
            else:
                await self._sleep(interval if retry_after is None else retry_after)
                interval = min(interval * 1.5, self._times.max_poll)

    async def _document(self, hold: float) -> tuple[Mapping[str, Any], float | None]:
        request = HTTPRequest(
            url=self._url,
            params=[("wait", f"{hold:g}")] if hold else [],
            headers={"Accept": MESSAGEPACK},
            read_timeout=hold + self._times.answer,
        )
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await response.error(job_id=self._job_id)
            document = await response.document()
            if not isinstance(document, Mapping):
                raise ProtocolError(f"{self._client.place} answered with something that is not a job")
            self._reached()
            return document, response.retry_after

    async def _end(self, events: list[JobEvent]) -> AsyncIterator[JobEvent]:
        """The job has ended. Its chunks are only in its events, which can be read whole now."""
        if self._streaming is not False:
            async with aclosing(self._told()) as told:
                async for event in told:
                    yield event
                    if event.is_terminal:
                        return
            if (self._streaming or self._has_chunks) and events[-1].kind == "result":
                raise ProtocolError(
                    "the job has ended, but its stream cannot be read through this connection"
                )
        for event in events:
            yield event

    async def _told(self) -> AsyncGenerator[JobEvent, None]:
        """The events of a job that has ended, as far as they can be had at the first try."""
        with suppress(_StreamUseless, TransportError, APIError):
            async with aclosing(self._pushed()) as pushed:
                async for event in pushed:
                    yield event

    # -- failures -------------------------------------------------------------------------------------------------

    def _reached(self) -> None:
        self._known = True
        self._down_since = None
        self._failures = 0

    async def _back_off(self, error: TransportError | APIError) -> bool:
        """Wait before the next try, or raise. True: the service could not be reached at all."""
        if isinstance(error, NotFoundError):
            if self._known:
                raise JobLost(f"the service no longer knows the job: {error}", job_id=self._job_id) from error
            raise error
        if isinstance(error, APIError) and error.status not in _TRANSIENT:
            raise error
        if self._client.is_closed:
            raise JobLost(
                "the connection was closed while the job was running", job_id=self._job_id
            ) from error
        now = self._clock()
        self._down_since = now if self._down_since is None else self._down_since
        retry_after = getattr(error, "retry_after", None) or 0.0
        if now - self._down_since + retry_after >= self._times.give_up:
            if not self._known:
                raise error
            reason = (
                str(error.__cause__ or "") or error
            )  # the error of a request says what became of that, not of the job
            raise JobLost(
                f"{self._client.place} has not been reached for {now - self._down_since:.0f} s; how the job ended is "
                f"unknown, it may still run ({reason})",
                job_id=self._job_id,
            ) from error
        self._failures += 1
        delay = self._uniform(0.0, min(self._times.max_delay, self._times.base_delay * 2.0**self._failures))
        await self._sleep(retry_after + delay)
        return isinstance(error, (ConnectError, APIError))


@dataclass(slots=True)
class _State:
    """What was said last, so that a document that says the same gives no event."""

    status: Any = None
    progress: Any = None


def events_of_document(document: Mapping[str, Any], state: _State | None = None) -> list[JobEvent]:
    """What a job document says that is new, as events without numbers. Raises ProtocolError for an unknown status."""
    state = state or _State()
    try:
        status = JobStatus(str(document.get("status")).lower())
    except ValueError as exc:
        raise ProtocolError(f"a job has the status {document.get('status')!r}, which is not known") from exc
    if status is JobStatus.SUCCEEDED:
        return [JobEvent(0, "result", document.get("result"))]
    if status.is_terminal:
        code = "cancelled" if status is JobStatus.CANCELLED else "job_failed"
        error = document.get("error")
        problem = (
            dict(error) if isinstance(error, Mapping) else {"detail": str(error or f"the job was {status}")}
        )
        return [JobEvent(0, "error", {"code": code, **problem})]
    events: list[JobEvent] = []
    said = (status, document.get("queue_position"))
    if said != state.status:
        state.status = said
        events.append(JobEvent(0, "status", {"status": status.value, "queue_position": said[1]}))
    progress = document.get("progress")
    if isinstance(progress, Mapping) and any(value is not None for value in progress.values()):
        told = {"fraction": progress.get("fraction"), "message": progress.get("message")}
        if told != state.progress:
            state.progress = told
            events.append(JobEvent(0, "progress", told))
    return events


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read the end of a body; without it the connection could not be used again."""
    with suppress(TransportError, TimeoutError):
        async with asyncio.timeout(0.5):
            async for _ in pieces:
                pass


def _decode(sent: ServerSentEvent) -> JobEvent | None:
    """The event of the job; None for a kind that a later version of the protocol may have added."""
    if sent.event not in _KINDS:
        return None
    try:
        seq = int(sent.id)
        data = unpackb(base64.b64decode(sent.data, validate=True))
    except (ValueError, binascii.Error, MalformedError) as exc:
        raise ProtocolError(f"a {sent.event!r} event of the job cannot be read: {exc}") from exc
    return JobEvent(seq, cast("EventKind", sent.event), data)
