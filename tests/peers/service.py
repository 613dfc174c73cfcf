"""What our server serves to the programs of the peers: the models in the folder PEER_MODELS, and functions of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

from socaity_server import SocaityRouter

router = SocaityRouter(title="peers", version="1.0")
if "PEER_MODELS" in os.environ:
    router.add_models(os.environ["PEER_MODELS"])
_streams = 0
_lock = threading.Lock()


@router.add_route("/words", concurrency=16)
def words(
    PROMPT: str, REPETITION: int = 1, DELAY: float = 0.0, FAIL_LAST: bool = False
) -> Iterator[dict[str, str]]:
    """The prompt as often as asked for, with so many seconds before each."""
    global _streams
    with _lock:
        _streams += 1
    try:
        for index in range(REPETITION):
            time.sleep(DELAY)
            if FAIL_LAST and index == REPETITION - 1:
                raise ArithmeticError("the last answer was to fail")
            yield {"TEXT": PROMPT}
    finally:
        with _lock:
            _streams -= 1


@router.add_route("/streams", idempotent=True)
def streams(INPUT0: int) -> dict[str, int]:
    """How many calls of `words` run, and INPUT0."""
    with _lock:
        return {"OUTPUT0": INPUT0, "RUNNING": _streams}


@router.add_route("/described", idempotent=True)
def described(
    INPUT0: float, colour: str = "none", count: int = 0, share: float = 0.0, is_it: bool = False
) -> dict[str, str]:
    """What arrived, inputs or parameters of the request."""
    return {"OUTPUT0": f"{INPUT0} {colour} {count} {share} {is_it}"}
