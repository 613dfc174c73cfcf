"""Find out what is behind an HTTP address: our server, or any service with an OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from pydantic import ValidationError

from socaity.exceptions import NotFoundError, ProtocolError
from socaity.protocol.description import ServiceDescription

from ._httpx import HTTPClient, HTTPRequest, HTTPResponse
from ._openapi import Operation, read_openapi

__all__ = ["Discovery", "OpenAPIDocument", "fetch_openapi", "read_discovery"]

MARK = "x-socaity"
"""The key in `info` by which our server is known."""

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


@dataclass(frozen=True, slots=True)
class Discovery:
    """A described service; `operations` is empty for ours."""

    is_ours: bool
    base: str
    description: ServiceDescription
    operations: Mapping[str, Operation] = field(default_factory=dict)


async def fetch_openapi(client: HTTPClient, timeout: float) -> OpenAPIDocument:
    """The OpenAPI document of the service. Raises ProtocolError if there is none."""
    tried: list[str] = []
    for url in _candidates(client.base):
        request = HTTPRequest(url=url, headers={"Accept": "application/json"}, read_timeout=timeout)
        async with client.stream(request) as response:
            tried.append(urlsplit(url).path)
            if response.status == 404:
                continue
            if not response.is_success:
                raise await response.error()
            document = await _json_object(response)
        if document is None:
            continue
        return OpenAPIDocument(_base(client, document), document)
    raise ProtocolError(
        f"{client.place} describes itself nowhere (tried {', '.join(tried)}). Give the address of the service, or of "
        "its OpenAPI document (a JSON file); for a service without one, name the transport with transport=…"
    )


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
    root = _without_page(base)
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
    root = _without_page(client.base)
    if urlsplit(root).path.endswith(".json"):
        root = urljoin(root, "/").rstrip("/")
    servers = document.get("servers")
    first = servers[0] if isinstance(servers, list) and servers else None
    url = first.get("url") if isinstance(first, Mapping) else None
    if not isinstance(url, str) or "{" in url:
        return root
    joined = urljoin(f"{root}/", url).rstrip("/")
    return joined if client.is_same_origin(joined) else root


def _without_page(base: str) -> str:
    for page in _PAGES:
        if base.endswith(page):
            return base.removesuffix(page)
    return base
