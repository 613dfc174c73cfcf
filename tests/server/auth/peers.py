"""`Peer`: another program on loopback that the server asks: an issuer with its key set, or a policy decision point."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable
from typing import Any, Self

import uvicorn

DEADLINE = 20.0
Answer = Callable[[dict[str, Any]], Any]


class Peer:
    """Answers every request with what `answer` gives for its JSON: a document, bytes, or a status and one of these.

    While it is `held`, requests come in and none is answered.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self._arrivals = threading.Semaphore(0)
        self._held: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def count(self) -> int:
        """How many requests have come."""
        return len(self.bodies)

    def hold(self) -> None:
        """Answer nobody from now on."""
        self._held = asyncio.Event()

    def release(self) -> None:
        """Answer those who wait, and those who come."""
        held, self._held = self._held, None
        if held is not None and self._loop is not None:  # else nobody has come yet
            self._loop.call_soon_threadsafe(held.set)

    def wait_asked(self) -> None:
        """Until one more request has come."""
        assert self._arrivals.acquire(timeout=DEADLINE), "nobody asked"

    def __enter__(self) -> Self:
        config = uvicorn.Config(
            self._app, interface="asgi3", log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._listener.listen()
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, name="peer", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        self._listener.close()
        assert not self._thread.is_alive(), "the peer did not stop"

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self._loop = asyncio.get_running_loop()
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        self.headers.append(dict(scope["headers"]))
        self._arrivals.release()
        if self._held is not None:
            await asyncio.wait_for(self._held.wait(), DEADLINE)
        given = self.answer(json.loads(body) if body else {})
        status, given = given if isinstance(given, tuple) else (200, given)
        data = given if isinstance(given, bytes) else json.dumps(given).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": data})


def decision(word: str) -> dict[str, Any]:
    """What a XACML decision point answers."""
    return {"Response": [{"Decision": word}]}


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
