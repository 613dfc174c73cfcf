"""`DecisionClient`: HTTP to what decides. One pool, no redirects, no proxies of the environment, no log of addresses with
passwords, and no more of an answer than is wanted."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping

import httpx

__all__ = ["DecisionClient"]

_CONNECTIONS = 32


class DecisionClient:
    """Asks one URL, in which a user and a password may stand. Whoever asks sets the deadline."""

    def __init__(self, url: str) -> None:
        address = httpx.URL(url)
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if address.userinfo:
            word = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {word}"
        self._url = address.copy_with(username=None, password=None)
        # Loading the certificates takes longer than a question, so only where they are used; the other context trusts nobody.
        is_secure = address.scheme == "https"
        context = ssl.create_default_context() if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # the layer below `httpx.Client`, which logs whole URLs
        self._pool = httpx.AsyncHTTPTransport(
            verify=context,
            trust_env=False,
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
        )

    async def fetch(
        self,
        method: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[int, bytes]:
        """Status and body; raises ValueError for a body of more than `limit` bytes or a packed one, and what httpx raises."""
        request = httpx.Request(
            method, self._url, headers={**self._headers, **(headers or {})}, content=content
        )
        response = await self._pool.handle_async_request(request)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise ValueError("it is packed, which was not asked for")
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > limit:
                    raise ValueError(f"it has more than {limit} bytes")
            return response.status_code, body
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()
