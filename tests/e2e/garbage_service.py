"""A model, a function and a look at what only the garbage collector would have given back."""

import gc
from collections import Counter
from pathlib import Path
from typing import Any

from socaity_server import SocaityRouter

router = SocaityRouter()
router.add_model(Path(__file__).parents[2] / "examples" / "models" / "digits.onnx")


@router.add_route("/work", queue_size=1000)
def work(n: int) -> int:
    return n


@router.add_route("/pass_on", queue_size=1000, concurrency=4)
def pass_on(value: Any, fails: bool = False) -> Any:
    if fails:
        raise ValueError("boom")
    return value


@router.add_route("/watch_garbage", queue_size=1)
def watch_garbage() -> None:
    """From now on keep what is found."""
    gc.collect()
    gc.garbage.clear()
    gc.set_debug(gc.DEBUG_SAVEALL)


@router.add_route("/garbage", queue_size=1)
def garbage() -> dict[str, int]:
    """How many objects of which type were found in circles."""
    gc.collect()
    gc.set_debug(0)
    found = Counter(type(one).__name__ for one in gc.garbage)
    gc.garbage.clear()
    return dict(found)
