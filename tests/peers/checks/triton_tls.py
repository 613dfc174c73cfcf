"""tritonclient and the KServe protocol over TLS; the server's certificate is in the file PEER_CERTIFICATE."""

from __future__ import annotations

import asyncio
import os
import ssl
from http.client import HTTPException
from pathlib import Path

import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same, raised
from triton_list import inputs, is_right
from tritonclient.utils import InferenceServerException

check = Checks()
CERTIFICATE = Path(os.environ.get("PEER_CERTIFICATE", "certificate.pem"))


@check("http over TLS")
def _(address: Address) -> None:
    how = {"ssl": True, "ssl_context_factory": lambda: ssl.create_default_context(cafile=str(CERTIFICATE))}
    with over_http.InferenceServerClient(address.http, **how) as client:
        is_same(client.is_server_ready(), True, "ready")
        is_right(client.infer("simple", inputs(over_http)))


@check("http.aio over TLS")
def _(address: Address) -> None:
    async def ask() -> None:
        context = ssl.create_default_context(cafile=str(CERTIFICATE))
        async with over_http_aio.InferenceServerClient(address.http, ssl=True, ssl_context=context) as client:
            is_right(await client.infer("simple", inputs(over_http_aio)))

    asyncio.run(ask())


@check("grpc over TLS")
def _(address: Address) -> None:
    how = {"ssl": True, "root_certificates": str(CERTIFICATE)}
    with over_grpc.InferenceServerClient(address.grpc, **how) as client:
        is_same(client.is_server_ready(client_timeout=DEADLINE), True, "ready")
        is_right(client.infer("simple", inputs(over_grpc), client_timeout=DEADLINE))


@check("grpc.aio over TLS")
def _(address: Address) -> None:
    async def ask() -> None:
        how = {"ssl": True, "root_certificates": str(CERTIFICATE)}
        async with over_grpc_aio.InferenceServerClient(address.grpc, **how) as client:
            is_right(await client.infer("simple", inputs(over_grpc_aio), client_timeout=DEADLINE))

    asyncio.run(ask())


@check("who does not trust the certificate gets nothing")
def _(address: Address) -> None:
    how = {"ssl": True, "ssl_context_factory": ssl.create_default_context}
    with over_http.InferenceServerClient(address.http, **how) as client:
        raised(ssl.SSLError, client.is_server_live)
    with over_grpc.InferenceServerClient(address.grpc, ssl=True) as client:
        error = raised(InferenceServerException, lambda: client.is_server_live(client_timeout=5))
        assert str(error.status()) in {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"}, error


@check("without TLS nothing is answered")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        raised(HTTPException, client.get_server_metadata)
    with over_grpc.InferenceServerClient(address.grpc) as client:
        raised(InferenceServerException, lambda: client.get_server_metadata(client_timeout=5))


if __name__ == "__main__":
    check.main()
