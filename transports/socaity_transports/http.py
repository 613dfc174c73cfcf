"""HTTP: jobs of our server with pushed events, and the endpoints of any service that has an OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing
from typing import Any, Self
from urllib.parse import quote, urlencode

from socaity.exceptions import (
    APIError,
    ConnectError,
    InvalidInputError,
    JobLost,
    NotFoundError,
    ProtocolError,
    ServerError,
    SocaityError,
    TransportError,
)
from socaity.protocol.description import ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.protocol.messagepack import packb
from socaity.transport import Blob, Call, Target, Transport

from ._blobs import upload_blob
from ._discovery import Discovery, OpenAPIDocument, fetch_openapi, read_discovery
from ._foreign import CALL_TIMEOUT, build_request, read_answer
from ._httpx import MESSAGEPACK, HTTPClient, HTTPRequest
from ._local_request import LocalRequest
from ._openapi import Operation
from ._watch import JobWatch, WatchTimes

__all__ = ["HTTPTransport", "WatchTimes"]

SUBMIT_WAIT = 0.1
"""Seconds that a submit is held, so that a short job costs one request. Nothing is known of the job meanwhile."""

AMBIGUOUS_STATUS = frozenset({502, 504})
"""Said by something on the way, which may have passed the request on."""


class HTTPTransport(Transport):
    """Requests over HTTP. A job costs one request if it is short, two if it is watched.

    A submit that broke after it was sent is repeated only where the service surely has not got the job. A request to a
    foreign service that breaks after it was sent is not repeated: the error has `ambiguous = True`.
    """

    def __init__(self, target: Target, *, times: WatchTimes | None = None) -> None:
        self._client = HTTPClient(target)
        self._timeout = target.timeout
        self._times = times or WatchTimes()
        self._discovery: Discovery | None = None
        self._openapi: OpenAPIDocument | None = None
        self._discovering = asyncio.Lock()
        self._local: dict[str, LocalRequest] = {}
        self._submitting: dict[str, asyncio.Event] = {}
        self._remote_ids: dict[str, str] = {}

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    def adopt(self, found: OpenAPIDocument) -> None:
        """Take the document that somebody has fetched, instead of fetching it again at the first use."""
        self._openapi = found

    async def describe(self) -> ServiceDescription:
        return (await self._discover(refresh=True)).description

    async def aclose(self) -> None:
        await self._cancel_tasks()
        await self._client.aclose()

    async def _discover(self, *, refresh: bool = False) -> Discovery:
        if self._discovery is not None and not refresh:
            return self._discovery
        async with self._discovering:
            if self._discovery is None or refresh:
                found, self._openapi = self._openapi, None
                found = found or await fetch_openapi(self._client, self._timeout)
                self._discovery = await read_discovery(self._client, found, self._timeout)
        return self._discovery

    # -- calls ----------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> AsyncGenerator[JobEvent, None]:
        discovery = await self._discover()
        if not discovery.is_ours:
            events = self._run_foreign(call, discovery)
        elif call.endpoint.direct:
            events = self._run_direct(call, discovery.base)
        else:
            events = self._run_job(call, discovery)
        async with aclosing(events):
            async for event in events:
                yield event

    def attach(self, call: Call) -> None:
        call.accept()
        events = self._follow(call.id, after=call.seq, streaming=call.endpoint.streaming)
        self._carry(call, events)

    def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        return self._follow(job_id, after=after)

    async def jobs(
        self, *, status: str | None = None, endpoint: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        discovery = await self._discover()
        if not discovery.is_ours:
            raise NotFoundError(f"{self._client.place} keeps no jobs")
        asked = {"status": status, "endpoint": endpoint, "limit": limit}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        request = HTTPRequest(
            url=f"{discovery.base}/jobs?{query}",
            headers={"Accept": "application/json"},
            read_timeout=self._timeout,
        )
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await response.error()
            page = await response.document()
        found = page.get("jobs") if isinstance(page, Mapping) else None
        if not isinstance(found, list):
            raise ProtocolError("/jobs answered with something that is not a list of jobs")
        return [dict(one) for one in found if isinstance(one, Mapping)]

    async def cancel(self, job_id: str) -> None:
        local = self._local.get(job_id)
        if local is not None:
            local.cancel()
            return
        discovery = await self._discover()
        if not discovery.is_ours:
            return  # nothing of it runs any more, and the service keeps no jobs
        submitting = self._submitting.get(job_id)
        try:
            await self._cancel_remote(discovery.base, job_id)
        except NotFoundError:
            if submitting is None:
                raise
            # The submit is still on its way; the service cannot cancel what it has not got.
            async with asyncio.timeout(self._timeout):
                await submitting.wait()
            await self._cancel_remote(discovery.base, job_id)

    async def _cancel_remote(self, base: str, job_id: str) -> None:
        url = _job_url(base, self._remote_ids.get(job_id, job_id))
        request = HTTPRequest(method="POST", url=f"{url}/cancel", read_timeout=self._timeout)
        async with self._client.stream(request) as response:
            if not response.is_success and response.status != 409:  # 409: it has ended
                raise await response.error(job_id=job_id)

    async def upload(self, blob: Blob, *, progress: Callable[[int], None]) -> None:
        discovery = await self._discover()
        if not discovery.is_ours:
            raise NotImplementedError(f"{self._client.place} has no uploads")
        await upload_blob(
            self._client, discovery.base, blob, progress=progress, timeout=max(self._timeout, 10.0)
        )

    # -- our server -----------------------------------------------------------------------------------------------

    async def _run_direct(self, call: Call, base: str) -> AsyncGenerator[JobEvent, None]:
        request = HTTPRequest(
            method="POST",
            url=base + call.endpoint.path,
            headers={
                "Content-Type": MESSAGEPACK,
                "Accept": MESSAGEPACK,
                "Idempotency-Key": call.id,
                **_option_headers(call),
            },
            content=self._pack(call),
            read_timeout=CALL_TIMEOUT,
        )
        with self._cancellable(call.id) as local:
            try:
                value = await local.guard(lambda: self._value(request, call.id))
            except (TransportError, ServerError) as exc:
                if call.endpoint.idempotent or not _may_have_arrived(exc):
                    raise
                call.accept()  # it may have run, so no new try
                raise JobLost(f"the connection broke while the call ran: {exc}", job_id=call.id) from exc
        yield JobEvent(0, "result", value)

    def _pack(self, call: Call) -> bytes:
        body = _pack(call.arguments)
        limit = None if self._discovery is None else self._discovery.description.max_body
        if limit is not None and len(body) > limit:
            raise InvalidInputError(
                f"{call.endpoint.name}: the arguments are too large: {len(body)} bytes; the service takes {limit} in one "
                "call. Nothing was sent.",
                status=413,
                code="too_large",
            )
        return body

    async def _value(self, request: HTTPRequest, job_id: str) -> Any:
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await response.error(job_id=job_id)
            return await response.document()

    async def _run_job(self, call: Call, discovery: Discovery) -> AsyncGenerator[JobEvent, None]:
        try:
            document, has_ended = await self._submit(call, discovery.base)
        except (TransportError, ServerError) as exc:
            if isinstance(exc, ProtocolError) or not _may_have_arrived(exc):
                raise
            events = self._look_for(call, discovery, exc)
        else:
            call.accept()
            job_id = str(document.get("id") or call.id)
            if job_id != call.id:
                self._remote_ids[call.id] = job_id
            streaming = call.endpoint.streaming
            watch = self._watch_of(discovery, job_id, after=call.seq, streaming=streaming, known=True)
            events = watch.end(document) if has_ended and not streaming else watch.events()
        try:
            async with aclosing(events):
                async for event in events:
                    yield event
        finally:
            self._remote_ids.pop(call.id, None)

    async def _look_for(
        self, call: Call, discovery: Discovery, error: TransportError | ServerError
    ) -> AsyncGenerator[JobEvent, None]:
        """Follow a job whose submit ended in `error`: the service may have got it all the same.

        Raises `error` where the job may be submitted again, and JobLost where nobody knows whether it ran.
        """
        watch = self._watch_of(discovery, call.id, after=call.seq, streaming=call.endpoint.streaming)
        try:
            async with aclosing(watch.events()) as events:
                async for event in events:
                    yield event
            return
        except (TransportError, APIError) as exc:
            if watch.is_known:
                raise
            is_unknown = isinstance(exc, NotFoundError)
        if is_unknown and (call.endpoint.idempotent or await self._is_still(discovery.description.instance)):
            raise error
        call.accept()  # not by a new try
        why = "that is there now does not know it" if is_unknown else "cannot be asked"
        raise JobLost(
            f"the job may have run: its submit broke ({error}), and the service {why}", job_id=call.id
        ) from error

    async def _is_still(self, instance: str) -> bool:
        """Whether the service has not been started again: what it does not know then, it has never got."""
        try:
            discovery = await self._discover(refresh=True)
        except (TransportError, APIError):
            return False
        return instance != "" and discovery.description.instance == instance

    async def _submit(self, call: Call, base: str) -> tuple[Mapping[str, Any], bool]:
        """The job document, and whether it is that of a finished job."""
        prefer = "respond-async" if call.endpoint.streaming else f"respond-async, wait={SUBMIT_WAIT:g}"
        request = HTTPRequest(
            method="POST",
            url=base + call.endpoint.path,
            headers={
                "Content-Type": MESSAGEPACK,
                "Accept": MESSAGEPACK,
                "Prefer": prefer,
                "Idempotency-Key": call.id,
            },
            content=self._pack(call),
            read_timeout=SUBMIT_WAIT + max(self._timeout, 30.0),
        )
        submitted = self._submitting[call.id] = asyncio.Event()
        try:
            async with self._client.stream(request) as response:
                if not response.is_success:
                    raise await response.error(job_id=call.id)
                document = await response.document()
                if not isinstance(document, Mapping) or "status" not in document:
                    raise ProtocolError(
                        f"{call.endpoint.path} answered a submit with something that is not a job"
                    )
                return document, response.status != 202
        finally:
            self._submitting.pop(call.id, None)
            submitted.set()

    async def _follow(
        self, job_id: str, *, after: int = 0, streaming: bool | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        discovery = await self._discover()
        if not discovery.is_ours:
            raise NotFoundError(
                f"{self._client.place} keeps no jobs; a call ends with the connection it was made on"
            )
        async with aclosing(
            self._watch_of(discovery, job_id, after=after, streaming=streaming).events()
        ) as events:
            async for event in events:
                yield event

    def _watch_of(
        self,
        discovery: Discovery,
        job_id: str,
        *,
        after: int,
        streaming: bool | None = None,
        known: bool = False,
    ) -> JobWatch:
        return JobWatch(
            self._client,
            discovery.base,
            quote(job_id, safe=""),
            after=after,
            known=known,
            streaming=streaming,
            times=self._times,
        )

    # -- any service ----------------------------------------------------------------------------------------------

    async def _run_foreign(self, call: Call, discovery: Discovery) -> AsyncGenerator[JobEvent, None]:
        operation = discovery.operations.get(call.endpoint.name)
        if operation is None:
            raise NotFoundError(f"{self._client.place} has no endpoint {call.endpoint.name!r}")
        with ExitStack() as files, self._cancellable(call.id) as local:
            request = await build_request(operation, discovery.base, call.arguments, files, call_id=call.id)
            try:
                events = self._exchange(call, request, operation)
                async with aclosing(events):
                    while True:
                        try:
                            event = await local.guard(lambda: anext(events))
                        except StopAsyncIteration:
                            return
                        yield event
            except SocaityError as exc:
                raise _judged(exc, operation, call) from exc.__cause__

    async def _exchange(
        self, call: Call, request: HTTPRequest, operation: Operation
    ) -> AsyncGenerator[JobEvent, None]:
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await response.error(job_id=call.id)
            # Only now: what the service has not answered may still be refused and tried again.
            call.accept()
            yield JobEvent(0, "status", {"status": "running", "queue_position": None})
            async with aclosing(read_answer(response, operation)) as events:
                async for event in events:
                    yield event

    def _cancellable(self, call_id: str) -> LocalRequest:
        return LocalRequest(call_id, self._local)


def _judged(error: SocaityError, operation: Operation, call: Call) -> SocaityError:
    """Mark the error of a request that may have run: repeating it could do, and cost, the same thing twice."""
    if operation.endpoint.idempotent or any(
        a.wire_name.lower() == "idempotency-key" for a in operation.arguments
    ):
        return error
    advice = "it may have run and was not repeated; look at the service before you call again"
    if isinstance(error, TransportError) and not isinstance(error, ConnectError):
        error = type(error)(f"{error}; the request had been sent: {advice}")
    elif not (isinstance(error, ServerError) and error.status in AMBIGUOUS_STATUS):
        return error
    call.accept()  # not by a new try
    error.ambiguous = True  # type: ignore[union-attr]
    return error


def _may_have_arrived(error: TransportError | ServerError) -> bool:
    """Whether a request that ended so may have been received."""
    if isinstance(error, ServerError):
        return error.status in AMBIGUOUS_STATUS
    return not isinstance(error, ConnectError)


def _job_url(base: str, job_id: str) -> str:
    return f"{base}/jobs/{quote(job_id, safe='')}"


def _option_headers(call: Call) -> dict[str, str]:
    headers: dict[str, str] = {}
    if call.time_left is not None:
        headers["X-Request-Timeout-Ms"] = f"{max(call.time_left * 1000, 0.001):.3f}"
    if call.options is not None and call.options.priority:
        headers["X-Priority"] = str(call.options.priority)
    return headers


def _pack(arguments: Mapping[str, Any]) -> bytes:
    try:
        return packb(dict(arguments))
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidInputError(f"an argument cannot be sent: {exc}") from exc
