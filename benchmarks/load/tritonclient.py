"""A closed loop with tritonclient: one Python process with some calls in flight, against us and against MLServer in turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from load.paired import in_turns, ratio
from measurement import Measurement
from peers.contender import Contender
from peers.environment import HERE, python_of
from peers.forms import OURS
from rates import median

SECONDS = 3.0
TRIAL_SECONDS = 1.0
ROUNDS = 4
MLSERVER = "mlserver"
NAMES = (OURS, MLSERVER)


def compare(
    row: str,
    servers: dict[str, Contender],
    libraries: Mapping[str, str],
    *,
    what: str,
    in_flight: Sequence[int],
    target: float,
) -> Iterator[Measurement]:
    """Requests per second of both, each with the library and the number of calls in flight with which it does best."""
    best: dict[str, int] = {}
    for name, one in servers.items():
        one.thaw()
        trials = dict(zip(in_flight, rates(one, libraries[name], TRIAL_SECONDS, in_flight), strict=True))
        print(f"{row}: {name}, {what}: {trials}", file=sys.stderr)
        best[name] = max(trials, key=lambda count: trials[count])
        one.settle()
        one.freeze()
    found = in_turns(
        servers,
        lambda one: rates(one, libraries[one.name], SECONDS, [best[one.name]])[0],
        rounds=ROUNDS,
    )
    for name, its in found.items():
        title = f"{name} with {libraries[name]}, {best[name]} in flight"
        yield Measurement(row, f"{what}: {title}", median(its), "/s")
    if MLSERVER in found:
        times = ratio(found[OURS], found[MLSERVER])
        yield Measurement(row, f"{what}: times {MLSERVER} ({libraries[OURS]})", times, "×", at_least=target)


def rates(one: Contender, library: str, seconds: float, in_flight: Sequence[int]) -> list[float]:
    """Requests per second for each number of calls in flight."""
    command = [str(python_of("clients")), str(HERE / "clients" / "client.py"), library, one.url]
    command += [str(one.bodies), str(seconds), *map(str, in_flight)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    return [float(line) for line in done.stdout.split()]
