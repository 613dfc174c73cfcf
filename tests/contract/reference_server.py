"""The endpoints that `socaity.testing.TransportContract` calls, served by the reference server."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

from socaity_server import JobProgress, SocaityRouter


def reference_router(**options: Any) -> SocaityRouter:
    """A router of its own, with its own gates."""
    router = SocaityRouter(provider="fastapi", environment="localhost", **options)
    gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
    started: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait_for(gate: str) -> str:
        started[gate].set()
        await gates[gate].wait()
        return gate

    @router.add_route("/echo", idempotent=True)
    def echo(value: Any) -> Any:
        return value

    @router.add_route("/add")
    def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @router.add_route("/wait", queue_size=1000, concurrency=64)
    async def wait(gate: str) -> str:
        return await wait_for(gate)

    @router.add_route("/narrow", queue_size=1, concurrency=1)
    async def narrow(gate: str) -> str:
        return await wait_for(gate)

    @router.add_route("/release")
    async def release(gate: str) -> None:
        gates[gate].set()

    @router.add_route("/running")
    async def running(gate: str) -> None:
        await started[gate].wait()

    @router.add_route("/count")
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @router.add_route("/trickle")
    async def trickle(gate: str) -> AsyncIterator[int]:
        yield 0
        await wait_for(gate)
        yield 1

    @router.add_route("/fail")
    def fail(message: str) -> None:
        raise ValueError(message)

    @router.add_route("/progress", queue_size=1000, concurrency=64)
    async def progress(job_progress: JobProgress, gate: str) -> str:
        job_progress.log("started")
        job_progress.message = "half way"
        job_progress.progress = 0.5
        await wait_for(gate)
        return "done"

    @router.add_route("/double", max_batch_size=8)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    return router
