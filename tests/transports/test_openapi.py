"""Services that we did not write: their documents, their arguments, their answers."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Body, Cookie, FastAPI, File, Form, Header, HTTPException, Query, Request, UploadFile
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel

from socaity.exceptions import (
    AuthenticationError,
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
)
from socaity.transport import Target
from socaity_transports._openapi import read_openapi
from tests.calls import at_most
from tests.transports.doubles import RecordedCall, called, opened, served

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


# -- a FastAPI service ------------------------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    name: str
    weight: float = 1.0
    parts: list[Part] = []


class Base(BaseModel):
    title: str


class Machine(Base):
    parts: list[Part]
    colour: Colour = Colour.RED
    tags: dict[str, int] = {}


def make_app() -> FastAPI:
    app = FastAPI(title="workshop", version="3")

    @app.post("/machines/{shop}")
    def build(
        shop: str, machine: Machine, copies: int = 1, x_token: Annotated[str | None, Header()] = None
    ) -> Any:
        """Build a machine."""
        return {"shop": shop, "machine": machine, "copies": copies, "token": x_token}

    @app.post("/two")
    def two(first: Part, second: Annotated[int, Body()]) -> Any:
        return [first, second]

    @app.post("/names")
    def names(body: list[str]) -> list[str]:
        return body[::-1]

    @app.get("/search")
    def search(
        q: str,
        page: int = 1,
        exact: bool = False,
        tags: Annotated[list[str], Query()] = [],  # noqa: B006
        session: Annotated[str | None, Cookie()] = None,
    ) -> Any:
        return {"q": q, "page": page, "exact": exact, "tags": tags, "session": session}

    @app.get("/files/{where:path}")
    def find(where: str) -> str:
        return where

    @app.post("/login")
    def login(user: Annotated[str, Form()], age: Annotated[int, Form()] = 7) -> Any:
        return {"user": user, "age": age}

    @app.post("/upload")
    async def upload(
        image: UploadFile,
        others: list[UploadFile],
        small: Annotated[bytes, File()],
        note: Annotated[str, Form()] = "-",
    ) -> Any:
        sizes = [len(await other.read()) for other in others]
        return {
            "name": image.filename,
            "size": len(await image.read()),
            "others": sizes,
            "small": len(small),
            "note": note,
        }

    @app.get("/text", response_class=PlainTextResponse)
    def text() -> str:
        return "grüße"

    @app.get("/bytes")
    def raw() -> Response:
        return Response(b"\0\1\2", media_type="image/png")

    @app.get("/nothing", status_code=204)
    def nothing() -> None: ...

    async def several(*pieces: bytes) -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    @app.get("/events", responses={200: {"content": {"text/event-stream": {}}}})
    def events(end: str = "done") -> StreamingResponse:
        last = {"done": b"data: [DONE]\n\n", "error": b"event: error\ndata: broken\n\n", "open": b"data: 3"}[
            end
        ]
        body = several(b'data: {"n"', b": 1}\n\n: heartbeat\n\ndata: word\n\n", last)
        return StreamingResponse(body, media_type="text/event-stream")

    @app.get("/unframed", responses={200: {"content": {"text/event-stream": {}}}})
    def unframed() -> StreamingResponse:
        return StreamingResponse(several(b"Hello ", b"wor", b"ld"), media_type="text/event-stream")

    @app.get("/lines", responses={200: {"content": {"application/x-ndjson": {}}}})
    def lines() -> StreamingResponse:
        return StreamingResponse(
            several(b'{"a": 1}\n[2', b"]\n\n", b'"x"'), media_type="application/x-ndjson"
        )

    @app.post("/cut", responses={200: {"content": {"text/event-stream": {}}}})
    def cut() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            raise RuntimeError("the stream breaks")

        return StreamingResponse(body(), media_type="text/event-stream")

    @app.post("/fail/{status}")
    def fail(status: int) -> None:
        raise HTTPException(status, "no luck", {"Retry-After": "3", "X-Request-ID": "r1"})

    @app.post("/crash")
    def crash() -> None:
        raise RuntimeError("secret")

    @app.post("/slow")
    async def slow(request: Request) -> None:
        app.state.slow_started.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        app.state.slow_ended.set()

    return app


app = make_app()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(app) as url:
        yield url


async def result(address: str, name: str, /, **arguments: Any) -> Any:
    async with opened(address) as transport:
        return await (await called(transport, name, **arguments)).result()


async def test_the_description_is_that_of_the_functions(address: str) -> None:
    async with opened(address) as transport:
        description = await transport.describe()
    assert (description.title, description.version, description.protocol) == ("workshop", "3", None)
    endpoints = {endpoint.name: endpoint for endpoint in description.endpoints}
    assert {"build", "two", "names", "search", "find", "login", "upload", "events", "fail"} <= set(endpoints)
    build = endpoints["build"]
    assert (build.method, build.path, build.doc) == ("POST", "/machines/{shop}", "Build a machine.")
    assert not build.idempotent
    parameters = {p.name: p for p in build.parameters}
    assert {name: p.location for name, p in parameters.items()} == {
        "shop": "path",
        "copies": "query",
        "x_token": "header",
        "title": "body",
        "parts": "body",
        "colour": "body",
        "tags": "body",
    }
    required = [p.required for p in build.parameters]
    assert required == sorted(required, reverse=True)
    assert parameters["copies"].default == 1
    assert parameters["colour"].json_schema["enum"] == ["red", "blue"]
    assert "$ref" not in json.dumps(parameters["parts"].json_schema)
    assert endpoints["events"].streaming
    assert not endpoints["search"].streaming
    assert endpoints["search"].idempotent
    assert [p.name for p in endpoints["names"].parameters] == ["body"]
    assert {p.name: p.location for p in endpoints["upload"].parameters} == {
        "image": "file",
        "others": "file",
        "small": "file",
        "note": "form",
    }


async def test_nested_models_path_query_and_headers_arrive(address: str) -> None:
    parts = [{"name": "wheel", "parts": [{"name": "rim", "weight": 0.5}]}]
    got = await result(
        address, "build", shop="a b&ü?", title="car", parts=parts, tags={"x": 1}, copies=2, x_token="t"
    )
    assert (got["shop"], got["copies"], got["token"]) == ("a b&ü?", 2, "t")
    assert got["machine"]["parts"][0]["parts"][0] == {"name": "rim", "weight": 0.5, "parts": []}
    assert got["machine"]["tags"] == {"x": 1}


async def test_models_enums_and_arrays_are_written_as_json(address: str) -> None:
    np = pytest.importorskip("numpy")
    got = await result(address, "two", first=Part(name="p", weight=np.float64(2.5)), second=np.int64(4))
    assert got == [{"name": "p", "weight": 2.5, "parts": []}, 4]
    assert await result(address, "names", body=np.array(["a", "b"])) == ["b", "a"]
    machine = await result(address, "build", shop="s", title="t", parts=[], colour=Colour.BLUE)
    assert machine["machine"]["colour"] == "blue"


async def test_query_values_keep_their_types(address: str) -> None:
    got = await result(address, "search", q="a&b=c ü", page=3, exact=True, tags=["x", "y z"], session="s 1")
    assert got == {"q": "a&b=c ü", "page": 3, "exact": True, "tags": ["x", "y z"], "session": "s%201"}
    assert (await result(address, "search", q="1"))["tags"] == []


async def test_a_path_may_contain_slashes_but_not_climb(address: str) -> None:
    assert await result(address, "find", where="a/b c/ü.txt") == "a/b c/ü.txt"
    for wrong in ("..", ".", ""):
        with pytest.raises(InvalidInputError, match="part of a path"):
            await result(address, "find", where=wrong)


async def test_forms_and_files_arrive(address: str, tmp_path: Path) -> None:
    assert await result(address, "login", user="me & you", age=9) == {"user": "me & you", "age": 9}
    path = tmp_path / "cat.png"
    path.write_bytes(b"12345")
    opened_file = io.BytesIO(b"123")
    got = await result(
        address,
        "upload",
        image=path,
        others=[b"1", opened_file, ("n.bin", b"22"), "text"],
        small=b"1234567",
        note="hi",
    )
    assert got == {"name": "cat.png", "size": 5, "others": [1, 3, 2, 4], "small": 7, "note": "hi"}
    with pytest.raises(InvalidInputError, match="is a file") as caught:
        await result(address, "upload", image=5, others=[], small=b"")
    assert caught.value.parameter == "image"
    with pytest.raises(InvalidInputError, match=r"missing\.png"):
        await result(address, "upload", image=tmp_path / "missing.png", others=[], small=b"")


async def test_answers_become_the_fitting_values(address: str) -> None:
    assert await result(address, "text") == "grüße"
    assert await result(address, "raw") == b"\0\1\2"
    assert await result(address, "nothing") is None


async def test_a_foreign_call_runs_and_then_ends(address: str) -> None:
    async with opened(address) as transport:
        call = await called(transport, "text")
    assert call.kinds == ["status", "result"]
    assert call.events[0].data["status"] == "running"
    assert call.is_accepted


async def test_streams_come_as_chunks(address: str) -> None:
    async with opened(address) as transport:
        assert (await called(transport, "events")).chunks == [{"n": 1}, "word"]
        assert (await called(transport, "events", end="open")).chunks == [{"n": 1}, "word", 3]
        assert (await called(transport, "lines")).chunks == [{"a": 1}, [2], "x"]
        unframed = await called(transport, "unframed")
        assert "".join(unframed.chunks) == "Hello world"
        assert unframed.events[-1].kind == "result"
        failed = await called(transport, "events", end="error")
        assert failed.chunks == [{"n": 1}, "word"]
        assert isinstance(failed.error, JobFailed)


async def test_a_stream_that_is_cut_is_not_a_whole_one(address: str) -> None:
    async with opened(address) as transport:
        call = await called(transport, "cut")
    assert call.chunks == [1]
    assert isinstance(call.error, TransportError)
    assert call.error.ambiguous
    assert "not repeated" in str(call.error)
    assert "TLS" not in str(call.error)  # which it does not speak, as it has answered


async def test_wrong_input_names_the_parameter(address: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await result(address, "build", shop="s", title="car", parts=[{"weight": "heavy"}], copies=1)
    assert caught.value.status == 422
    assert caught.value.parameter == "parts.0.name"
    assert "parts.0.weight" in str(caught.value)
    with pytest.raises(InvalidInputError, match="no parameter 'sise'"):
        await result(address, "search", q="x", sise=3)
    with pytest.raises(InvalidInputError, match="JSON"):
        await result(address, "names", body=[float("nan")])
    with pytest.raises(InvalidInputError, match="JSON"):
        await result(address, "names", body=[object()])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationError), (404, NotFoundError), (429, RateLimitError), (503, ServerError)],
)
async def test_refusals_are_typed_and_not_accepted(address: str, status: int, kind: type[Exception]) -> None:
    async with opened(address) as transport:
        call = await called(transport, "fail", status=status)
    assert type(call.error) is kind
    assert str(call.error) == "no luck"
    assert (call.error.status, call.error.retry_after, call.error.request_id) == (status, 3.0, "r1")
    assert not call.is_accepted


async def test_a_gateway_that_gave_up_may_have_run_the_request(address: str) -> None:
    async with opened(address) as transport:
        call = await called(transport, "fail", status=504)
    assert isinstance(call.error, ServerError)
    assert call.error.ambiguous
    assert call.is_accepted


async def test_a_crash_is_a_server_error(address: str) -> None:
    with pytest.raises(ServerError, match="answered 500") as caught:
        await result(address, "crash")
    assert caught.value.code == "internal"


async def test_cancel_drops_the_request(address: str) -> None:
    app.state.slow_started, app.state.slow_ended = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    app.state.slow_started.set = lambda event=app.state.slow_started: loop.call_soon_threadsafe(
        asyncio.Event.set, event
    )
    app.state.slow_ended.set = lambda event=app.state.slow_ended: loop.call_soon_threadsafe(
        asyncio.Event.set, event
    )
    async with opened(address) as transport:
        description = await transport.describe()
        call = RecordedCall(next(e for e in description.endpoints if e.name == "slow"))
        transport.start([call])
        async with asyncio.timeout(10):
            await app.state.slow_started.wait()
            await transport.cancel(call.id)
            with pytest.raises(JobCancelled):
                await call.result()
            await app.state.slow_ended.wait()
            await transport.cancel(call.id)


async def test_a_service_that_is_away_is_a_connect_error() -> None:
    with served(app) as gone:
        pass
    async with opened(gone) as transport:
        with pytest.raises(ConnectError, match="nothing was sent"):
            await transport.describe()


async def test_an_app_in_this_process_streams_too() -> None:
    asgi = make_app()
    gate = asyncio.Event()

    @asgi.get("/gated", responses={200: {"content": {"application/x-ndjson": {}}}})
    def gated() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"1\n"
            await gate.wait()
            yield b"2\n"

        return StreamingResponse(body(), media_type="application/x-ndjson")

    async with opened(Target("inprocess://", app=asgi)) as transport:
        description = await transport.describe()
        call = RecordedCall(next(e for e in description.endpoints if e.name == "gated"))
        seen = []
        async with asyncio.timeout(10):
            async for event in transport.run(call):
                seen.append((event.kind, event.data))
                if event.data == 1:
                    gate.set()
        assert seen[1:] == [("chunk", 1), ("chunk", 2), ("result", None)]
        assert (await called(transport, "search", q="x")).value["q"] == "x"
        assert isinstance((await called(transport, "cut")).error, TransportError)
        assert isinstance((await called(transport, "crash")).error, ServerError)


# -- finding the document ---------------------------------------------------------------------------------------------


async def requests_of(app: FastAPI, path: str = "") -> tuple[list[str], Any]:
    """The paths that a discovery asked for, and what it gave."""
    asked: list[str] = []

    async def recorder(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await app(scope, receive, send)

    with served(recorder) as url:
        async with opened(url + path) as transport:
            try:
                return asked, await transport.describe()
            except ProtocolError as exc:
                return asked, exc


async def test_a_usual_service_is_found_with_one_request() -> None:
    asked, description = await requests_of(make_app())
    assert asked == ["/openapi.json"]
    assert description.title == "workshop"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/"])
async def test_a_page_of_the_service_leads_to_it_as_well(path: str) -> None:
    asked, description = await requests_of(make_app(), path)
    assert asked == ["/openapi.json"]
    assert description.title == "workshop"


async def test_the_second_most_usual_place_costs_two_requests() -> None:
    asked, description = await requests_of(FastAPI(title="spring", openapi_url="/v3/api-docs"))
    assert len(asked) == 2
    assert description.title == "spring"


async def test_nothing_found_says_what_was_tried() -> None:
    asked, error = await requests_of(FastAPI(openapi_url=None))
    assert isinstance(error, ProtocolError)
    assert len(asked) <= 8
    assert all(path in str(error) for path in asked)
    assert "transport=" in str(error)


async def test_a_prefix_of_the_service_is_kept() -> None:
    outer = FastAPI(openapi_url=None)
    outer.mount("/api/v1", make_app())
    with served(outer) as url:
        assert (await result(f"{url}/api/v1", "search", q="x"))["q"] == "x"


# -- documents that FastAPI did not make ------------------------------------------------------------------------------

PETS: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Pets", "version": "1.2"},
    "paths": {
        "/pets/{pet-id}": {
            "parameters": [{"$ref": "#/components/parameters/PetId"}],
            "get": {
                "operationId": "pets.show-one",
                "parameters": [
                    {
                        "name": "filter",
                        "in": "query",
                        "style": "deepObject",
                        "explode": True,
                        "schema": {"type": "object"},
                    },
                    {"name": "ids", "in": "query", "explode": False, "schema": {"type": "array"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "description": "",
                        "content": {"application/json": {"schema": {"type": "object"}}},
                    }
                },
            },
            "put": {
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "responses": {"default": {"description": ""}},
            },
        },
        "/pets": {
            "get": {"operationId": "list", "responses": {}},
            "post": {"operationId": "list", "responses": {}},
            "delete": {"responses": {}},
        },
        "/raw": {
            "post": {
                "operationId": "import",
                "requestBody": {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}},
                "responses": {},
            }
        },
    },
    "components": {
        "parameters": {
            "PetId": {"name": "pet-id", "in": "path", "required": True, "schema": {"type": "integer"}}
        },
        "requestBodies": {
            "Pet": {
                "required": True,
                "content": {"application/vnd.pets+json": {"schema": {"$ref": "#/components/schemas/Dog"}}},
            }
        },
        "schemas": {
            "Animal": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "default": {"$ref": "#/components/schemas/Size"}},
            },
            "Size": {"type": "string", "enum": ["s", "l"], "default": "s"},
            "Dog": {
                "allOf": [
                    {"$ref": "#/components/schemas/Animal"},
                    {
                        "properties": {
                            "class": {"type": "string"},
                            "puppies": {"$ref": "#/components/schemas/Litter"},
                        }
                    },
                ]
            },
            "Litter": {"type": "array", "items": {"$ref": "#/components/schemas/Dog"}},
        },
    },
}


def test_names_are_identifiers_and_never_meet() -> None:
    _, operations = read_openapi(PETS)
    assert list(operations) == [
        "pets_show_one",
        "pets_put",
        "list_get",
        "list_post",
        "pets_delete",
        "import_",
    ]
    assert all(name.isidentifier() for name in operations)


def test_references_and_all_of_are_folded_into_parameters() -> None:
    _, operations = read_openapi(PETS)
    put = operations["pets_put"]
    parameters = {p.name: p for p in put.endpoint.parameters}
    assert {name: (p.location, p.required) for name, p in parameters.items()} == {
        "pet_id": ("path", True),
        "name": ("body", True),
        "default": ("body", False),
        "class_": ("body", False),
        "puppies": ("body", False),
    }
    assert parameters["default"].json_schema["enum"] == ["s", "l"]
    assert parameters["default"].default == "s"
    assert put.body == "flat"


def test_a_schema_that_contains_itself_ends() -> None:
    _, operations = read_openapi(PETS)
    text = json.dumps(operations["pets_put"].endpoint.model_dump())
    assert "$ref" not in text
    doubling = {
        f"S{i}": {"properties": {k: {"$ref": f"#/components/schemas/S{i + 1}"} for k in "ab"}}
        for i in range(40)
    }
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}}
    document = {
        "openapi": "3.1.0",
        "paths": {"/x": {"post": {"requestBody": body}}},
        "components": {"schemas": doubling},
    }
    read_openapi(document)


async def test_such_a_service_can_be_called() -> None:
    service = FastAPI(openapi_url=None)
    service.add_api_route("/openapi.json", lambda: PETS)

    @service.api_route("/{path:path}", methods=["GET", "PUT", "POST"])
    async def echo(request: Request) -> Any:
        kind = request.headers.get("content-type")
        return {
            "url": f"{request.url.path}?{request.url.query}",
            "type": kind,
            "body": (await request.body()).decode(),
        }

    with served(service) as url:
        shown = await result(url, "pets_show_one", pet_id=5, filter={"a": 1}, ids=[1, 2])
        assert shown["url"] == "/pets/5?filter%5Ba%5D=1&ids=1%2C2"
        put = await result(url, "pets_put", pet_id=5, name="Rex", class_="dog")
        assert put["type"] == "application/vnd.pets+json"
        assert json.loads(put["body"]) == {"name": "Rex", "class": "dog"}
        raw = await result(url, "import_", body=b"abc")
        assert (raw["type"], raw["body"]) == ("image/png", "abc")
        with pytest.raises(NotFoundError, match="keeps no jobs"):
            async with opened(url) as transport:
                await anext(transport.watch("f" * 32))


@pytest.mark.parametrize("document", [{}, {"swagger": "2.0", "paths": {}}, {"openapi": "3.0.0", "paths": []}])
def test_other_documents_are_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match=r"OpenAPI 3\.x"):
        read_openapi(document)


# -- documents that stand for more than fits anywhere ---------------------------------------------------------------------


def hostile_document(properties: dict[str, Any], inner: Any, *, levels: int = 6) -> dict[str, Any]:
    """Schemas of which each names the next one many times, and a body that has them as properties."""
    schemas: dict[str, Any] = {
        f"A{level}": inner({"$ref": f"#/components/schemas/A{level + 1}"}) for level in range(levels)
    }
    schemas[f"A{levels}"] = {"type": "string"}
    body = {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}
    return {
        "openapi": "3.1.0",
        "components": {"schemas": schemas},
        "paths": {"/ask": {"post": {"requestBody": body, "responses": {"200": body}}}},
    }


@pytest.mark.parametrize("word", ["anyOf", "allOf", "prefixItems"])
@pytest.mark.parametrize("levels", [6, 400])
async def test_references_that_multiply_end(word: str, levels: int) -> None:
    top = {"$ref": "#/components/schemas/A0"}
    document = hostile_document(
        {str(one): top for one in range(500)}, lambda inner: {word: [inner] * 40}, levels=levels
    )
    with at_most(3_000_000):
        description, _ = read_openapi(document)
    assert len(description.endpoints[0].parameters) == 500


async def test_all_of_that_multiplies_ends() -> None:
    document = hostile_document({}, lambda inner: {"allOf": [inner] * 40}, levels=10)
    content = document["paths"]["/ask"]["post"]["requestBody"]["content"]
    content["application/json"]["schema"] = {"$ref": "#/components/schemas/A0"}
    with at_most(500_000):
        read_openapi(document)


async def test_parameters_that_multiply_are_refused() -> None:
    parameters = [{"name": f"p{one}", "in": "query", "schema": {}} for one in range(1_000)]
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "components": {"pathItems": {"all": {"get": {}, "parameters": parameters}}},
        "paths": {f"/{one}": {"$ref": "#/components/pathItems/all"} for one in range(1_000)},
    }
    with pytest.raises(ProtocolError, match="more than 100,000 parameters"):
        read_openapi(document)
