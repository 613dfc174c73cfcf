"""What a parameter for pictures, sound, tables, files or bytes takes, and how it is sent.

What is small is sent as it is; a `Source` stands for the rest until it is encoded, hashed and uploaded on the way out.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from ._media_content import Content, download
from .protocol.audio import Audio
from .protocol.media import OCTETS, TABLE, Media, guess_type, is_media, read_media, sniff

__all__ = ["INLINE", "Source", "as_media", "media_check"]

INLINE = 2**20
"""Bytes up to which media are sent with the call; larger ones are uploaded."""
_ENCODED_AT_ONCE = 2**18
"""Bytes, before encoding, up to which it is done in the call itself: it takes a few milliseconds."""
_COPY_CHUNK = 2**20
_MAX_SHOWN = 60
_NOUNS = {
    "image": "a picture (a PIL image, an array of uint8, a path, URL, bytes or an open file)",
    "audio": "sound (a socaity.Audio, a path, URL, bytes or an open file)",
    "table": "a table (a DataFrame, rows, columns, a path, URL, bytes or an open file)",
    "file": "a file (a path, URL, bytes or an open file)",
    "bytes": "bytes, a path or an open file",
}


class Source:
    """An argument that is still to be encoded or read. `content` is for a thread that may wait."""

    def __init__(self, kind: str, what: str, read: Callable[[], Content]) -> None:
        self.kind = kind
        self.content = read
        """Encode or open it. Raises ValueError, OSError or ImportError."""
        self._what = what

    def wire(self, content: Content, data: Any) -> Any:
        """What is sent: `data` is the bytes, or the reference to the blob."""
        if self.kind == "bytes":
            return data
        wire = {"$media": content.media_type, "data": data}
        if content.name is not None:
            wire["name"] = content.name
        return wire

    def __repr__(self) -> str:
        return f"<{self._what} to be sent>"


def media_check(kind: str, *, unfinished: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The check of a parameter of this kind (`x-media`): gives what is sent, or a Source. Raises ValueError.

    `unfinished` raises for jobs, whose results will be the value.
    """

    def check(value: Any) -> Any:
        if type(value) is Source:  # checked before, while another argument was not there yet
            return value
        found = _of_object(kind, value)
        if found is None:
            found = _of_file(kind, value)
        if found is not None:
            return found
        value = unfinished(value)
        if kind == "table" and isinstance(value, (list, Mapping)):
            return value
        if isinstance(value, Mapping) and (is_media(value) or value.keys() == {"$blob"}):
            return value
        raise ValueError(f"expected {_NOUNS[kind]}, got {_describe(value)}")

    return check


def size_of(value: Any) -> int | None:
    """About how many bytes a picture, sound or table has; None for everything else."""
    if isinstance(value, Media):
        return len(value.data)
    if isinstance(value, Audio):
        return value.size
    if is_instance(value, "PIL.Image", "Image"):
        return int(value.width * value.height * len(value.getbands()))
    return int(value.size) * 8 if is_instance(value, "pandas", "DataFrame") else None


def as_media(value: Any) -> Any:
    """A picture, sound or table in the form that is sent, where no parameter says what it takes; everything else as it is."""
    if isinstance(value, Audio):
        return value.to_media().to_wire()
    if is_instance(value, "PIL.Image", "Image"):
        from .protocol.images import encode_image

        return encode_image(value).to_wire()
    if is_instance(value, "pandas", "DataFrame"):
        from .protocol.tables import encode_table

        return encode_table(value)
    return value


def as_file(value: Any) -> tuple[str, bytes, str] | Path | None:
    """A picture, sound, table or path for a service that takes files of forms; None for everything else.

    Text is a path if there is such a file, and no job gave it.
    """
    if isinstance(value, Media):
        return (value.name or f"file{value.suffix}", value.data, value.media_type)
    if isinstance(value, Audio):
        return _named("sound", value.to_media())
    if is_instance(value, "PIL.Image", "Image"):
        from .protocol.images import encode_image

        return _named("picture", encode_image(value))
    if hasattr(value, "dtype") and getattr(value, "ndim", 0) >= 2:
        from .protocol.images import encode_pixels

        return _named("picture", encode_pixels(_as_pixels(value)))
    if is_instance(value, "pandas", "DataFrame"):
        return ("table.csv", value.to_csv(index=False).encode(), "text/csv")
    if isinstance(value, str):
        media = read_media(str(value))
        if media is not None:
            return _named("file", media)
        if isinstance(value, GivenText):
            return None
        try:
            return Path(value) if os.path.isfile(value) else None
        except (ValueError, OSError):
            return None
    return None


