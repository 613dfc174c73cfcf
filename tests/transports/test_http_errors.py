"""What goes wrong at the edge of HTTP, as exceptions of ours."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httpx
import pytest
import respx

from socaity.exceptions import (
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    InvalidInputError,
    JobFailed,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    SocaityError,
    TransportError,
    TransportTimeout,
)
from socaity.protocol.messagepack import packb
from socaity.transport import Target
from socaity_transports._httpx import (
    MESSAGEPACK,
    HTTPClient,
    HTTPRequest,
    error_from_response,
    parse_retry_after,
)
from tests.transports.doubles import RecordedCall, called, opened

pytestmark = pytest.mark.anyio

BASE = "http://service.example"
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {"/pay": {"post": {"operationId": "pay"}, "get": {"operationId": "look"}}},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def edge() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=BASE, assert_all_called=False) as router:
        router.get("/openapi.json").respond(json=DOCUMENT)
        yield router


async def error_of_call(name: str = "pay") -> tuple[SocaityError, RecordedCall]:
    async with opened(BASE) as transport:
        call = await called(transport, name)
    assert call.error is not None
    return call.error, call


# -- what was sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [httpx.ConnectError("refused"), httpx.ConnectTimeout("late")])
async def test_a_refused_connection_has_sent_nothing(edge: respx.MockRouter, fault: Exception) -> None:
    edge.post("/pay").mock(side_effect=fault)
    error, call = await error_of_call()
    assert isinstance(error, ConnectError)
    assert "nothing was sent" in str(error)
    assert not hasattr(error, "ambiguous")
    assert not call.is_accepted


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ReadTimeout(""), TransportTimeout),
        (httpx.ReadError("reset"), TransportError),
        (httpx.RemoteProtocolError("server disconnected"), TransportError),
    ],
)
async def test_a_request_that_broke_after_it_was_sent_is_ambiguous(
    edge: respx.MockRouter, fault: Exception, kind: type[Exception]
) -> None:
    route = edge.post("/pay").mock(side_effect=fault)
    error, call = await error_of_call()
    assert type(error) is kind
    assert error.ambiguous
    assert "may have run and was not repeated" in str(error)
    assert route.call_count == 1
    assert call.is_accepted


async def test_a_request_that_changes_nothing_is_never_ambiguous(edge: respx.MockRouter) -> None:
    edge.get("/pay").mock(side_effect=httpx.ReadError("reset"))
    error, call = await error_of_call("look")
    assert type(error) is TransportError
    assert not hasattr(error, "ambiguous")
    assert not call.is_accepted


# -- error responses --------------------------------------------------------------------------------------------------


def error_of(status: int, body: Any = b"", kind: str = "application/json", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return error_from_response(status, {"content-type": kind, **named}, content)


def test_problem_documents_keep_everything() -> None:
    problem = {"status": 503, "code": "queue_full", "detail": "full", "retry_after": 2.5, "request_id": "r"}
    for body, kind in (
        (json.dumps(problem).encode(), "application/problem+json"),
        (packb(problem), MESSAGEPACK),
    ):
        error = error_of(503, body, kind)
        assert isinstance(error, ServerError)
        assert (str(error), error.code, error.retry_after, error.request_id) == (
            "full",
            "queue_full",
            2.5,
            "r",
        )


def test_the_header_fills_in_for_a_problem_without_a_delay() -> None:
    error = error_of(429, {"title": "slow down", "status": 429}, "application/problem+json", retry_after="7")
    assert isinstance(error, RateLimitError)
    assert (error.retry_after, error.code, str(error)) == (7.0, "rate_limited", "slow down")


def test_a_failed_job_is_a_job_error() -> None:
    problem = {
        "status": 500,
        "code": "job_failed",
        "detail": "boom",
        "error_type": "ValueError",
        "traceback": "at x",
    }
    error = error_of(500, problem, "application/problem+json")
    assert isinstance(error, JobFailed)
    assert (error.error_type, error.remote_traceback) == ("ValueError", "at x")


def test_the_lists_of_fastapi_name_the_parameter() -> None:
    detail = [
        {"loc": ["body", "parts", 0, "name"], "msg": "Field required", "type": "missing"},
        {"loc": ["query", "page"], "msg": "not a number", "type": "int"},
    ]
    error = error_of(422, {"detail": detail})
    assert isinstance(error, InvalidInputError)
    assert error.parameter == "parts.0.name"
    assert str(error) == "parts.0.name: Field required; page: not a number"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"detail": "no"}, "no"),
        ({"detail": {"reason": 3}}, '{"reason": 3}'),
        ({"detail": {"message": "why"}}, "why"),
        ({"error": "bad"}, "bad"),
        ({"error": {"message": "deep", "param": "model"}}, "deep"),
        ({"message": "m"}, "m"),
        ("plain", "plain"),
        ([1], "the service answered 400"),
        ({"detail": [3]}, "[3]"),
        ({}, "the service answered 400"),
    ],
)
def test_the_message_is_found(body: Any, text: str) -> None:
    error = error_of(400, body)
    assert isinstance(error, InvalidInputError)
    assert str(error) == text


def test_pages_are_not_shown_but_texts_are() -> None:
    assert str(error_of(502, b"<html>nginx</html>", "text/html")) == "the service answered 502"
    assert str(error_of(502, b"upstream gone", "text/plain")) == "the service answered 502: upstream gone"


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (401, AuthenticationError, "unauthenticated"),
        (403, AuthenticationError, "forbidden"),
        (404, NotFoundError, "not_found"),
        (409, InvalidInputError, "conflict"),
        (413, InvalidInputError, "too_large"),
        (429, RateLimitError, "rate_limited"),
        (500, ServerError, "internal"),
        (503, ServerError, "unavailable"),
    ],
)
def test_every_status_has_its_class_and_a_code(status: int, kind: type[SocaityError], code: str) -> None:
    error = error_of(status)
    assert type(error) is kind
    assert (error.status, error.code) == (status, code)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert parse_retry_after("3") == 3.0
    assert parse_retry_after("0.5") == 0.5
    assert parse_retry_after("-3") == 0.0
    assert parse_retry_after(formatdate(1_000_030, usegmt=True), now=1_000_000) == 30.0
    assert parse_retry_after(formatdate(999_000, usegmt=True), now=1_000_000) == 0.0
    assert [parse_retry_after(value) for value in (None, "", "soon", "nan", "inf")] == [None] * 5


# -- addresses, redirects ---------------------------------------------------------------------------------------------


async def test_a_redirect_on_the_same_host_is_followed_with_its_body(edge: respx.MockRouter) -> None:
    edge.post("/pay").respond(307, headers={"Location": "/pay/"})
    target = edge.post("/pay/").respond(json="done")
    async with opened(BASE) as transport:
        assert (await called(transport, "pay")).value == "done"
    assert target.called


@pytest.mark.parametrize("status", [301, 307])
async def test_the_key_does_not_follow_to_another_host(edge: respx.MockRouter, status: int) -> None:
    edge.get("/openapi.json").respond(status, headers={"Location": "http://other.example/openapi.json"})
    other = respx.get("http://other.example/openapi.json").respond(json=DOCUMENT)
    async with opened(Target(BASE, api_key="secret")) as transport:
        with pytest.raises(ProtocolError, match=r"other\.example") as caught:
            await transport.describe()
    assert "secret" not in str(caught.value)
    assert not other.called


async def test_without_a_key_a_document_may_be_elsewhere(edge: respx.MockRouter) -> None:
    edge.get("/openapi.json").respond(302, headers={"Location": "http://other.example/openapi.json"})
    edge.get("http://other.example/openapi.json").respond(json=DOCUMENT)
    async with opened(BASE) as transport:
        assert (await transport.describe()).title == "t"


async def test_a_moved_post_is_not_turned_into_a_get(edge: respx.MockRouter) -> None:
    edge.post("/pay").respond(301, headers={"Location": "/new"})
    error, _ = await error_of_call()
    assert isinstance(error, ProtocolError)
    assert "/new" in str(error)


async def test_endless_redirects_end(edge: respx.MockRouter) -> None:
    edge.get("/openapi.json").respond(307, headers={"Location": "/openapi.json"})
    async with opened(BASE) as transport:
        with pytest.raises(ProtocolError, match="redirects more than"):
            await transport.describe()


async def test_the_key_is_a_bearer_token(edge: respx.MockRouter) -> None:
    async with opened(Target(BASE, api_key="secret", headers={"X-Team": "7"})) as transport:
        await transport.describe()
    request = edge.calls.last.request
    assert (request.headers["Authorization"], request.headers["X-Team"]) == ("Bearer secret", "7")


@pytest.mark.parametrize("url", ["http://", "ftp://host", "http://host:port", "nonsense"])
def test_what_is_no_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError):
        HTTPClient(Target(url))


async def test_an_answer_that_is_not_what_it_says_is_a_protocol_error(edge: respx.MockRouter) -> None:
    edge.post("/pay").respond(content=b"{half", headers={"Content-Type": "application/json"})
    error, _ = await error_of_call()
    assert isinstance(error, ProtocolError)
    assert "{half" in str(error)


async def test_messages_hold_no_password() -> None:
    client = HTTPClient(Target("http://user:geheim@127.0.0.1:1"))
    try:
        with pytest.raises(ConnectError) as caught:
            async with client.stream(HTTPRequest(url=client.base)):
                pass
    finally:
        await client.aclose()
    assert "geheim" not in str(caught.value) + client.place


async def test_tracebacks_show_what_broke_and_not_the_insides_of_httpx() -> None:
    client = HTTPClient(Target("http://127.0.0.1:1"))
    try:
        with pytest.raises(ConnectError) as caught:
            async with client.stream(HTTPRequest(url=client.base)):
                pass
    finally:
        await client.aclose()
    lines = traceback.format_exception(caught.value)
    assert lines[0].startswith("httpx.ConnectError: ")
    assert not any("httpcore" in line for line in lines)
