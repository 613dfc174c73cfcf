"""`GRPCWire`: the protocol over gRPC, with raw tensors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from socaity.exceptions import InvalidInputError, JobFailed, ProtocolError, SocaityError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse
from socaity.protocol.openinference.protobuf import messages
from socaity.protocol.openinference.wire import decode_response, decode_stream_response, encode_request
from socaity.transport import Target

from .._grpc import GRPCChannel, is_final
from .address import Address
from .models import Model
from .wire import CALL_TIMEOUT, Wire

__all__ = ["GRPCWire"]

_ANSWER = b"\x12"
"""How a message of a stream begins that has no error: with the tag of its answer."""


class GRPCWire(Wire):
    """One server over gRPC, on one connection."""

    def __init__(self, target: Target, address: Address) -> None:
        self._channel = GRPCChannel(target, address.url, compression=address.compression)
        self.place = self._channel.place
        self._timeout = max(target.timeout, 10.0)
        self._methods = messages().methods()

    # -- the server -----------------------------------------------------------------------------------------------

    async def server(self) -> Mapping[str, Any]:
        return _plain(await self._ask("ServerMetadata"), always=("name", "version", "extensions"))

    async def is_live(self) -> bool:
        return bool((await self._ask("ServerLive")).live)

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        if model:
            return bool((await self._ask("ModelReady", name=model, version=version)).ready)
        return bool((await self._ask("ServerReady")).ready)

    async def models(self) -> list[str]:
        entries = await self.index(ready=True)
        return list(dict.fromkeys(one["name"] for one in entries if one["state"] in ("READY", "")))

    async def index(self, *, ready: bool = False) -> list[Mapping[str, Any]]:
        answer = await self._ask("RepositoryIndex", ready=ready)
        found: list[Mapping[str, Any]] = []
        for one in answer.models:
            state = one.state.removeprefix("State.")  # as MLServer writes it
            found.append({**_plain(one, always=("name", "reason")), "state": state})
        return found

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        request = messages().RepositoryModelLoadRequest(model_name=model)
        for name, value in parameters.items():
            entry = request.parameters[name]
            if isinstance(value, bytes):
                entry.bytes_param = value
            elif isinstance(value, bool):
                entry.bool_param = value
            elif isinstance(value, int):
                entry.int64_param = value
            else:
                entry.string_param = str(value)
        await self._send("RepositoryModelLoad", request, CALL_TIMEOUT)

    async def unload(self, model: str, *, unload_dependents: bool = False) -> None:
        request = messages().RepositoryModelUnloadRequest(model_name=model)
        if unload_dependents:
            request.parameters["unload_dependents"].bool_param = True
        await self._send("RepositoryModelUnload", request, CALL_TIMEOUT)

    # -- models ---------------------------------------------------------------------------------------------------

    async def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        answer = await self._ask("ModelMetadata", name=model, version=version)
        found = _plain(answer, always=("name", "versions", "platform"))
        for key in ("inputs", "outputs"):
            found[key] = [
                {"name": one.name, "datatype": one.datatype, "shape": list(one.shape)}
                for one in getattr(answer, key)
            ]
        return found

    async def config(self, model: str, version: str = "") -> Mapping[str, Any]:
        answer = await self._ask("ModelConfig", name=model, version=version)
        # 0 says that the model does not batch
        return _plain(answer.config, always=("max_batch_size",)) if answer.HasField("config") else {}

    async def statistics(self, model: str = "", version: str = "") -> Mapping[str, Any]:
        return _plain(
            await self._ask("ModelStatistics", name=model, version=version), always=("model_stats",)
        )

    async def infer(self, request: InferRequest, *, timeout: float) -> InferResponse:
        answer: InferResponse = _checked(
            await self._channel.call(
                self._methods["ModelInfer"].path, _encoded(request), timeout=timeout, read=_read_answer
            )
        )
        return answer

    async def stream(
        self, request: InferRequest, model: Model, *, timeout: float
    ) -> AsyncGenerator[InferResponse, None]:
        method = self._methods["ModelStreamInfer"]
        answers = self._channel.stream(method.path, _encoded(request), timeout=timeout, read=_read_streamed)
        async with aclosing(answers):
            async for answer in answers:
                yield _checked(answer)

    def is_final(self, error: SocaityError) -> bool:
        return is_final(error)

    async def aclose(self) -> None:
        await self._channel.aclose()

    async def _ask(self, method: str, **fields: Any) -> Any:
        return await self._send(method, self._methods[method].request(**fields), self._timeout)

    async def _send(self, method: str, message: Any, timeout: float) -> Any:
        known = self._methods[method]
        return _checked(
            await self._channel.call(
                known.path, message, timeout=timeout, read=lambda data: _read_message(known.response, data)
            )
        )


def _encoded(request: InferRequest) -> bytes:
    try:
        return encode_request(request)
    except (TensorError, TypeError, ValueError) as exc:
        raise InvalidInputError(f"{request.model_name}: {exc}") from exc


def _checked(answer: Any) -> Any:
    """What was read, or the error is raised: gRPC would tell what is raised while it reads as something else."""
    if isinstance(answer, SocaityError):
        raise answer
    return answer


def _read_message(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as exc:
        return ProtocolError(f"the server answered with something that is no {kind.__name__}: {exc}")


def _read_answer(data: bytes) -> InferResponse | SocaityError:
    try:
        return decode_response(data)
    except TensorError as exc:
        return ProtocolError(f"the server answered with something that is no answer: {exc}")


def _read_streamed(data: bytes) -> InferResponse | SocaityError:
    """MLServer sends answers as they are, without the message that should be around them."""
    if data[:1] != _ANSWER:
        try:
            message = messages().ModelStreamInferResponse.FromString(data)
        except DecodeError:
            return _read_answer(data)
        if len(UnknownFieldSet(message)):
            return _read_answer(data)
    try:
        error, response = decode_stream_response(data)
    except TensorError as exc:
        return ProtocolError(f"the server answered with something that is no answer: {exc}")
    return JobFailed(f"the service ended the stream with an error: {error}") if error else response


def _plain(message: Message, *, always: tuple[str, ...] = ()) -> dict[str, Any]:
    """A message as the JSON that REST has for it: what has no value is left out, except for `always`."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        is_set = (
            bool(value)
            if field.type != field.TYPE_MESSAGE or _is_many(value)
            else message.HasField(field.name)
        )
        if is_set or field.name in always:
            found[field.name] = _plain_value(field, value)
    return found


def _is_many(value: Any) -> bool:
    return hasattr(value, "__len__")


def _plain_value(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _plain_one(inner, one) for key, one in value.items()}
    if _is_many(value) and not isinstance(value, str | bytes):
        return [_plain_one(field, one) for one in value]
    return _plain_one(field, value)


def _plain_one(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value
