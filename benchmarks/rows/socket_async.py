"""Predictions per second from one asyncio client over the socket, against `httpx.AsyncClient` and the same server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import digits
import httpx
from measurement import Measurement
from process import server
from rates import median, per_second

import socaity

IN_FLIGHT = 512
HTTP_IN_FLIGHT = (1, 8, 32, 64, 128, 256)
ROUNDS = 5


def run() -> Iterator[Measurement]:
    with server("service") as service:
        ours, httpxs, ratios, best = asyncio.run(_measure(service.url))
    name = "socket_async"
    yield Measurement(
        name, f"predictions/s, one row a call, {IN_FLIGHT} in flight", median(ours), "/s", at_least=40_000
    )
    yield Measurement(name, f"httpx.AsyncClient at its best ({best} in flight)", median(httpxs), "/s")
    yield Measurement(name, "ratio", median(ratios), "×", at_least=40)


async def _measure(url: str) -> tuple[list[float], list[float], list[float], int]:
    body = digits.request_body()
    row = digits.rows(1)[0]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with (
        socaity.connect(url, progress=False) as service,
        httpx.AsyncClient(limits=limits, timeout=60) as client,
    ):
        model = service["digits"]

        async def predict() -> None:
            await model(row)

        async def post() -> None:
            (await client.post(url + digits.PATH, json=body)).json()

        await per_second(predict, in_flight=IN_FLIGHT, seconds=0.5)
        rates = {count: await per_second(post, in_flight=count, seconds=1.0) for count in HTTP_IN_FLIGHT}
        best = max(rates, key=lambda count: rates[count])
        ours, httpxs = [], []
        for _ in range(ROUNDS):
            httpxs.append(await per_second(post, in_flight=best, seconds=1.0))
            ours.append(await per_second(predict, in_flight=IN_FLIGHT, seconds=1.0))
    return ours, httpxs, [mine / other for mine, other in zip(ours, httpxs, strict=True)], best
