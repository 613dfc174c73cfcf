"""A closed loop over HTTP: wrk with one thread; each connection sends its next request when it has the answer."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from load.paired import in_turns
from measurement import Measurement, Skipped
from peers.contender import Contender, inputs
from peers.environment import version_of
from peers.forms import OURS
from rates import median

WARM_SECONDS = 1
SECONDS = 3
ROUNDS = 4
_SCRIPT = Path(__file__).with_name("post.lua")


class Load(NamedTuple):
    """Requests per second, and their latencies in seconds."""

    rate: float
    p50: float
    p99: float


def post(one: Contender, *, connections: int, seconds: float) -> Load:
    """The requests of a server in turn. Anything but success is an error."""
    if shutil.which("wrk") is None:
        raise Skipped("needs the load generator wrk: apt-get install wrk, or brew install wrk")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-s", str(_SCRIPT)]
    command += [one.url, "--", str(one.bodies)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 60)
    results = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not results or int(results[0][2]):
        raise Skipped(f"{one.name} did not answer all requests; now: {_status(one)}\n{done.stdout}")
    requests, microseconds, _, p50, p99 = map(float, results[0])
    return Load(requests / microseconds * 1e6, p50 / 1e6, p99 / 1e6)


def _status(one: Contender) -> str:
    try:
        one.ask(inputs(one.model.kind)[0])
    except urllib.error.HTTPError as exc:
        return f"{exc.code} {exc.read()[:500]!r}"
    except OSError as exc:
        return repr(exc)
    return "fine"


def turn(one: Contender, connections: int) -> Load:
    """One turn: a second that does not count, and then those that do."""
    post(one, connections=connections, seconds=WARM_SECONDS)
    return post(one, connections=connections, seconds=SECONDS)


def rates_in_turns(
    servers: dict[str, Contender], *, connections: int, each_round: Callable[[], object] | None = None
) -> dict[str, list[Load]]:
    """The loads of the rounds; nothing runs beside `each_round`."""
    return in_turns(servers, lambda one: turn(one, connections), rounds=ROUNDS, each_round=each_round)


def rates(found: Mapping[str, list[Load]]) -> dict[str, list[float]]:
    return {name: [load.rate for load in loads] for name, loads in found.items()}


def measurements(row: str, found: Mapping[str, list[Load]], how: str = "") -> Iterator[Measurement]:
    """What each server did; `how` follows the names of the peers."""
    for name, loads in found.items():
        title = name if name == OURS else f"{name} {version_of(name)}{how}"
        p99 = median([load.p99 for load in loads]) * 1e3
        rate = median([load.rate for load in loads])
        yield Measurement(row, f"{title}, requests/s (p99 {p99:.1f} ms)", rate, "/s")
