"""Results of every kind, for the tests of how the command line writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from socaity_server import SocaityRouter

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x9b1mbold\u202egnp\x1b[0m"

router = SocaityRouter()


@router.add_route("/picture")
def picture() -> Image.Image:
    """With a transparent part."""
    return Image.new("RGBA", (6, 4), (255, 0, 0, 128))


@router.add_route("/pixels")
def pixels() -> Any:
    return np.full((4, 6, 3), 200, np.uint8)


@router.add_route("/album")
def album() -> list[Image.Image]:
    return [Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")]


@router.add_route("/say")
def say(text: str = "hello") -> str:
    return text


@router.add_route("/number")
def number() -> float:
    return 1.5


@router.add_route("/coloured")
def coloured() -> str:
    return f"{ESCAPES}\n\tcafé 日本 👩‍🚀"  # the last one is joined by a character that cannot be seen


@router.add_route("/coloured_words")
def coloured_words() -> Iterator[str]:
    yield from ("one ", ESCAPES)


@router.add_route("/coloured_map")
def coloured_map() -> dict[str, str]:
    return {"text": ESCAPES}


@router.add_route("/refuse")
def refuse() -> str:
    raise RuntimeError(ESCAPES + "\nsecond line")


@router.add_route("/broken")
def break_off() -> Iterator[str]:
    yield "first "
    raise RuntimeError("it broke in the middle")


@router.add_route("/words")
def words() -> Iterator[str]:
    yield from ("one ", "two ", "three")
