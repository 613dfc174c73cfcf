"""One service, used by many threads and event loops at once: every call ends, each with its own result."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import numpy as np
import pytest

import socaity
from socaity_server import SocaityRouter
from tests.e2e.servers import DEADLINE
from tests.server.conftest import serve

THREADS, LOOPS, CALLS = 8, 3, 60


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    router = SocaityRouter(provider="fastapi", environment="localhost")

    @router.add_route("/job", queue_size=100_000, concurrency=8)
    def job(number: int) -> int:
        return number

    @router.add_route("/direct", max_batch_size=64)
    def direct(x: np.ndarray) -> np.ndarray:
        return x * 2

    @router.add_route("/stream")
    def stream(number: int) -> Iterator[int]:
        yield from (number, number + 1)

    @router.add_route("/refuse", queue_size=100_000)
    def refuse(number: int) -> None:
        raise ValueError(f"no {number}")

    with serve(router) as address:
        yield address


@pytest.mark.parametrize("wire", ["websocket", "http"])
def test_threads_and_loops_use_one_service(url: str, wire: str) -> None:
    address = url.replace("http:", "ws:") if wire == "websocket" else url
    ended: Counter[str] = Counter()
    lock = threading.Lock()
    faults: list[BaseException] = []
    service = socaity.connect(address, transport=wire, progress=False)

    def note(job: socaity.Job[Any]) -> None:
        with lock:
            ended[job.id] += 1

    def in_thread(start: int) -> None:
        numbers = range(start, start + CALLS)
        jobs = [service["job"](n) if n % 2 else service.direct(np.full(2, n)) for n in numbers]
        for one in jobs:
            one.add_done_callback(note)
        failing = service.refuse(start)
        assert [list(service.stream(n)) for n in numbers[:3]] == [[n, n + 1] for n in numbers[:3]]
        for n, one in zip(numbers, jobs, strict=True):
            expected = n if n % 2 else [2 * n, 2 * n]
            assert np.asarray(one.result(DEADLINE)).tolist() == expected
        assert f"no {start}" in str(failing.exception(DEADLINE))

    async def in_loop(start: int) -> None:
        numbers = range(start, start + CALLS)
        jobs = [service["job"](n) for n in numbers]
        for one in jobs:
            one.add_done_callback(note)
        with anyio.fail_after(DEADLINE):
            assert [await one for one in jobs] == list(numbers)
            assert [chunk async for chunk in service.stream(start)] == [start, start + 1]

    def guarded(run: Any, *args: Any) -> None:
        try:
            run(*args)
        except BaseException as exc:
            faults.append(exc)

    work = [(in_thread, 1000 * number) for number in range(THREADS)]
    work += [(lambda start: asyncio.run(in_loop(start)), 100_000 + 1000 * number) for number in range(LOOPS)]
    work += [(lambda start: anyio.run(in_loop, start, backend="trio"), 200_000)]
    threads = [threading.Thread(target=guarded, args=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)
    service.close()
    assert faults == []
    assert len(ended) == (THREADS + LOOPS + 1) * CALLS
    assert set(ended.values()) == {1}


@pytest.mark.anyio
@pytest.mark.parametrize("wire", ["websocket", "http"])
async def test_every_wire_can_be_used_from_asyncio_and_trio(url: str, wire: str) -> None:
    address = url.replace("http:", "ws:") if wire == "websocket" else url
    with anyio.fail_after(DEADLINE):
        async with socaity.connect(address, transport=wire, progress=False) as service:
            assert await service["job"](1) == 1
            assert (await service.direct(np.ones(2))).tolist() == [2, 2]
            assert [chunk async for chunk in service.stream(1)] == [1, 2]
