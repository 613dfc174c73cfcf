"""What the fault tests call; run in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from socaity_server import JobProgress, SocaityRouter

router = SocaityRouter()
_gates: dict[str, threading.Event] = {}
_lock = threading.Lock()
_runs: dict[str, int] = {}


def _gate(name: str) -> threading.Event:
    with _lock:
        return _gates.setdefault(name, threading.Event())


@router.add_route("/open_gate", concurrency=8)
def open_gate(name: str) -> bool:
    """Let everything that waits at this gate go on."""
    _gate(name).set()
    return True


@router.add_route("/wait_at", concurrency=64)
def wait_at(job_progress: JobProgress, name: str) -> str:
    """Report that it runs and wait for the gate."""
    with _lock:
        _runs[name] = _runs.get(name, 0) + 1
    job_progress.progress = 0.5
    job_progress.message = "at the gate"
    if not _gate(name).wait(30):
        raise TimeoutError(f"nobody opened {name}")
    return name


@router.add_route("/runs")
def runs(name: str) -> int:
    """How often `wait_at` was started with this name."""
    return _runs.get(name, 0)


@router.add_route("/count", concurrency=64)
def count(to: int, gate: str = "", gate_at: int = -1) -> Iterator[int]:
    """Stream 0 … to-1; wait at the gate before number `gate_at`."""
    for number in range(to):
        if number == gate_at and not _gate(gate).wait(30):
            raise TimeoutError(f"nobody opened {gate}")
        yield number


@router.add_route("/total", concurrency=8)
def total(x: np.ndarray) -> float:
    return float(x.sum())


@router.add_route("/double", max_batch_size=64, idempotent=True)
def double(x: np.ndarray) -> np.ndarray:
    return x * 2


router.add_model(Path(__file__).parents[2] / "examples" / "models" / "digits.onnx")


@router.add_route("/echo")
def echo(value: Any) -> Any:
    return value


@router.add_route("/blob")
def blob(number: int, size: int) -> bytes:
    return bytes([number % 256]) * size
