"""What a server says over the socket, and what the calls make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from socaity.exceptions import ProtocolError, from_problem
from socaity.protocol.events import EventKind, JobEvent
from socaity.protocol.frames import ERROR, EVENT, GOODBYE, HELD, RESULT, WELCOME

if TYPE_CHECKING:
    from socaity.transport import Call

    from ._requests import Requests

__all__ = ["Incoming", "options_of", "read_fetches"]

EVENT_KINDS = frozenset(get_args(EventKind))


class Incoming:
    """Gives the messages of a server to the calls and requests that they are for; `calls` by number, without those that end."""

    def __init__(
        self,
        calls: dict[int, Call],
        requests: Requests,
        *,
        on_held: Callable[[list[Any]], None],
        on_welcome: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._calls = calls
        self._requests = requests
        self._on_held = on_held
        self._on_welcome = on_welcome

    def take(self, messages: Sequence[list[Any]]) -> None:
        """All messages of a frame. Raises ProtocolError for one that is not in the protocol."""
        calls = self._calls
        try:
            for message in messages:
                op = message[0]
                if op == RESULT:
                    n, value = message[1], message[2]
                    if len(message) > 3:
                        self.explain(n, message, 3)
                    call = calls.pop(n, None)
                    if call is not None:
                        call.succeed(value)
                    else:
                        self._requests.answer(n, value)
                elif op == EVENT:
                    self._take_event(message)
                elif op == ERROR:
                    self._take_error(message)
                elif op == HELD:
                    self._on_held(message)
                elif op == WELCOME:
                    self._on_welcome(message[1])
                elif op == GOODBYE:
                    raise ProtocolError(f"the server closed the connection: {message[1].get('detail')}")
        except (ValueError, TypeError, LookupError, AttributeError) as exc:
            raise ProtocolError(f"the server sent a message that is not in the protocol: {exc}") from exc

    def explain(self, n: int, message: list[Any], place: int) -> None:
        """Where the time of a call went, which is the last part of its last message."""
        call = self._calls.get(n)
        if len(message) > place + 1 or not isinstance(message[place], Mapping):
            raise ValueError(f"a message of {len(message)} parts")
        if call is not None:
            call.explain(message[place])

    def _take_event(self, message: list[Any]) -> None:
        n, seq, kind, data = message[1:5]
        call = self._calls.get(n)
        if call is None:
            return
        if len(message) > 5:
            self.explain(n, message, 5)
        if type(seq) is not int or kind not in EVENT_KINDS:
            raise ValueError(f"event {seq!r} of kind {kind!r}")
        event = JobEvent(seq, kind, data)
        call.deliver(event)
        if event.is_terminal:
            self._calls.pop(n, None)

    def _take_error(self, message: list[Any]) -> None:
        _, n, problem = message
        if not isinstance(problem, Mapping):
            raise ValueError("an error is not a problem document")
        call = self._calls.pop(n, None)
        if call is not None:
            call.fail(from_problem(problem, job_id=call.id))
        else:
            self._requests.refuse(n, from_problem(problem))


def options_of(call: Call) -> dict[str, Any]:
    """What the caller said about a call, for its message."""
    assert call.options is not None
    options: dict[str, Any] = {"priority": call.options.priority} if call.options.priority else {}
    if call.options.explain:
        options["explain"] = True
    if call.time_left is not None:
        options["timeout"] = call.time_left
    return options


def read_fetches(welcome: Mapping[str, Any]) -> frozenset[str]:
    """The origins from which a server says that it fetches."""
    found = welcome.get("fetches")
    return frozenset(one for one in found if isinstance(one, str)) if isinstance(found, list) else frozenset()
