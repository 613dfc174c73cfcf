"""The digit model of the examples, a row for it, and the request that plain HTTP clients send."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MODEL = Path(__file__).resolve().parent.parent / "examples" / "models" / "digits.onnx"
PATH = "/predict/digits"


def rows(count: int) -> np.ndarray[Any, Any]:
    """So many images of 8 × 8 pixels, each 0 to 16."""
    return np.random.default_rng(0).integers(0, 17, (count, 64)).astype(np.float32)


def request_body() -> dict[str, Any]:
    return {"features": rows(1).tolist()}
