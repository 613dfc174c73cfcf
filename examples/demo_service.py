"""The service of the demo: a model that reads handwritten digits, and functions that work with what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from socaity_server import JobProgress, SocaityRouter

MODEL = Path(__file__).parent / "models" / "digits.onnx"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

router = SocaityRouter(title="socaity demo")
router.add_model(MODEL)  # the endpoint `digits`: 64 pixels in, 10 probabilities out


@router.add_route("/spell")
def spell(probabilities: NDArray[np.float32]) -> str:
    """The most probable digit of every row, in words."""
    return " ".join(WORDS[digit] for digit in np.atleast_2d(probabilities).argmax(axis=1))


@router.add_route("/explain")
def explain(probabilities: NDArray[np.float32]) -> Iterator[str]:
    """What one row of probabilities says, word by word."""
    order = np.argsort(probabilities)[::-1]
    first, second = int(order[0]), int(order[1])
    yield from ("I", " see", " a", f" {WORDS[first]}", f" ({probabilities[first]:.1%});")
    yield from (" if", " not,", " then", " a", f" {WORDS[second]}", f" ({probabilities[second]:.1%}).")


@router.add_route("/interval", queue_size=10)
def interval(job_progress: JobProgress, is_right: NDArray[np.bool_], rounds: int = 200) -> list[float]:
    """The 95 % interval of the mean of `is_right`, from `rounds` times 1,000 resamples (bootstrap)."""
    rng = np.random.default_rng(0)
    means = np.empty((rounds, 1000))
    for number in range(rounds):
        job_progress.message = f"{(number + 1) * 1000:,} resamples"
        job_progress.progress = (number + 1) / rounds
        means[number] = rng.choice(is_right, size=(1000, len(is_right))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return [float(low), float(high)]


if __name__ == "__main__":
    # Port 0: any free one. The demo reads the address from the first line that is printed.
    router.start(port=0, log_level="warning", on_ready=lambda url: print(url, flush=True))
