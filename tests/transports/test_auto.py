"""Plain addresses: what is found there, and what becomes of the calls that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from socaity.exceptions import AuthenticationError, ConnectError, JobCancelled, JobLost, ProtocolError
from socaity.transport import Target
from socaity_server import SocaityRouter
from socaity_transports.auto import DetectingTransport
from socaity_transports.http import HTTPTransport
from socaity_transports.websocket import WebSocketTransport
from tests.transports.doubles import RecordedCall, called, served

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def our_app() -> Any:
    router = SocaityRouter(provider="fastapi", environment="localhost", title="ours")

    @router.add_route("/shout", queue_size=100)
    def shout(text: str) -> str:
        return text.upper()

    return router.app


def foreign_app() -> FastAPI:
    app = FastAPI(title="theirs")

    @app.post("/shout")
    def shout(text: str) -> str:
        return text.upper()

    return app


class Recorder:
    """An app that records the requests for another, and answers `status` instead while that is set."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.paths: list[str] = []
        self.status: int | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.paths.append(scope["path"])
            if self.status is not None:
                await send({"type": "http.response.start", "status": self.status, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await self.app(scope, receive, send)


@asynccontextmanager
async def detecting(url: str, **options: Any) -> AsyncIterator[DetectingTransport]:
    transport = DetectingTransport.open(Target(url, **options))
    try:
        yield transport
    finally:
        await transport.aclose()


async def test_our_server_gets_the_socket() -> None:
    app = Recorder(our_app())
    with served(app, lifespan="on", ws="websockets-sansio") as url:
        async with detecting(url) as transport:
            description = await transport.describe()
            assert isinstance(transport._inner, WebSocketTransport)
            assert description.title == "ours"
            assert (await called(transport, "shout", text="hi")).value == "HI"
    assert app.paths == ["/openapi.json"]


async def test_where_sockets_are_refused_our_server_is_spoken_to_over_http() -> None:
    app = Recorder(our_app())
    with served(app, lifespan="on", ws="none") as url:
        async with detecting(url) as transport:
            assert (await transport.describe()).title == "ours"
            assert isinstance(transport._inner, HTTPTransport)
            assert (await called(transport, "shout", text="hi")).value == "HI"
    assert app.paths.count("/openapi.json") <= 2


async def test_other_services_are_called_over_http_after_one_request() -> None:
    app = Recorder(foreign_app())
    with served(app) as url:
        async with detecting(url) as transport:
            assert (await transport.describe()).title == "theirs"
            assert isinstance(transport._inner, HTTPTransport)
            assert app.paths == ["/openapi.json"]
            assert (await called(transport, "shout", text="hi")).value == "HI"


async def test_calls_wait_together_for_one_detection() -> None:
    app = Recorder(foreign_app())
    with served(app) as url:
        async with detecting(url) as other:
            [endpoint] = (await other.describe()).endpoints
        app.paths.clear()
        async with detecting(url) as transport:
            calls = [RecordedCall(endpoint, text=f"a{i}") for i in range(50)]
            transport.start(calls[:25])
            transport.start(calls[25:])
            assert [await call.result() for call in calls] == [f"A{i}" for i in range(50)]
            call = RecordedCall(endpoint, text="b")
            assert [event.data async for event in transport.run(call)][-1] == "B"
    assert app.paths.count("/openapi.json") == 1


async def test_a_failed_detection_fails_the_calls_and_the_next_use_tries_again() -> None:
    app = Recorder(foreign_app())
    with served(app) as url:
        async with detecting(url) as other:
            [endpoint] = (await other.describe()).endpoints
        async with detecting(url) as transport:
            app.status = 401
            first, second = RecordedCall(endpoint, text="a"), RecordedCall(endpoint, text="b")
            transport.start([first, second])
            for call in (first, second):
                await call.ended()
                assert isinstance(call.error, AuthenticationError)
                assert not call.is_accepted
            assert first.error is not second.error
            app.status = 404
            with pytest.raises(ProtocolError, match="describes itself nowhere"):
                await transport.describe()
            app.status = None
            third = RecordedCall(endpoint, text="c")
            transport.start([third])
            assert await third.result() == "C"


async def test_a_service_that_is_away_refuses_at_once() -> None:
    with served(foreign_app()) as gone:
        pass
    async with detecting(gone) as transport:
        with pytest.raises(ConnectError):
            await transport.describe()
        with pytest.raises(ConnectError):
            await transport.cancel("f" * 32)


async def test_a_held_call_can_be_cancelled_and_is_ended_by_close() -> None:
    app = Recorder(foreign_app())
    with served(app) as url:
        async with detecting(url) as transport:
            [endpoint] = (await transport.describe()).endpoints
        async with detecting(url) as transport:
            cancelled, closed, attached = (RecordedCall(endpoint, text="x") for _ in range(3))
            transport.start([cancelled, closed])
            transport.attach(attached)
            await transport.cancel(cancelled.id)
            assert isinstance(cancelled.error, JobCancelled)
        assert isinstance(closed.error, ConnectError)
        assert attached.is_done
        assert isinstance(attached.error, JobLost)


async def test_an_attached_job_is_followed() -> None:
    with served(our_app(), lifespan="on", ws="none") as url:
        async with detecting(url) as first, detecting(url) as second:
            call = await called(first, "shout", text="x")
            again = RecordedCall(call.endpoint)
            again.id = call.id
            second.attach(again)
            assert await again.result() == "X"
            events = [event async for event in second.watch(call.id)]
            assert events[-1].data == "X"


async def test_cancelling_one_waiter_leaves_the_detection_to_the_others() -> None:
    with served(foreign_app()) as url:
        async with detecting(url) as transport:
            waiters = [asyncio.ensure_future(transport.describe()) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            assert [(await waiter).title for waiter in waiters[1:]] == ["theirs"] * 2
