"""A runtime of your own: the model server serves, measures and batches files of a format that it has never heard of.

The format is a linear classifier in a NumPy archive: `weight` [inputs, classes], `bias` [classes] and `labels` [classes].
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import socaity
from socaity.exceptions import ConfigurationError
from socaity_server import Runtime, RuntimeOptions, SocaityRouter, TensorSpec, add_runtime

Array = np.ndarray[Any, Any]
batch_sizes: list[int] = []


class LinearRuntime(Runtime):
    """`model.npz` as a runtime. One loaded model serves all threads, so `run` changes nothing of it."""

    suffixes = (".npz",)

    def __init__(self, path: str | os.PathLike[str], options: RuntimeOptions) -> None:
        try:
            with np.load(path) as archive:  # never allow_pickle: a model file must not run code
                self._weight, self._bias, self._labels = (
                    archive[name] for name in ("weight", "bias", "labels")
                )
        except (OSError, ValueError, KeyError) as exc:
            raise ConfigurationError(f"{os.fspath(path)!r} is no linear model: {exc}") from exc
        size, classes = self._weight.shape
        self.name = f"linear model, NumPy {np.__version__}"
        # None stands for the batch: the first axis may have any length, so calls may be put together.
        self.inputs = (TensorSpec("x", "float32", (None, size)),)
        self.outputs = (
            TensorSpec("label", self._labels.dtype.name, (None,)),
            TensorSpec("scores", "float32", (None, classes)),
        )
        self.batched = True

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        batch_sizes.append(len(inputs["x"]))
        scores = inputs["x"] @ self._weight + self._bias
        return {"label": self._labels[scores.argmax(axis=1)], "scores": scores}


# In a package of its own the entry point does this: see docs/how-to/own-runtime.md.
add_runtime("linear", LinearRuntime)


def train(x: Array, y: Array, file: Path) -> None:
    """The class whose mean is nearest, which is a linear function of x."""
    labels = np.unique(y)
    means = np.stack([x[y == label].mean(axis=0) for label in labels])
    file.parent.mkdir()
    np.savez(file, weight=means.T, bias=-(means**2).sum(axis=1) / 2, labels=labels)


digits = np.load(Path(__file__).parent / "models" / "digits_held_out.npz")
pixels, labels = digits["x"].astype(np.float32), digits["y"]

with tempfile.TemporaryDirectory() as folder:
    train(pixels[::2], labels[::2], Path(folder) / "digits" / "model.npz")
    train(pixels[::2], labels[::2] % 2, Path(folder) / "odd" / "model.npz")
    (Path(folder) / "odd" / "model_config.yaml").write_text("backend: lineer")

    router = SocaityRouter()
    repository = router.add_models(folder)
    with socaity.connect(router, progress=False) as service:
        print(service.digits.__signature__)
        answer = service.digits(pixels[1]).result(timeout=30)
        print(f"one item: {answer['label']} {answer['scores'].shape}")

        batch_sizes.clear()  # up to here the model was measured
        answers = service.digits.map(pixels[1::2]).result(timeout=30)
        right = np.mean([one["label"] == label for one, label in zip(answers, labels[1::2], strict=True)])
        print(f"{len(answers)} calls ran in {len(batch_sizes)} batches; {right:.0%} are right")

        for model in repository.listing():
            if model.reason is not None:
                print(f"{model.name}: {model.reason}")
