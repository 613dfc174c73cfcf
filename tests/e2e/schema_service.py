"""A service with every kind of endpoint, for a program that calls all of them as their OpenAPI description says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from socaity_server import JobProgress, SocaityRouter
from socaity_server.runtimes.base import Runtime, TensorSpec

router = SocaityRouter(title="described", version="1")


class Style(BaseModel):
    """Settings of a picture."""

    colour: Literal["red", "green"] = "red"
    sizes: list[int] = Field(default_factory=list, max_length=5)


class Doubling(Runtime):
    """Twice the rows."""

    name = "doubling"
    inputs = (TensorSpec("x", "float32", (None, 2)), TensorSpec("label", "object", (None, 1)))
    outputs = (TensorSpec("y", "float32", (None, 2)), TensorSpec("label", "object", (None, 1)))
    batched = True

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        with np.errstate(over="ignore"):
            return {"y": inputs["x"] * 2, "label": inputs["label"]}


router.add_model(Doubling(), name="doubling")


@router.add_route("/write", queue_size=1000, concurrency=8)
def write(job_progress: JobProgress, text: str, steps: int = 4) -> str:
    """A job."""
    job_progress.message = text
    return text


@router.add_route("/paint")
def paint(style: Style, title: str | None = None, share: float = 0.5) -> dict[str, Any]:
    """Takes a model."""
    return {"style": style.colour, "title": title, "share": share}


@router.add_route("/spell")
def spell(text: str) -> Iterator[str]:
    """A stream."""
    yield from text[:20]


@router.add_route("/total", max_batch_size=8)
def total(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Batched, of any shape."""
    with np.errstate(over="ignore"):
        return np.array([np.sum(item) for item in x])


@router.add_route("/look", methods=["GET", "POST"])
async def look(places: list[str], deep: bool = False) -> int:
    """Also with GET."""
    return len(places)
