"""A service that takes little, for the tests of limits."""

from __future__ import annotations

import threading
from typing import Any

from socaity_server import SocaityRouter

router = SocaityRouter(max_body=100_000)
_gates: dict[str, threading.Event] = {}
_lock = threading.Lock()


def _gate(name: str) -> threading.Event:
    with _lock:
        return _gates.setdefault(name, threading.Event())


@router.add_route("/size", idempotent=True)
def size(x: Any) -> int:
    return len(x)


@router.add_route("/wait_at")
def wait_at(name: str) -> bool:
    return _gate(name).wait(30)


@router.add_route("/open_gate")
def open_gate(name: str) -> None:
    _gate(name).set()
