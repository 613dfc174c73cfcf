"""Routers for tests: in process through `client`, or on a loopback port through `live_server`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from socaity_server import SocaityRouter

SOON = 10.0


@contextlib.contextmanager
def serve(router: SocaityRouter, *, keep_alive: float | None = None) -> Iterator[str]:
    """The address of `router` on a free loopback port; uvicorn runs on a thread and ends with the block.

    Connections that are idle are closed after `keep_alive` seconds.
    """
    ready = threading.Event()
    address: list[str] = []

    def on_ready(url: str) -> None:
        address.append(url)
        ready.set()

    server = router.server(port=0, on_ready=on_ready)
    if keep_alive is not None:
        server.config.timeout_keep_alive = keep_alive  # type: ignore[assignment]  # fractions work
    thread = threading.Thread(target=server.run, name="live-server", daemon=True)
    thread.start()
    try:
        assert ready.wait(SOON), "the server did not start"
        yield address[0]
    finally:
        server.should_exit = True
        thread.join(SOON)
        assert not thread.is_alive(), "the server did not stop"


@contextlib.asynccontextmanager
async def open_client(router: SocaityRouter) -> AsyncIterator[httpx.AsyncClient]:
    """A client that talks to `router` in process."""
    transport = httpx.ASGITransport(router.app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
    finally:
        await router.dataplane.aclose(grace=0.0)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop and its threads work until `condition` holds, for some seconds at most."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The server is asyncio only."""
    return "asyncio"


@pytest.fixture
def router() -> SocaityRouter:
    return SocaityRouter(provider="fastapi", environment="localhost", grace=1.0)


@pytest.fixture
async def client(router: SocaityRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(router) as client:
        yield client


@pytest.fixture
def live_server() -> Iterator[Callable[[SocaityRouter], str]]:
    """`live_server(router)` serves it until the test ends and gives its address."""
    with contextlib.ExitStack() as stack:
        yield lambda router: stack.enter_context(serve(router))


class Gate:
    """Holds a function until the test opens it; never for longer than a few seconds."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self._open.wait(SOON), "the test never opened the gate"

    def open(self) -> None:
        self._open.set()

    def wait_entered(self) -> None:
        assert self.entered.acquire(timeout=SOON), "nobody came to the gate"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()
