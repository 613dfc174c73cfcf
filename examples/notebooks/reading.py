"""The service of 01_read_pictures.ipynb, which finds text in pictures and reads it: `socaity serve reading:router`.

The two models come from the package `rapidocr-onnxruntime` (`pip install --no-deps rapidocr-onnxruntime`), of which only the
files are read: PP-OCRv4, which says for every pixel how much it looks like text, and for every place of a line which
character is there. What is between them are plain functions of numpy, scipy and Pillow. Every result is the argument of
the next call and stays here; the caller gets the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from socaity_server import SocaityRouter
from socaity_server.model_config import ModelConfig
from socaity_server.runtimes.base import TensorSpec

__all__ = ["Line", "router"]

PACKAGE = "rapidocr-onnxruntime"
FINDER = "ch_PP-OCRv4_det_infer.onnx"
READER = "ch_PP-OCRv4_rec_infer.onnx"

MULTIPLE = 32  # the finder halves pictures five times
TEXT_FROM = 0.3  # a pixel that looks more like text than this is text,
SURE_FROM = 0.5  # and a box of pixels that do so on average
GROWTH = 1.6  # the finder shrinks what it marks; boxes grow again by this
LINE = 32  # boxes whose middles differ by less than half of it are in one line, mostly
HEIGHT = 48  # of a strip that the reader takes
STEP = 160  # widths of strips are multiples of it, so that pictures share batches

Floats = NDArray[np.float32]
Boxes = NDArray[np.int32]


@dataclass
class Line:
    """A line of text, where it is in the picture (left, top, right, bottom), and how sure the reader is, from 0 to 1."""

    text: str
    box: tuple[int, int, int, int]
    sure: float


def package_file(name: str) -> Path:
    """A file of the package, which is not imported: that would need OpenCV."""
    try:
        found = next(file for file in files(PACKAGE) or () if file.name == name)
    except (PackageNotFoundError, StopIteration) as exc:
        raise FileNotFoundError(
            f"{name} is missing: pip install --no-deps --ignore-requires-python {PACKAGE}==1.4.4"
        ) from exc
    return Path(str(found.locate()))


def characters() -> list[str]:
    """What the reader's classes mean; class 0 is the gap between two characters."""
    session = onnxruntime.InferenceSession(
        package_file(READER), providers=["CPUExecutionProvider"]
    )
    return ["", *session.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]


CHARACTERS = characters()
router = SocaityRouter(title="reading")
router.add_model(package_file(FINDER), name="find")
router.add_model(
    package_file(READER),
    name="spell",
    # The file does not say how high a strip is; with that, the server can make some up and measure.
    config=ModelConfig(inputs=(TensorSpec("x", "float32", (None, 3, HEIGHT, None)),)),
)


@router.add_route("/prepare", concurrency=2)
def prepare(picture: Image.Image) -> Floats:
    """The picture as numbers from -1 to 1, [3, height, width], filled up to whole steps of the finder."""
    pixels = np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1
    _, height, width = pixels.shape
    return np.pad(
        pixels, ((0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="edge"
    )


@router.add_route("/outline", concurrency=2)
def outline(likeness: Floats) -> Boxes:
    """A box around every line of text, from how much each pixel looks like text: [boxes, 4], in the order of reading."""
    likeness = likeness[0]
    joined = ndimage.binary_dilation(likeness > TEXT_FROM, np.ones((2, 2)))
    labels, _ = ndimage.label(joined)
    boxes = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3 or likeness[rows, columns].mean() < SURE_FROM:
            continue
        grow = round(GROWTH * height * width / (2 * (height + width)))
        boxes.append(
            (
                max(columns.start - grow, 0),
                max(rows.start - grow, 0),
                min(columns.stop + grow, likeness.shape[1]),
                min(rows.stop + grow, likeness.shape[0]),
            )
        )
    boxes.sort(key=lambda box: ((box[1] + box[3]) // LINE, box[0]))
    return np.array(boxes, np.int32).reshape(-1, 4)


@router.add_route("/cut", concurrency=2)
def cut(page: Floats, boxes: Boxes) -> Floats:
    """The boxes as strips of one height for the reader, side by side in one array: [boxes, 3, 48, width]."""
    pixels = ((page.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    strips = []
    for left, top, right, bottom in boxes.tolist():
        width = -(-HEIGHT * (right - left) // (bottom - top))
        strip = Image.fromarray(pixels[top:bottom, left:right]).resize(
            (width, HEIGHT), Image.Resampling.BICUBIC
        )
        strips.append(np.asarray(strip, np.float32).transpose(2, 0, 1) / 127.5 - 1)
    widest = max((one.shape[2] for one in strips), default=STEP)
    # A model takes one row at least: one that is empty, where there is no text.
    stack = np.zeros(
        (max(len(strips), 1), 3, HEIGHT, -(-widest // STEP) * STEP), np.float32
    )
    for row, one in zip(stack, strips, strict=False):
        row[:, :, : one.shape[2]] = one
    return stack


@router.add_route("/write", concurrency=2)
def write(boxes: Boxes, spelled: Floats) -> list[Line]:
    """The text of each box, from how likely each character is at each place of its strip: [boxes, places, characters]."""
    lines = []
    for box, places in zip(boxes.tolist(), spelled, strict=False):
        best = places.argmax(axis=1)
        is_new = (best != 0) & (best != np.concatenate([[0], best[:-1]]))
        if is_new.any():
            text = "".join(CHARACTERS[one] for one in best[is_new]).strip()
            lines.append(
                Line(
                    text,
                    (box[0], box[1], box[2], box[3]),
                    round(float(places.max(axis=1)[is_new].mean()), 3),
                )
            )
    return lines
