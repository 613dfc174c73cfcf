"""What Linux says of all processes of a server together."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

_CPUCLOCK_SCHED = 2
"""With the complement of a process id, the clock of that process: clock_getcpuclockid(3)."""


def family(root: int) -> list[int]:
    """The process, its session and all descendants."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = (int(fields[1]), int(fields[3]))
    found = {pid for pid, (_, session) in parents.items() if pid == root or session == root}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of all their threads, also of those that have ended (which a sum over /proc/PID/task forgets)."""
    return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def resident(pids: Iterable[int]) -> tuple[int, int]:
    """Bytes: the sum of the resident memory, and of the proportional one, which counts shared pages once."""
    rss = pss = 0
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Rss:"):
                    rss += int(line.split()[1]) * 1024
                elif line.startswith("Pss:"):
                    pss += int(line.split()[1]) * 1024
    return rss, pss
