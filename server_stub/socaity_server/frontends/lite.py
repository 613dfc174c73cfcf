"""Models over plain HTTP: `POST /predict/{model}` with `{"features": [[…]]}` or the inputs by name. No framework inside."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from socaity.exceptions import InvalidInputError, SocaityError
from socaity.protocol.messagepack import packb

from ..dataplane import DataPlane
from ..references import find_references
from ..route import Route
from ..values import to_json
from .bodies import decode_json, decode_msgpack, too_large, unsupported
from .responses import MSGPACK, problem_response

__all__ = ["ModelHandler", "models"]

_JSON_TYPE = (b"content-type", b"application/json")
_MSGPACK_TYPE = (b"content-type", MSGPACK.encode())
_MSGPACK_BYTES = MSGPACK.encode()
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


def models(dataplane: DataPlane) -> list[str]:
    """The names of the models."""
    return [route.name for route in dataplane.routes.values() if route.direct and route.outputs]


class ModelHandler:
    """Answers for one model as a bare ASGI application: one future per request and nothing else."""

    def __init__(self, dataplane: DataPlane, route: Route, max_body: int) -> None:
        self.dataplane = dataplane
        self.route = route
        self.max_body = max_body
        self.name = route.name
        assert route.tensors is not None
        names = list(route.tensors.inputs)
        self._feature = names[0] if len(names) == 1 else None
        self._rank = len(route.tensors.inputs[names[0]].item_shape or ()) if names else 0
        self._stacks = route.tensors.has_batch_axis

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        content_type = accept = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"accept":
                accept = value
            elif name == b"content-length" and len(value) > 6 and int(value) > self.max_body:
                await self._refuse(too_large(self.max_body), scope, receive, send)
                return
        try:
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body"):
                body = await self._read_on(body, receive)
            if len(body) > self.max_body:
                raise too_large(self.max_body)
            arguments = self._decode(content_type, body)
            if scope["query_string"]:
                self._refuse_query(scope["query_string"])
            as_features = "features" in arguments and len(arguments) == 1
            if as_features:
                arguments = self._from_features(arguments["features"])
            if (
                not as_features
                and any(type(one) is dict for one in arguments.values())
                and find_references(arguments)
            ):
                result = await self.dataplane.invoke(
                    self.route, arguments, owner=scope.get("socaity.owner", "")
                )
            else:
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                ticket = self.dataplane.call(self.route, arguments, _setter(future))
                try:
                    result = await future
                except asyncio.CancelledError:
                    ticket.cancel()
                    raise
            if as_features:
                result = {"model": self.name, "predictions": result}
        except ClientDisconnect:
            return  # nobody is left to answer
        except SocaityError as error:
            await self._refuse(error, scope, receive, send)
            return
        if accept and _MSGPACK_BYTES in accept:
            body, kind = packb(result), _MSGPACK_TYPE
        else:
            try:
                body = orjson.dumps(result, option=_NUMPY)
            except TypeError:
                body = to_json(result)
            kind = _JSON_TYPE
        headers = [kind, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _decode(self, content_type: bytes, body: bytes) -> dict[str, Any]:
        if content_type == b"application/json":
            try:
                arguments = orjson.loads(body)
            except orjson.JSONDecodeError:
                return decode_json(body)
            return arguments if type(arguments) is dict else decode_json(body)
        plain = content_type.partition(b";")[0].strip().lower()
        if plain == b"application/json":
            return decode_json(body)
        if plain == _MSGPACK_BYTES:
            return decode_msgpack(body)
        raise unsupported(content_type.decode("latin-1"))

    def _from_features(self, features: Any) -> dict[str, Any]:
        """`features` is always a stack of rows; a single row is taken as a stack of one."""
        if self._feature is None:
            assert self.route.tensors is not None
            names = ", ".join(self.route.tensors.inputs)
            raise InvalidInputError(
                f"{self.name} has several inputs: give them by name ({names}).", parameter="features"
            )
        if (
            self._stacks
            and isinstance(features, list)
            and not (self._rank == 1 and features and type(features[0]) is list)
        ):
            depth, inner = 0, features
            while isinstance(inner, list) and inner:
                depth, inner = depth + 1, inner[0]
            if depth == self._rank:
                features = [features]
        return {self._feature: features}

    def _refuse_query(self, query: bytes) -> None:
        text = query.decode("latin-1")
        names = {part.partition("=")[0] for part in text.split("&")}
        unknown = names - {"sync"}
        if unknown:
            raise InvalidInputError(
                f"{self.name} takes its inputs in the body, not in the query ({', '.join(sorted(unknown))})."
            )

    async def _read_on(self, first: bytes, receive: Receive) -> bytes:
        chunks, size = [first], len(first)
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            if size > self.max_body:
                raise too_large(self.max_body)
            if not message.get("more_body"):
                return b"".join(chunks)

    async def _refuse(self, error: SocaityError, scope: Scope, receive: Receive, send: Send) -> None:
        await problem_response(error)(scope, receive, send)


def _setter(future: asyncio.Future[Any]) -> Callable[[Any, BaseException | None], None]:
    def on_done(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    return on_done
