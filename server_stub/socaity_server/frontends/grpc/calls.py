"""`GRPCCalls`: what every call of gRPC passes, whatever the service: who makes it, reading it, and what becomes of its errors.

Services get their messages as bytes and give bytes back, so that what cannot be read is the caller's fault and not the server's,
and so that large tensors are not copied on their way.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from socaity.exceptions import InvalidInputError, ServerError

from ...auth.actions import SERVICE, Action
from ...auth.principal import Credentials, RequestContext
from ...dataplane import DataPlane
from ...openinference.failures import forget_frames
from ..limits import Limits
from .errors import refusal_of

__all__ = ["Context", "GRPCCalls"]

Context: TypeAlias = Any
"""`grpc.aio.ServicerContext`, which has no types."""


class GRPCCalls:
    """Reads, admits and answers the calls of one data plane. `max_message` (bytes; None: any) holds for unpacked messages, and at
    most `max_calls` that work for long are let in at once. `limits` are those of HTTP, which count both."""

    def __init__(
        self,
        dataplane: DataPlane,
        *,
        max_message: int | None = None,
        max_calls: float = math.inf,
        limits: Limits | None = None,
    ) -> None:
        self.dataplane = dataplane
        self.max_message = max_message
        self.max_calls = max_calls
        self._limits = limits
        self._working = 0

    def unary(
        self, request_class: Any, answer: Callable[[Any, Context], Awaitable[Any]]
    ) -> grpc.RpcMethodHandler:
        """A method that gets one message and gives one: `answer(message, context)`."""

        async def call(data: bytes, context: Context) -> bytes:
            try:
                answered: bytes = (await answer(self.read(request_class, data), context)).SerializeToString()
                return answered
            except Exception as exc:
                error = exc
            await self.refuse(context, error)

        return grpc.unary_unary_rpc_method_handler(call)

    def stream(
        self, request_class: Any, answers: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> grpc.RpcMethodHandler:
        """A method that gets one message and gives many."""

        async def call(data: bytes, context: Context) -> AsyncIterator[bytes]:
            try:
                async for message in answers(self.read(request_class, data), context):
                    yield message.SerializeToString()
                return
            except Exception as exc:
                error = exc
            await self.refuse(context, error)

        return grpc.unary_stream_rpc_method_handler(call)

    def enter(self, context: Context) -> None:
        """Let a call in that works for long; each is followed by `leave`. Raises ServerError 503 where there are too many, and
        RateLimitError.

        gRPC can count as well, and takes a tenth of what a small call costs for it.
        """
        if self._working >= self.max_calls:
            raise ServerError(
                f"{self._working} calls run at once, which is the most here; try again soon.",
                status=503,
                code="too_many_calls",
                retry_after=1.0,
            )
        if self._limits is not None:
            refusal = self._limits.enter({"path": "", "client": (peer_address(context.peer()), 0)})
            if refusal is not None:
                raise refusal
        self._working += 1

    def leave(self) -> None:
        """A call that was let in has ended."""
        self._working -= 1
        if self._limits is not None:
            self._limits.leave()

    def read(self, request_class: Any, data: bytes) -> Any:
        """A message out of bytes; raises InvalidInputError 400 or 413."""
        self.check_size(data)
        try:
            return request_class.FromString(data)
        except DecodeError as exc:
            raise InvalidInputError(
                f"These bytes are no {request_class.DESCRIPTOR.full_name}.", status=400, code="bad_request"
            ) from exc

    def check_size(self, data: bytes) -> None:
        """Raise InvalidInputError 413 for too many bytes: gRPC itself looks at them only while they are compressed."""
        if self.max_message is not None and len(data) > self.max_message:
            raise InvalidInputError(
                f"The message has {len(data)} bytes, which exceeds the maximum allowed input size of {self.max_message}.",
                status=413,
                code="body_too_large",
            )

    async def admit(self, context: Context, path: str, action: Action, resource: str = SERVICE) -> str:
        """The owner of what the caller makes, if they may do that; raises AuthenticationError, ServerError 503."""
        guard = self.dataplane.guard
        if guard is None:
            return ""
        principal = await guard.admit(
            Credentials.of_headers(context.invocation_metadata() or ()),
            action,
            resource,
            RequestContext(peer=peer_address(context.peer()), method="POST", path=path),
        )
        return principal.owner

    async def refuse(self, context: Context, error: Exception) -> NoReturn:
        """End a call with the status of `error`."""
        if isinstance(error, grpc.aio.AbortError | asyncio.CancelledError):
            raise error
        code, message, metadata = refusal_of(error)
        forget_frames(error)
        await context.abort(code, message, metadata)
        raise AssertionError("abort raises")


def peer_address(peer: str) -> str:
    """`ipv4:127.0.0.1:4711` and `ipv6:[::1]:4711` as the address alone; another kind as it is."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return peer
    host = rest.rpartition(":")[0].replace("%5B", "[").replace("%5D", "]")
    return host.strip("[]")
