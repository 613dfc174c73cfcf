"""`Session`: what one client has running over the socket, whether it is connected at the moment or not.

A call costs no task, future or lock here: a frame's calls go to the data plane one after the other, what ends in one loop
turn leaves in one frame.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
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
from socaity.protocol.frames import (
    BUFFER,
    CALL,
    CANCEL,
    ERROR,
    FETCH,
    PUBLISH,
    RELEASE,
    RESULT,
    SUBMIT,
    WATCH,
    WELCOME,
    TooLarge,
)
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError

from ..direct import Cancellable
from ..references import ReadArguments, find_references
from .call_results import CallResults
from .limits import Limits
from .socket_admission import Admission, GuardedCall, Permission
from .socket_connection import Connection
from .socket_messages import SHAPES, check, read_options, walk
from .socket_pace import Pace
from .socket_publishing import Publisher, published_reference
from .socket_watches import Watches
from .timing import timing_of_call

if TYPE_CHECKING:
    from .websocket import WebSocketFrontend

__all__ = ["Session"]

logger = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_NO_OPTIONS: dict[str, Any] = {}
_REACHED = 0
"""Not a message: marks how far the messages have been worked off."""
_MOST_UNREAD = 256 * 1024
"""Bytes that a client may not have acknowledged while it is sent chunks of streams."""


class Session:
    """What one client has running, whether it is connected at the moment or not."""

    def __init__(
        self,
        frontend: WebSocketFrontend,
        session_id: str,
        *,
        admission: Admission | None = None,
        owner: str = "",
    ) -> None:
        self.id = session_id
        self.owner = owner
        self.admission = admission
        """None where authentication is off."""
        self.limits: Limits | None = None
        """What calls and jobs have to pass before they are looked at."""
        self.address = ""
        """Where the client was at its last handshake."""
        self.end_connection: Callable[[], object] | None = None
        """Ends the connection at once: a client that does not read could keep it, and what it was sent."""
        self._frontend = frontend
        self._dataplane = frontend.dataplane
        self._loop = asyncio.get_running_loop()
        self._link = Link(
            on_unsendable=self._on_unsendable,
            max_body=frontend.max_body,
            max_unacknowledged=frontend.max_unacknowledged,
        )
        self._connection: Connection | None = None
        self._running: dict[int, Any] = {}
        self._pace = Pace(self._link, self._running, take=self.take, give_up=self._give_up)
        self._outbox: list[list[Any]] = []
        self.results = CallResults(frontend.held)
        self._awaited = self.results.awaited
        self._explained: dict[int, float] = {}
        """The calls and jobs of which the client wants to know where the time goes, and when they came."""
        self._watches = Watches(
            self._dataplane,
            self.results,
            self._post,
            explained=self._explained,
            has_room=lambda: self._link.backlog < _MOST_UNREAD,
        )
        self._publisher = Publisher(self._dataplane, self._post, owner=owner)
        self._control: deque[tuple[list[Any], Any]] = deque()
        self._control_task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_expired = False

    # -- connections -------------------------------------------------------------------------------------------------

    def connect(self, connection: Connection, resumed: bool, received: int) -> None:
        if self._connection is not None:
            self._connection.close()  # the client came back before we noticed that it had gone
            self._pace.forget()
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
            "publishes": True,
            "fetches": list(self._dataplane.fetch_from),
        }
        self._link.send_unnumbered([WELCOME, welcome])
        if resumed:
            self._link.resume(received)
            self._watches.go_on()

    def disconnect(self, connection: Connection) -> None:
        if self._connection is not connection:
            return
        self._connection = self.end_connection = None
        self._link.disconnect()
        self._pace.forget()
        if self._is_expired:
            return
        self._expiry = self._loop.call_later(self._frontend.session_ttl, self.expire)

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def is_expired(self) -> bool:
        """Nothing is done for this client any more."""
        return self._is_expired

    @property
    def is_idle(self) -> bool:
        """Nothing runs and nothing is on its way."""
        busy = self._running or self._watches or self._control or self._publisher.is_busy
        return not busy and self._link.is_idle

    @property
    def running_calls(self) -> int:
        """The direct calls that have not ended."""
        return len(self._running)

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
        self._watches.close()
        self._publisher.close()
        for running in self._running.values():
            running.cancel()
        self._running.clear()
        self.results.close()
        self._link.disconnect()
        self._pace.forget()
        if self._connection is not None:
            self._connection.close()

    # -- messages ----------------------------------------------------------------------------------------------------

    def take(self, data: bytes) -> None:
        """Act on a frame. Raises MalformedError, ValueError or TypeError for what is not in the protocol."""
        if self._pace.is_full:
            self._pace.hold_back(data)
            if self._watches.is_paused and not self._is_expired:
                self._watches.go_on()
            return
        messages = self._link.receive(data)
        if self._watches.is_paused:
            self._watches.go_on()
        too_large = self._link.take_too_large() or len(data) > self._frontend.max_body
        dataplane, running, capture = self._dataplane, self._running, self._capture
        admission, owner, limits = self.admission, self.owner, self.limits
        for message in messages:
            op = message[0]
            options, explains = _NO_OPTIONS, False
            if (op == CALL and len(message) == 5) or (op == SUBMIT and len(message) == 6):
                options = read_options(message)
                explains = options.pop("explain")
            if (
                too_large
                and op in (CALL, SUBMIT)
                and check(message)
                and self._refuse_too_large(message, len(data))
            ):
                continue
            if limits is not None and op in (CALL, SUBMIT) and check(message):
                refusal = limits.refusal(self.address)
                if refusal is not None:
                    self._post([ERROR, message[1], to_problem(refusal)])
                    continue
            if op == CALL:
                if len(message) != 4 or type(message[1]) is not int or type(message[3]) is not dict:
                    check(message)
                _, n, name, arguments = message
                try:
                    call: Cancellable
                    waiting = None if admission is None else admission.infer(str(name))
                    if waiting is not None:
                        call = self._begin_later(waiting, n, str(name), arguments, options)
                    else:
                        call = dataplane.call(
                            dataplane.route(str(name)),
                            arguments,
                            partial(self._finish, n),
                            capture=capture,
                            owner=owner,
                            **options,
                        )
                except Exception as exc:  # one call must not end the others
                    self._post([ERROR, n, to_problem(_refused(exc))])
                else:
                    running[n] = call
                    if explains:
                        self._explained[n] = time.perf_counter()
            elif op in SHAPES:
                calls = None
                check(message)
                if op == CANCEL and type(message[2]) is int:
                    self._cancel_call(message[1], message[2])
                    continue
                if op == RELEASE:
                    self.results.release(message[1])
                    continue
                if op == FETCH:
                    self._fetch(message[1], message[2])
                    continue
                if op in (SUBMIT, PUBLISH):
                    try:
                        calls = self._captured(message)
                    except SocaityError as exc:
                        self._post([ERROR, message[1], to_problem(exc)])
                        continue
                    if explains:
                        self._explained[message[1]] = time.perf_counter()
                self._do_later(message, calls)
            elif op != BUFFER:
                raise MalformedError(f"unknown message {op}")

    def _begin_later(
        self,
        waiting: Awaitable[None],
        n: int,
        name: str,
        arguments: dict[str, Any],
        options: dict[str, Any],
    ) -> GuardedCall:
        """A direct call for which the decision point is asked. What it refers to is noted now, for it may be forgotten then."""
        references = find_references(arguments)
        captured = self._capture(references) if references else ({}, None)
        dataplane = self._dataplane

        def begin() -> Any:
            return dataplane.call(
                dataplane.route(name),
                arguments,
                partial(self._finish, n),
                capture=lambda _: captured,
                owner=self.owner,
                **options,
            )

        return GuardedCall(waiting, begin, lambda exc: self._finish(n, None, _refused(exc)))

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
        before = link.backlog
        link.send(messages)
        self.results.sent(link.position, link.acknowledged, messages)
        self._watches.handed_over = 0
        if self._watches.is_paused:
            self._loop.call_soon(self._watches.go_on)
        if link.backlog > self._pace.far_behind:
            self._pace.sent(len(messages), before)

    def _give_up(self) -> None:
        if self._is_expired:
            return
        logger.warning("a client did not acknowledge what it was sent; its session is closed")
        end_connection = self.end_connection
        self.expire()
        if end_connection is not None:
            end_connection()

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
        reached: asyncio.Future[None] | None = None
        if self._control_task is not None and any(one.kind == "job" for _, one in references):
            reached = self._loop.create_future()
            self._do_later([_REACHED], reached)
        if self.admission is None:
            return calls, reached
        return calls, Permission(self.admission, references, reached)

    def _captured(self, message: list[Any]) -> Any:
        """The direct calls that a job, or what is to be published, refers to; None if there are no references."""
        if message[0] == PUBLISH:
            references = [("result", published_reference(message))]
        else:
            references = find_references(message[3])
            message[3] = ReadArguments(message[3], references)  # not looked for again
        return self.results.capture(references, self._running, self._outbox) if references else None

    def _do_later(self, message: list[Any], more: Any) -> None:
        self._control.append((message, more))
        if self._control_task is None:
            self._control_task = self._loop.create_task(self._work_off_control())

    def _fetch(self, request: int, n: int) -> None:
        try:
            if self.admission is not None:
                self.admission.check_time()
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
        dataplane, admission, owner = self._dataplane, self.admission, self.owner
        if op == SUBMIT:
            _, _, name, arguments, job_id = message
            if not _JOB_ID.fullmatch(job_id):
                raise InvalidInputError("a job id has 32 hexadecimal digits", status=400, code="malformed")
            if admission is not None:
                await _permitted(admission.infer(name))
                if calls is not None:  # it refers to something
                    await admission.read(find_references(arguments))
            record = await dataplane.submit(
                dataplane.route(name), arguments, key=job_id, calls=calls, owner=owner
            )
            self._watches.add(n, record.id, 0)
        elif op == WATCH:
            _, _, job_id, after = message
            if admission is not None:
                await _permitted(admission.read_job(job_id))
            record = await dataplane.get(job_id, owner)
            self._watches.add(n, job_id, after, has_ended=record.status.is_terminal)
        elif op == PUBLISH:
            if admission is not None:
                admission.check_time()
                if isinstance(message[2], str):
                    await _permitted(admission.read_job(message[2]))
            self._publisher.start(message, calls)
        elif op == CANCEL:
            if admission is not None:
                await _permitted(admission.cancel_job(message[2]))
            await dataplane.cancel(message[2], owner)
            self._post([RESULT, n, True])
        else:
            if admission is not None:
                await _permitted(admission.describe())
            await dataplane.settled()
            self._post([RESULT, n, dataplane.describe().model_dump(mode="json", exclude_none=True)])

    def _refuse_too_large(self, message: list[Any], size: int) -> bool:
        limit = self._frontend.max_body
        unit = "bytes"
        if size <= limit:
            found = next((value for value in walk(message[3]) if isinstance(value, TooLarge)), None)
            if found is None:
                return False
            limit, unit = found.limit, found.unit
        error = InvalidInputError(
            f"the arguments are larger than what this server takes: {limit} {unit}",
            status=413,
            code="too_large",
        )
        self._post([ERROR, message[1], to_problem(error)])
        return True

    def _on_unsendable(self, message: list[Any], error: Exception) -> None:
        """A result has no form on the wire or is too large for the client: its call fails instead."""
        n = message[1]
        problem = to_problem(JobFailed(f"the result cannot be sent: {error}", code="result_not_serialisable"))
        self._watches.drop(n)
        self._post([ERROR, n, problem])


async def _permitted(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting


def _refused(error: BaseException) -> BaseException:
    """What a client is told of a call that did not begin."""
    if isinstance(error, ConfigurationError):
        return InvalidInputError(f"{error} (SUBMIT, not CALL)", status=400, code="not_direct")
    if not isinstance(error, SocaityError):
        logger.error("a call failed", exc_info=error)
    return error


def _as_failed(error: BaseException) -> JobFailed:
    return JobFailed(f"{type(error).__name__}: {error}", error_type=type(error).__name__)
