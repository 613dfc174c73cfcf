"""One WebSocket as the server sees it: frames out in the order in which they were written, frames in as bytes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from socaity.exceptions import InvalidInputError, to_problem
from socaity.protocol.frames import GOODBYE
from socaity.protocol.link import Link
from socaity.protocol.messagepack import MalformedError

__all__ = ["Connection", "Receive", "Scope", "Send", "receive_frame"]

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Connection:
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


async def receive_frame(receive: Receive) -> bytes | None:
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
