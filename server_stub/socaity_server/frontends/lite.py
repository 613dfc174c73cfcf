"""Models over plain HTTP: `POST /predict/{model}` with `{"features": [[…]]}` or the inputs by name. No framework inside."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np
import orjson
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from socaity.exceptions import InvalidInputError, SocaityError
from socaity.protocol.messagepack import packb

from ..dataplane import DataPlane
from ..direct import Cancellable, DirectRoute
from ..references import find_references
from ..route import Route
from ..tensors import Rows
from ..values import to_json
from ..waterfall import Waterfall
from .bodies import (
    MANY_BYTES,
    check_containers,
    decode_json,
    decode_msgpack,
    too_large,
    with_references,
)
from .departure import Departure, setter
from .referring import permit_references
from .responses import MSGPACK, problem_response

__all__ = ["AnswerForm", "ModelHandler", "Observer", "is_model"]

_MOST_URGENT = 10
_INTERESTING = frozenset(
    {
        b"accept",
        b"content-length",
        b"content-type",
        b"traceparent",
        b"tracestate",
        b"x-explain",
        b"x-priority",
        b"x-request-timeout-ms",
    }
)

_JSON_TYPE = (b"content-type", b"application/json")
_MSGPACK_TYPE = (b"content-type", MSGPACK.encode())
_MSGPACK_BYTES = MSGPACK.encode()
_NUMPY = orjson.OPT_SERIALIZE_NUMPY


class Observer(Protocol):
    """Who is told of every request: the latency log, tracing."""

    def succeeded(
        self, handler: ModelHandler, waterfall: Waterfall, headers: Mapping[bytes, bytes]
    ) -> None: ...

    def failed(
        self, handler: ModelHandler, error: SocaityError, arrived: float, headers: Mapping[bytes, bytes]
    ) -> None:
        """`arrived`: when the request came, in seconds of `time.monotonic`."""


def is_model(route: Route) -> bool:
    """Called over `/predict/{model}`, and without a job."""
    return route.model is not None and route.direct


class AnswerForm(Enum):
    """What a result is sent as: alone; for `features` as predictions; of these the first, which is the only one."""

    PLAIN = auto()
    PREDICTIONS = auto()
    FIRST_ROW = auto()


class ModelHandler:
    """Answers for one model as a bare ASGI application: one future per request and nothing else.

    With `single` (`/predict_batched`) one row of features is answered with one row, else (`/predict`) with a stack of one.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        route: Route,
        max_body: int,
        *,
        single: bool = False,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.dataplane = dataplane
        self.route = route
        self.max_body = max_body
        self.name = route.name
        self.endpoint = "predict_batched" if single else "predict"
        self._observers = observers
        self._single = single
        assert route.tensors is not None
        names = list(route.tensors.inputs)
        self._feature = names[0] if len(names) == 1 else None
        shape = route.tensors.inputs[names[0]].item_shape if names else ()
        self._rank = None if shape is None else len(shape)
        self._stacks = route.tensors.has_batch_axis

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value for name, value in scope["headers"] if name in _INTERESTING}
        query = scope["query_string"]
        arrived = time.monotonic()
        try:
            if int(headers.get(b"content-length", b"0")) > self.max_body:
                raise too_large(self.max_body)
            message = await receive()
            body = message.get("body", b"")
            if message.get("more_body"):
                body = await self._read_on(body, receive)
            if len(body) > self.max_body:
                raise too_large(self.max_body)
            kind = headers.get(b"content-type", b"")
            if len(body) > MANY_BYTES:
                arguments = await asyncio.to_thread(self._decode_large, kind, body)
            else:
                arguments = self._decode(kind, body)
            explain = self._read_query(query) if query else False
            as_features = "features" in arguments and len(arguments) == 1
            squeeze = False
            if as_features:
                arguments, squeeze = self._from_features(arguments["features"])
            ticket: Any = None
            if (
                not as_features
                and any(type(one) is dict for one in arguments.values())
                and find_references(arguments)
            ):
                guard = self.dataplane.guard
                if guard is not None:
                    await permit_references(guard, scope, arguments)
                result = await self.dataplane.invoke(
                    self.route, arguments, owner=scope.get("socaity.owner", "")
                )
            else:
                direct = self.dataplane.direct(self.route)
                deadline, max_wait = self._time_limits(headers.get(b"x-request-timeout-ms"), direct)
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                ticket = direct.call(
                    arguments,
                    setter(future),
                    deadline=deadline,
                    max_wait=max_wait,
                    priority=_priority(headers[b"x-priority"]) if b"x-priority" in headers else 0,
                )
                departure = Departure(receive, future)
                try:
                    result = await future
                except (asyncio.CancelledError, ClientDisconnect):
                    ticket.cancel()
                    raise
                finally:
                    departure.forget()
            if as_features:
                if squeeze:
                    result = _first_row(result)
                result = {"model": self.name, "predictions": result}
        except ClientDisconnect:
            return  # nobody is left to answer
        except SocaityError as error:
            for observer in self._observers:
                observer.failed(self, error, arrived, headers)
            await problem_response(error)(scope, receive, send)
            return
        waterfall: Waterfall | None = None
        if ticket is not None and (explain or self._observers or b"x-explain" in headers):
            waterfall = Waterfall.of(ticket)
        body, kind = self._encode(result, headers.get(b"accept", b""))
        extra: tuple[tuple[bytes, bytes], ...] = ()
        if waterfall is not None:
            waterfall.encoded(time.monotonic())
            if explain:
                body, kind = self._encode(
                    {"result": result, "explain": waterfall.document(self.name)}, headers.get(b"accept", b"")
                )
            if explain or b"x-explain" in headers:
                extra = ((b"server-timing", waterfall.server_timing()),)
            for observer in self._observers:
                observer.succeeded(self, waterfall, headers)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [kind, (b"content-length", b"%d" % len(body)), *extra],
            }
        )
        await send({"type": "http.response.body", "body": body})

    # The short way

    def call_plain(
        self,
        body: bytes | bytearray,
        timeout: bytes | None,
        on_done: Callable[[Any, BaseException | None], None],
    ) -> tuple[Cancellable, AnswerForm] | None:
        """A call whose request is nothing but JSON, and perhaps a time limit (X-Request-Timeout-Ms), and the form that
        `encode_plain` is to give its result. None: it needs the long way. Raises as `DirectRoute.call`."""
        dataplane = self.dataplane
        if self._observers or not dataplane.is_ready or len(body) > MANY_BYTES:
            return None
        arguments = self._decode(b"application/json", body)
        form = AnswerForm.PLAIN
        if "features" in arguments and len(arguments) == 1:
            arguments, squeeze = self._from_features(arguments["features"])
            form = AnswerForm.FIRST_ROW if squeeze else AnswerForm.PREDICTIONS
        elif any([type(one) is dict for one in arguments.values()]):
            return None  # there may be references to jobs in it
        direct = dataplane.direct_routes().get(self.name)
        if direct is None:
            return None  # withdrawn while the request was on the way
        deadline, max_wait = self._time_limits(timeout, direct)
        return direct.call(arguments, on_done, deadline=deadline, max_wait=max_wait), form

    def encode_plain(self, result: Any, form: AnswerForm) -> bytes:
        """The result of `call_plain` as JSON."""
        if form is not AnswerForm.PLAIN:
            predictions = _first_row(result) if form is AnswerForm.FIRST_ROW else result
            result = {"model": self.name, "predictions": predictions}
        try:
            return orjson.dumps(result, option=_NUMPY)
        except TypeError:
            return to_json(result)

    def _time_limits(self, asked: bytes | None, direct: DirectRoute) -> tuple[float, float]:
        """The deadline, and how long the call may wait: whoever asks for a time gets it, others are not kept for long."""
        if asked is None:
            limit = direct.timeout
            return (math.inf if limit == math.inf else time.monotonic() + limit), direct.patience
        try:
            milliseconds = float(asked)
        except ValueError:
            milliseconds = -1.0
        if not 0 < milliseconds < math.inf:
            raise InvalidInputError(
                f"X-Request-Timeout-Ms is a number of milliseconds above 0, not {asked.decode('latin-1')[:40]!r}.",
                status=400,
                code="malformed_header",
            )
        return time.monotonic() + min(milliseconds / 1000, direct.timeout), math.inf

    def _encode(self, result: Any, accept: bytes) -> tuple[bytes, tuple[bytes, bytes]]:
        if accept and _MSGPACK_BYTES in accept:
            return packb(result), _MSGPACK_TYPE
        try:
            return orjson.dumps(result, option=_NUMPY), _JSON_TYPE
        except TypeError:
            return to_json(result), _JSON_TYPE

    def _decode_large(self, content_type: bytes, body: bytes) -> dict[str, Any]:
        """On a thread."""
        is_json = b"json" in content_type
        if is_json:
            check_containers(body)
        arguments = self._decode(content_type, body)
        return with_references(arguments, body) if is_json else arguments

    def _decode(self, content_type: bytes, body: bytes | bytearray) -> dict[str, Any]:
        if content_type == b"application/json":
            try:
                arguments = orjson.loads(body)
            except orjson.JSONDecodeError:
                return decode_json(bytes(body))
            return arguments if type(arguments) is dict else decode_json(bytes(body))
        plain = content_type.partition(b";")[0].strip().lower()
        if plain == b"application/json":
            return decode_json(bytes(body))
        if plain == _MSGPACK_BYTES:
            return decode_msgpack(bytes(body))
        raise InvalidInputError(
            "A model takes JSON (-H 'Content-Type: application/json') or application/vnd.socaity+msgpack; "
            f"got {content_type.decode('latin-1')[:80] or 'no content type'}.",
            status=415,
            code="unsupported_media_type",
        )

    def _from_features(self, features: Any) -> tuple[dict[str, Any], bool]:
        """The arguments that `features` stands for, and whether the answer is to lose its batch axis.

        `features` is a stack of rows; a single row is taken as a stack of one.
        """
        if self._feature is None:
            assert self.route.tensors is not None
            names = ", ".join(self.route.tensors.inputs)
            raise InvalidInputError(
                f"{self.name} has several inputs: give them by name ({names}).", parameter="features"
            )
        if not self._stacks:
            return {self._feature: features}, False
        rank = self._rank
        if rank == 1 and type(features) is list and features and type(features[0]) is list:
            return {self._feature: features}, False
        depth = _depth(features)
        if rank is None:  # the model takes what it gets: rows are whatever is below the outermost list
            is_row = depth < 2
            return {self._feature: Rows([features] if is_row else features)}, is_row and self._single
        if depth == rank:
            return {self._feature: [features]}, self._single
        return {self._feature: features}, False

    def _read_query(self, query: bytes) -> bool:
        """Whether `?explain=1` asks for the waterfall."""
        values = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
        unknown = values.keys() - {"sync", "explain"}
        if unknown:
            raise InvalidInputError(
                f"{self.name} takes its inputs in the body, not in the query ({', '.join(sorted(unknown))})."
            )
        return values.get("explain", "").lower() in ("1", "true")

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


def _depth(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.ndim
    depth = 0
    while isinstance(value, list) and value:
        depth, value = depth + 1, value[0]
    return depth


def _first_row(result: Any) -> Any:
    if isinstance(result, dict):
        return {name: rows[0] for name, rows in result.items()}
    return result[0]


def _priority(text: bytes) -> int:
    try:
        priority = int(text)
    except ValueError:
        priority = _MOST_URGENT + 1
    if abs(priority) > _MOST_URGENT:
        raise InvalidInputError(
            f"X-Priority is a whole number from {-_MOST_URGENT} to {_MOST_URGENT}, not {text.decode('latin-1')[:40]!r}.",
            status=400,
            code="malformed_header",
        )
    return priority
