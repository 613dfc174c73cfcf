"""`RESTWire`: the protocol over HTTP, with binary tensors where the server takes them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from socaity.exceptions import (
    APIError,
    AuthenticationError,
    InvalidInputError,
    ProtocolError,
    SocaityError,
)
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse
from socaity.protocol.openinference.rest import (
    HEADER_LENGTH,
    read_header_length,
    read_response,
    write_request,
)
from socaity.transport import Target

from .._httpx import HTTPClient, HTTPRequest, HTTPResponse, error_from_response
from .address import Address, Compression
from .models import Model
from .rest_streams import generate_body, read_event, read_events, read_generated
from .wire import CALL_TIMEOUT, MAX_ANSWER, Wire

__all__ = ["RESTWire"]

BINARY = "binary_tensor_data"
MANY_BYTES = 2**18
"""Of JSON or compressed data: making or reading so many takes milliseconds, in which the loop has other calls."""
_NO_REASON = "no_reason"
_NO_SUCH_ROUTE = frozenset({404, 405, 501})


class RESTWire(Wire):
    """One server over HTTP. Bodies are JSON until the server is known to take binary tensors."""

    def __init__(self, target: Target, address: Address) -> None:
        self._client = HTTPClient(replace(target, url=address.url))
        self.place = self._client.place
        self._timeout = target.timeout
        self._binary = address.binary
        self._compression: Compression | None = address.compression
        self._has_infer_stream: bool | None = None

    @property
    def is_binary(self) -> bool:
        """Whether tensors travel as raw bytes."""
        return bool(self._binary)

    # -- the server -----------------------------------------------------------------------------------------------

    async def server(self) -> Mapping[str, Any]:
        document = await self._object("GET", "/v2")
        if not isinstance(document.get("name"), str):
            raise ProtocolError(
                f"{self.place}/v2 does not say what server it is; is there a server of this protocol?"
            )
        if self._binary is None:
            extensions = document.get("extensions")
            self._binary = isinstance(extensions, list) and BINARY in extensions
        return document

    async def is_live(self) -> bool:
        return await self._is_well("/v2/health/live")

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        return await self._is_well(f"{_path(model, version)}/ready" if model else "/v2/health/ready")

    async def models(self) -> list[str]:
        try:
            entries: Any = await self.index(ready=True)
        except APIError as exc:
            if isinstance(exc, AuthenticationError) or not _is_missing(exc):
                raise
            document = await self._object("GET", "/v2/models")  # the KServe server has this instead
            entries = [{"name": one} for one in document.get("models") or ()]
        names = [
            one["name"]
            for one in entries
            if isinstance(one.get("name"), str) and one.get("state", "READY") == "READY"
        ]
        return list(dict.fromkeys(names))

    async def index(self, *, ready: bool = False) -> list[Mapping[str, Any]]:
        document = await self._document("POST", "/v2/repository/index", {"ready": ready})
        if not isinstance(document, list):
            raise ProtocolError(
                f"{self.place}/v2/repository/index answered with something that is not a list"
            )
        return [one for one in document if isinstance(one, Mapping)]

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        body = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in parameters.items()
        }
        await self._document(
            "POST",
            f"/v2/repository/models/{quote(model, safe='')}/load",
            {"parameters": body} if body else {},
            timeout=CALL_TIMEOUT,
        )

    async def unload(self, model: str, *, unload_dependents: bool = False) -> None:
        body = {"parameters": {"unload_dependents": True}} if unload_dependents else {}
        await self._document(
            "POST", f"/v2/repository/models/{quote(model, safe='')}/unload", body, timeout=CALL_TIMEOUT
        )

    # -- models ---------------------------------------------------------------------------------------------------

    async def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        return await self._object("GET", _path(model, version))

    async def config(self, model: str, version: str = "") -> Mapping[str, Any]:
        return await self._object("GET", f"{_path(model, version)}/config")

    async def statistics(self, model: str = "", version: str = "") -> Mapping[str, Any]:
        return await self._object("GET", f"{_path(model, version) if model else '/v2/models'}/stats")

    async def infer(self, request: InferRequest, *, timeout: float) -> InferResponse:
        http = await self._infer_request(request, "infer", timeout)
        async with self._client.stream(http) as response:
            if not response.is_success:
                raise await self._error(response)
            body = await _whole(response)
            length = response.headers.get(HEADER_LENGTH)
        try:
            size = read_header_length(length)
            if (len(body) if size is None else size) > MANY_BYTES:
                return await asyncio.to_thread(read_response, body, size)
            return read_response(body, size)
        except TensorError as exc:
            raise ProtocolError(f"{http.url} answered with something that is no answer: {exc}") from exc

    async def stream(
        self, request: InferRequest, model: Model, *, timeout: float
    ) -> AsyncGenerator[InferResponse, None]:
        """Through `infer_stream` where the server has it, and else through `generate_stream`."""
        if self._has_infer_stream is not False:
            http = await self._infer_request(request, "infer_stream", timeout)
            async with self._client.stream(http) as response:
                if response.is_success:
                    self._has_infer_stream = True
                    async with aclosing(read_events(response)) as events:
                        async for data in events:
                            yield read_event(http.url, data)
                    return
                error = await self._error(response)
                if self._has_infer_stream or not _is_missing(error):
                    raise error
        http = self._json_request(
            "POST",
            f"{_path(request.model_name, request.model_version)}/generate_stream",
            generate_body(request),
        )
        http = replace(http, headers={**http.headers, "Accept": "text/event-stream"}, read_timeout=timeout)
        async with self._client.stream(http) as response:
            if not response.is_success:
                raise await self._error(response)
            self._has_infer_stream = False
            async with aclosing(read_events(response)) as events:
                async for data in events:
                    yield read_generated(http.url, data, model)

    async def aclose(self) -> None:
        await self._client.aclose()

    # -- requests -------------------------------------------------------------------------------------------------

    async def _infer_request(self, request: InferRequest, method: str, timeout: float) -> HTTPRequest:
        is_stream = method == "infer_stream"
        if self.is_binary and not is_stream and "binary_data_output" not in request.parameters:
            request = replace(request, parameters={**request.parameters, "binary_data_output": True})
        is_raw = self.is_binary and not is_stream
        for one in request.inputs:
            one.is_binary = is_raw
        count = 0 if is_raw else sum(one.data.size for one in request.inputs if one.data is not None)
        try:
            if 8 * count > MANY_BYTES:
                pieces, length = await asyncio.to_thread(write_request, request)
            else:
                pieces, length = write_request(request)
        except (TensorError, TypeError, ValueError) as exc:
            raise InvalidInputError(f"{request.model_name}: {exc}") from exc
        headers = {"Accept-Encoding": "identity"}
        if is_stream:
            headers["Accept"] = "text/event-stream"
        if length is None:
            headers["Content-Type"] = "application/json"
        else:
            headers |= {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
        body = b"".join(pieces)
        if self._compression is not None:
            if not is_stream:
                headers["Accept-Encoding"] = self._compression
            headers["Content-Encoding"] = self._compression
            body = (
                await asyncio.to_thread(_compressed, body, self._compression)
                if len(body) > MANY_BYTES
                else _compressed(body, self._compression)
            )
        url = f"{self._client.base}{_path(request.model_name, request.model_version)}/{method}"
        return HTTPRequest(method="POST", url=url, headers=headers, content=body, read_timeout=timeout)

    def _json_request(
        self, method: str, path: str, body: Any = None, timeout: float | None = None
    ) -> HTTPRequest:
        headers = {"Accept": "application/json"}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body, allow_nan=False).encode()
        return HTTPRequest(
            method=method,
            url=self._client.base + path,
            headers=headers,
            content=content,
            read_timeout=timeout or max(self._timeout, 10.0),
        )

    async def _document(
        self, method: str, path: str, body: Any = None, *, timeout: float | None = None
    ) -> Any:
        request = self._json_request(method, path, body, timeout)
        async with self._client.stream(request) as response:
            if not response.is_success:
                raise await self._error(response)
            whole = await _whole(response)
        if not whole.strip():
            return None
        try:
            return json.loads(whole)
        except (ValueError, RecursionError) as exc:
            raise ProtocolError(f"{self.place}{path} answered with something that is not JSON") from exc

    async def _object(self, method: str, path: str) -> Mapping[str, Any]:
        document = await self._document(method, path)
        if not isinstance(document, Mapping):
            raise ProtocolError(f"{self.place}{path} answered with something that is not a JSON object")
        return document

    async def _is_well(self, path: str) -> bool:
        """Answers of servers differ in their bodies; the status is what they agree on."""
        async with self._client.stream(self._json_request("GET", path)) as response:
            if response.is_success:
                return True
            if response.status in (400, 503):
                return False
            raise await self._error(response)

    async def _error(self, response: HTTPResponse) -> SocaityError:
        body = await response.read()
        error = error_from_response(response.status, response.headers, body, place=self.place)
        if body.strip() or not isinstance(error, APIError):
            return error
        error.args = (
            f"{self.place} answered {response.status} without a reason; {_advice(response.status)}",
        )
        error.code = _NO_REASON
        return error


def _advice(status: int) -> str:
    if status in (401, 403):
        return "is the right api_key given to connect()?"
    if status in (400, 404):
        return "it may not know the route, or the model is not loaded: look at the index of its models, and at its log"
    if status == 503:
        return "it is not ready, or a queue is full"
    return "look at its log"


def _is_missing(error: SocaityError) -> bool:
    """Whether the server does not have the route: Triton answers 400 with nothing then."""
    if not isinstance(error, APIError):
        return False
    return error.status in _NO_SUCH_ROUTE or (error.status == 400 and error.code == _NO_REASON)


def _path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _compressed(body: bytes, how: Compression) -> bytes:
    return gzip.compress(body, 1) if how == "gzip" else zlib.compress(body, 1)


async def _whole(response: HTTPResponse) -> bytearray:
    """The body, as memory that may be written to: arrays are views of it. Raises ProtocolError above the limit."""
    body = bytearray()
    async for piece in response.pieces():
        body += piece
        if len(body) > MAX_ANSWER:
            raise ProtocolError(
                f"the answer has more than {MAX_ANSWER} bytes, which is the most that is read"
            )
    return body
