"""Pictures, sound, tables and files as arguments and results of functions, by annotation.

What comes is looked at when the call is taken and opened on the thread that runs the function; temporary files are deleted
when the function has returned.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
import io
import shutil
import sys
import tempfile
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from socaity.exceptions import InvalidInputError, JobFailed
from socaity.protocol.audio import Audio
from socaity.protocol.images import encode_image, image_class, open_image
from socaity.protocol.media import OCTETS, TABLE, Media, guess_type, is_media, read_media, sniff
from socaity.protocol.tables import decode_table, encode_table, read_table_file

__all__ = [
    "BrokenMedia",
    "Inputs",
    "Kind",
    "Upload",
    "encode",
    "kind_of",
    "read_files",
    "read_npy",
    "with_media",
]


class BrokenMedia(Exception):
    """What was uploaded cannot be opened, which is found only when the function is about to run. No error of the function."""

    def __init__(self, error: InvalidInputError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Kind:
    """What a parameter takes. `name` travels as `x-media` in its schema."""

    name: str
    noun: str
    media_type: str

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of one."""
        if self.name == "table":  # rows and columns are as good as a file
            return {"contentMediaType": self.media_type, "x-media": self.name}
        return {
            "type": "string",
            "contentEncoding": "base64",
            "contentMediaType": self.media_type,
            "x-media": self.name,
        }


IMAGE = Kind("image", "a picture", "image/*")
AUDIO = Kind("audio", "sound", "audio/*")
TABLE_KIND = Kind("table", "a table", TABLE)
FILE = Kind("file", "a file", OCTETS)
MEDIA = Kind("file", "a file, with its type and name", OCTETS)
"""The same as FILE for callers; the function gets a Media instead of a path."""
_CLASSES = {
    ("PIL.Image", "Image"): IMAGE,
    ("pandas", "DataFrame"): TABLE_KIND,
    ("pandas.core.frame", "DataFrame"): TABLE_KIND,  # before pandas 3
}


def kind_of(annotation: Any) -> Kind | None:
    """The kind of a class, found by its name, so that nothing is imported for it."""
    if annotation is Audio:
        return AUDIO
    if annotation is Path:
        return FILE
    if annotation is Media:
        return MEDIA
    if not isinstance(annotation, type):
        return None
    return _CLASSES.get((annotation.__module__, annotation.__qualname__))


def is_torch_tensor(annotation: Any) -> bool:
    """Whether it is the class `torch.Tensor`."""
    return isinstance(annotation, type) and (annotation.__module__, annotation.__qualname__) == (
        "torch",
        "Tensor",
    )


