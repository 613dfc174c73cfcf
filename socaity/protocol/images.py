"""Pictures as bytes and back, with Pillow."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

from .media import Media

__all__ = ["encode_image", "image_class", "open_image"]

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""What is read. Others run programs (EPS), or are so seldom that nobody looks for holes in their readers."""
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
_TIFF_MODES = frozenset({"F", "I", "CMYK", "YCbCr", "LAB"})


def image_class() -> Any:
    """The module `PIL.Image`. Raises ImportError with what to install."""
    try:
        return import_module("PIL.Image")
    except ImportError as exc:
        raise ImportError("pictures need Pillow: pip install pillow") from exc


def encode_image(image: Any) -> Media:
    """A picture of Pillow's without loss: PNG, or TIFF for the modes that PNG does not have."""
    buffer = io.BytesIO()
    if image.mode in _TIFF_MODES:
        image.save(buffer, "TIFF")
        return Media("image/tiff", buffer.getvalue())
    if image.mode not in _PNG_MODES:
        image = image.convert("RGBA" if image.mode in ("PA", "La", "RGBa") else "RGB")
    # on a network of today the time of the best compression is longer than that of sending a little more
    image.save(buffer, "PNG", compress_level=1)
    return Media("image/png", buffer.getvalue())


def encode_pixels(array: Any) -> Media:
    """An array of uint8 or bool, height × width or height × width × 1, 3 or 4 channels. Raises ValueError, ImportError."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype.name not in ("uint8", "bool") or not is_picture or not array.size:
        shape = " × ".join(map(str, array.shape))
        raise ValueError(
            f"expected a picture as an array of uint8, height × width or height × width × 1, 3 or 4; got {array.dtype}, {shape}"
        )
    if array.dtype.name == "bool":
        array = array.astype("uint8") * 255
    return encode_image(image_class().fromarray(array))


def open_image(data: bytes, *, whole: bool) -> Any:
    """The picture, `whole` or with its pixels read when they are first used. Raises ValueError that says what is wrong."""
    image_module = image_class()
    image_module.init()
    try:
        image = image_module.open(
            io.BytesIO(data), formats=[name for name in _FORMATS if name in image_module.OPEN]
        )
        most = image_module.MAX_IMAGE_PIXELS
        if most is not None and image.width * image.height > most:
            raise ValueError(_too_large(f"{image.width} × {image.height} pixels", most))
        if whole:
            image.load()
    except (image_module.DecompressionBombError, image_module.DecompressionBombWarning) as exc:
        raise ValueError(_too_large("so many pixels", image_module.MAX_IMAGE_PIXELS)) from exc
    except image_module.UnidentifiedImageError as exc:
        raise ValueError(f"it is not a picture of a known kind ({', '.join(_FORMATS)})") from exc
    except ValueError:
        raise
    except Exception as exc:  # readers of broken files raise OSError, SyntaxError, struct.error, EOFError, …
        raise ValueError(f"the picture is broken: {type(exc).__name__}: {str(exc)[:100]}") from exc
    return image


def _too_large(size: str, most: int) -> str:
    return f"a picture of {size} is too large to unpack; at most {most} (PIL.Image.MAX_IMAGE_PIXELS)"
