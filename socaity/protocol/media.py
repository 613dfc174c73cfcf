"""Media on the wire: `{"$media": "image/png", "data": bytes, "name": "cat.png"}`; in JSON the bytes are base64 text.

`data` may also be a reference to an uploaded blob in arguments, and is a map of columns for a table. `name` is left out
where there is none. Text of the form `data:image/png;base64,…` is taken for the same.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote_to_bytes

__all__ = ["MARK", "OCTETS", "Media", "guess_type", "read_media", "safe_name", "sniff", "suffix_of"]

MARK = "$media"
"""The key that tells media from other maps."""
OCTETS = "application/octet-stream"
TABLE = "application/vnd.socaity.table"

_KEYS = frozenset({MARK, "data", "name"})
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9*][a-z0-9!#$&^_.+-]{0,126}")
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_UNSAFE = re.compile(r"[^\w.()+ -]")
_MAX_NAME = 100
_HEADS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"\x93NUMPY", "application/x-npy"),
    (b"PAR1", "application/vnd.apache.parquet"),
    (b"%PDF", "application/pdf"),
)
_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/tiff": ".tiff",
    "audio/wav": ".wav",
    "audio/mpeg": ".mp3",
    "audio/ogg": ".ogg",
    "audio/flac": ".flac",
    "application/x-npy": ".npy",
    "application/vnd.apache.parquet": ".parquet",
    "text/csv": ".csv",
    "text/plain": ".txt",
}
_TYPES = {suffix: kind for kind, suffix in _SUFFIXES.items()} | {".jpeg": "image/jpeg", ".tif": "image/tiff"}


@dataclass(frozen=True, slots=True, repr=False)
class Media:
    """An encoded picture, sound or file: `data` as it is stored in a file of the type `media_type`.

    What a client gets where it cannot decode (Pillow is not installed), and what a function of a server returns to choose
    the encoding itself.
    """

    media_type: str
    data: bytes
    name: str | None = None
    """A file name without folders, or None."""

    def __post_init__(self) -> None:
        if not _TYPE.fullmatch(self.media_type):
            raise ValueError(f"{self.media_type[:100]!r} is not a media type like 'image/png'")

    @property
    def suffix(self) -> str:
        """What the name of a file of this type ends in, with the dot: `.png`."""
        return suffix_of(self.media_type, self.name)

    def to_wire(self) -> dict[str, Any]:
        """The map that is sent."""
        wire: dict[str, Any] = {MARK: self.media_type, "data": self.data}
        if self.name is not None:
            wire["name"] = self.name
        return wire

    def save(self, path: str | PurePath) -> None:
        """Write the file."""
        with open(path, "wb") as file:
            file.write(self.data)

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"Media({self.media_type!r}, {len(self.data)} bytes{name})"


def read_media(value: Any) -> Media | None:
    """The media that a map or a `data:` URL stands for; None for everything else.

    Raises ValueError for what is meant as media and is not well formed.
    """
    if type(value) is str:
        return _read_data_url(value)
    if not is_media(value):
        return None
    data = value["data"]
    if isinstance(data, str):
        data = _unbase64(data)
    elif hasattr(data, "tobytes"):  # a memoryview, or an array of bytes
        data = data.tobytes()
    elif isinstance(data, bytearray):
        data = bytes(data)
    if type(data) is not bytes:
        raise ValueError(f"the data of media must be bytes, not {type(data).__name__}")
    return Media(value[MARK], data, safe_name(value.get("name")))


def is_media(value: Any) -> bool:
    """Whether `value` is a map in the wire form of media."""
    return (
        isinstance(value, Mapping)
        and type(value.get(MARK)) is str
        and "data" in value
        and value.keys() <= _KEYS
    )


def _read_data_url(text: str) -> Media | None:
    found = _DATA_URL.match(text[:1000])
    if found is None:
        return None
    media_type = found.group(1).strip().lower() or "text/plain"
    rest = text[found.end() :]
    if found.group(2).lower().endswith(";base64"):
        return Media(media_type, _unbase64(rest))
    return Media(media_type, unquote_to_bytes(rest))


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError("it is not base64 text") from exc


def sniff(head: bytes) -> str:
    """The media type of a file that begins with these 16 bytes or more; `application/octet-stream` if it is unknown."""
    for magic, kind in _HEADS:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio/wav", b"WEBP": "image/webp"}.get(head[8:12], OCTETS)
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return "image/bmp"
    return OCTETS


def guess_type(name: str, head: bytes = b"") -> str:
    """By the first bytes, else by the end of the name, which may lie."""
    found = sniff(head)
    if found != OCTETS:
        return found
    suffix = "." + name.rpartition(".")[2].lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or OCTETS


def suffix_of(media_type: str, name: str | None = None) -> str:
    """`.png`; of the name where the type says nothing."""
    known = _SUFFIXES.get(media_type) or mimetypes.guess_extension(media_type)
    if known and media_type != OCTETS:
        return known
    stem, dot, end = (name or "").rpartition(".")
    return f".{end.lower()}" if dot and stem and end.isalnum() and len(end) <= 10 else ".bin"


def safe_name(name: Any) -> str | None:
    """A file name of someone else as one that can lie in a folder: no path, nothing hidden, not long; None if nothing is left."""
    if not isinstance(name, str):
        return None
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = _UNSAFE.sub("_", last).strip(" .")
    if len(kept) > _MAX_NAME:
        stem, dot, end = kept.rpartition(".")
        kept = f"{stem[: _MAX_NAME - 11]}.{end[:10]}" if dot else kept[:_MAX_NAME]
    return kept or None
