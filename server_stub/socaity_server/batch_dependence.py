"""Whether the answer for a row depends on the rows that share its batch."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from .runtimes.base import Runtime

__all__ = ["batch_dependence", "shown_error", "wrong_rows"]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]

_ROWS = 8


def batch_dependence(runtime: Runtime, inputs: Arrays, *, tolerance: float = 1e-3) -> str | None:
    """A sentence of warning when the answer for a row depends on the rows that share its batch; None: it does not.

    Runs the first rows of `inputs` (at most eight) one by one and together. Numbers with a fraction may differ by `tolerance`
    of the greatest one in the output: engines add up in another order for other shapes. All else must be the same. Also says
    when the model fails together only, or gives another number of rows. None for a model that fails with these inputs anyhow.
    """
    rows = min((array.shape[0] if array.ndim else 0 for array in inputs.values()), default=0)
    rows = min(rows, _ROWS)
    if rows < 2:
        return None
    try:
        alone = [runtime.run(_cut(inputs, row, row + 1)) for row in range(rows)]
    except Exception:  # a model's own errors share no base class
        return None
    try:
        together = runtime.run(_cut(inputs, 0, rows))
    except Exception as exc:
        return f"The model answers rows one by one, but not {rows} at once ({shown_error(exc)}); set `batching: false`."
    for name, output in together.items():
        found = output.shape[0] if output.ndim else 0
        if found != rows:
            return f"{wrong_rows(name, found, rows).capitalize()}; set `batching: false`."
    worst: tuple[float, str] | None = None
    for name, output in together.items():
        for row in range(rows):
            found = _difference(alone[row].get(name), output[row : row + 1], output, tolerance)
            if found is not None and (worst is None or found[0] > worst[0]):
                worst = (found[0], f"the output {name!r} of row {row} {found[1]}")
    if worst is None:
        return None
    try:
        again = runtime.run(_cut(inputs, 0, 1))
    except Exception:
        again = alone[0]
    if any(_difference(alone[0].get(name), again[name], again[name], tolerance) for name in again):
        return "The model gives different answers for the same input; is it in training mode?"
    return (
        f"The answer for a row depends on the rows that are computed with it: {worst[1]}. "
        "Set `batching: false` unless that is meant."
    )


def _cut(inputs: Arrays, start: int, end: int) -> Arrays:
    return {name: array[start:end] for name, array in inputs.items()}


def _difference(
    alone: np.ndarray[Any, Any] | None,
    together: np.ndarray[Any, Any],
    batch: np.ndarray[Any, Any],
    tolerance: float,
) -> tuple[float, str] | None:
    """How much the two differ and how to say it; None: not to speak of."""
    if alone is None:
        return math.inf, "is missing when it runs alone"
    if alone.shape != together.shape:
        return math.inf, f"has the shape {list(alone.shape)} alone and {list(together.shape)} in a batch"
    if alone.dtype.kind in "fc":
        with np.errstate(all="ignore"):
            one, other, all_of_them = (np.asarray(array, np.complex128) for array in (alone, together, batch))
            distance = np.abs(one - other)
            distance[(one == other) | (np.isnan(one) & np.isnan(other))] = 0.0
            distance[np.isnan(distance)] = math.inf
            sizes = np.abs(all_of_them)
        scale = float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))
        most = float(np.max(distance, initial=0.0))
        if most <= tolerance * scale:
            return None
        return most / scale if scale else math.inf, f"differs by up to {most:.3g}"
    if alone.dtype.kind in "iub":
        # as Python's integers, which do not wrap around
        most_apart = max(
            (abs(int(a) - int(b)) for a, b in zip(alone.flat, together.flat, strict=True)), default=0
        )
        return (math.inf, f"differs by up to {most_apart}") if most_apart else None
    unequal = sum(not _is_same(a, b) for a, b in zip(alone.flat, together.flat, strict=True))
    return (math.inf, f"differs in {unequal} of {alone.size} values") if unequal else None


def _is_same(one: object, other: object) -> bool:
    return bool(np.array_equal(np.asarray(one, object), np.asarray(other, object)))


def wrong_rows(name: str, found: int, rows: int) -> str:
    return f"the output {name!r} has {found} rows for {rows} rows of input"


def shown_error(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines() or [""]
    return f"{type(exc).__name__}: {lines[0][:200]}".rstrip(": ")
