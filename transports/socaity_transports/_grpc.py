"""gRPC through grpcio; the only file that imports it, and the one that turns its errors into ours."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import grpc
import grpc.aio

from socaity.exceptions import (
    APIError,
    ConfigurationError,
    ConnectError,
    SocaityError,
    TransportError,
    TransportTimeout,
    from_problem,
)
from socaity.transport import Target

__all__ = ["GRPCChannel", "is_final"]

MAX_MESSAGE = 2**31 - 1
"""Bytes; gRPC knows no larger ones."""
_CLOSING = 2.0
"""Seconds that closing waits for gRPC to let go."""
_RETRY_PUSHBACK = "grpc-retry-pushback-ms"
_CODE = "socaity-code"
"""What our servers call what went wrong: `token_expired` and not only that a caller was refused."""
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # what failed is tried again by whoever called, who also knows for how long
    ("grpc.enable_retries", 0),
    # a channel that was closed and made anew must not find the broken connection of the old one
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # servers take more pings than one in five minutes for an attack
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.primary_user_agent", "socaity"),
)
_STATUS = {
    "INVALID_ARGUMENT": (400, "invalid_input"),
    "FAILED_PRECONDITION": (400, "invalid_input"),
    "OUT_OF_RANGE": (400, "invalid_input"),
    "UNAUTHENTICATED": (401, "unauthenticated"),
    "PERMISSION_DENIED": (403, "forbidden"),
    "NOT_FOUND": (404, "not_found"),
    "ALREADY_EXISTS": (409, "conflict"),
    "RESOURCE_EXHAUSTED": (429, "rate_limited"),
    # these two have numbers of 4xx elsewhere, but what the caller gave was not wrong
    "ABORTED": (500, "aborted"),
    "CANCELLED": (500, "cancelled_by_service"),
    "UNIMPLEMENTED": (501, "not_implemented"),
    "UNAVAILABLE": (503, "unavailable"),
}
_TOO_LARGE = "body_too_large"
_SAYS_TOO_LARGE = re.compile("larger than max|exceeds maximum size", re.IGNORECASE)
"""What gRPC itself says of a message above the limit: the status is the one for callers who ask too often."""
_BROKEN = re.compile(
    "socket closed|connection|broken pipe|goaway|keepalive|transport|endpoint|recvmsg|sendmsg|stream removed|cancelling all",
    re.IGNORECASE,
)
"""What gRPC itself says where a connection broke: the status is the one with which a server says that it is too busy."""
_owner: int | None = None
"""The process in which gRPC was first used here."""


class GRPCChannel:
    """One channel to one server, made on the loop that uses it. `url` is an http(s) address; https: with TLS."""

    def __init__(
        self,
        target: Target,
        url: str,
        *,
        compression: Literal["gzip", "deflate"] | None = None,
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as exc:
            raise ConfigurationError(f"{target.place} is not an address like oip+grpc://host:8001") from exc
        if not host:
            raise ConfigurationError(f"{target.place} is not an address like oip+grpc://host:8001")
        self._is_secure = parts.scheme == "https"
        name = f"[{host}]" if ":" in host else host
        self._address = f"{name}:{port or (443 if self._is_secure else 80)}"
        self.place = f"{target.scheme}://{self._address}"
        self._timeout = target.timeout
        self._metadata = _metadata(target, parts.username, parts.password)
        self._compression = {
            None: None,
            "gzip": grpc.Compression.Gzip,
            "deflate": grpc.Compression.Deflate,
        }[compression]
        self._channel: grpc.aio.Channel | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_closed = False

    async def call(
        self,
        path: str,
        message: Any,
        *,
        timeout: float,
        read: Callable[[bytes], Any],
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """One message, one answer. A caller that is cancelled cancels it at the server as well."""
        channel, is_connected = await self._connected()
        rpc = channel.unary_unary(path, request_serializer=_written, response_deserializer=read)(
            message, timeout=timeout, metadata=self._with(metadata)
        )
        try:
            return await rpc
        except grpc.aio.AioRpcError as exc:
            raise self._error(exc, is_connected) from exc
        finally:
            rpc.cancel()  # does nothing to what has ended

    async def stream(
        self, path: str, message: Any, *, timeout: float, read: Callable[[bytes], Any]
    ) -> AsyncGenerator[Any, None]:
        """One message of a stream of requests, which ends with it, and the stream of answers."""
        channel, is_connected = await self._connected()
        # The same on the wire; `stream_stream` makes "Internal error from Core" of a refusal that meets the message on its way.
        rpc = channel.unary_stream(path, request_serializer=_written, response_deserializer=read)(
            message, timeout=timeout, metadata=self._with(None)
        )
        try:
            async for answer in rpc:
                yield answer
        except grpc.aio.AioRpcError as exc:
            raise self._error(exc, is_connected) from exc
        finally:
            rpc.cancel()

    async def aclose(self) -> None:
        """Close the channel; what still runs on it is cancelled."""
        self._is_closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if self._watch is not None:  # it ends with the channel, and must not tell a loop that has been closed
            await asyncio.wait({self._watch}, timeout=_CLOSING)

    # -- the channel ----------------------------------------------------------------------------------------------

    async def _connected(self) -> tuple[grpc.aio.Channel, bool]:
        """The channel, and whether it has a connection; one that cannot be made now fails the call, and says why."""
        if self._is_closed:
            raise ConnectError(f"The connection to {self.place} has been closed; nothing was sent")
        if self._channel is None:
            self._channel = self._open()
        channel = self._channel
        state = channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(self._timeout):
                while state not in (
                    grpc.ChannelConnectivity.READY,
                    grpc.ChannelConnectivity.TRANSIENT_FAILURE,
                    grpc.ChannelConnectivity.SHUTDOWN,
                ):
                    await self._changed(channel, state)
                    if self._is_closed:
                        raise ConnectError(f"The connection to {self.place} was closed; nothing was sent")
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError as exc:
            raise ConnectError(
                f"No connection to {self.place} within {self._timeout:g} s; nothing was sent. Is the server running there?"
            ) from exc
        return channel, state is grpc.ChannelConnectivity.READY

    async def _changed(self, channel: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
        """Return when the state is another, or was for a moment. gRPC goes on watching when the one who waits gives up, so
        all wait for one watch."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(_watched(channel, state))
        await asyncio.wait({self._watch})

    def _open(self) -> grpc.aio.Channel:
        global _owner
        _owner = _owner or os.getpid()
        if _owner != os.getpid():
            raise ConfigurationError(
                "gRPC was used in the process that this one was forked from, and does not work here any more; start "
                "processes with multiprocessing.get_context('spawn'), or connect over HTTP (oip+http)"
            )
        # in spite of its name, this is how long one attempt to connect may take
        attempt = ("grpc.min_reconnect_backoff_ms", int(self._timeout * 1000))
        settings: dict[str, Any] = {"options": (*_OPTIONS, attempt), "compression": self._compression}
        if self._is_secure:
            return grpc.aio.secure_channel(
                self._address, grpc.ssl_channel_credentials(_root_certificates()), **settings
            )
        return grpc.aio.insecure_channel(self._address, **settings)

    def _with(self, metadata: Mapping[str, str] | None) -> tuple[tuple[str, str | bytes], ...]:
        return (*self._metadata, *(metadata or {}).items())

    # -- errors ---------------------------------------------------------------------------------------------------

    def _error(self, error: grpc.aio.AioRpcError, was_connected: bool) -> SocaityError:
        code, metadata = error.code(), error.trailing_metadata()
        word = code.name
        text = (error.details() or "").strip()
        if word == "UNAVAILABLE" and not was_connected:
            return ConnectError(
                f"No connection to {self.place}: {text}; nothing was sent. Is the server running there?"
            )
        if word == "UNAVAILABLE" and not metadata and _BROKEN.search(text):
            return TransportError(f"The connection to {self.place} broke: {text}")
        if word == "DEADLINE_EXCEEDED":
            return TransportTimeout(f"{self.place} did not answer in time")
        status, name = _STATUS.get(word, (500, "internal"))
        told = dict(metadata or ())
        word_of_server = told.get(_CODE)
        if word == "RESOURCE_EXHAUSTED" and (word_of_server == _TOO_LARGE or _SAYS_TOO_LARGE.search(text)):
            status, name = 413, _TOO_LARGE
        problem = from_problem(
            {
                "status": status,
                "code": name,
                "detail": text or f"{self.place} answered {word} without a reason; look at its log",
                "retry_after": _pushback(told.get(_RETRY_PUSHBACK)),
            }
        )
        if isinstance(problem, APIError) and isinstance(word_of_server, str) and word_of_server:
            problem.code = word_of_server
        return problem


