"""What `import socaity` costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from measurement import Measurement
from rates import median

ROUNDS = 20
HEAVY = ("numpy", "httpx", "websockets")


def run() -> Iterator[Measurement]:
    name = "import_time"
    ours, bare, used = [], [], []
    _start("import socaity")  # the first one writes byte code
    for _ in range(ROUNDS):
        bare.append(_start("pass"))
        ours.append(_start("import socaity"))
        used.append(_start("import socaity; socaity.connect"))
    yield Measurement(name, "bare Python", median(bare) * 1e3, "ms")
    yield Measurement(
        name,
        f"import socaity on top, median of {ROUNDS}",
        (median(ours) - median(bare)) * 1e3,
        "ms",
        at_most=80,
    )
    first_use = (median(used) - median(bare)) * 1e3
    yield Measurement(name, "the same and the first look at socaity.connect", first_use, "ms")
    loaded = subprocess.run(
        [sys.executable, "-c", f"import socaity, sys; print(sum(one in sys.modules for one in {HEAVY}))"],
        stdout=subprocess.PIPE,
        check=True,
    )
    yield Measurement(name, f"loaded of {', '.join(HEAVY)}", int(loaded.stdout), at_most=0)


def _start(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start
