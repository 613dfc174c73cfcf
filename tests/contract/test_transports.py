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
