"""The client's end of a socket session: calls to frames and frames to events, without any input or output of its own.

One session lives over many connections. What happens to a call when a connection breaks is in `_restart`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from socaity.exceptions import (
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobLost,
    ProtocolError,
    SocaityError,
    TransportError,
    TransportTimeout,
    from_problem,
)
from socaity.protocol.description import PROTOCOL, ServiceDescription
from socaity.protocol.events import EventKind, JobEvent
from socaity.protocol.frames import (
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
)
from socaity.protocol.link import Link, OversizeError
from socaity.protocol.messagepack import MalformedError
from socaity.transport import Call

MAX_FRAME = 255 * 1024 * 1024
"""The largest message, apart from arrays that travel in pieces, that this side takes."""
EVENT_KINDS = frozenset(get_args(EventKind))


class ClientSession:
    """Calls on their way over a socket. Used on one loop; `wanted` asks for a connection when there is none."""

    def __init__(self, *, wanted: Callable[[], None], timeout: float) -> None:
        self._wanted = wanted
        self._timeout = timeout
        self._session: str | None = None
        self._n = 0
        self._calls: dict[int, Call] = {}
        self._numbers: dict[str, int] | None = None
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._waiting: list[tuple[Call, bool]] = []
        self.takes_references = False
        """The server knows what `$call` and `$job` mean."""
        self._kept: set[int] = set()
        """The calls whose results are held by the server and were not asked for yet."""
        self._released: list[int] = []
        self._is_open = False
        self._link = self._new_link()
        self._opened: asyncio.Event = asyncio.Event()
        self.failure: SocaityError | None = None

    def _new_link(self) -> Link:
        return Link(on_unsendable=self._on_unsendable)

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def has_work(self) -> bool:
        """Whether somebody waits for something, so that a lost connection is worth another."""
        return bool(self._calls or self._waiting or self._requests or self._kept)

    # -- calls -------------------------------------------------------------------------------------------------------

    def start(self, calls: Sequence[Call]) -> None:
        if not self._is_open:
            self._waiting.extend((call, False) for call in calls)
            self._wanted()
            return
        n, mine = self._n, self._calls
        messages: list[list[Any]] = []
        for call in calls:
            arguments = call.arguments
            if call.upstream:
                given = call.arguments_with(self._refer if self.takes_references else None)
                if given is None:
                    continue
                arguments = given
            n += 1
            mine[n] = call
            call.number = n
            endpoint = call.endpoint
            if endpoint.direct:
                message = [CALL, n, endpoint.name, arguments]
                if call.options is not None:
                    message.append(_options(call))
                messages.append(message)
            else:
                message = [SUBMIT, n, endpoint.name, arguments, call.id]
                if call.options is not None and call.options.explain and self.takes_references:
                    message.append({"explain": True})
                messages.append(message)
        self._n = n
        self._link.send(messages)

    def _refer(self, upstream: Call, path: Sequence[str | int]) -> dict[str, Any] | None:
        """What stands for a part of the result of a call that this session has on the wire, or whose result is held."""
        held = upstream.held
        is_here = self._calls.get(upstream.number) is upstream
        if upstream.endpoint.direct:
            if held is None and is_here:
                reference: dict[str, Any] = {"$call": upstream.number}
            elif isinstance(held, _HeldResult) and held.link is self._link:
                reference = {"$call": held.number}
            else:
                return None
        elif is_here or upstream.is_done or held is not None:
            reference = {"$job": upstream.id}
        else:
            return None
        if path:
            reference["path"] = list(path)
        return reference

    def attach(self, call: Call) -> None:
        if not self._is_open:
            self._waiting.append((call, True))
            self._wanted()
            return
        self._n += 1
        self._calls[self._n] = call
        call.number = self._n
        self._link.send([[WATCH, self._n, call.id, call.seq]])

    def fetch(self, held: _HeldResult, call: Call) -> None:
        """Have a result brought that the server holds."""
        if held.is_of_job:
            self.attach(call)
        elif not self._is_open and held.link is self._link:
            self._waiting.append((call, True))
            self._wanted()
        elif held.link is self._link:
            self._n += 1
            self._calls[self._n] = call
            self._kept.discard(held.number)
            self._link.send([[FETCH, self._n, held.number]])
        elif call.endpoint.idempotent:
            self.start([call])
        else:
            call.fail(
                JobLost(
                    "the server held the result and does not know our session any more; call again, or job.retry()",
                    job_id=call.id,
                )
            )

    def release(self, number: int, link: Link) -> None:
        """Nobody will look at a result that the server holds."""
        if link is not self._link:
            return
        self._kept.discard(number)
        if not self._released:
            asyncio.get_running_loop().call_soon(self._send_releases, link)
        self._released.append(number)

    def _send_releases(self, link: Link) -> None:
        released, self._released = self._released, []
        if link is self._link:
            link.send([[RELEASE, number] for number in released])

    async def cancel(self, job_id: str) -> None:
        for index, (call, _) in enumerate(self._waiting):
            if call.id == job_id:
                del self._waiting[index]
                call.accept()
                call.fail(JobCancelled("cancelled before it was sent", job_id=job_id))
                return
        number = self._direct_numbers().get(job_id)
        await self.request([CANCEL, 0, job_id if number is None else number])

    def _direct_numbers(self) -> dict[str, int]:
        """The numbers of the direct calls by job id; made once for all cancels of a loop turn, for there may be many."""
        if self._numbers is None:
            self._numbers = {call.id: n for n, call in self._calls.items() if call.endpoint.direct}
            asyncio.get_running_loop().call_soon(self._forget_numbers)
        return self._numbers

    def _forget_numbers(self) -> None:
        self._numbers = None

    async def describe(self) -> ServiceDescription:
        answer = await self.request([DESCRIBE, 0])
        try:
            if "endpoints" not in answer:
                raise ValueError("it has no endpoints")
            return ServiceDescription.model_validate(answer)
        except (ValueError, TypeError) as exc:
            raise ProtocolError(
                f"the server described itself in a way that is not in the protocol: {exc}"
            ) from exc

    async def request(self, message: list[Any]) -> Any:
        """Send a message whose second item is its number and wait for its answer."""
        answer: asyncio.Future[Any] | None = None
        async with asyncio.timeout(self._timeout) as deadline:
            try:
                while not self._is_open:
                    self._opened.clear()
                    self.failure = None
                    self._wanted()
                    await self._opened.wait()
                    if self.failure is not None:
                        raise self.failure
                self._n += 1
                message[1] = self._n
                answer = self._requests[self._n] = asyncio.get_running_loop().create_future()
                self._link.send([message])
                return await answer
            except asyncio.CancelledError:
                if deadline.expired():
                    raise TransportTimeout(f"no answer within {self._timeout:g} s") from None
                raise
            finally:
                self._requests.pop(message[1], None)
                answer = None  # its error refers to this frame: a circle

    # -- connections -------------------------------------------------------------------------------------------------

    def connect(self, write: Callable[[bytes], None]) -> None:
        """A connection is there: say hello on it."""
        self._link.connect(write)
        hello = {
            "protocol": PROTOCOL,
            "session": self._session,
            "received": self._link.received,
            "max_frame": MAX_FRAME,
            "holds": True,
        }
        self._link.send_unnumbered([HELLO, hello])

    def disconnect(self) -> None:
        """The connection is gone; everything is kept."""
        self._is_open = False
        self._link.disconnect()

    @property
    def is_known(self) -> bool:
        """The server has known us before: a lost connection is worth more than one try."""
        return self._session is not None

    def drop_unanswered(self, error: SocaityError) -> None:
        """The two sides do not understand each other. One of the messages that were not answered may be why, so none of
        them is sent again; jobs that the server has taken are still its own and are watched again."""
        for n, call in list(self._calls.items()):
            if not call.seq:
                del self._calls[n]
                call.accept()
                call.fail(error)
        for request in self._requests.values():
            if not request.done():
                request.set_exception(error)

    def give_up(self, error: SocaityError) -> None:
        """No connection can be had: end every call. What was never sent was not run."""
        self._is_open = False
        self._link.disconnect()
        self.failure = error
        self._opened.set()
        waiting, self._waiting = self._waiting, []
        calls, self._calls = self._calls, {}
        requests, self._requests = self._requests, {}
        self._session, self._link = None, self._new_link()
        self._kept.clear()
        for call, _ in waiting:
            call.fail(error)
        for call in calls.values():
            call.accept()
            lost = JobLost(f"the connection was lost and could not be made again: {error}", job_id=call.id)
            lost.__cause__ = error
            call.fail(lost)
        for request in requests.values():
            if not request.done():
                request.set_exception(error)

    def receive(self, data: bytes) -> None:
        """Take a frame. Raises ProtocolError if it is none, after which the connection must be closed."""
        try:
            messages = self._link.receive(data)
        except MalformedError as exc:
            raise ProtocolError(f"the server sent something that is no frame: {exc}") from exc
        calls = self._calls
        try:
            for message in messages:
                op = message[0]
                if op == RESULT:
                    n, value = message[1], message[2]
                    if len(message) > 3:
                        self._explain(n, message, 3)
                    call = calls.pop(n, None)
                    if call is not None:
                        call.succeed(value)
                    else:
                        self._answer(n, value)
                elif op == EVENT:
                    self._on_event(message)
                elif op == ERROR:
                    self._on_error(message)
                elif op == HELD:
                    self._on_held(message)
                elif op == WELCOME:
                    self._on_welcome(message[1])
                elif op == GOODBYE:
                    raise ProtocolError(f"the server closed the connection: {message[1].get('detail')}")
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            raise ProtocolError(f"the server sent a message that is not in the protocol: {exc}") from exc

    def _on_event(self, message: list[Any]) -> None:
        n, seq, kind, data = message[1:5]
        call = self._calls.get(n)
        if call is None:
            return
        if len(message) > 5:
            self._explain(n, message, 5)
        if type(seq) is not int or kind not in EVENT_KINDS:
            raise ValueError(f"event {seq!r} of kind {kind!r}")
        event = JobEvent(seq, kind, data)
        call.deliver(event)
        if event.is_terminal:
            self._calls.pop(n, None)

    def _on_error(self, message: list[Any]) -> None:
        _, n, problem = message
        if not isinstance(problem, Mapping):
            raise ValueError("an error is not a problem document")
        call = self._calls.pop(n, None)
        if call is not None:
            call.fail(from_problem(problem, job_id=call.id))
        elif (request := self._requests.get(n)) is not None and not request.done():
            request.set_exception(from_problem(problem))

    def _explain(self, n: int, message: list[Any], place: int) -> None:
        call = self._calls.get(n)
        if len(message) > place + 1 or not isinstance(message[place], Mapping):
            raise ValueError(f"a message of {len(message)} parts")
        if call is not None:
            call.explain(message[place])

    def _on_held(self, message: list[Any]) -> None:
        n, seq = message[1], message[2]
        is_of_job = seq > 0
        if len(message) > 4:
            self._explain(n, message, 4)
        call = self._calls.pop(n, None)
        if call is None:
            if not is_of_job:
                self.release(n, self._link)
            return
        if not is_of_job:
            self._kept.add(n)
        call.hold(_HeldResult(self, n, self._link, is_of_job=is_of_job))

    def _answer(self, n: int, value: Any) -> None:
        request = self._requests.get(n)
        if request is not None and not request.done():
            request.set_result(value)

    def _on_welcome(self, welcome: Mapping[str, Any]) -> None:
        session = welcome.get("session")
        resumed = bool(welcome.get("resumed")) and session == self._session
        self._is_open = True
        self.takes_references = bool(welcome.get("references"))
        if resumed:
            self._link.resume(int(welcome.get("received", 0)))
        else:
            write = self._link.hand_over()
            self._link = self._new_link()
            if write is not None:
                self._link.connect(write)
            had_session, self._session = self._session is not None, session
            self._link.max_message = welcome.get("max_body")
            self._kept.clear()
            if had_session:
                self._restart()
        waiting, self._waiting = self._waiting, []
        for call, is_attach in waiting:
            if is_attach and isinstance(call.held, _HeldResult):
                self.fetch(call.held, call)
            elif is_attach:
                self.attach(call)
        self.start([call for call, is_attach in waiting if not is_attach and not call.is_done])
        self._opened.set()

    def _restart(self) -> None:
        """The server does not know our session any more (it was started again, or we were away too long).

        Jobs are kept by its back-end under their id: those that were accepted are watched again, the others submitted
        again. Their id makes that safe where the back-end is still the same; after a restart of one that keeps jobs in
        memory, a job whose acceptance was lost on the way may run twice. Direct calls are sent again if they are
        idempotent; the others are lost.
        """
        calls, self._calls = self._calls, {}
        requests, self._requests = self._requests, {}
        again: list[Call] = []
        for call in calls.values():
            if not call.endpoint.direct and (call.seq or not call.endpoint.path):
                self.attach(call)
            elif not call.endpoint.direct or call.endpoint.idempotent:
                again.append(call)
            else:
                call.accept()
                call.fail(
                    JobLost(
                        "the server does not know our session any more, and this call is not idempotent; it may have run",
                        job_id=call.id,
                    )
                )
        self.start(again)
        for request in requests.values():
            if not request.done():
                request.set_exception(
                    ConnectError("the server does not know our session any more; ask again")
                )

    def _on_unsendable(self, message: Any, error: Exception) -> None:
        call = self._calls.pop(message[1], None)
        if call is not None:
            too_large = isinstance(error, OversizeError)
            what = "the arguments are too large" if too_large else "an argument cannot be sent"
            call.fail(
                InvalidInputError(
                    f"{call.endpoint.name}: {what}: {error}",
                    status=413 if too_large else 422,
                    code="too_large" if too_large else "invalid_input",
                )
            )
        elif (request := self._requests.get(message[1])) is not None and not request.done():
            request.set_exception(TransportError(str(error)))


class _HeldResult:
    """A result that the server holds, for as long as somebody has this object. A job's is with its job."""

    __slots__ = ("_is_fetched", "_loop", "_process", "_session", "is_of_job", "link", "number")

    def __init__(self, session: ClientSession, number: int, link: Link, *, is_of_job: bool) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._is_fetched = False
        self.is_of_job = is_of_job
        self.number = number
        self.link = link

    def fetch(self, call: Call) -> None:
        if not self._is_fetched:
            self._is_fetched = True
            self._session.fetch(self, call)

    def __del__(self) -> None:
        # any thread may drop the last reference; the child of a fork has no part in the parent's session
        if not self.is_of_job and self._process == os.getpid():
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._session.release, self.number, self.link)


def _options(call: Call) -> dict[str, Any]:
    assert call.options is not None
    options: dict[str, Any] = {"priority": call.options.priority} if call.options.priority else {}
    if call.options.explain:
        options["explain"] = True
    if call.time_left is not None:
        options["timeout"] = call.time_left
    return options
