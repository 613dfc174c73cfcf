"""Pictures made small enough for a page: of arrays with numpy alone, of everything else with Pillow where it is installed."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

MAX_BYTES = 96_000
"""Of one picture, before base64."""
_LEAST_SIDE = 8
"""An array with a shorter side is a table of numbers and no picture."""
_MAX_PIXELS = 80_000_000
"""A file that claims more is not unpacked."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A `data:` URI with its size on the page, and what it is in words; without URI where only the words are known."""

    uri: str | None
    width: int
    height: int
    label: str


def picture_of_array(array: Any, side: int, *, full: tuple[int, int] | None = None) -> Picture | None:
    """An array of pixels: height × width, with 1, 3 or 4 channels; uint8, bool, or float from 0 to 1 with channels.

    `full` is its width and height where the array is already a part of the pixels. None if it is no picture.
    """
    import numpy as np

    shape = array.shape
    if array.ndim == 3 and shape[-1] not in (1, 3, 4) and shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
        shape = array.shape
    is_flat = array.ndim == 2
    if not (is_flat or (array.ndim == 3 and shape[-1] in (1, 3, 4))) or min(shape[:2]) < _LEAST_SIDE:
        return None
    kind = array.dtype.kind
    if not (array.dtype == np.uint8 or kind == "b" or (kind == "f" and not is_flat)):
        return None
    height, width = shape[:2]
    if array.ndim == 3 and shape[-1] == 1:
        array = array[:, :, 0]
    pixels = _shrink(array, 2 * side)
    if kind == "f":
        if not np.isfinite(pixels).all() or pixels.min() < -1e-3 or pixels.max() > 1.001:
            return None
        pixels = np.clip(pixels.astype(np.float32) * 255 + 0.5, 0, 255).astype(np.uint8)
    elif kind == "b":
        pixels = pixels.astype(np.uint8) * 255
    if max(pixels.shape[:2]) >= 2 * side:
        pixels = _halve(pixels)
    pixels = _shrink(pixels, side)
    wide, high = full or (width, height)
    label = f"picture, {wide} × {high}"
    while True:
        data = _png(pixels)
        shown_high, shown_wide = pixels.shape[:2]
        if len(data) <= MAX_BYTES or max(shown_high, shown_wide) <= 32:
            return Picture(_uri("png", data), *_page_size(width, height, side), label)
        pixels = _shrink(pixels, int(max(shown_high, shown_wide) * 0.8))


def picture_of_pil(image: Any, side: int) -> Picture:
    """A picture of Pillow's, which stays as it is."""
    label = f"picture, {image.width} × {image.height}"
    return _of_pil(image, side, label)


def picture_of_bytes(data: bytes | bytearray | memoryview, side: int) -> Picture | None:
    """A PNG, JPEG, GIF, WebP, BMP or TIFF file; None for everything else."""
    head = bytes(data[:64])
    kind = _kind_of(head)
    if kind is None:
        return None
    name = f"{kind.upper()} picture"
    size = _size_in(bytes(data[:65536]), kind)
    if size is not None and size[0] * size[1] > _MAX_PIXELS:
        return Picture(None, 0, 0, f"{name}, {size[0]} × {size[1]}, too large to show here")
    try:
        image_module: Any = import_module("PIL.Image")
    except ImportError:
        return _as_it_is(bytes(data), kind, name, side)
    try:
        with image_module.open(io.BytesIO(data)) as image:
            label = f"{name}, {image.width} × {image.height}"
            if image.width * image.height > _MAX_PIXELS:
                return Picture(None, 0, 0, f"{label}, too large to show here")
            image.draft("RGB", (2 * side, 2 * side))
            return _of_pil(image, side, label)
    except Exception as exc:  # a file that is broken in whatever way
        return Picture(None, 0, 0, f"{name} that cannot be read ({type(exc).__name__})")


def _as_it_is(data: bytes, kind: str, name: str, side: int) -> Picture:
    """Without Pillow a small file goes into the page unchanged; the browser makes it fit."""
    size = _size_in(data, kind)
    label = f"{name}, {size[0]} × {size[1]}" if size else name
    if len(data) > MAX_BYTES or size is None or size[0] * size[1] > _MAX_PIXELS:
        return Picture(None, 0, 0, f"{label}, {len(data):,} bytes (Pillow would show it)")
    return Picture(_uri(kind, data), *_page_size(*size, side), label)


def _of_pil(image: Any, side: int, label: str) -> Picture:
    width, height = _page_size(image.width, image.height, side)
    if image.mode == "P":
        image = image.convert("RGBA")  # its colours are numbers of a table and cannot be mixed
    elif image.mode.startswith("I;16"):
        image = image.point(lambda level: level / 256).convert("L")
    elif image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        image = image.convert("RGB")
    small = image.resize((width, height), reducing_gap=2.0) if (width, height) != image.size else image
    data = _saved(small, "PNG")
    if len(data) <= MAX_BYTES:
        return Picture(_uri("png", data), width, height, label)
    return Picture(_uri("jpeg", _saved(small.convert("RGB"), "JPEG", quality=80)), width, height, label)


def _saved(image: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _page_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Never larger than it is, but for the smallest, which nobody could see."""
    scale = min(1.0, side / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# -- arrays --------------------------------------------------------------------------------------------------------------


def _shrink(pixels: Any, side: int) -> Any:
    """Pick pixels until the longer side is at most `side`."""
    import numpy as np

    height, width = pixels.shape[:2]
    high, wide = _page_size(height, width, side)
    if (high, wide) == (height, width):
        return pixels
    rows, columns = np.arange(high) * height // high, np.arange(wide) * width // wide
    return pixels[rows][:, columns] if height * high < width * wide else pixels[:, columns][rows]


def _halve(pixels: Any) -> Any:
    """Every four pixels become their mean."""
    import numpy as np

    high, wide = pixels.shape[0] // 2, pixels.shape[1] // 2
    if not high or not wide:
        return pixels
    even = pixels[: 2 * high, : 2 * wide].reshape(high, 2, wide, 2, *pixels.shape[2:])
    return (even.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def _png(pixels: Any) -> bytes:
    """A PNG file of uint8 pixels; https://www.w3.org/TR/png/"""
    import numpy as np

    height, width = pixels.shape[:2]
    color = {2: 0, 3: 2, 4: 6}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
    flat = np.ascontiguousarray(pixels).reshape(height, -1)
    channels = flat.shape[1] // width
    rows = np.zeros((height, flat.shape[1] + 1), np.uint8)
    rows[:, 0] = 1  # the filter "sub": each byte less that of the pixel to its left
    rows[:, 1:] = flat
    rows[:, 1 + channels :] -= flat[:, :-channels]
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    blocks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in blocks
    )


# -- files ---------------------------------------------------------------------------------------------------------------


def _kind_of(head: bytes) -> str | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "bmp"
    return "tiff" if head.startswith((b"II*\0", b"MM\0*")) else None


def _size_in(data: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height as the file says them, for what browsers show."""
    if kind == "png" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if kind == "gif" and len(data) >= 10:
        return struct.unpack("<HH", data[6:10])
    if kind == "bmp" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return abs(width), abs(height)
    if kind == "jpeg":
        return _jpeg_size(data)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + max(length, 2)
    return None
