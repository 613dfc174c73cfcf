"""A server of the dashboard alone, over a data plane that a test fills; it can be stopped and started at its place."""

from __future__ import annotations

import socket
import threading
from typing import Any, Self

import uvicorn
from starlette.requests import Request

from socaity_server.frontends.dashboard import LiveFrontend, dashboard_page
from tests.server.live_doubles import FakeDataPlane

DEADLINE = 20.0


class LiveService:
    """Serves `/dashboard` and `/ws` on a thread. Tests may change the data plane at any time."""

    def __init__(self, dataplane: FakeDataPlane, *, interval: float = 1.0, max_watchers: int = 64) -> None:
        self._dataplane = dataplane
        self._settings: dict[str, Any] = {"interval": interval, "max_watchers": max_watchers}
        self._port = 0
        self.frontend: LiveFrontend

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, at the same port as before."""
        self.frontend = LiveFrontend(self._dataplane.as_dataplane, **self._settings)
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            log_level="warning",
            lifespan="off",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        # it listens already, so that nobody has to wait for the server itself
        listener.listen()
        self._listener = listener
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="live-service", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        self._listener.close()
        assert not self._thread.is_alive(), "the server did not stop"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread.is_alive():
            self.stop()

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self.frontend(scope, receive, send)
        elif scope["path"] == "/dashboard":
            await (await dashboard_page(Request(scope)))(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
