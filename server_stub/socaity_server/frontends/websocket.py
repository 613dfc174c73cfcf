"""The socket front end: many calls on one WebSocket (`socaity.v1`), in sessions that outlive their connections.

A call costs no task, future or lock here: a frame's calls go to the data plane one after the other, what ends in one loop
turn leaves in one frame. Source of the protocol: `docs/wire-protocol.md`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any

from socaity.exceptions import (
    ConfigurationError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    SocaityError,
    to_problem,
)
from socaity.protocol.description import PROTOCOL
from socaity.protocol.events import JobEvent
from socaity.protocol.frames import (
    BUFFER,
    CALL,
    CANCEL,
    DESCRIBE,
    ERROR,
    EVENT,
    FETCH,
    GOODBYE,
    HELD,
    HELLO,
    RELEASE,
    RESULT,
    SUBMIT,
    WATCH,
    WELCOME,
    TooLarge,
)
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError

from ..references import find_references
from .call_results import CallResults, HeldBytes
from .origin import is_cross_origin
from .timing import JobTimes, timing_of_call

if TYPE_CHECKING:
    from ..dataplane import DataPlane

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_SHAPES: dict[int, tuple[str, tuple[Any, ...]]] = {
    CALL: (f"[{CALL}, n, endpoint, {{arguments}}, {{options}}?]", (int, int, str, dict)),
    SUBMIT: (f"[{SUBMIT}, n, endpoint, {{arguments}}, job id, {{options}}?]", (int, int, str, dict, str)),
    WATCH: (f"[{WATCH}, n, job id, after]", (int, int, str, int)),
    CANCEL: (f"[{CANCEL}, n, call number or job id]", (int, int, (int, str))),
    DESCRIBE: (f"[{DESCRIBE}, n]", (int, int)),
    FETCH: (f"[{FETCH}, n, call number]", (int, int, int)),
    RELEASE: (f"[{RELEASE}, call number]", (int, int)),
}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_NO_OPTIONS: dict[str, Any] = {}
_MOST_URGENT = 10
_REACHED = 0
"""Not a message: marks how far the messages have been worked off."""

SESSION_TTL = 60.0
"""Seconds for which a session waits for its client to come back."""
HELLO_DEADLINE = 10.0
MAX_SESSIONS = 10_000


class WebSocketFrontend:
    """The ASGI application behind `/ws`; keeps the sessions of one data plane."""

    def __init__(self, dataplane: DataPlane, *, max_body: int, session_ttl: float = SESSION_TTL) -> None:
        self.dataplane = dataplane
        self.max_body = max_body
        self.session_ttl = session_ttl
        self.sessions: dict[str, Session] = {}
        self.held = HeldBytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if is_cross_origin(scope) or PROTOCOL not in scope.get("subprotocols", ()):
            await send(
                {"type": "websocket.close", "code": 1002, "reason": f"speak {PROTOCOL}, from the same origin"}
            )
            return
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        connection = _Connection(send)
        session: Session | None = None
        writer = asyncio.create_task(connection.write_frames())
        try:
            async with asyncio.timeout(HELLO_DEADLINE):
                session = self._welcome(await _receive_frame(receive), connection)
            while session is not None and (data := await _receive_frame(receive)) is not None:
                session.take(data)
            if session is not None and session.is_idle:
                session.expire()  # the client has closed and nothing is left
        except MalformedError as exc:
            await connection.say_goodbye(f"this is not {PROTOCOL}: {exc}")
            if session is not None:
                session.expire()
        except TimeoutError:
            await connection.say_goodbye("no hello came")
        except OSError:  # the connection broke while we wrote
            logger.debug("a socket broke")
        finally:
            writer.cancel()
            connection.closed = True
            if session is not None:
                session.disconnect(connection)

    def _welcome(self, data: bytes | None, connection: _Connection) -> Session | None:
        """Find or make the session of a hello. Raises MalformedError."""
        if data is None:
            return None
        hello = Link(on_unsendable=lambda message, error: None).receive(data)
        if len(hello) != 1 or len(hello[0]) != 2 or hello[0][0] != HELLO or not isinstance(hello[0][1], dict):
            raise MalformedError("the first message is not a hello")
        wanted = hello[0][1]
        if wanted.get("protocol") != PROTOCOL:
            raise MalformedError(f"the client speaks {wanted.get('protocol')!r}")
        received = wanted.get("received")
        if type(received) is not int:
            raise MalformedError("a hello says which frame was received last")
        session = self.sessions.get(str(wanted.get("session")))
        resumed = session is not None
        if session is None:
            self._make_room()
            session = Session(self, secrets.token_urlsafe(18))
            self.sessions[session.id] = session
        max_frame = wanted.get("max_frame")
        session.results.holds = wanted.get("holds") is True
        session.connect(connection, resumed, received if resumed else 0)
        session.limit_frames(max_frame if type(max_frame) is int and max_frame > 0 else None)
        return session

    def _make_room(self) -> None:
        """Forget the session that has waited longest for its client. Raises MalformedError if all are connected."""
        if len(self.sessions) < MAX_SESSIONS:
            return
        waiting = next((session for session in self.sessions.values() if not session.is_connected), None)
        if waiting is None:
            raise MalformedError("the server has too many sessions")
        waiting.expire()

    def close(self) -> None:
        """End all sessions."""
        for session in list(self.sessions.values()):
            session.expire()


class Session:
    """What one client has running, whether it is connected at the moment or not."""

    def __init__(self, frontend: WebSocketFrontend, session_id: str) -> None:
        self.id = session_id
        self._frontend = frontend
        self._dataplane = frontend.dataplane
        self._loop = asyncio.get_running_loop()
        self._link = Link(on_unsendable=self._on_unsendable, max_body=frontend.max_body)
        self._connection: _Connection | None = None
        self._running: dict[int, Any] = {}
        self._watches: dict[int, Callable[[], None]] = {}
        self._outbox: list[list[Any]] = []
        self.results = CallResults(frontend.held)
        self._awaited = self.results.awaited
        self._explained: dict[int, float] = {}
        """The calls and jobs of which the client wants to know where the time goes, and when they came."""
        self._control: deque[tuple[list[Any], Any]] = deque()
        self._control_task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_expired = False

    # -- connections -------------------------------------------------------------------------------------------------

    def connect(self, connection: _Connection, resumed: bool, received: int) -> None:
        if self._connection is not None:
            self._connection.close()  # the client came back before we noticed that it had gone
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._connection = connection
        self._link.connect(connection.write)
        welcome = {
            "session": self.id,
            "resumed": resumed,
            "received": self._link.received,
            "instance": self._dataplane.describe().instance,
            "max_body": self._frontend.max_body,
            "references": True,
        }
        self._link.send_unnumbered([WELCOME, welcome])
        if resumed:
            self._link.resume(received)

    def disconnect(self, connection: _Connection) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self._link.disconnect()
        if self._is_expired:
            return
        self._expiry = self._loop.call_later(self._frontend.session_ttl, self.expire)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing is on its way."""
        return not (self._running or self._watches or self._control) and self._link.is_idle

    def limit_frames(self, max_frame: int | None) -> None:
        """What the client takes at once."""
        self._link.max_frame = max_frame

    def expire(self) -> None:
        """Forget the client: its direct calls are cancelled, its jobs run on."""
        if self._is_expired:
            return
        self._is_expired = True
        self._frontend.sessions.pop(self.id, None)
        if self._expiry is not None:
            self._expiry.cancel()
        if self._control_task is not None:
            self._control_task.cancel()
        for unwatch in self._watches.values():
            unwatch()
        for running in self._running.values():
            running.cancel()
        self._watches.clear()
        self._running.clear()
        self.results.close()
        self._link.disconnect()
        if self._connection is not None:
            self._connection.close()

    # -- messages ----------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Act on a frame. Raises MalformedError, ValueError or TypeError for what is not in the protocol."""
        messages = self._link.receive(data)
        too_large = self._link.take_too_large() or len(data) > self._frontend.max_body
        dataplane, running, capture = self._dataplane, self._running, self._capture
        for message in messages:
            op = message[0]
            options, explains = _NO_OPTIONS, False
            if (op == CALL and len(message) == 5) or (op == SUBMIT and len(message) == 6):
                options = _read_options(message)
                explains = options.pop("explain")
            if (
                too_large
                and op in (CALL, SUBMIT)
                and _check(message)
                and self._refuse_too_large(message, len(data))
            ):
                continue
            if op == CALL:
                if len(message) != 4 or type(message[1]) is not int or type(message[3]) is not dict:
                    _check(message)
                _, n, name, arguments = message
                try:
                    call = dataplane.call(
                        dataplane.route(str(name)),
                        arguments,
                        partial(self._finish, n),
                        capture=capture,
                        **options,
                    )
                except ConfigurationError as exc:
                    error = InvalidInputError(f"{exc} (SUBMIT, not CALL)", status=400, code="not_direct")
                    self._post([ERROR, n, to_problem(error)])
                except SocaityError as exc:
                    self._post([ERROR, n, to_problem(exc)])
                except Exception as exc:  # one call must not end the others
                    logger.exception("a call failed")
                    self._post([ERROR, n, to_problem(exc)])
                else:
                    running[n] = call
                    if explains:
                        self._explained[n] = self._loop.time()
            elif op in _SHAPES:
                calls = None
                _check(message)
                if op == CANCEL and type(message[2]) is int:
                    self._cancel_call(message[1], message[2])
                    continue
                if op == RELEASE:
                    self.results.release(message[1])
                    continue
                if op == FETCH:
                    self._fetch(message[1], message[2])
                    continue
                if op == SUBMIT:
                    try:
                        references = find_references(message[3])
                        calls = (
                            self.results.capture(references, running, self._outbox) if references else None
                        )
                    except SocaityError as exc:
                        self._post([ERROR, message[1], to_problem(exc)])
                        continue
                    if explains:
                        self._explained[message[1]] = self._loop.time()
                self._do_later(message, calls)
            elif op != BUFFER:
                raise MalformedError(f"unknown message {op}")

    def _finish(self, n: int, result: Any, error: BaseException | None) -> None:
        call = self._running.pop(n, None)
        if error is None:
            message = [RESULT, n, result]
        else:
            error = error if isinstance(error, SocaityError) else _as_failed(error)
            message = [ERROR, n, to_problem(error)]
        if self._awaited and n in self._awaited:
            message = self.results.settle(n, result, error) or message
        if self._explained and self._explained.pop(n, None) is not None and error is None:
            message.append(timing_of_call(call, result))
        outbox = self._outbox
        if not outbox:
            self._loop.call_soon(self._flush)
        outbox.append(message)

    def _post(self, message: list[Any]) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(message)

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        if self._is_expired:
            return
        link = self._link
        link.send(messages)
        self.results.sent(link.position, link.acknowledged, messages)
        if link.is_overdue:
            logger.warning("a client did not acknowledge what it was sent; its session is closed")
            self.expire()

    def _cancel_call(self, request: int, n: int) -> None:
        call = self._running.pop(n, None)
        if call is not None:
            call.cancel()
            self._explained.pop(n, None)
            error = JobCancelled("cancelled")
            if n in self._awaited:
                self.results.settle(n, None, error)
            self._post([ERROR, n, to_problem(error)])
        self._post([RESULT, request, call is not None])

    def _capture(self, references: Any) -> tuple[Any, Any]:
        """See `DataPlane.call`: what a direct call refers to. Jobs are known when what came before it is worked off."""
        calls = self.results.capture(references, self._running, self._outbox)
        if self._control_task is None or not any(one.kind == "job" for _, one in references):
            return calls, None
        reached = self._loop.create_future()
        self._do_later([_REACHED], reached)
        return calls, reached

    def _do_later(self, message: list[Any], more: Any) -> None:
        self._control.append((message, more))
        if self._control_task is None:
            self._control_task = self._loop.create_task(self._work_off_control())

    def _fetch(self, request: int, n: int) -> None:
        try:
            self._post([RESULT, request, self.results.fetch(n)])
        except SocaityError as exc:
            self._post([ERROR, request, to_problem(exc)])

    async def _work_off_control(self) -> None:
        """What may have to wait for the back-end, in the order in which it came; one task for a burst."""
        try:
            while self._control:
                message, more = self._control.popleft()
                if message[0] == _REACHED:
                    if not more.done():
                        more.set_result(None)
                    continue
                try:
                    await self._do(message, more)
                except Exception as exc:  # the edge of the task: one message must not stop the others
                    if not isinstance(exc, SocaityError):
                        logger.exception("a message of a client failed")
                    self._explained.pop(message[1], None)
                    self._post([ERROR, message[1], to_problem(exc)])
        finally:
            self._control_task = None

    async def _do(self, message: list[Any], calls: Any) -> None:
        op, n = message[0], message[1]
        dataplane = self._dataplane
        if op == SUBMIT:
            _, _, name, arguments, job_id = message
            if not _JOB_ID.fullmatch(job_id):
                raise InvalidInputError("a job id has 32 hexadecimal digits", status=400, code="malformed")
            record = await dataplane.submit(dataplane.route(name), arguments, key=job_id, calls=calls)
            self._watch(n, record.id, 0)
        elif op == WATCH:
            _, _, job_id, after = message
            record = await dataplane.get(job_id)
            self._watch(n, job_id, after, has_ended=record.status.is_terminal)
        elif op == CANCEL:
            await dataplane.cancel(message[2])
            self._post([RESULT, n, True])
        else:
            await dataplane.settled()
            self._post([RESULT, n, dataplane.describe().model_dump(mode="json", exclude_none=True)])

    def _watch(self, n: int, job_id: str, after: int, *, has_ended: bool = False) -> None:
        ended = False
        came = self._explained.pop(n, None) if self._explained else None
        times = None if came is None else JobTimes(came)

        def sink(event: JobEvent) -> None:
            nonlocal ended
            timing = [] if times is None else times.note(event, self._loop.time())
            if event.is_terminal and not has_ended and self._keep_result(n, job_id, event, timing):
                ended = True
                self._watches.pop(n, None)
                return
            if event.seq > after or event.is_terminal:  # who has seen the end and asks again gets it again
                self._post([EVENT, n, *event, *timing])
            if event.is_terminal:
                ended = True
                self._watches.pop(n, None)

        unwatch = self._dataplane.watch(job_id, sink, after=0 if has_ended else after)
        if not ended:
            self._watches[n] = unwatch

    def _keep_result(self, n: int, job_id: str, event: JobEvent, timing: list[Any]) -> bool:
        """Tell the client that the result of a job is there; it stays with the job, because another step takes it."""
        size = self.results.job_ended(job_id, event.data, event.kind == "result")
        if size:
            self._post([HELD, n, event.seq, size, *timing])
        return size > 0

    def _refuse_too_large(self, message: list[Any], size: int) -> bool:
        limit = self._frontend.max_body
        if size <= limit and not any(isinstance(value, TooLarge) for value in _walk(message[3])):
            return False
        error = InvalidInputError(
            f"the arguments are larger than the {limit} bytes that this server takes",
            status=413,
            code="too_large",
        )
        self._post([ERROR, message[1], to_problem(error)])
        return True

    def _on_unsendable(self, message: list[Any], error: Exception) -> None:
        """A result has no form on the wire or is too large for the client: its call fails instead."""
        n = message[1]
        problem = to_problem(JobFailed(f"the result cannot be sent: {error}", code="result_not_serialisable"))
        unwatch = self._watches.pop(n, None)
        if unwatch is not None:
            unwatch()
        self._post([ERROR, n, problem])


