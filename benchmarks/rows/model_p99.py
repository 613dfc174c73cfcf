"""The slowest percent of requests at half of what each peer can do, for the digit network: an open loop at a constant rate.

At each of these loads the peer, ours, and Mosec, the quickest of the peers, are measured in turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import uvloop
from load.closed import WARM_SECONDS, post
from load.open_loop import Answers, Generator
from load.paired import contenders, in_turns, ratio
from measurement import Measurement
from peers.contender import Contender
from peers.forms import OURS
from rates import median, percentile

ROW = "model_p99"
CONNECTIONS = 256
CLOSED_CONNECTIONS = 64
SECONDS = 4.0
ROUNDS = 3
SHARE = 0.5


def run() -> Iterator[Measurement]:
    with contenders("mlp") as servers:
        most = {}
        for name, one in servers.items():
            one.thaw()
            post(one, connections=CLOSED_CONNECTIONS, seconds=WARM_SECONDS)
            most[name] = post(one, connections=CLOSED_CONNECTIONS, seconds=2).rate
            one.settle()
            one.freeze()
        peers = [name for name in servers if name != OURS]
        best = max(peers, key=lambda name: most[name])
        late = []
        for peer in peers:
            load = SHARE * most[peer]
            measured = {name: servers[name] for name in dict.fromkeys((OURS, best, peer))}
            found = in_turns(measured, lambda one, load=load: uvloop.run(_ask(one, load)), rounds=ROUNDS)
            p99 = {name: [_p99(one) for one in rounds] for name, rounds in found.items()}
            late += [one.late() for rounds in found.values() for one in rounds]
            where = f"at {load:,.0f}/s"
            for name, values in p99.items():
                yield Measurement(
                    ROW, f"{where}, half of {peer}'s most: {name}, p99", median(values) * 1e3, "ms"
                )
            times = ratio(p99[OURS], p99[best])
            yield Measurement(
                ROW, f"{where}: ours, times that of {best}, the best peer", times, "×", at_most=1
            )
    yield Measurement(ROW, "how late the generator was, p99, the worst run", max(late) * 1e3, "ms")


async def _ask(one: Contender, rate: float) -> Answers:
    bodies = one.bodies.read_bytes().splitlines()
    async with Generator(one.url, bodies, connections=CONNECTIONS) as generator:
        await generator.open_loop(rate, 1.0)
        return await generator.open_loop(rate, SECONDS)


def _p99(one: Answers) -> float:
    """In seconds. A request without a good answer has taken for ever."""
    good = one.latencies(200)
    return percentile(good + [math.inf] * (len(one.status) - len(good) + one.lost), 99)
