"""Runs the benchmarks and prints a table: `python benchmarks/run.py [NAMES…] [--peers] [--json FILE]`.

Each benchmark runs in a process of its own, with its servers as further processes on loopback, all on two cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from measurement import Measurement, Skipped

ROWS = (
    "import_time",
    "socket_async",
    "socket_sync",
    "socket_map",
    "latency",
    "pipeline",
    "http_json",
    "completion",
    "large_array",
    "memory",
    "idle",
    "first_result",
)
PEER_ROWS = (
    "model_mlp",
    "model_forest",
    "model_minilm",
    "model_sdk",
    "model_p99",
    "model_overload",
    "model_idle",
    "model_memory",
    "oip_large",
    "oip_small",
)
"""Against other servers, each in its own environment (see peers/README.md): only when named, or with --peers."""
CORES = 2
DEADLINE = 300.0
PEER_DEADLINE = 1200.0


def main() -> int:
    every = ROWS + PEER_ROWS
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAMES", help=f"some of: {', '.join(every)} (default: {', '.join(ROWS)})"
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="the comparisons with other model servers, instead of the default",
    )
    parser.add_argument("--quick", action="store_true", help="5 s of overload instead of 30 s")
    parser.add_argument(
        "--minutes", type=float, default=1.0, help="how long model_memory watches the memory under load"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too")
    parser.add_argument("--row", choices=every, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(every))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(every)}")
    if options.row:
        return _run_here(options.row)
    if options.quick:
        os.environ["BENCHMARK_QUICK"] = "1"
    os.environ["BENCHMARK_MINUTES"] = str(options.minutes)
    _use_two_cores()
    print(_machine(), flush=True)
    measurements: list[Measurement] = []
    failed: list[str] = []
    print(f"\n{'benchmark':<14} {'measured':<58} {'value':>14} {'target':>14}", flush=True)
    for name in options.names or (PEER_ROWS if options.peers else ROWS):
        found = _run_apart(name, PEER_DEADLINE + 60 * options.minutes if name in PEER_ROWS else DEADLINE)
        if found is None:
            failed.append(name)
        for one in found or ():
            measurements.append(one)
            print(_line(one), flush=True)
    missed = [one for one in measurements if one.is_met is False]
    print(f"\n{sum(one.is_met is True for one in measurements)} targets met, {len(missed)} missed", end="")
    print(f", not run: {', '.join(failed)}" if failed else "")
    if options.json is not None:
        document = {
            "machine": _machine(),
            "measurements": [asdict(one) | {"is_met": one.is_met} for one in measurements],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


def _run_here(name: str) -> int:
    """One benchmark in this process; the measurements go to standard output as JSON."""
    try:
        for one in importlib.import_module(f"rows.{name}").run():
            print(json.dumps(asdict(one)), flush=True)
    except Skipped as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return 1
    return 0


def _run_apart(name: str, deadline: float) -> list[Measurement] | None:
    command = [sys.executable, __file__, "--row", name]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=deadline)
    except subprocess.TimeoutExpired:
        print(f"{name}: not done after {deadline:.0f} s", file=sys.stderr)
        return None
    if done.returncode:
        return None
    return [Measurement(**json.loads(line)) for line in done.stdout.splitlines()]


def _use_two_cores() -> None:
    """The numbers are for two cores; children inherit them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("uvicorn", "httpx", "websockets", "numpy", "onnxruntime")
    )
    return f"{cores} cores of {model}, {platform.system()}, Python {platform.python_version()}, {packages}"


def _line(one: Measurement) -> str:
    verdict = {True: "met", False: "MISSED", None: ""}[one.is_met]
    return f"{one.row:<14} {one.name:<58} {one.text:>14} {one.target:>14}  {verdict}"


if __name__ == "__main__":
    sys.exit(main())
