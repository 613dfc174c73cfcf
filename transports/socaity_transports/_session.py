"""The client's end of a socket session: calls to frames and frames to events, without any input or output of its own.

One session lives over many connections. What happens to a call when a connection breaks is in `_restart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from socaity.exceptions import (
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobLost,
    ProtocolError,
    SocaityError,
    TransportError,
    TransportTimeout,
)
from socaity.protocol.description import PROTOCOL, ServiceDescription
from socaity.protocol.frames import (
    CALL,
    CANCEL,
    DESCRIBE,
    FETCH,
    HELLO,
    PUBLISH,
    SUBMIT,
    WATCH,
)
from socaity.protocol.link import Link, OversizeError
from socaity.protocol.messagepack import MalformedError
from socaity.transport import Call

from ._held import HeldAtServer, HeldResults, forgotten
from ._incoming import Incoming, options_of, read_fetches
from ._requests import Requests

MAX_FRAME = 255 * 1024 * 1024
"""The largest message, apart from arrays that travel in pieces, that this side takes."""


class ClientSession:
    """Calls on their way over a socket. Used on one loop; `wanted` asks for a connection when there is none."""

    def __init__(self, *, wanted: Callable[[], None], timeout: float) -> None:
        self._wanted = wanted
        self._timeout = timeout
        self._session: str | None = None
        self._n = 0
        self._calls: dict[int, Call] = {}
        self._numbers: dict[str, int] | None = None
        self._requests = Requests()
        self._waiting: list[tuple[Call, bool]] = []
        self._incoming = Incoming(
            self._calls, self._requests, on_held=self._on_held, on_welcome=self._on_welcome
        )
        self.takes_references = False
        """The server knows what `$call` and `$job` mean."""
        self.publishes = False
        """The server lets others read results, and knows what `$packed` means."""
        self.fetches: frozenset[str] = frozenset()
        """The origins from which the server fetches results of others."""
        self.held = HeldResults()
        self._is_open = False
        self._renew_link()
        self._opened: asyncio.Event = asyncio.Event()
        self.failure: SocaityError | None = None

    def _renew_link(self) -> None:
        self._link = Link(on_unsendable=self._on_unsendable)
        self.held.use(self._link)

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def has_work(self) -> bool:
        """Whether somebody waits for something, so that a lost connection is worth another."""
        return bool(self._calls or self._waiting or self._requests or self.held)

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
                    message.append(options_of(call))
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
        source = self._source(upstream)
        if source is None:
            return None
        reference: dict[str, Any] = {"$call" if upstream.endpoint.direct else "$job": source}
        if path:
            reference["path"] = list(path)
        return reference

    def _source(self, upstream: Call) -> int | str | None:
        """The number or the id under which the server knows a call, and can refer to it."""
        held = upstream.held
        is_here = self._calls.get(upstream.number) is upstream
        if not upstream.endpoint.direct:
            return upstream.id if is_here or upstream.is_done or held is not None else None
        if held is None and is_here:
            return upstream.number
        if isinstance(held, HeldAtServer) and held.link is self._link:
            return held.number
        return None

    def publish(self, call: Call, path: Sequence[str | int]) -> asyncio.Future[Any] | None:
        """Ask the server to let others read a result as soon as it is there; None if it cannot."""
        source = self._source(call) if self.publishes else None
        if source is None:
            return None
        self._n += 1
        answer = self._requests.add(self._n)
        self._link.send([[PUBLISH, self._n, source, list(path)]])
        if not self._is_open:
            self._wanted()
        return answer

    def attach(self, call: Call) -> None:
        if not self._is_open:
            self._waiting.append((call, True))
            self._wanted()
            return
        self._n += 1
        self._calls[self._n] = call
        call.number = self._n
        self._link.send([[WATCH, self._n, call.id, call.seq]])

    def fetch(self, held: HeldAtServer, call: Call) -> None:
        """Have a result brought that the server holds."""
        if held.is_of_job:
            self.attach(call)
        elif held.link is not self._link:
            if call.endpoint.idempotent:
                self.start([call])
            else:
                call.fail(forgotten(call))
        elif not self._is_open:
            self._waiting.append((call, True))
            self._wanted()
        else:
            self._n += 1
            self._calls[self._n] = call
            self.held.discard(held.number)
            self._link.send([[FETCH, self._n, held.number]])

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
                answer = self._requests.add(self._n)
                self._link.send([message])
                return await answer
            except asyncio.CancelledError:
                if deadline.expired():
                    raise TransportTimeout(f"no answer within {self._timeout:g} s") from None
                raise
            finally:
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
        self._requests.refuse_all(error)

    @property
    def has_untaken_jobs(self) -> bool:
        """Whether there are jobs of which the server has not said that it has them."""
        return any(not is_attach for _, is_attach in self._waiting) or any(
            not call.endpoint.direct and not call.seq for call in self._calls.values()
        )

    def give_up(
        self, error: SocaityError, *, because: str = "the connection was lost and could not be made again"
    ) -> None:
        """No connection can be had: end every call. What was never sent was not run."""
        self._is_open = False
        self._link.disconnect()
        self.failure = error
        self._opened.set()
        waiting, self._waiting = self._waiting, []
        calls = dict(self._calls)
        self._calls.clear()
        self._session = None
        self._renew_link()
        for call, _ in waiting:
            call.fail(error)
        for call in calls.values():
            call.accept()
            lost = JobLost(f"{because}: {error}", job_id=call.id)
            lost.__cause__ = error
            call.fail(lost)
        self._requests.refuse_all(error)

    def receive(self, data: bytes) -> None:
        """Take a frame. Raises ProtocolError if it is none, after which the connection must be closed."""
        try:
            messages = self._link.receive(data)
        except MalformedError as exc:
            raise ProtocolError(f"the server sent something that is no frame: {exc}") from exc
        self._incoming.take(messages)

    def _on_held(self, message: list[Any]) -> None:
        n, seq = message[1], message[2]
        is_of_job = seq > 0
        if len(message) > 4:
            self._incoming.explain(n, message, 4)
        call = self._calls.pop(n, None)
        if call is None:
            if not is_of_job:
                self.held.release(n, self._link)
            return
        if not is_of_job:
            self.held.add(n)
        call.hold(HeldAtServer(self, n, self._link, is_of_job=is_of_job))

    def _on_welcome(self, welcome: Mapping[str, Any]) -> None:
        session = welcome.get("session")
        resumed = bool(welcome.get("resumed")) and session == self._session
        self._is_open = True
        self.takes_references = bool(welcome.get("references"))
        self.publishes = welcome.get("publishes") is True
        self.fetches = read_fetches(welcome)
        if resumed:
            self._link.resume(int(welcome.get("received", 0)))
        else:
            write = self._link.hand_over()
            self._renew_link()
            if write is not None:
                self._link.connect(write)
            had_session, self._session = self._session is not None, session
            self._link.max_message = welcome.get("max_body")
            if had_session:
                self._restart()
        waiting, self._waiting = self._waiting, []
        for call, is_attach in waiting:
            if is_attach and isinstance(call.held, HeldAtServer):
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
        calls = dict(self._calls)
        self._calls.clear()
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
        self._requests.refuse_all(ConnectError("the server does not know our session any more; ask again"))

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
        else:
            self._requests.refuse(message[1], TransportError(str(error)))