def _named(stem: str, media: Media) -> tuple[str, bytes, str]:
    return (f"{stem}{media.suffix}", media.data, media.media_type)


# -- objects -----------------------------------------------------------------------------------------------------------


def _of_object(kind: str, value: Any) -> Any:
    if isinstance(value, Media):
        return _of_bytes(kind, value.data, value.name, value.media_type)
    if kind == "audio" and isinstance(value, Audio):
        return _encoded(kind, "sound", value.to_media, 0 if value.is_encoded else 4 * value.samples.size)
    if kind == "image":
        return _of_picture(value)
    if kind == "table" and is_instance(value, "pandas", "DataFrame"):
        return _of_frame(value)
    return None


def _of_picture(value: Any) -> Any:
    if is_instance(value, "PIL.Image", "Image"):
        from .protocol.images import encode_image

        size = value.width * value.height * len(value.getbands())
        if size <= _ENCODED_AT_ONCE:
            return encode_image(value).to_wire()
        copy = value.copy()  # who calls may go on drawing
        what = f"picture of {value.width} × {value.height}"
        return _encoded("image", what, lambda: encode_image(copy), size)
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        return None
    from .protocol.images import encode_pixels

    pixels = _as_pixels(value)
    if pixels.nbytes > _ENCODED_AT_ONCE:
        pixels = pixels.copy()
    return _encoded("image", "picture", lambda: encode_pixels(pixels), pixels.nbytes)


