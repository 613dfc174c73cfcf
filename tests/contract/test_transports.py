"""Every transport passes the contract against the reference server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import socaity
from socaity.testing import TransportContract

from .reference_server import reference_router


@pytest.fixture
def served() -> Iterator[str]:
    """The URL of a reference server on a thread."""
    ready: list[str] = []
    is_ready = threading.Event()

    def on_ready(url: str) -> None:
        ready.append(url)
        is_ready.set()

    server = reference_router(grace=0.1).server(port=0, on_ready=on_ready)
    server.force_exit = False
    thread = threading.Thread(target=server.run, name="reference-server")
    thread.start()
    try:
        assert is_ready.wait(20)
        yield ready[0]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class TestWebSocket(TransportContract):
    @pytest.fixture
    def service_url(self, served: str) -> str:
        return served.replace("http:", "ws:")


class TestHTTP(TransportContract):
    @pytest.fixture
    def service_url(self, served: str) -> str:
        return served

    def connect(self, service_url: Any, *, retry: socaity.RetryPolicy | int = 1) -> socaity.Service:
        return socaity.connect(service_url, transport="http", progress=False, retry=retry)


class TestDetected(TransportContract):
    """`http://…`: finds the socket by itself."""

    @pytest.fixture
    def service_url(self, served: str) -> str:
        return served


class TestInProcess(TransportContract):
    @pytest.fixture
    def service_url(self) -> Any:
        return reference_router(grace=0.1)


@pytest.mark.anyio
@pytest.mark.parametrize("transport", ["http", "websocket", "inprocess"])
async def test_called_from_any_event_loop(transport: str, served: str) -> None:
    """anyio notes in the caller's context which loop runs; calls are made in that context, on a loop of our own."""
    target: Any = reference_router(grace=0.1) if transport == "inprocess" else served
    if transport == "websocket":
        target = served.replace("http:", "ws:")
    async with socaity.connect(target, transport=transport, progress=False, retry=1) as service:
        assert await service.add(2, 3) == 5
        assert service.add(3, 4).result(20) == 7
        assert [chunk async for chunk in service.count(3)] == [0, 1, 2]