class _Connection:
    """One WebSocket: frames wait here until the writer task has sent them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: list[bytes] = []
        self._wake = asyncio.Event()
        self.closed = False
        self._is_closing = False

    def write(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._wake.set()

    def close(self) -> None:
        self._is_closing = True
        self._wake.set()

    async def write_frames(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                frames, self._frames = self._frames, []
                for frame in frames:
                    await self._send({"type": "websocket.send", "bytes": frame})
                if self._is_closing:
                    await self._send({"type": "websocket.close", "code": 1001})
                    return
        except Exception as exc:  # servers raise their own classes when the other side has gone
            logger.debug("writing to a socket failed: %s", exc)

    async def say_goodbye(self, detail: str) -> None:
        problem = to_problem(InvalidInputError(detail, status=400, code="malformed"))
        link = Link(on_unsendable=lambda message, error: None)
        frames: list[bytes] = []
        link.connect(frames.append)
        link.send_unnumbered([GOODBYE, problem])
        try:
            await self._send({"type": "websocket.send", "bytes": frames[0]})
            await self._send({"type": "websocket.close", "code": 1002, "reason": detail[:120]})
        except Exception as exc:  # see write_frames
            logger.debug("saying goodbye failed: %s", exc)


def _read_options(message: list[Any]) -> dict[str, Any]:
    """Take the options of a call off its message. Raises MalformedError."""
    given = message.pop()
    if not isinstance(given, dict):
        raise MalformedError("the options of a call are a map")
    timeout, priority = given.get("timeout"), given.get("priority", 0)
    if timeout is not None and (not isinstance(timeout, int | float) or not 0 <= timeout < math.inf):
        raise MalformedError("a timeout is a number of seconds")
    if type(priority) is not int or abs(priority) > _MOST_URGENT:
        raise MalformedError(f"a priority is a whole number from {-_MOST_URGENT} to {_MOST_URGENT}")
    return {"timeout": timeout, "priority": priority, "explain": given.get("explain") is True}


def _check(message: list[Any]) -> bool:
    """Raises MalformedError for a message whose parts are not what its number says; else True."""
    form, types = _SHAPES[message[0]]
    if len(message) != len(types) or any(
        not isinstance(part, kind) for part, kind in zip(message, types, strict=True)
    ):
        raise MalformedError(f"a message does not have the form {form}")
    return True


async def _receive_frame(receive: Receive) -> bytes | None:
    """The next frame, or None at a proper end. Raises MalformedError for text and OSError for a connection that broke."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        if message.get("code") != 1000:
            raise OSError("the connection broke")
        return None
    data: bytes | None = message.get("bytes")
    if data is None:
        raise MalformedError("a text frame")
    return data


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)


def _as_failed(error: BaseException) -> JobFailed:
    return JobFailed(f"{type(error).__name__}: {error}", error_type=type(error).__name__)
