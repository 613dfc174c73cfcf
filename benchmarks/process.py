"""Servers as subprocesses, and what Linux says of a process: memory and CPU time."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from measurement import Skipped

_START_DEADLINE = 60.0


class Server(NamedTuple):
    url: str
    pid: int


@contextlib.contextmanager
def server(name: str, *arguments: str) -> Iterator[Server]:
    """`servers/{name}.py` in a process of its own; it prints its address when it is ready."""
    command = [sys.executable, str(Path(__file__).parent / "servers" / f"{name}.py"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _START_DEADLINE)
        url = process.stdout.readline().strip() if ready else ""
        if not url:
            raise Skipped(f"the server {name} did not start")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def need_linux() -> None:
    if not Path("/proc/self/clear_refs").exists():
        raise Skipped("memory and CPU time are read from /proc, which only Linux has")


def rss(pid: int | str = "self") -> int:
    """The resident memory in bytes."""
    return _status(pid, "VmRSS")


def peak_rss(pid: int | str = "self") -> int:
    """The highest resident memory since `reset_peak`."""
    return _status(pid, "VmHWM")


def reset_peak(pid: int | str = "self") -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int | str = "self") -> float:
    """What all threads of the process have used so far; counted in nanoseconds by the scheduler."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _status(pid: int | str, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Skipped(f"/proc/{pid}/status has no {field}")


def give_back_memory() -> None:
    """Free memory that the allocator keeps would hide growth."""
    import ctypes
    import gc

    gc.collect()
    if os.uname().sysname == "Linux":
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
