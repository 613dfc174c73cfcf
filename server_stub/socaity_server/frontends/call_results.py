"""`CallResults`: what calls of one session may refer to, and what is kept for it so that it need not travel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from socaity.exceptions import InvalidInputError, JobCancelled, SocaityError, from_problem
from socaity.protocol.frames import ERROR, HELD, RESULT

from ..references import Reference

__all__ = ["LARGE", "CallResults", "HeldBytes", "wire_size"]

LARGE = 64 * 1024
"""A result of more bytes than this is held for those who refer to it, and brought to the client only on demand."""
MAX_HELD = 256 * 1024 * 1024
"""Bytes that are held for one session; what comes then is sent."""
MAX_HELD_IN_ALL = 1024 * 1024 * 1024


class HeldBytes:
    """How much all sessions of a server hold."""

    def __init__(self, limit: int = MAX_HELD_IN_ALL) -> None:
        self.limit = limit
        self.taken = 0


class CallResults:
    """The results of one session's direct calls, as far as other calls take them.

    A client may refer to a call until it has the result. So a result is found here while the call runs, while it is held,
    and after it was sent until the client has acknowledged that.
    """

    def __init__(self, in_all: HeldBytes, *, limit: int = MAX_HELD) -> None:
        self.awaited: dict[int, asyncio.Future[Any]] = {}
        """The calls that others wait for."""
        self.jobs: set[str] = set()
        """The jobs that were referred to and have not ended."""
        self.holds = False
        """The client knows what it means that a result is held."""
        self._in_all = in_all
        self._limit = limit
        self._held: dict[int, tuple[Any, int]] = {}
        self._held_bytes = 0
        self._sent: deque[tuple[int, Sequence[Sequence[Any]]]] = deque()

    @property
    def held_bytes(self) -> int:
        """What is held for this session."""
        return self._held_bytes

    # -- who refers to what --------------------------------------------------------------------------------------------

    def capture(
        self,
        references: Sequence[tuple[str, Reference]],
        running: Collection[int],
        outbox: Sequence[Sequence[Any]],
    ) -> Mapping[int, asyncio.Future[Any]]:
        """The results of the calls that are referred to, to be waited for. Raises InvalidInputError (`unknown_call`).

        To be called when the message comes: a moment later the result may have been sent and forgotten.
        """
        captured: dict[int, asyncio.Future[Any]] = {}
        for parameter, reference in references:
            if reference.kind == "job":
                self.jobs.add(reference.id)
            elif reference.kind == "call":
                number = int(reference.id)
                captured[number] = self._expect(number, parameter, running, outbox)
        return captured

    def _expect(
        self, number: int, parameter: str, running: Collection[int], outbox: Sequence[Sequence[Any]]
    ) -> asyncio.Future[Any]:
        future = self.awaited.get(number)
        if future is not None:
            return future
        future = asyncio.get_running_loop().create_future()
        if number in running:
            self.awaited[number] = future
        elif number in self._held:
            future.set_result(self._held[number][0])
        else:
            message = next(self._sent_for(number, outbox), None)
            if message is None:
                raise InvalidInputError(
                    f"Parameter {parameter!r} refers to the call {number}, which is not known (any more).",
                    parameter=parameter,
                    code="unknown_call",
                )
            if message[0] == RESULT:
                future.set_result(message[2])
            else:
                _fail(future, from_problem(message[2]))
        return future

    def _sent_for(self, number: int, outbox: Sequence[Sequence[Any]]) -> Iterator[Sequence[Any]]:
        for messages in (outbox, *(sent for _, sent in reversed(self._sent))):
            for message in messages:
                if message[1] == number and message[0] in (RESULT, ERROR):
                    yield message

    # -- what becomes of a result --------------------------------------------------------------------------------------

    def settle(self, number: int, result: Any, error: SocaityError | None) -> list[Any] | None:
        """A call that others wait for has ended. Returns what is sent instead of its result, if that is held."""
        future = self.awaited.pop(number)
        if error is not None:
            _fail(future, error)
            return None
        if not future.done():
            future.set_result(result)
        size = self._room_for(result)
        if not size:
            return None
        self._held[number] = (_alone(result), size)
        self._held_bytes += size
        self._in_all.taken += size
        return [HELD, number, 0, size]

    def job_ended(self, job_id: str, result: Any, is_result: bool) -> int:
        """A watched job has ended. Returns the bytes of a result that stays with it, or 0."""
        if job_id not in self.jobs:
            return 0
        self.jobs.discard(job_id)
        size = wire_size(result) if is_result and self.holds else 0
        return size if size > LARGE else 0

    def _room_for(self, result: Any) -> int:
        """How many bytes a result has that is to be held; 0 for one that is sent."""
        if not self.holds:
            return 0
        size = wire_size(result)
        if (
            size <= LARGE
            or self._held_bytes + size > self._limit
            or self._in_all.taken + size > self._in_all.limit
        ):
            return 0
        return size

    def sent(self, position: int, acknowledged: int, messages: Sequence[Sequence[Any]]) -> None:
        """Messages were sent; the last frame of them has this position. Those that were acknowledged are forgotten."""
        sent = self._sent
        while sent and sent[0][0] <= acknowledged:
            sent.popleft()
        sent.append((position, messages))

    def fetch(self, number: int) -> Any:
        """A result that is held. Raises InvalidInputError."""
        try:
            return self._held[number][0]
        except KeyError:
            raise InvalidInputError(
                f"The result of the call {number} is not held (any more).", code="unknown_call"
            ) from None

    def release(self, number: int) -> None:
        """Nobody asks for a result any more."""
        _, size = self._held.pop(number, (None, 0))
        self._held_bytes -= size
        self._in_all.taken -= size

    def close(self) -> None:
        """The session has ended: what waits for its calls waits in vain."""
        for number in list(self._held):
            self.release(number)
        awaited = list(self.awaited.values())
        self.awaited.clear()
        for future in awaited:
            _fail(future, JobCancelled("the session of its caller has ended"))
        self._sent.clear()


def wire_size(value: Any) -> int:
    """About how many bytes a plain value takes on the wire."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        return 5 + len(value)
    if isinstance(value, Mapping):
        return 5 + sum(wire_size(key) + wire_size(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 5 + sum(map(wire_size, value))
    return int(getattr(value, "nbytes", 0)) or 9


def _alone(result: Any) -> Any:
    """A row without the batch that it is a view of."""
    base = getattr(result, "base", None)
    if base is None or getattr(base, "nbytes", 0) <= 2 * result.nbytes:
        return result
    return result.copy()


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # looked at: nobody may wait for it any more