def with_media(annotation: Any) -> Any:
    """`annotation` for pydantic: the media in it, also inside of lists and the like, check and describe themselves.

    The same object where there is none.
    """
    kind = kind_of(annotation)
    if kind is not None:
        return Annotated[Any, PlainValidator(functools.partial(_take, kind)), WithJsonSchema(kind.schema)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or origin is typing.Literal or not arguments:
        return annotation
    if origin is Annotated:
        inner = with_media(arguments[0])
        return annotation if inner is arguments[0] else Annotated[(inner, *arguments[1:])]
    changed = tuple(one if one is ... else with_media(one) for one in arguments)
    if all(new is old for new, old in zip(changed, arguments, strict=True)):
        return annotation
    if origin is types.UnionType or origin is typing.Union:
        return typing.Union[changed]  # noqa: UP007 - built at run time
    return origin[changed]


def _take(kind: Kind, value: Any) -> Upload:
    try:
        return Upload(kind, value)
    except ValueError as exc:
        raise PydanticCustomError("media", "{reason}", {"reason": str(exc)}) from exc


class Upload:
    """A value that is opened when the function runs. Making one checks what costs nothing; raises ValueError."""

    __slots__ = ("kind", "parameter", "value")

    def __init__(self, kind: Kind | None, value: Any, parameter: str = "") -> None:
        """Without a kind: an array that becomes a tensor of torch."""
        self.kind = kind
        self.parameter = parameter
        self.value = value if kind is None else _look_at(kind, value)

    def open(self, folder: Folder) -> Any:
        """The object for the function. Raises BrokenMedia."""
        try:
            return self._open(folder)
        except (ValueError, ImportError) as exc:
            where = f"Parameter {self.parameter!r}: " if self.parameter else ""
            error = InvalidInputError(f"{where}{exc}.", parameter=self.parameter or None)
            raise BrokenMedia(error) from exc

    def _open(self, folder: Folder) -> Any:
        value = self.value
        if self.kind is None:
            import torch

            return torch.from_numpy(np.array(value))  # a copy: what was received cannot be written to
        if self.kind is MEDIA:
            return value
        if self.kind is FILE:
            return folder.add(value)
        if self.kind is IMAGE:
            if isinstance(value, np.ndarray):
                return image_class().fromarray(value)
            return open_image(value.data, whole=True)
        if self.kind is AUDIO:
            audio = Audio.from_bytes(value.data)
            _ = audio.samples
            return audio
        if not isinstance(value, Media):
            return decode_table(value)
        return (
            decode_table(value.data)
            if value.media_type == TABLE
            else read_table_file(value.data, value.media_type)
        )


def _look_at(kind: Kind, value: Any) -> Any:
    if kind is TABLE_KIND:
        if (
            isinstance(value, Mapping)
            and value.get("$media") == TABLE
            and isinstance(value.get("data"), Mapping)
        ):
            return value["data"]
        if isinstance(value, (Mapping, list)) and not is_media(value):
            return value
    if kind is IMAGE and isinstance(value, np.ndarray) and value.ndim in (2, 3) and value.dtype == np.uint8:
        if value.size and (value.ndim == 2 or value.shape[2] in (3, 4)):
            return value
        raise ValueError(f"expected a picture, got an array of shape {list(value.shape)}")
    media = _as_media(kind, value)
    if not media.data and kind.name != FILE.name:
        raise ValueError(f"expected {kind.noun}, got an empty file")
    family = media.media_type.partition("/")[0]
    if kind in (IMAGE, AUDIO) and family != kind.name and media.media_type != OCTETS:
        raise ValueError(f"expected {kind.noun} ({kind.media_type}), got {media.media_type}")
    return media


def _as_media(kind: Kind, value: Any) -> Media:
    media = read_media(value)
    if media is not None:
        return media
    if isinstance(value, str):
        if kind is TABLE_KIND and ("\n" in value or "," in value):
            return Media("text/csv", value.encode())
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise ValueError(
                f"expected {kind.noun}: a file, base64 text or a data: URL; got other text"
            ) from exc
    if isinstance(value, (bytearray, memoryview)):
        value = bytes(value)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 1:
        value = value.tobytes()
    if not isinstance(value, bytes):
        raise ValueError(f"expected {kind.noun}, got {type(value).__name__}")
    return Media(sniff(value[:16]), value)


class Folder:
    """The temporary files of one call: a folder that is made when it is needed."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._count = 0

    def add(self, media: Media) -> Path:
        """Write a file; its name is that of the upload, each in a folder of its own."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="socaity-call-"))
        place = self._path / str(self._count)
        place.mkdir()
        self._count += 1
        path = place / (media.name or f"file{media.suffix}")
        path.write_bytes(media.data)
        return path

    def remove(self) -> None:
        """Delete all of it."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None


class Inputs:
    """The values of one call with the media opened, inside of `with` or `async with`, which opens on a thread."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._folder = Folder()

    def __enter__(self) -> dict[str, Any]:
        try:
            return {name: self._opened(value, name) for name, value in self._values.items()}
        except BaseException:
            self._folder.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self._folder.remove()

    async def __aenter__(self) -> dict[str, Any]:
        opening = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # the thread cannot be stopped: what it writes goes when it is done
            opening.add_done_callback(self._drop)
            raise

    def _drop(self, opening: asyncio.Future[Any]) -> None:
        if not opening.cancelled():
            opening.exception()  # read, so that nobody is told of it
        self._folder.remove()

    async def __aexit__(self, *_: object) -> None:
        self._folder.remove()

    def _opened(self, value: Any, parameter: str) -> Any:
        kind = type(value)
        if kind is Upload:
            value.parameter = parameter
            return value.open(self._folder)
        if kind in (list, tuple, set, frozenset) and any(type(one) in _HOLDERS for one in value):
            return kind(self._opened(one, parameter) for one in value)
        if kind is dict and any(type(one) in _HOLDERS for one in value.values()):
            return {key: self._opened(one, parameter) for key, one in value.items()}
        return value


_HOLDERS = frozenset({Upload, list, tuple, set, frozenset, dict})


def encode(value: Any) -> dict[str, Any] | None:
    """A returned picture, sound or table in the wire form; None for everything else. Raises ValueError."""
    if isinstance(value, Media):
        return value.to_wire()
    if isinstance(value, Audio):
        return value.to_media().to_wire()
    if _is_instance(value, "PIL.Image", "Image"):
        return encode_image(value).to_wire()
    if _is_instance(value, "pandas", "DataFrame"):
        return encode_table(value)
    return None


def needs_time(value: Any) -> bool:
    """Whether encoding it would keep an event loop from its work."""
    if isinstance(value, list | tuple):
        return any(map(needs_time, value))
    if isinstance(value, dict):
        return any(map(needs_time, value.values()))
    return (
        isinstance(value, Audio)
        or _is_instance(value, "PIL.Image", "Image")
        or _is_instance(value, "pandas", "DataFrame")
    )


def _is_instance(value: Any, module: str, name: str) -> bool:
    found = getattr(sys.modules.get(module), name, None)
    return found is not None and isinstance(value, found)


def says_file(schema: Any) -> bool:
    """Whether a schema of results has a file in it: the function is annotated with `Path`."""
    if isinstance(schema, dict):
        return schema.get("x-media") == FILE.name or any(map(says_file, schema.values()))
    return isinstance(schema, list) and any(map(says_file, schema))


def read_files(value: Any) -> Any:
    """A result with the files in place of the paths to them, also inside of lists and dicts.

    Raises JobFailed for a file that cannot be read.
    """
    if isinstance(value, Path):
        return _read_file(value)
    if isinstance(value, list | tuple):
        return [read_files(one) for one in value]
    if isinstance(value, dict):
        return {key: read_files(one) for key, one in value.items()}
    return value


def _read_file(path: Path) -> Media:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise JobFailed(
            f"The file {path.name!r} of the result cannot be read: {exc.strerror}.",
            code="result_not_serialisable",
        ) from exc
    return Media(guess_type(path.name, data[:16]), data, path.name)


def read_npy(data: bytes) -> np.ndarray[Any, Any]:
    """The array in a `.npy` file. Never unpickles, never makes room for more than is there. Raises ValueError."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.kind not in "biufc" or any(size < 0 for size in shape):
        raise ValueError(f"a .npy file of {dtype} is not taken")
    start = file.tell()
    expected = dtype.itemsize
    for size in shape:
        expected *= size
    if len(data) - start != expected:
        raise ValueError(f"the .npy file has {len(data) - start} bytes of data instead of {expected}")
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if is_fortran else "C")
