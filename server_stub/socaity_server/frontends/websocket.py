"""The socket front end: many calls on one WebSocket (`socaity.v1`), in sessions that outlive their connections.

Source of the protocol: `docs/wire-protocol.md`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from socaity.protocol.description import PROTOCOL
from socaity.protocol.frames import HELLO
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError

from .call_results import HeldBytes
from .gate import context_of
from .origin import is_cross_origin
from .socket_admission import Admission
from .socket_connection import Connection, Receive, Scope, Send, receive_frame
from .socket_session import Session

if TYPE_CHECKING:
    from ..dataplane import DataPlane

__all__ = ["WebSocketFrontend"]

logger = logging.getLogger(__name__)

SESSION_TTL = 60.0
"""Seconds for which a session waits for its client to come back."""
HELLO_DEADLINE = 10.0
MAX_HELLO = 64 * 1024
"""Bytes of the first frame of a connection."""
MAX_SESSIONS = 10_000
MAX_UNACKNOWLEDGED = 256 * 1024 * 1024
"""Bytes of answers that a client may not have acknowledged before it is asked to send no more."""


class WebSocketFrontend:
    """The ASGI application behind `/ws`; keeps the sessions of one data plane."""

    def __init__(self, dataplane: DataPlane, *, max_body: int, session_ttl: float = SESSION_TTL) -> None:
        self.dataplane = dataplane
        self.max_body = max_body
        self.session_ttl = session_ttl
        self.max_unacknowledged = MAX_UNACKNOWLEDGED
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
        connection = Connection(send)
        session: Session | None = None
        writer = asyncio.create_task(connection.write_frames())
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(HELLO_DEADLINE):
                session = self._welcome(await receive_frame(receive), connection, scope)
            if session is not None and task is not None:
                session.end_connection = task.cancel
            while session is not None and (data := await receive_frame(receive)) is not None:
                session.take(data)
            if session is not None and session.is_idle:
                session.expire()  # the client has closed and nothing is left
        except MalformedError as exc:
            await connection.say_goodbye(f"this is not {PROTOCOL}: {exc}")
            if session is not None:
                session.expire()
        except TimeoutError:
            await connection.say_goodbye("no hello came")
        except asyncio.CancelledError:
            if task is None or session is None or not session.is_expired or task.uncancel():
                raise
        except OSError:  # the connection broke while we wrote
            logger.debug("a socket broke")
        finally:
            writer.cancel()
            connection.closed = True
            if session is not None:
                session.disconnect(connection)

    def _welcome(self, data: bytes | None, connection: Connection, scope: Scope) -> Session | None:
        """Find or make the session of a hello. Raises MalformedError."""
        if data is None:
            return None
        if len(data) > MAX_HELLO:
            raise MalformedError(f"the first message has more than {MAX_HELLO} bytes")
        hello = Link(on_unsendable=lambda message, error: None).receive(data)
        if len(hello) != 1 or len(hello[0]) != 2 or hello[0][0] != HELLO or not isinstance(hello[0][1], dict):
            raise MalformedError("the first message is not a hello")
        wanted = hello[0][1]
        if wanted.get("protocol") != PROTOCOL:
            raise MalformedError(f"the client speaks {wanted.get('protocol')!r}")
        received = wanted.get("received")
        if type(received) is not int:
            raise MalformedError("a hello says which frame was received last")
        owner = str(scope.get("socaity.owner", ""))
        session = self.sessions.get(str(wanted.get("session")))
        if session is not None and session.owner != owner:
            session = None  # it is somebody else's
        resumed = session is not None
        if session is None:
            self._make_room()
            session = Session(self, secrets.token_urlsafe(18), owner=owner)
            self.sessions[session.id] = session
        guard = self.dataplane.guard
        if guard is not None:  # also of a session that goes on: its client may have a new token
            session.admission = Admission(
                guard, scope["socaity.principal"], context_of(scope), self.dataplane.routes
            )
        session.limits = scope.get("socaity.limits")
        client = scope.get("client")
        session.address = client[0] if client else ""
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

    def running_calls(self) -> int:
        """The direct calls of all sessions that have not ended."""
        return sum(session.running_calls for session in self.sessions.values())

    def close(self) -> None:
        """End all sessions."""
        for session in list(self.sessions.values()):
            session.expire()
