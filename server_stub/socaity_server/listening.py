"""`ListeningServer`: uvicorn's server, with an end to clients that leave a handshake of TLS unfinished or take nothing of an
answer."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import uvicorn

__all__ = ["ListeningServer"]

_logger = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 10.0
"""For a handshake of TLS; before its end nobody counts the connection."""
_TAKING_SECONDS = 60.0
"""How long a client may take nothing of what waits for it."""
_CANNOT_START = 3
"""The exit status of uvicorn."""


class ListeningServer(uvicorn.Server):
    """For a `uvicorn.Config` with a host and a port."""

    async def startup(self, sockets: Any = None) -> None:
        if sockets is None and self.config.is_ssl:
            await self._start_with_tls()
        else:
            await super().startup(sockets=sockets)
        for server in self.servers:
            for listener in server.sockets:
                _expect_taking(listener)

    async def _start_with_tls(self) -> None:
        await super().startup(sockets=[])  # everything but to listen, for which it knows no deadline
        config = self.config

        def make_protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        try:
            server = await asyncio.get_running_loop().create_server(
                make_protocol,
                config.host,
                config.port,
                ssl=config.ssl,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS,
                backlog=config.backlog,
            )
        except OSError as exc:
            _logger.error("%s", exc)
            await self.lifespan.shutdown()
            sys.exit(_CANNOT_START)
        self.servers = [server]
        self._log_started_message(server.sockets)


def _expect_taking(listener: Any) -> None:
    """Let the system end connections whose client takes nothing: only it sees what goes on below TLS and behind our buffers.
    Those that are accepted inherit it."""
    if sys.platform == "linux" and listener.family in (socket.AF_INET, socket.AF_INET6):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(_TAKING_SECONDS * 1000))
