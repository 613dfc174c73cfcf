"""Many calls of a model: the server runs what arrives together as one batch, `map` keeps the server busy."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import socaity
from socaity_server import SocaityRouter

MODELS = Path(__file__).parent / "models"
batch_sizes: list[int] = []
router = SocaityRouter()
router.add_model(MODELS / "digits.onnx", max_batch_size=64)


@router.add_route("/norm", max_batch_size=64)
def norm(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The length of a vector. The function gets a stack of vectors and gives one row for each."""
    batch_sizes.append(len(x))
    return np.linalg.norm(x, axis=1)


held_out = np.load(MODELS / "digits_held_out.npz")
pixels, labels = held_out["x"].astype(np.float32), held_out["y"]

with socaity.connect(router, progress=False) as service:
    lengths = service.norm.map(pixels).result(timeout=30)  # one call per row
    print(f"{len(lengths)} calls of norm ran in {len(batch_sizes)} batches")

    one = service.digits(pixels[0]).result(timeout=30)  # one item in, one row out
    print(f"one item: {one.shape}, the digit is {one.argmax()}")

    stack = service.digits(pixels).result(timeout=30)  # a stack in, a stack out
    print(f"a stack: {stack.shape}, {(stack.argmax(axis=1) == labels).mean():.1%} are right")

    group = service.digits.map(pixels, concurrency=100)  # at most 100 calls at a time
    for number, probabilities in enumerate(group):  # in order, each as soon as it is there
        if number == 3:
            break
        print(f"call {number}: {probabilities.argmax()}")
    print(f"all {len(group.result(timeout=30))} calls have ended")
