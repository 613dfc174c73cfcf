"""The threads of handlers: who goes early keeps a place until the work ends, or has taken too long."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import httpx
import pytest

from socaity_server import SocaityRouter
from socaity_server.handlers import DefaultModelHandler, InferenceRequest, InferenceResponse
from socaity_server.handlers.call_threads import CallThreads
from tests.server.conftest import SOON, Gate, open_client, until
from tests.server.openinference.conftest import refused

pytestmark = pytest.mark.anyio

INFER = "/v2/models/held/infer"
INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
SHORT = {"inputs": [INPUT], "parameters": {"timeout": 20_000}}


class Held(DefaultModelHandler):
    """Waits for a gate, and counts how many do at once."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.running = self.most = 0
        self.lock = threading.Lock()

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.gate()
        with self.lock:
            self.running -= 1
        return InferenceResponse(model_name=model_name, outputs=[])


async def _begun(client: httpx.AsyncClient, gate: Gate) -> None:
    """Ask with little time until a call has begun before its time was over."""
    async with asyncio.timeout(SOON):
        while not gate.entered.acquire(blocking=False):
            refused(await client.post(INFER, json=SHORT), 504)


async def test_short_timeouts_start_no_more_calls(router: SocaityRouter, gate: Gate) -> None:
    held = Held(gate)
    router.add_handler(held, models="held", concurrency=1)
    async with open_client(router) as client:
        await _begun(client, gate)
        for _ in range(5):
            refused(await client.post(INFER, json=SHORT), 504)
        gate.open()
        answer = await client.post(INFER, json={"inputs": [INPUT]})

    assert answer.status_code == 200
    assert held.most == 1


async def test_calls_that_run_on_count_for_the_queue(router: SocaityRouter, gate: Gate) -> None:
    router.add_handler(Held(gate), models="held", concurrency=1, queue_size=1)
    async with open_client(router) as client:
        await _begun(client, gate)
        calls = [asyncio.create_task(client.post(INFER, json={"inputs": [INPUT]})) for _ in range(2)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=SOON)
        (refusal,) = done
        refused(refusal.result(), 503, "full: 2 calls")
        gate.open()
        (call,) = waiting
        answer = await call
        again = await client.post(INFER, json={"inputs": [INPUT]})

    assert (answer.status_code, again.status_code) == (200, 200)


async def _leave(threads: CallThreads, gate: Gate) -> None:
    """Begin a call that waits for the gate, and go."""
    call = asyncio.create_task(threads.run(gate))
    await asyncio.to_thread(gate.wait_entered)
    call.cancel()
    await asyncio.wait([call], timeout=SOON)
    assert call.cancelled()


async def test_work_that_nobody_waits_for_keeps_its_place(gate: Gate) -> None:
    threads = CallThreads("test", 1, timeout=SOON)
    order: list[int] = []

    def first() -> None:
        gate()
        order.append(1)

    call = asyncio.create_task(threads.run(first))
    await asyncio.to_thread(gate.wait_entered)
    call.cancel()
    await asyncio.wait([call], timeout=SOON)
    assert threads.left == 1
    second = asyncio.create_task(threads.run(lambda: order.append(2)))
    await asyncio.sleep(0)
    gate.open()
    async with asyncio.timeout(SOON):
        await second

    assert order == [1, 2]
    await until(lambda: threads.left == 0)


async def test_work_that_takes_too_long_is_given_up(gate: Gate) -> None:
    threads = CallThreads("test", 1, timeout=0.0)
    await _leave(threads, gate)

    async with asyncio.timeout(SOON):
        assert await threads.run(lambda: 5) == 5
    assert threads.left == 0


async def test_work_that_has_not_begun_is_let_go(gate: Gate) -> None:
    class Large:
        pass

    threads = CallThreads("test", 1, timeout=SOON)
    await _leave(threads, gate)
    large = Large()
    kept = weakref.ref(large)
    ran: list[Any] = []
    call = asyncio.create_task(threads.run(lambda large=large: ran.append(large)))  # type: ignore[misc]
    del large
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call], timeout=SOON)
    del call
    gc.collect()

    assert kept() is None
    gate.open()
    async with asyncio.timeout(SOON):
        await threads.run(lambda: None)
    assert ran == []


async def test_what_ends_an_iteration_is_an_error() -> None:
    def stop() -> None:
        raise StopIteration

    async with asyncio.timeout(SOON):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await CallThreads("test", 1, timeout=SOON).run(stop)
