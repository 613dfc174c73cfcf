"""The dashboard: the page `GET /dashboard`, and what it shows on `/ws` with the subprotocol `socaity.live.v1`.

The server sends snapshots (`live.py`) as JSON text and reads nothing: the first at once, then one a second while something
changes, and one every ten seconds to show that it is alive. Nothing is computed while nobody watches.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from ..live import PROTOCOL, LiveView
from ..values import to_json
from .origin import is_cross_origin

if TYPE_CHECKING:
    from ..dataplane import DataPlane

__all__ = ["PROTOCOL", "LiveFrontend", "dashboard_page"]

_logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_WATCHERS = 64
_SIGN_OF_LIFE = 10
"""After so many turns without a change a snapshot is sent all the same."""
_TRY_AGAIN_LATER = 1013
_GOING_AWAY = 1001
_GOODBYE = 1.0
"""Seconds for the last word to somebody whose token has expired."""


async def dashboard_page(request: Request) -> Response:
    """`GET /dashboard`; 304 for who has it."""
    body, headers = _page()
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if headers["ETag"] in known or "*" in known:
        return Response(None, 304, headers)
    return Response(body, 200, headers, "text/html")


class LiveFrontend:
    """The ASGI application behind `/ws` for who asks for `socaity.live.v1`; `interval` is in seconds."""

    def __init__(
        self, dataplane: DataPlane, *, interval: float = 1.0, max_watchers: int = MAX_WATCHERS
    ) -> None:
        self._interval = interval
        self._max_watchers = max_watchers
        self._view = LiveView(dataplane)
        self._watchers: set[_Watcher] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._shown: dict[str, Any] = {}

    @property
    def watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if is_cross_origin(scope) or PROTOCOL not in scope.get("subprotocols", ()):
            await send(
                {"type": "websocket.close", "code": 1002, "reason": f"speak {PROTOCOL}, from the same origin"}
            )
            return
        await send({"type": "websocket.accept", "subprotocol": PROTOCOL})
        if len(self._watchers) >= self._max_watchers:
            reason = f"{self._max_watchers} watch already; try again later"
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": reason})
            return
        watcher = _Watcher(str(scope.get("socaity.owner", "")))
        self._watchers.add(watcher)
        writer = asyncio.create_task(watcher.write(send))
        try:
            await self._greet(watcher)
            gone = asyncio.create_task(_until_gone(receive))
            try:
                ended, _ = await asyncio.wait(
                    (gone, writer), timeout=_seconds_left(scope), return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    watcher.close()
                    await asyncio.wait((gone, writer), timeout=_GOODBYE, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
        finally:
            writer.cancel()
            self._watchers.discard(watcher)
            if not self._watchers and self._ticker is not None:
                self._ticker.cancel()
                self._ticker = None

    def close(self) -> None:
        """Send everybody away."""
        for watcher in self._watchers:
            watcher.close()

    async def _greet(self, watcher: _Watcher) -> None:
        """The first snapshot, at once: the one of the last turn where there is one, for an extra look would spoil the rates."""
        if self._ticker is None:
            self._shown = self._view.look()
            self._ticker = asyncio.create_task(self._tick())
        watcher.show({**self._shown, "jobs": await self._view.jobs(watcher.owner)})

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            # a late turn is not made up for
            due = max(due + self._interval, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                self._shown = self._view.look()
                jobs = {
                    owner: await self._view.jobs(owner) for owner in {one.owner for one in self._watchers}
                }
            except Exception:  # the edge of the task: one bad turn must not end the view
                _logger.exception("a look at the service failed")
                continue
            for watcher in self._watchers:
                if watcher.owner in jobs:  # else it came meanwhile, and was greeted
                    watcher.show({**self._shown, "jobs": jobs[watcher.owner]})


class _Watcher:
    """One socket. Who reads slowly misses snapshots and gets the newest."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._next: bytes | None = None
        self._last_change: Any = None
        self._quiet_turns = 0
        self._wake = asyncio.Event()
        self._is_closing = False

    def show(self, snapshot: dict[str, Any]) -> None:
        change = _what_matters(snapshot)
        self._quiet_turns += 1
        if change == self._last_change and self._quiet_turns < _SIGN_OF_LIFE:
            return
        self._last_change = change
        self._quiet_turns = 0
        self._next = to_json(snapshot)
        self._wake.set()

    def close(self) -> None:
        self._is_closing = True
        self._wake.set()

    async def write(self, send: Send) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._is_closing:
                    await send({"type": "websocket.close", "code": _GOING_AWAY})
                    return
                message, self._next = self._next, None
                if message is not None:
                    await send({"type": "websocket.send", "text": message.decode()})
        except Exception as exc:  # servers raise their own classes when the other side has gone
            _logger.debug("writing to a watcher failed: %s", exc)


def _seconds_left(scope: Scope) -> float | None:
    """For which the token of who watches is good."""
    until = getattr(scope.get("socaity.principal"), "expires_at", None)
    return None if until is None else max(until - time.time(), 0.0)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _what_matters(snapshot: dict[str, Any]) -> Any:
    """A snapshot without what changes by itself."""
    service = {key: snapshot["service"][key] for key in ("title", "version", "state")}
    models = [{key: value for key, value in model.items() if key != "window"} for model in snapshot["models"]]
    jobs = [
        {key: value for key, value in job.items() if key not in ("age", "seconds")}
        for job in snapshot["jobs"]
    ]
    return service, models, snapshot["queues"], jobs


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    body = Path(__file__).with_name("dashboard.html").read_bytes()
    policy = [
        "default-src 'none'",
        f"style-src {_hash_of(body, 'style')}",
        f"script-src {_hash_of(body, 'script')}",
        "connect-src 'self'",
        "img-src data:",  # the icon
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return body, {
        "ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hash_of(page: bytes, element: str) -> str:
    """The one `element` of the page, as a source for its Content-Security-Policy."""
    [text] = re.findall(rf"<{element}>(.*?)</{element}>".encode(), page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
