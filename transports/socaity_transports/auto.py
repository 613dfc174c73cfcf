"""Plain `http(s)` addresses: find out what is there, then hand over to the transport for it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol, Self, runtime_checkable

from socaity.exceptions import (
    ConnectError,
    JobCancelled,
    JobLost,
    ProtocolError,
    SocaityError,
    TransportError,
)
from socaity.protocol.description import ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Blob, Call, Exchange, Target, Transport, open_transport

from ._discovery import OpenAPIDocument, find_service, without_page
from ._httpx import HTTPClient

__all__ = ["DetectingTransport"]


@runtime_checkable
class _Adopting(Protocol):
    """A transport that can use the document that was fetched here."""

    def adopt(self, found: OpenAPIDocument) -> None: ...


class DetectingTransport(Transport):
    """Our server → its socket, or HTTP where a socket cannot be opened; one of the Open Inference Protocol → that; anything
    else with an OpenAPI document → HTTP.

    Calls made before this is known wait together and go on together. If the detection fails they end with its error,
    and the next use tries again.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._inner: Transport | None = None
        self._detection: asyncio.Task[Transport] | None = None
        self._description: ServiceDescription | None = None
        self._calls: list[Call] = []
        self._attached: list[Call] = []

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    @property
    def takes_references(self) -> bool:
        return self._inner is not None and self._inner.takes_references

    @property
    def exchange(self) -> Exchange | None:
        return None if self._inner is None else self._inner.exchange

    @property
    def trouble(self) -> str | None:
        """What keeps calls from the service just now, if the transport that was found says that."""
        return getattr(self._inner, "trouble", None)

    async def describe(self) -> ServiceDescription:
        inner = self._inner or await self._detected()
        description, self._description = self._description, None
        return description or await inner.describe()

    def start(self, calls: Sequence[Call]) -> None:
        if self._inner is not None:
            self._inner.start(calls)
            return
        self._calls.extend(calls)
        self._begin()

    def attach(self, call: Call) -> None:
        if self._inner is not None:
            self._inner.attach(call)
            return
        call.accept()
        self._attached.append(call)
        self._begin()

    async def run(self, call: Call) -> AsyncIterator[JobEvent]:
        inner = self._inner or await self._detected()
        async for event in inner.run(call):
            yield event

    async def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        inner = self._inner or await self._detected()
        async for event in inner.watch(job_id, after=after):
            yield event

    async def cancel(self, job_id: str) -> None:
        held = next((call for call in self._calls if call.id == job_id), None)
        if held is not None:
            self._calls.remove(held)
            held.fail(JobCancelled("the job was cancelled before it was sent", job_id=job_id))
            return
        inner = self._inner or await self._detected()
        await inner.cancel(job_id)

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        inner = self._inner or await self._detected()
        await inner.upload(blob, progress=progress)

    async def aclose(self) -> None:
        if self._detection is not None:
            self._detection.cancel()
            await asyncio.gather(self._detection, return_exceptions=True)
        if self._inner is not None:
            await self._inner.aclose()

    # -- detection ------------------------------------------------------------------------------------------------

    def _begin(self) -> asyncio.Task[Transport]:
        if self._detection is None:
            self._detection = asyncio.get_running_loop().create_task(self._detect())
            self._detection.add_done_callback(self._go_on)
        return self._detection

    async def _detected(self) -> Transport:
        # One waiter that is cancelled must not end the detection of the others.
        return await asyncio.shield(self._begin())

    def _go_on(self, detection: asyncio.Task[Transport]) -> None:
        self._detection = None
        calls, self._calls = self._calls, []
        attached, self._attached = self._attached, []
        if detection.cancelled():
            for call in calls:
                call.fail(ConnectError("the connection was closed before the job was sent"))
            for call in attached:
                call.fail(JobLost("the connection was closed while the job was running", job_id=call.id))
            return
        error = detection.exception()
        if error is not None:
            for call in (*calls, *attached):
                call.fail(_own_copy(error))
            return
        self._inner = detection.result()
        if calls:
            self._inner.start(calls)
        for call in attached:
            self._inner.attach(call)

    async def _detect(self) -> Transport:
        client = HTTPClient(self._target)
        try:
            found = await find_service(client, self._target.timeout)
        finally:
            await client.aclose()
        if found is None:
            address, mark, options = self._target.url.partition("?")
            target = replace(self._target, url=without_page(address) + mark + options)
            return open_transport(target, name="open_inference")
        inner = await self._open_socket(found) if found.is_ours else None
        if inner is None:
            inner = open_transport(self._target, name="http")
            if isinstance(inner, _Adopting):
                inner.adopt(found)
        return inner

    async def _open_socket(self, found: OpenAPIDocument) -> Transport | None:
        """The socket of our server; None if something on the way does not let it through."""
        url = "ws" + found.base.removeprefix("http")
        socket = open_transport(replace(self._target, url=url))
        try:
            async with asyncio.timeout(2 * self._target.timeout):
                self._description = await socket.describe()
        except (TransportError, TimeoutError):
            await socket.aclose()
            return None
        except BaseException:
            await socket.aclose()
            raise
        return socket


def _own_copy(error: BaseException) -> SocaityError:
    """Every call gets its own exception, because raising one changes its traceback."""
    if not isinstance(error, SocaityError):
        wrapped = ProtocolError(f"the service could not be detected: {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return wrapped
    return copy.copy(error)
