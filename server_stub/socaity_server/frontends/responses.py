"""What the HTTP front end answers: results, jobs, problem documents and event streams."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import math
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from socaity.exceptions import JobCancelled, SocaityError, from_problem, to_problem
from socaity.protocol.events import JobEvent, JobStatus
from socaity.protocol.media import OCTETS, Media, read_media
from socaity.protocol.messagepack import packb

from ..dataplane import DataPlane
from ..jobs.backend import JobRecord
from ..values import to_json

MSGPACK = "application/vnd.socaity+msgpack"
PROBLEM = "application/problem+json"

_HEARTBEAT = 15.0
_RETRY_MS = 1000


def wants_msgpack(accept: str) -> bool:
    return MSGPACK in accept


def value_response(
    value: Any, accept: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A value in the encoding that the caller asked for; media and bytes as they are where that was asked for."""
    if wants_msgpack(accept):
        return Response(packb(value), status, headers, MSGPACK)
    file = _wanted_file(value, accept)
    if file is not None:
        return _file_response(file, status, headers)
    return Response(to_json(value), status, headers, "application/json")


def _wanted_file(value: Any, accept: str) -> Media | None:
    """The file behind a value, if the caller would rather have it than JSON."""
    if not accept or accept == "*/*":
        return None
    if type(value) is bytes:
        media = Media(OCTETS, value)
    elif type(value) is dict and type(value.get("data")) is bytes:
        found = read_media(value)
        if found is None:
            return None
        media = found
    else:
        return None
    wanted = _quality(media.media_type, accept)
    return media if wanted > _quality("application/json", accept) else None


def _quality(media_type: str, accept: str) -> float:
    """How much a caller wants a type, from 0 to 1: the most specific range counts (RFC 9110, 12.5.1)."""
    best = (-1, 0.0)
    for part in accept.lower().split(",")[:50]:
        pattern, *settings = (piece.strip() for piece in part.split(";"))
        if pattern == media_type:
            rank = 2
        elif pattern == media_type.partition("/")[0] + "/*":
            rank = 1
        elif pattern == "*/*":
            rank = 0
        else:
            continue
        weight = 1.0
        for setting in settings:
            if setting.startswith("q="):
                with contextlib.suppress(ValueError):
                    weight = float(setting[2:])
        best = max(best, (rank, weight))
    return best[1]


def _file_response(file: Media, status: int, headers: Mapping[str, str] | None) -> Response:
    safe = {
        # what somebody uploaded must not become a page of this origin
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
    }
    if file.name is not None:
        safe["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(file.name, safe='')}"
    response = Response(file.data, status, {**safe, **(headers or {})})
    response.headers["Content-Type"] = file.media_type  # without the charset that is added to texts
    return response


def problem_response(error: BaseException) -> Response:
    """An error as an RFC 9457 document."""
    status, headers, body = problem_parts(error)
    return Response(body, status, headers, PROBLEM)


def problem_parts(error: BaseException) -> tuple[int, dict[str, str], bytes]:
    """Status, headers but for the type and length, and body of an error."""
    problem = to_problem(error)
    if isinstance(error, JobCancelled):
        problem["status"] = 409
    headers: dict[str, str] = {}
    retry_after = problem.get("retry_after")
    if retry_after is not None:
        headers["Retry-After"] = str(max(math.ceil(retry_after), 1))
    if problem["status"] == 401:  # RFC 6750, 3: what was wrong is said only to those who sent something
        is_missing = problem["code"] == "unauthenticated"
        headers["WWW-Authenticate"] = "Bearer" if is_missing else 'Bearer error="invalid_token"'
    return problem["status"], headers, to_json(problem)


def job_document(record: JobRecord) -> dict[str, Any]:
    """A job as the contract shows it."""
    return {
        "id": record.id,
        "endpoint": record.queue,
        "status": record.status.value,
        "progress": {"fraction": record.fraction, "message": record.message},
        "queue_position": record.queue_position,
        "result": record.result,
        "error": record.error,
        "created_at": _timestamp(record.created_at),
        "started_at": _timestamp(record.started_at),
        "finished_at": _timestamp(record.finished_at),
        "links": {
            "self": f"/jobs/{record.id}",
            "events": f"/jobs/{record.id}/events",
            "cancel": f"/jobs/{record.id}/cancel",
        },
    }


def job_response(
    record: JobRecord, accept: str, *, status: int = 200, applied: str | None = None
) -> Response:
    """A job document; 202 tells with `Location` where it can be read again."""
    headers = {"Location": f"/jobs/{record.id}"}
    if applied:
        headers["Preference-Applied"] = applied
    if not record.status.is_terminal:
        headers["Cache-Control"] = "no-store"
    if record.status is JobStatus.SUCCEEDED:
        file = None if wants_msgpack(accept) else _wanted_file(record.result, accept)
        if file is not None:
            return _file_response(file, status, headers)
    return value_response(job_document(record), accept, status=status, headers=headers)


def error_of(record: JobRecord) -> SocaityError:
    """The exception of a job that did not succeed."""
    return from_problem(record.error or {}, job_id=record.id)


class EventStream(Response):
    """The events of a job as Server-Sent Events, from number `after` + 1 until the terminal one or the disconnect."""

    media_type = "text/event-stream"

    def __init__(
        self,
        dataplane: DataPlane,
        job_id: str,
        *,
        after: int = 0,
        msgpack: bool = False,
        headers: Mapping[str, str] | None = None,
        heartbeat: float = _HEARTBEAT,
    ) -> None:
        super().__init__(
            None,
            200,
            {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", **(headers or {})},
        )
        del self.headers["content-length"]
        self.dataplane = dataplane
        self.job_id = job_id
        self.after = after
        self.msgpack = msgpack
        self.heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived: deque[JobEvent] = deque()
        wake = asyncio.Event()

        def sink(event: JobEvent) -> None:
            arrived.append(event)
            wake.set()

        record = await self.dataplane.get(self.job_id, owner=scope.get("socaity.owner", ""))
        stop = self.dataplane.watch(self.job_id, sink, after=self.after)
        gone = asyncio.create_task(_disconnect(receive, wake))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(
                {"type": "http.response.body", "body": b"retry: %d\n\n" % _RETRY_MS, "more_body": True}
            )
            is_over = record.status.is_terminal and not arrived
            while not is_over and not gone.done():
                if not arrived:
                    wake.clear()
                    try:
                        async with asyncio.timeout(self.heartbeat):
                            await wake.wait()
                    except TimeoutError:
                        await send({"type": "http.response.body", "body": b": alive\n\n", "more_body": True})
                    continue
                events = list(arrived)
                arrived.clear()
                body = b"".join([_sse(event, self.msgpack) for event in events])
                await send({"type": "http.response.body", "body": body, "more_body": True})
                is_over = events[-1].is_terminal
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            stop()
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone


async def _disconnect(receive: Receive, wake: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    wake.set()


def _sse(event: JobEvent, msgpack: bool) -> bytes:
    data = base64.b64encode(packb(event.data)) if msgpack else to_json(event.data)
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), data)


def _timestamp(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
