"""`InferCalls`: one request and one answer, on the shortest way that there is between gRPC and the batcher."""

from __future__ import annotations

import asyncio

from socaity.protocol.openinference.messages import InferRequest
from socaity.protocol.openinference.protobuf import SERVICE
from socaity.protocol.openinference.wire import decode_request, encode_response

from ...auth.actions import Action
from ...openinference.service import OpenInference
from ..access import resource_of_endpoint
from ..grpc.calls import Context, GRPCCalls

__all__ = ["InferCalls", "is_raw"]

_PATH = f"/{SERVICE}/ModelInfer"
_MANY_BYTES = 256 * 1024
_HEAD = 4096
"""Bytes in which clients say which tensors follow."""
_CONVERTED = (b"BYTES", b"BF16")


class InferCalls:
    """The method ModelInfer. A deadline that passes and a client that goes take the call out of the queue."""

    def __init__(self, calls: GRPCCalls, service: OpenInference) -> None:
        self._calls = calls
        self._service = service

    async def infer(self, data: bytes, context: Context) -> bytes:
        """From a ModelInferRequest to a ModelInferResponse."""
        calls = self._calls
        try:
            calls.enter(context)
            try:
                calls.check_size(data)
                # text and BF16 are converted one by one, which would hold up all others
                is_slow = len(data) > _MANY_BYTES and any(kind in data[:_HEAD] for kind in _CONVERTED)
                request = await asyncio.to_thread(decode_request, data) if is_slow else decode_request(data)
                del data
                owner = "" if calls.dataplane.guard is None else await self._admit(context, request)
                response = await self._service.infer(request, owner=owner)
                return encode_response(response, raw=is_raw(request))
            finally:
                calls.leave()
        except Exception as exc:
            error = exc
        await calls.refuse(context, error)

    async def _admit(self, context: Context, request: InferRequest) -> str:
        resource = resource_of_endpoint(
            request.model_name, self._calls.dataplane.routes, request.model_version or None
        )
        return await self._calls.admit(context, _PATH, Action.INFER, resource)


def is_raw(request: InferRequest) -> bool:
    """Whether the answer has to be raw, as the request was."""
    return any(tensor.is_binary for tensor in request.inputs)
