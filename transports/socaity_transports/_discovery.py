"""Find out what is behind an HTTP address: our server, one of the Open Inference Protocol, or any with an OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from pydantic import ValidationError

from socaity.exceptions import APIError, AuthenticationError, NotFoundError, ProtocolError
from socaity.protocol.description import ServiceDescription

from ._httpx import HTTPClient, HTTPRequest, HTTPResponse
from ._openapi import Operation, read_openapi

__all__ = ["Discovery", "OpenAPIDocument", "fetch_openapi", "find_service", "read_discovery", "without_page"]

MARK = "x-socaity"
"""The key in `info` by which our server is known."""

_V2 = re.compile(r"(.*?)/v2(?:/models/[^/].*)?")
"""An address of the Open Inference Protocol, or of version 2 of anything."""
_PAGES = ("/docs", "/redoc", "/swagger")
_OTHER_PLACES = (
    "/v3/api-docs",
    "/swagger.json",
    "/api/openapi.json",
    "/.well-known/openapi.json",
    "/swagger/v1/swagger.json",
    "/v1/openapi.json",
)


@dataclass(frozen=True, slots=True)
class OpenAPIDocument:
    """What was found. `base` is the address that the paths are relative to."""

    base: str
    document: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        info = self.document.get("info")
        return isinstance(info, Mapping) and bool(info.get(MARK))

    @property
    def may_be_open_inference(self) -> bool:
        """Whether it has the routes of that protocol."""
        paths = self.document.get("paths")
        return isinstance(paths, Mapping) and any(
            path.rstrip("/") == "/v2" or (path.startswith("/v2/models/") and path.endswith("/infer"))
            for path in map(str, paths)
        )


@dataclass(frozen=True, slots=True)
class Discovery:
    """A described service; `operations` is empty for ours."""

    is_ours: bool
    base: str
    description: ServiceDescription
    operations: Mapping[str, Operation] = field(default_factory=dict)


async def find_service(client: HTTPClient, timeout: float) -> OpenAPIDocument | None:
    """Our server comes before the Open Inference Protocol (None), and that before any OpenAPI document.

    Raises ProtocolError if there is nothing of all this.
    """
    root = without_page(client.base)
    is_document = urlsplit(root).path.endswith(".json")
    names_v2 = _V2.fullmatch(root)
    if names_v2 is not None and await _speaks_open_inference(client, f"{names_v2[1]}/v2", timeout):
        return None
    found: OpenAPIDocument | None = None
    refusal: APIError | ProtocolError | None = None
    try:
        found = await _fetch(client, next(_candidates(client.base)), timeout)
    except AuthenticationError:
        raise
    except (APIError, ProtocolError) as exc:  # Triton answers 400 to what it does not know
        refusal = exc
    if found is not None and (found.is_ours or is_document or not found.may_be_open_inference):
        return found
    if names_v2 is None and not is_document and await _speaks_open_inference(client, f"{root}/v2", timeout):
        return None
    if refusal is not None:
        raise refusal
    return found or await fetch_openapi(client, timeout)


async def _speaks_open_inference(client: HTTPClient, url: str, timeout: float) -> bool:
    """What every server of the protocol says of itself, and others hardly do."""
    request = HTTPRequest(url=url, headers={"Accept": "application/json"}, read_timeout=timeout)
    async with client.stream(request) as response:
        if not response.is_success or response.content_type.startswith("text/html"):
            return False
        try:
            document = await response.document()
        except ProtocolError:
            return False
    return (
        isinstance(document, Mapping)
        and isinstance(document.get("name"), str)
        and isinstance(document.get("extensions"), list)
    )


async def fetch_openapi(client: HTTPClient, timeout: float) -> OpenAPIDocument:
    """The OpenAPI document of the service. Raises ProtocolError if there is none."""
    tried: list[str] = []
    for url in _candidates(client.base):
        tried.append(urlsplit(url).path)
        found = await _fetch(client, url, timeout)
        if found is not None:
            return found
    raise ProtocolError(
        f"{client.place} describes itself nowhere (tried {', '.join(tried)}). Give the address of the service, or of "
        "its OpenAPI document (a JSON file); for a service without one, name the transport with transport=…"
    )


async def _fetch(client: HTTPClient, url: str, timeout: float) -> OpenAPIDocument | None:
    request = HTTPRequest(url=url, headers={"Accept": "application/json"}, read_timeout=timeout)
    async with client.stream(request) as response:
        if response.status == 404:
            return None
        if not response.is_success:
            raise await response.error()
        document = await _json_object(response)
    return None if document is None else OpenAPIDocument(_base(client, document), document)


async def read_discovery(client: HTTPClient, found: OpenAPIDocument, timeout: float) -> Discovery:
    """The description of what was found; for our server this is a second request."""
    if not found.is_ours:
        description, operations = read_openapi(found.document)
        return Discovery(False, found.base, description, operations)
    request = HTTPRequest(
        url=f"{found.base}/socaity", headers={"Accept": "application/json"}, read_timeout=timeout
    )
    async with client.stream(request) as response:
        if not response.is_success:
            error = await response.error()
            if isinstance(error, NotFoundError):
                raise ProtocolError(
                    f"{client.place} says that it is a socaity server but has no /socaity"
                ) from error
            raise error
        try:
            return Discovery(True, found.base, ServiceDescription.model_validate(await response.document()))
        except ValidationError as exc:
            raise ProtocolError(
                f"{client.place} describes itself in a form that is not known: {exc}"
            ) from exc


def _candidates(base: str) -> Iterator[str]:
    if urlsplit(base).path.endswith(".json"):
        yield base
        return
    root = without_page(base)
    yield f"{root}/openapi.json"
    for place in _OTHER_PLACES:
        yield root + place


async def _json_object(response: HTTPResponse) -> Mapping[str, Any] | None:
    """None for a page that answers every path, as single-page applications do."""
    if response.content_type.startswith("text/html"):
        return None
    document = await response.document()
    return (
        document
        if isinstance(document, Mapping) and ("openapi" in document or "swagger" in document)
        else None
    )


def _base(client: HTTPClient, document: Mapping[str, Any]) -> str:
    """What the document says of its server, if that is the host we talk to; the key goes nowhere else."""
    root = without_page(client.base)
    if urlsplit(root).path.endswith(".json"):
        root = urljoin(root, "/").rstrip("/")
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if not isinstance(url, str) or "{" in url:
        return root
    joined = urljoin(f"{root}/", url).rstrip("/")
    return joined if client.is_same_origin(joined) else root


def without_page(base: str) -> str:
    """The address of a service, where somebody gave that of its documentation."""
    for page in _PAGES:
        if base.endswith(page):
            return base.removesuffix(page)
    return base