async def _watched(channel: grpc.aio.Channel, state: grpc.ChannelConnectivity) -> None:
    with suppress(AssertionError, grpc.aio.UsageError):  # so it ends when the channel is closed
        await channel.wait_for_state_change(state)


def _written(message: Any) -> bytes:
    written: bytes = message if isinstance(message, bytes) else message.SerializeToString()
    return written


def is_final(error: SocaityError) -> bool:
    """Whether the server said that the call must not be tried again."""
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and (
        _pushback(dict(cause.trailing_metadata() or ()).get(_RETRY_PUSHBACK)) == math.inf
    )


def _pushback(milliseconds: Any) -> float | None:
    """Seconds for which the server wants no other try; infinite: it wants none at all.

    Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
    """
    if milliseconds is None:
        return None
    try:
        seconds = int(milliseconds) / 1000
    except (ValueError, OverflowError):
        return math.inf
    return seconds if seconds >= 0 else math.inf


def _metadata(target: Target, user: str | None, password: str | None) -> tuple[tuple[str, str | bytes], ...]:
    headers = {name.lower(): value for name, value in target.all_headers().items()}
    if user is not None and "authorization" not in headers:
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        headers["authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    for name, value in headers.items():
        if not name or not all(one.isascii() and (one.isalnum() or one in "_-.") for one in name):
            raise ConfigurationError(
                f"the header {name!r} cannot be sent with gRPC; names are letters, digits, '_-.'"
            )
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(
                f"the header {name!r} cannot be sent with gRPC: its value is no printable ASCII"
            )
    return tuple(
        (name, value.encode() if name.endswith("-bin") else value) for name, value in headers.items()
    )


def _root_certificates() -> bytes | None:
    """The authorities that SSL_CERT_FILE names, as for https; None: those that gRPC brings."""
    path = os.environ.get("SSL_CERT_FILE")
    if not path:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise ConfigurationError(f"SSL_CERT_FILE names {path}, which cannot be read: {exc}") from exc
