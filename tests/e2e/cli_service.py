"""What the tests of the command line call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as numbers
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from socaity_server import JobProgress, SocaityRouter

DEADLINE = 30.0

router = SocaityRouter(grace=0.5)
gate = threading.Event()


class Style(BaseModel):
    """How it looks."""

    name: Literal["oil", "ink"] = "oil"
    tags: list[str] = []


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Odd(BaseModel):
    """Keys that are no Python names."""

    kind: str = Field(alias="class")
    count: int = Field(alias="how-many")


@dataclass
class Box:
    x: int
    y: int
    label: str | None = None


@router.add_route("/paint", queue_size=10)
def paint(
    text: Annotated[str, Field(description="what to paint")],
    steps: int = 4,
    style: Style | None = None,
    size: Literal["small", "large"] = "small",
) -> str:
    """Paint a "picture" of \\ text.

    Slowly.
    """
    return f"{text} {steps} {size} {style.name if style else None}"


@router.add_route("/predict")
def predict(image: bytes, top: int = 1) -> dict[str, Any]:
    """What is in the picture."""
    return {"bytes": len(image), "head": image[:4].hex(), "top": top}


@router.add_route("/boom", queue_size=10)
def boom() -> str:
    raise RuntimeError("it broke")


@router.add_route("/write")
def write(prompt: str) -> Iterator[str]:
    yield from (prompt, " upon", " a time")


@router.add_route("/drip")
def drip() -> Iterator[str]:
    """A word, and after `open` another one."""
    yield "first\n"
    assert gate.wait(DEADLINE)
    yield "second\n"


@router.add_route("/crumble")
def crumble(word: str) -> Iterator[str]:
    """A word, and then an error."""
    yield word
    raise RuntimeError("it broke")


@router.add_route("/endless")
def endless() -> Iterator[int]:
    for number in numbers():
        yield number
        time.sleep(0.001)  # a job keeps its chunks, and fails when they are too many


@router.add_route("/hold", queue_size=10)
def hold(job_progress: JobProgress, text: str) -> str:
    """Runs until `open`."""
    job_progress.message = "halfway"
    job_progress.progress = 0.5
    assert gate.wait(DEADLINE)
    return text


@router.add_route("/open")
def open_gate() -> None:
    gate.set()


@router.add_route("/shut")
def shut_gate() -> None:
    gate.clear()


@router.add_route("/double", max_batch_size=4)
def double(x: np.ndarray) -> np.ndarray:
    """Twice as much."""
    return x * 2


@router.add_route("/total")
def total(values: list[float], names: list[str] | None = None, exact: bool = False) -> dict[str, Any]:
    return {"total": sum(values), "names": names, "exact": exact}


@router.add_route("/raw")
def raw(size: int) -> bytes:
    return bytes(range(size))


@router.add_route("/echo")
def echo(value: Any = None) -> Any:
    return value


@router.add_route("/tree")
def tree(node: Node) -> Node:
    return node


@router.add_route("/boxes")
def boxes(number: int, at: tuple[int, int] = (0, 0)) -> list[Box]:
    return [Box(at[0] + one, at[1]) for one in range(number)]


@router.add_route("/odd")
def odd(value: Odd) -> int:
    return value.count


@router.add_route("/list")
def list_(**others: int) -> dict[str, int]:
    return others
