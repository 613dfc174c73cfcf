"""One call after another, against an echo of the same bytes by the `websockets` library."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import digits
import websockets.asyncio.client
import websockets.sync.client
from measurement import Measurement
from process import server
from rates import median, percentile

import socaity
from socaity.protocol.frames import CALL
from socaity.protocol.messagepack import packb

CALLS = 500
ROUNDS = 10
NUMBER = 10_000


def run() -> Iterator[Measurement]:
    row = digits.rows(1)[0]
    frame = packb([NUMBER, NUMBER, [[CALL, NUMBER, "digits", {"x": row}]]])
    name = "latency"
    with (
        server("service") as one,
        server("echo") as echo,
        socaity.connect(one.url, progress=False) as service,
        websockets.sync.client.connect(echo.url, compression=None) as blocking,
    ):
        model = service["digits"]

        def call() -> None:
            model(row).result(60)

        def exchange() -> None:
            blocking.send(frame)
            blocking.recv()

        call()
        medians: dict[str, list[float]] = {"call": [], "tail": [], "echo": [], "sync": []}
        for _ in range(ROUNDS):
            times = _times(call)
            medians["call"].append(percentile(times, 50))
            medians["tail"].append(percentile(times, 99))
            medians["echo"].append(percentile(asyncio.run(_echo_times(echo.url, frame)), 50))
            medians["sync"].append(percentile(_times(exchange), 50))
    yield Measurement(name, "service.digits(x).result(), p50", median(medians["call"]) * 1e6, "µs")
    yield Measurement(name, "the same, p99", median(medians["tail"]) * 1e6, "µs")
    yield Measurement(
        name, f"echo of {len(frame)} bytes, asyncio client, p50", median(medians["echo"]) * 1e6, "µs"
    )
    yield Measurement(
        name, f"echo of {len(frame)} bytes, blocking client, p50", median(medians["sync"]) * 1e6, "µs"
    )
    for other, text, target in (("echo", "asyncio", 3), ("sync", "blocking", None)):
        ratios = [mine / its for mine, its in zip(medians["call"], medians[other], strict=True)]
        yield Measurement(name, f"p50 against the {text} echo", median(ratios), "×", at_most=target)


def _times(call: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


async def _echo_times(url: str, frame: bytes) -> list[float]:
    async with websockets.asyncio.client.connect(url, compression=None) as connection:
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            await connection.send(frame)
            await connection.recv()
            times.append(time.perf_counter() - start)
    return times
