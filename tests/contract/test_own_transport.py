"""The transport of `examples/08_own_transport.py` passes the contract, against the service that the example brings along."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import pytest

import socaity
from socaity.exceptions import (
    InvalidInputError,
    ProtocolError,
    ServerError,
    TransportError,
    TransportTimeout,
)
from socaity.testing import TransportContract

own_transport = import_module("examples.08_own_transport")
lines_service = import_module("examples.lines_service")


def reference_functions() -> list[Callable[..., Any]]:
    """What the contract calls, with gates of its own."""
    gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    started: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    turn = asyncio.Lock()

    async def echo(job: Any, value: Any) -> Any:
        return value

    async def add(job: Any, a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    async def wait(job: Any, gate: str) -> str:
        started[gate].set()
        await gates[gate].wait()
        return gate

    async def narrow(job: Any, gate: str) -> str:
        async with turn:
            return await wait(job, gate)

    async def release(job: Any, gate: str) -> None:
        gates[gate].set()

    async def running(job: Any, gate: str) -> None:
        await started[gate].wait()

    async def count(job: Any, n: int) -> None:
        for number in range(n):
            job.tell("chunk", number)

    async def trickle(job: Any, gate: str) -> None:
        job.tell("chunk", 0)
        await wait(job, gate)
        job.tell("chunk", 1)

    async def fail(job: Any, message: str) -> None:
        raise ValueError(message)

    async def progress(job: Any, gate: str) -> str:
        job.tell("log", {"message": "started"})
        job.tell("progress", {"fraction": 0.5, "message": "half way"})
        await wait(job, gate)
        return "done"

    async def double(job: Any, x: list[float]) -> list[float]:
        return [2 * number for number in x]

    return [echo, add, wait, narrow, release, running, count, trickle, fail, progress, double]


async def serve(on_ready: Callable[[str, Callable[[], object]], None]) -> None:
    """Serve the functions until `on_ready`'s second argument is called, from any thread."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    server = lines_service.LinesServer(*reference_functions(), streams="count trickle", most={"narrow": 2})
    async with server:
        on_ready(server.url, lambda: loop.call_soon_threadsafe(over.set))
        await over.wait()


@contextmanager
def answering(line: bytes) -> Iterator[str]:
    """A service that answers every request with `line`, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):  # the listener was closed
                while True:
                    with listener.accept()[0] as connection:
                        connection.recv(65536)
                        connection.sendall(line)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield f"lines://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProtocolError),
        (b'{"refused": "wrong", "message": "no"}\n', InvalidInputError),
        (b'{"refused": "tired", "message": "no"}\n', ServerError),
        (b'{"functions": ', TransportError),
    ],
)
def test_what_a_service_answers_instead_has_its_place_in_the_tree(
    line: bytes, error: type[Exception]
) -> None:
    with answering(line) as url:
        service = socaity.connect(url, transport=own_transport.LinesTransport, retry=1)
        with pytest.raises(error) as caught:
            service.refresh()
        service.close()
    assert type(caught.value) is error


def test_a_service_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"lines://127.0.0.1:{silent.getsockname()[1]}"
        service = socaity.connect(url, transport=own_transport.LinesTransport, retry=1, timeout=0.1)
        with pytest.raises(TransportTimeout, match=r"did not answer for 0\.1 seconds"):
            service.refresh()
        service.close()


class TestOwnTransport(TransportContract):
    @pytest.fixture
    def service_url(self) -> Iterator[str]:
        is_ready = threading.Event()
        served: list[Any] = []

        def on_ready(*url_and_stop: Any) -> None:
            served.extend(url_and_stop)
            is_ready.set()

        thread = threading.Thread(target=lambda: asyncio.run(serve(on_ready)), name="lines service")
        thread.start()
        assert is_ready.wait(20)
        url, stop = served
        try:
            yield url
        finally:
            stop()
            thread.join(20)
            assert not thread.is_alive()

    def connect(self, service_url: Any, *, retry: socaity.RetryPolicy | int = 1) -> socaity.Service:
        return socaity.connect(
            service_url, transport=own_transport.LinesTransport, retry=retry, progress=False
        )

    def arrays(self) -> Sequence[Any]:
        return []  # JSON has none
