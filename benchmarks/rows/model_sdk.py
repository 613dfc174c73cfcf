"""One Python process that asks for single predictions: our client and server against the best client for each peer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from load.paired import contenders, in_turns, ratio
from measurement import Measurement
from peers.contender import Contender, inputs
from peers.environment import HERE, python_of
from peers.forms import OURS
from rates import median, per_second

import socaity

ROW = "model_sdk"
LIBRARIES = {
    "mosec": ("aiohttp", "httpx"),
    "litserve": ("aiohttp",),
    "mlserver": ("tritonclient.grpc", "tritonclient.http", "aiohttp"),
    "bentoml": ("aiohttp",),
}
OURS_IN_FLIGHT = 512
IN_FLIGHT = (8, 32, 128)
SECONDS = 2.0
TRIAL_SECONDS = 0.7
ROUNDS = 4
TARGET = 10.0


def run() -> Iterator[Measurement]:
    with contenders("mlp") as servers:
        best: dict[str, tuple[str, int]] = {}
        for name, one in servers.items():
            if name != OURS:
                one.thaw()
                best[name] = _best(one)
                one.settle()
                one.freeze()

        def measure(one: Contender) -> float:
            if one.name == OURS:
                return asyncio.run(_ours(one))
            library, in_flight = best[one.name]
            return _theirs(one, library, SECONDS, [in_flight])[0]

        found = in_turns(servers, measure, rounds=ROUNDS)
    yield Measurement(ROW, f"socaity, {OURS_IN_FLIGHT} in flight, predictions/s", median(found[OURS]), "/s")
    for name, (library, in_flight) in best.items():
        yield Measurement(ROW, f"{name} with {library}, {in_flight} in flight", median(found[name]), "/s")
    for name in best:
        yield Measurement(ROW, f"times {name}", ratio(found[OURS], found[name]), "×", at_least=TARGET)


def _best(one: Contender) -> tuple[str, int]:
    """The library and number of calls in flight with which the peer does best."""
    rates = {
        (library, count): rate
        for library in LIBRARIES[one.name]
        for count, rate in zip(IN_FLIGHT, _theirs(one, library, TRIAL_SECONDS, IN_FLIGHT), strict=True)
    }
    for (library, count), rate in rates.items():
        print(f"{one.name}: {library}, {count} in flight: {rate:,.0f}/s", file=sys.stderr)
    return max(rates, key=lambda key: rates[key])


def _theirs(one: Contender, library: str, seconds: float, in_flight: Sequence[int]) -> list[float]:
    command = [
        str(python_of("clients")),
        str(HERE / "clients" / "client.py"),
        library,
        one.url,
        str(one.bodies),
    ]
    command += [str(seconds), *map(str, in_flight)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    return [float(line) for line in done.stdout.split()]


async def _ours(one: Contender) -> float:
    rows = np.array(inputs("mlp"), np.float32)
    turn = 0
    async with socaity.connect(one.origin, progress=False) as service:
        model = service[one.model.name]

        async def predict() -> None:
            nonlocal turn
            turn = (turn + 1) % len(rows)
            await model(rows[turn])

        await per_second(predict, in_flight=OURS_IN_FLIGHT, seconds=0.3)
        return await per_second(predict, in_flight=OURS_IN_FLIGHT, seconds=SECONDS)
