"""A plain address of a server of the Open Inference Protocol is recognised, and no other is taken for one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from socaity.exceptions import AuthenticationError, InvalidInputError, ProtocolError
from socaity.transport import Target
from socaity_transports.auto import DetectingTransport
from socaity_transports.http import HTTPTransport
from socaity_transports.openinference.transport import OpenInferenceTransport
from tests.transports.doubles import served

from .scripted import ECHO, Answer, ScriptedREST

pytestmark = pytest.mark.anyio
ROUTES = {"post": {"responses": {"200": {"description": "OK"}}}}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def openapi(*paths: str) -> dict[str, Any]:
    return {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": dict.fromkeys(paths, ROUTES)}


@asynccontextmanager
async def detected(url: str) -> AsyncIterator[tuple[DetectingTransport, list[str]]]:
    transport = DetectingTransport.open(Target(url))
    try:
        description = await transport.describe()
        yield transport, [one.name for one in description.endpoints]
    finally:
        await transport.aclose()


@pytest.mark.parametrize(
    "answer",
    [
        Answer({"detail": "Not Found"}, 404),
        Answer(b"", 400),  # Triton
        Answer(b"", 500),
        Answer(b"<html>", headers={"Content-Type": "text/html"}),
        openapi("/v2", "/v2/models/{model_name}/infer"),  # KServe and MLServer
        openapi("/v2/models/{model_name}/infer"),
    ],
    ids=["none", "triton", "broken", "page", "mlserver", "models"],
)
@pytest.mark.parametrize("path", ["", "/v2", "/v2/models/echo", "/docs"])
async def test_a_server_of_the_protocol_is_recognised(answer: Any, path: str) -> None:
    with served(ScriptedREST({"/openapi.json": answer})) as url:
        async with detected(url + path) as (transport, endpoints):
            assert isinstance(transport._inner, OpenInferenceTransport)
            assert endpoints == ["echo"]


async def test_a_name_with_a_slash_may_stand_in_the_address_as_it_is() -> None:
    with served(ScriptedREST({"/v2/models/a%2Fecho": ECHO})) as url:
        async with detected(f"{url}/v2/models/a/echo") as (transport, endpoints):
            assert isinstance(transport._inner, OpenInferenceTransport)
            assert endpoints == ["a/echo"]


async def test_it_may_be_below_a_path() -> None:
    app = ScriptedREST({f"/base{path}": answer for path, answer in ScriptedREST().routes.items()})
    with served(app) as url:
        async with detected(f"{url}/base") as (transport, endpoints):
            assert isinstance(transport._inner, OpenInferenceTransport)
            assert endpoints == ["echo"]


async def test_a_service_whose_document_has_other_routes_is_not_asked() -> None:
    app = ScriptedREST({"/openapi.json": openapi("/v2/pets", "/predict")})
    with served(app) as url:
        async with detected(url) as (transport, endpoints):
            assert isinstance(transport._inner, HTTPTransport)
            assert endpoints == ["v2_pets", "predict"]
    assert app.paths == ["/openapi.json"]


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "pets", "version": "2"},
        {"extensions": []},
        {"name": 1, "extensions": []},
        [],
        Answer(b"no json"),
        Answer({"error": "?"}, 401),
        Answer(b"<html>", headers={"Content-Type": "text/html"}),
    ],
    ids=repr,
)
async def test_version_2_of_anything_else_is_not_taken_for_it(answer: Any) -> None:
    app = ScriptedREST({"/v2": answer, "/v2/openapi.json": openapi("/pets"), "/openapi.json": openapi("/v2")})
    with served(app) as url:
        for address in (f"{url}/v2", url):
            async with detected(address) as (transport, _):
                assert isinstance(transport._inner, HTTPTransport)


async def test_where_there_is_nothing_the_first_refusal_is_told() -> None:
    app = ScriptedREST({"/v2": Answer(b"", 404)})
    with served(app) as url:
        app.routes["/openapi.json"] = Answer({"detail": "wrong key"}, 401)
        with pytest.raises(AuthenticationError, match="wrong key"):
            async with detected(url):
                pass
        assert "/v2" not in app.paths, "a key that is wrong is not offered again"
        app.routes["/openapi.json"] = Answer({"detail": "odd"}, 400)
        with pytest.raises(InvalidInputError, match="odd"):
            async with detected(url):
                pass
        app.routes["/openapi.json"] = Answer(b"", 404)
        with pytest.raises(ProtocolError, match="describes itself nowhere"):
            async with detected(url):
                pass


async def test_a_document_is_a_document() -> None:
    app = ScriptedREST({"/openapi.json": openapi("/v2", "/predict"), "/v2/models/echo": ECHO})
    with served(app) as url:
        async with detected(f"{url}/openapi.json") as (transport, _):
            assert isinstance(transport._inner, HTTPTransport)
    assert app.paths == ["/openapi.json"]
