"""tritonclient with tokens, over all four clients: who has none or a wrong one is refused, with the right status."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
from collections.abc import Callable
from typing import Any

import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same, raised_later
from tokens import token, wrong_tokens
from triton_list import inputs, is_right, outputs, refused
from tritonclient.utils import InferenceServerException

check = Checks()
HTTP, GRPC = "401", "StatusCode.UNAUTHENTICATED"


def headers() -> dict[str, str]:
    return {"authorization": f"Bearer {token()}"}


def http_calls(client: Any, given: dict[str, str] | None) -> dict[str, Callable[[], Any]]:
    """Everything that needs a token."""
    return {
        "infer": lambda: client.infer("simple", inputs(over_http), headers=given),
        "metadata": lambda: client.get_model_metadata("simple", headers=given),
        "server metadata": lambda: client.get_server_metadata(headers=given),
        "config": lambda: client.get_model_config("simple", headers=given),
        "statistics": lambda: client.get_inference_statistics("simple", headers=given),
        "index": lambda: client.get_model_repository_index(headers=given),
        "load": lambda: client.load_model("comes_and_goes", headers=given),
        "unload": lambda: client.unload_model("comes_and_goes", headers=given),
        "unknown model": lambda: client.get_model_metadata("no_such_model", headers=given),
    }


def grpc_calls(client: Any, given: dict[str, str] | None) -> dict[str, Callable[[], Any]]:
    how: dict[str, Any] = {"headers": given, "client_timeout": DEADLINE}
    return {
        "infer": lambda: client.infer("simple", inputs(over_grpc), **how),
        "metadata": lambda: client.get_model_metadata("simple", **how),
        "server metadata": lambda: client.get_server_metadata(**how),
        "config": lambda: client.get_model_config("simple", **how),
        "statistics": lambda: client.get_inference_statistics("simple", **how),
        "index": lambda: client.get_model_repository_index(**how),
        "load": lambda: client.load_model("comes_and_goes", **how),
        "unload": lambda: client.unload_model("comes_and_goes", **how),
        "unknown model": lambda: client.get_model_metadata("no_such_model", **how),
    }


@check("http health needs no token")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_same((client.is_server_live(), client.is_server_ready()), (True, True), "live and ready")


@check("grpc health needs no token")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_same(client.is_server_live(client_timeout=DEADLINE), True, "live")
        is_same(client.is_server_ready(client_timeout=DEADLINE), True, "ready")


for what in http_calls(None, None):

    @check(f"http {what} without a token")
    def _(address: Address, what: str = what) -> None:
        with over_http.InferenceServerClient(address.http) as client:
            refused(http_calls(client, None)[what], HTTP)

    @check(f"grpc {what} without a token")
    def _(address: Address, what: str = what) -> None:
        with over_grpc.InferenceServerClient(address.grpc) as client:
            refused(grpc_calls(client, None)[what], GRPC)


for wrong in wrong_tokens():

    @check(f"token {wrong}")
    def _(address: Address, wrong: str = wrong) -> None:
        given = {"authorization": wrong_tokens()[wrong]}
        secret = given["authorization"].partition(" ")[2]
        with over_http.InferenceServerClient(address.http) as client:
            # the client adds headers of its own to those it is given
            errors = [refused(http_calls(client, dict(given))["infer"], HTTP)]
        with over_grpc.InferenceServerClient(address.grpc) as client:
            errors.append(refused(grpc_calls(client, given)["infer"], GRPC))
        for error in errors:
            assert len(secret) < 10 or secret not in str(error), "the error has the token in it"


@check("http with a token")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_right(client.infer("simple", inputs(over_http), outputs=outputs(over_http), headers=headers()))
        is_right(client.infer("simple", inputs(over_http), headers={"Authorization": f"bearer {token()}"}))
        calls = http_calls(client, headers())
        for name in ("metadata", "server metadata", "config", "statistics", "index"):
            assert calls[name](), name
        refused(calls["unknown model"], "404")


@check("grpc with a token")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_right(client.infer("simple", inputs(over_grpc), headers=headers(), client_timeout=DEADLINE))
        calls = grpc_calls(client, headers())
        for name in ("metadata", "server metadata", "config", "statistics", "index"):
            assert calls[name](), name
        refused(calls["unknown model"], "StatusCode.NOT_FOUND")


@check("http.aio and grpc.aio with and without a token")
def _(address: Address) -> None:
    async def ask(library: Any, place: str, status: str) -> None:
        async with library.InferenceServerClient(place) as client:
            is_right(await client.infer("simple", inputs(library), headers=headers()))
            error = await raised_later(InferenceServerException, client.infer("simple", inputs(library)))
            assert status in str(error.status()), error

    asyncio.run(ask(over_http_aio, address.http, "401"))
    asyncio.run(ask(over_grpc_aio, address.grpc, "UNAUTHENTICATED"))


@check("grpc stream with and without a token")
def _(address: Address) -> None:
    for given in (headers(), None):
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        with over_grpc.InferenceServerClient(address.grpc) as client:
            client.start_stream(
                lambda result, error, put=answers.put: put((result, error)), stream_timeout=10, headers=given
            )
            client.async_stream_infer("simple", inputs(over_grpc))
            result, error = answers.get(timeout=10)
            client.stop_stream(cancel_requests=True)
        if given:
            assert error is None, error
            is_right(result)
        else:
            assert result is None, "it was answered without a token"


@check("http 401 says how to do better")
def _(address: Address) -> None:
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=10)
    connection.request("GET", "/v2/models/simple")
    response = connection.getresponse()
    is_same(response.status, 401, "the status")
    assert (response.getheader("WWW-Authenticate") or "").startswith("Bearer"), response.getheaders()
    is_same(response.getheader("Content-Type"), "application/json", "the content type")
    is_same(list(json.loads(response.read())), ["error"], "the keys of the error")
    connection.close()


if __name__ == "__main__":
    check.main()
