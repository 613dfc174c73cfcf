"""Results as files: whole or not at all, and never over another file unless that is asked for."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ._media import is_instance
from ._whole_file import exists, write_file
from .protocol.audio import Audio
from .protocol.media import OCTETS, Media, guess_type, safe_name

__all__ = ["encode", "is_folder", "save_result"]

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def save_result(
    value: Any, path: str | os.PathLike[str], *, overwrite: bool = False, adds_suffix: bool = True
) -> Path | list[Path]:
    """Write `value` to `path` in the form that the end of the name says; without one a fitting end is added,
    unless `adds_suffix` is false.

    A picture: `.png`, `.jpg`, … · sound: `.wav` · array or tensor: `.npy` (pixels also as a picture) · table: `.csv`,
    `.parquet`, `.json` · bytes and text: anything · everything else: `.json`. A list or dict with pictures, sound, arrays,
    tables or bytes in it becomes a folder with a file for each.

    Returns the path, or the paths in a folder. Raises FileExistsError unless `overwrite`, and ValueError for a form that
    does not fit. A file is there whole or not at all.
    """
    target = Path(path)
    if is_folder(value):
        return _save_folder(value, target, overwrite)
    suffix, data = encode(value, target.suffix.lower())
    if adds_suffix and not target.suffix:
        target = target.with_name(target.name + suffix)
    write_file(target, data, overwrite=overwrite)
    return target


def is_folder(value: Any) -> bool:
    """Whether `save_result` makes a folder of it."""
    if isinstance(value, Mapping):
        return any(map(_is_media_or_folder, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_is_media_or_folder, value))


def _is_media_or_folder(value: Any) -> bool:
    return (
        isinstance(value, (Media, Audio, bytes, bytearray))
        or _is_array(value)
        or is_instance(value, "PIL.Image", "Image")
        or is_instance(value, "pandas", "DataFrame")
        or is_folder(value)
    )


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not is_instance(value, "pandas", "Series")


def _save_folder(value: Any, folder: Path, overwrite: bool) -> list[Path]:
    """All is encoded, and looked whether there is room for it, before the first file is written."""
    files = [(folder / place, data) for place, data in _files_of(value)]
    taken = [target for target, _ in files if target.exists()]
    if taken and not overwrite:
        raise exists(taken[0])
    for target, data in files:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, data, overwrite=overwrite)
    return [target for target, _ in files]


def _files_of(value: Any) -> Iterator[tuple[Path, bytes]]:
    """The path in the folder and the content of each part."""
    if isinstance(value, Mapping):
        parts = [(safe_name(str(key)) or "_", part) for key, part in value.items()]
    else:
        width = len(str(len(value) - 1))
        parts = [(f"{index:0{width}}", part) for index, part in enumerate(value)]
    used: set[str] = set()
    for stem, part in parts:
        name = stem
        while name.lower() in used:  # different keys may give the same name
            name += "_"
        used.add(name.lower())
        if is_folder(part):
            for place, data in _files_of(part):
                yield Path(name) / place, data
        else:
            suffix, data = encode(part, "")
            yield Path(name + suffix), data


def encode(value: Any, suffix: str) -> tuple[str, bytes]:
    """The end of the name and the content of one file. `suffix` is what was asked for, with the dot, or empty."""
    if isinstance(value, Media):
        return _encode_media(value, suffix)
    if isinstance(value, Audio):
        return suffix or ".wav", value.encode(suffix)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return suffix or Media(guess_type("", bytes(value[:16])), b"").suffix, bytes(value)
    if is_instance(value, "PIL.Image", "Image"):
        return _encode_image(value, suffix or ".png")
    if is_instance(value, "pandas", "DataFrame"):
        return _encode_table(value, suffix or ".csv")
    if _is_array(value) and suffix != ".json":
        return _encode_array(value, suffix or ".npy")
    if isinstance(value, str) and suffix != ".json":
        return suffix or ".txt", value.encode(errors="backslashreplace")
    if suffix not in ("", ".json", ".txt"):
        raise ValueError(f"a {type(value).__name__} cannot be saved as {suffix}; use .json")
    return suffix or ".json", _encode_json(value)


def _encode_media(media: Media, suffix: str) -> tuple[str, bytes]:
    meant = guess_type(f"file{suffix}") if suffix else OCTETS
    if OCTETS not in (meant, media.media_type) and meant != media.media_type:
        if media.media_type.startswith("image/"):
            from .protocol.images import open_image

            return _encode_image(open_image(media.data, whole=True), suffix)
        raise ValueError(f"the result is {media.media_type}; save it as {media.suffix}, not {suffix}")
    return suffix or media.suffix, media.data


def _encode_image(image: Any, suffix: str) -> tuple[str, bytes]:
    from .protocol.images import image_class

    module = image_class()
    form = module.registered_extensions().get(suffix)
    if form is None or form not in module.SAVE:
        raise ValueError(f"a picture cannot be saved as {suffix}; use .png, .jpg, .webp or .tiff")
    buffer = io.BytesIO()
    try:
        image.save(buffer, form)
    except (OSError, KeyError) as exc:
        raise ValueError(f"a picture of the mode {image.mode} cannot be saved as {suffix}: {exc}") from exc
    return suffix, buffer.getvalue()


def _encode_table(frame: Any, suffix: str) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    has_index = type(frame.index).__name__ != "RangeIndex"
    if suffix in (".csv", ".tsv", ".txt"):
        frame.to_csv(buffer, index=has_index, sep="\t" if suffix == ".tsv" else ",")
    elif suffix == ".json":
        frame.to_json(buffer, orient="records")
    elif suffix in (".parquet", ".pq"):
        try:
            frame.to_parquet(buffer)
        except ImportError as exc:
            raise ImportError("a parquet file needs pyarrow: pip install pyarrow") from exc
    else:
        raise ValueError(f"a table cannot be saved as {suffix}; use .csv, .tsv, .parquet or .json")
    return suffix, buffer.getvalue()


def _encode_array(array: Any, suffix: str) -> tuple[str, bytes]:
    import numpy as np

    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    array = np.asarray(array)
    if suffix in _IMAGE_SUFFIXES:
        from .protocol.images import encode_pixels, open_image

        return _encode_image(open_image(encode_pixels(array).data, whole=True), suffix)
    if suffix != ".npy":
        raise ValueError(f"an array cannot be saved as {suffix}; use .npy, or .png for pixels")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return suffix, buffer.getvalue()


def _encode_json(value: Any) -> bytes:
    from ._schema import plain

    try:
        return json.dumps(_as_json(plain(value)), ensure_ascii=False, indent=2, allow_nan=False).encode()
    except TypeError as exc:
        raise ValueError(f"a {type(value).__name__} cannot be saved as .json: {exc}") from exc


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if hasattr(value, "tolist"):
        return _as_json(value.tolist())
    # JSON has no word for NaN and infinities
    return None if isinstance(value, float) and not math.isfinite(value) else value
