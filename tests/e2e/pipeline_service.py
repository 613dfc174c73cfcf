"""Steps of pipelines; run in a process of its own."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from socaity.exceptions import ServerError
from socaity_server import Audio, JobProgress, SocaityRouter
from socaity_server.runtimes.base import Runtime, TensorSpec

router = SocaityRouter()
_gates: dict[str, threading.Event] = {}
_lock = threading.Lock()
_runs: Counter[str] = Counter()


def _gate(name: str) -> threading.Event:
    with _lock:
        return _gates.setdefault(name, threading.Event())


def _note(name: str) -> int:
    with _lock:
        _runs[name] += 1
        return _runs[name]


@router.add_route("/open_gate", concurrency=8)
def open_gate(name: str) -> bool:
    """Let everything that waits at this gate go on."""
    _gate(name).set()
    return True


@router.add_route("/close_gate")
def close_gate(name: str) -> bool:
    """Let everything wait at this gate that comes from now on."""
    _gate(name).clear()
    return True


@router.add_route("/runs")
def runs(name: str) -> int:
    """How often a step was run under this name."""
    return _runs[name]


# -- steps that are jobs -----------------------------------------------------------------------------------------------


@router.add_route("/add_one", concurrency=16)
def add_one(x: int) -> int:
    """A step of one millisecond."""
    time.sleep(0.001)
    return x + 1


@router.add_route("/at_gate", concurrency=16)
def at_gate(job_progress: JobProgress, x: Any, gate: str) -> Any:
    """Says that it runs, and gives `x` when the gate is open."""
    _note(gate)
    job_progress.message = "at the gate"
    if not _gate(gate).wait(30):
        raise TimeoutError(f"nobody opened {gate}")
    return x


@router.add_route("/fail", concurrency=16)
def fail(x: Any = None, name: str = "fail", times: int = 1_000_000) -> Any:
    """Raises the first `times` times under this name."""
    if _note(name) <= times:
        raise ValueError("boom")
    return x


@router.add_route("/large", concurrency=16)
def large(megabytes: int, gate: str = "") -> np.ndarray:
    if gate and not _gate(gate).wait(30):
        raise TimeoutError(f"nobody opened {gate}")
    return np.ones(megabytes * 1_000_000, np.uint8)


@router.add_route("/large_of_sound", concurrency=16)
def large_of_sound(sound: Audio, megabytes: int, gate: str) -> np.ndarray:
    """What takes media is encoded before it is sent."""
    return large(megabytes, gate) * len(sound.samples)


@router.add_route("/large_parts", concurrency=16)
def large_parts(megabytes: int, gate: str) -> dict[str, Any]:
    if not _gate(gate).wait(30):
        raise TimeoutError(f"nobody opened {gate}")
    return {"parts": [np.full(megabytes * 1_000_000, n, np.uint8) for n in range(3)], "note": "three"}


@router.add_route("/size", concurrency=16)
def size(x: Any) -> int:
    """How many bytes came, and adds up those in lists."""
    if isinstance(x, list):
        return sum(map(size, x))
    if isinstance(x, dict):
        return sum(map(size, x.values()))
    return int(getattr(x, "nbytes", 1))


@router.add_route("/echo", concurrency=16)
def echo(value: Any) -> Any:
    return value


@router.add_route("/words", concurrency=16)
def words(text: str) -> Iterator[str]:
    yield from text.split()


@router.add_route("/join", concurrency=16)
def join(parts: list[str], by: str = " ") -> str:
    return by.join(parts)


@router.add_route("/counted", concurrency=16)
def counted(value: Any, name: str) -> Any:
    _note(name)
    return value


@router.add_route("/one_at_a_time", queue_size=1)
def one_at_a_time(x: Any, gate: str) -> Any:
    """One runs and one may wait; the next is refused with 503."""
    _note(gate)
    if not _gate(gate).wait(30):
        raise TimeoutError(f"nobody opened {gate}")
    return x


@router.add_route("/learned", queue_size=100)
def learned(name: str, gate: str = "") -> str:
    """Takes ten milliseconds, or until the gate is open."""
    time.sleep(0.01)
    if gate and not _gate(gate).wait(30):
        raise TimeoutError(f"nobody opened {gate}")
    return name


# -- steps that are direct calls ---------------------------------------------------------------------------------------


@router.add_route("/next", max_batch_size=16, idempotent=True)
def next(x: np.ndarray) -> np.ndarray:
    """A step of one millisecond."""
    time.sleep(0.001)
    return x + 1


@router.add_route("/once", max_batch_size=16)
def once(x: np.ndarray) -> np.ndarray:
    """The same, not to be repeated."""
    return x + 1


@router.add_route("/held_at", max_batch_size=1, idempotent=True)
def held_at(x: np.ndarray) -> np.ndarray:
    """Gives 8 MB for every row when the gate `direct` is open."""
    _note("held_at")
    if not _gate("direct").wait(30):
        raise TimeoutError("nobody opened direct")
    return np.repeat(x[:, None], 1_000_000, axis=1)


@router.add_route("/large_once", max_batch_size=1)
def large_once(x: np.ndarray) -> np.ndarray:
    """The same, not to be repeated."""
    if not _gate("direct").wait(30):
        raise TimeoutError("nobody opened direct")
    return np.repeat(x[:, None], 1_000_000, axis=1)


@router.add_route("/total", max_batch_size=16, idempotent=True)
def total(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=tuple(range(1, x.ndim)))


@router.add_route("/broken", max_batch_size=16)
def broken(x: np.ndarray) -> np.ndarray:
    raise ValueError("boom")


class Full(Runtime):
    """Adds one; refuses the first two times."""

    name = "full 1"
    inputs = (TensorSpec("x", "float64", (None, 1)),)
    outputs = (TensorSpec("y", "float64", (None, 1)),)
    batched = True

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        if _note("full") <= 2:
            raise ServerError("not now", status=503, code="queue_full", retry_after=0.01)
        return {"y": inputs["x"] + 1}


router.add_model(Full(), name="full")