def _as_pixels(value: Any) -> Any:
    """An array or tensor as height × width × channels on the host."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.ndim == 3 and value.shape[0] in (1, 3, 4) and value.shape[2] not in (1, 3, 4):
            value = value.permute(1, 2, 0)  # torch has the channels first
        value = value.numpy()
    return np.ascontiguousarray(value)


def _of_frame(frame: Any) -> Any:
    from .protocol.tables import encode_table, pack_table

    if frame.size <= _ENCODED_AT_ONCE // 16:
        return encode_table(frame)
    copy = frame.copy()
    return Source(
        "table", f"table of {len(copy)} rows", lambda: Content.of_bytes(pack_table(copy), TABLE, None)
    )


def _encoded(kind: str, what: str, encode: Callable[[], Media], size: int) -> Any:
    if size <= _ENCODED_AT_ONCE:
        media = encode()
        if len(media.data) <= INLINE:
            return media.to_wire()

    def read() -> Content:
        media = encode()
        return Content.of_bytes(media.data, media.media_type, media.name)

    return Source(kind, what, read)


def is_instance(value: Any, module: str, name: str) -> bool:
    """Whether it is of a class of a package that is imported only if somebody has made such a thing."""
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)


# -- files -------------------------------------------------------------------------------------------------------------


def _of_file(kind: str, value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(kind, bytes(value), None)
    if isinstance(value, str):
        return _of_text(kind, value)
    if isinstance(value, PathLike):
        return _of_path(kind, Path(value))
    if hasattr(value, "read") and not hasattr(value, "dtype"):
        return _of_open_file(kind, value)
    return None


def _of_bytes(kind: str, data: bytes, name: str | None, media_type: str | None = None) -> Any:
    media_type = media_type or sniff(data[:16])
    _check_family(kind, media_type)
    content = Content.of_bytes(data, media_type, name)
    source = Source(kind, f"{len(data)} bytes", lambda: content)
    return source.wire(content, data) if len(data) <= INLINE else source


class GivenText(str):
    """Text that came from a service. It never names a file or an address here: else a service could read both through us."""

    __slots__ = ()


def given(value: Any) -> Any:
    """A plain result of a job on its way to another call: the same with its texts marked."""
    kind = type(value)
    if kind is str:
        return GivenText(value)
    if kind is list or kind is tuple:
        return value if _HOLD_TEXT.isdisjoint(map(type, value)) else [given(item) for item in value]
    if isinstance(value, Mapping):
        return {key: given(item) for key, item in value.items()}
    return value


def ungiven(value: Any) -> Any:
    """The same without the marks."""
    kind = type(value)
    if kind is GivenText:
        return str(value)
    if kind is list or kind is tuple:
        return value if _HOLD_TEXT.isdisjoint(map(type, value)) else [ungiven(item) for item in value]
    if isinstance(value, Mapping):
        return {key: ungiven(item) for key, item in value.items()}
    return value


_HOLD_TEXT = frozenset({str, GivenText, list, tuple, dict})


def _of_text(kind: str, text: str) -> Any:
    if kind == "bytes" and not text.startswith("data:"):
        return text  # base64, as it always was
    try:
        media = read_media(str(text))
    except ValueError as exc:
        raise ValueError(f"the data: URL is not well formed: {exc}") from exc
    if media is not None:
        return _of_bytes(kind, media.data, None, media.media_type)
    if isinstance(text, GivenText):
        raise ValueError(
            f"expected {_NOUNS[kind]}; a job gave the text {_describe(str(text))}, which is not taken for a file or an address "
            "here: pass pathlib.Path(…) or the bytes if you trust it"
        )
    if text.startswith(("http://", "https://")):
        return Source(kind, "content of a URL", lambda: download(text))
    try:
        is_path = os.path.exists(text)
    except (ValueError, OSError):  # a null character, a text that is longer than any path
        is_path = False
    if is_path:
        return _of_path(kind, Path(text))
    raise ValueError(f"expected {_NOUNS[kind]}; there is no file {_describe(text)}")


def _of_path(kind: str, path: Path) -> Any:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is not a file")
        with path.open("rb") as file:
            head = file.read(16)
            media_type = guess_type(path.name, head)
            _check_family(kind, media_type)
            if found.st_size <= INLINE:
                return _of_bytes(kind, head + file.read(INLINE + 1), path.name, media_type)
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return Source(kind, f"file {path.name}", lambda: Content.of_path(path, media_type, path.name))


def _of_open_file(kind: str, file: Any) -> Any:
    if isinstance(file, io.TextIOBase):
        raise ValueError('the file is open for text; open it with "rb"')
    name = getattr(file, "name", None)
    name = Path(name).name if isinstance(name, str) else None
    if isinstance(file, (io.BufferedReader, io.BufferedRandom)) and isinstance(file.raw, io.FileIO):
        return _of_descriptor(kind, file, name)
    start = file.read(INLINE + 1)
    if not isinstance(start, bytes):
        raise ValueError(f"reading the file gives {type(start).__name__}, not bytes")
    if len(start) <= INLINE:
        while more := file.read(_COPY_CHUNK):  # a raw stream may give less than was asked for
            start += more
            if len(start) > INLINE:
                break
    if len(start) <= INLINE:
        return _of_bytes(kind, start, name, guess_type(name or "", start[:16]))
    return _of_copy(kind, file, start, name)


def _of_descriptor(kind: str, file: Any, name: str | None) -> Any:
    """The rest of a file on a disk, which the caller may close while it is sent."""
    if file.writable():
        file.flush()
    size = os.fstat(file.fileno()).st_size
    offset = file.tell()
    if size - offset <= INLINE or not hasattr(os, "pread"):
        data = file.read()
        return _of_bytes(kind, data, name, guess_type(name or "", data[:16]))
    descriptor = os.dup(file.fileno())
    media_type = guess_type(name or "", os.pread(descriptor, 16, offset))
    source = Source(
        kind,
        f"file {name or ''}".strip(),
        lambda: Content.of_descriptor(descriptor, offset, size - offset, media_type, name),
    )
    weakref.finalize(source, os.close, descriptor)
    _check_family(kind, media_type)
    return source


def _of_copy(kind: str, file: Any, start: bytes, name: str | None) -> Any:
    """A large stream that can be read only once: kept in a temporary file."""
    media_type = guess_type(name or "", start[:16])
    _check_family(kind, media_type)
    handle, place = tempfile.mkstemp(prefix="socaity-")
    path = Path(place)
    try:
        with open(handle, "wb") as copy:
            copy.write(start)
            while chunk := file.read(_COPY_CHUNK):
                copy.write(chunk)
    except BaseException:
        path.unlink()
        raise
    source = Source(kind, f"file {name or ''}".strip(), lambda: Content.of_path(path, media_type, name))
    weakref.finalize(source, path.unlink, missing_ok=True)
    return source


def _check_family(kind: str, media_type: str) -> None:
    family = media_type.partition("/")[0]
    if kind in ("image", "audio") and family != kind and media_type != OCTETS:
        raise ValueError(f"expected {_NOUNS[kind]}, got {media_type}")


def _describe(value: Any) -> str:
    text = repr(value[: _MAX_SHOWN + 1] if isinstance(value, str) else value)
    return f"{type(value).__name__} {text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + '…'}"
