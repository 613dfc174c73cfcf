"""Where results go: text as text, bytes as they are, everything else as JSON; to stdout or to a file."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import sys
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any, BinaryIO

from .options import UsageError

__all__ = ["Output", "to_json"]


class Output:
    """Writes one result, or the chunks of a stream, each at once. The file is made when the first value is there.

    With `as_json` every value is one JSON document in a line; bytes are base64 text in it.
    """

    def __init__(self, *, as_json: bool, file: str | None = None) -> None:
        self._as_json = as_json
        self._path = None if file in (None, "-") else Path(str(file))
        self._file: BinaryIO | None = None
        self._ends_line = True
        if self._path is not None and (self._path.is_dir() or not self._path.absolute().parent.is_dir()):
            raise UsageError(f"-o {file}: there is no such folder, or it is one")
        reconfigure: Any = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def value(self, value: Any) -> None:
        """The result. Raises UsageError for bytes that a terminal would show."""
        if self._as_json:
            self._line(value)
        elif self._path is not None and self._path.suffix == ".npy" and hasattr(value, "dtype"):
            self._bytes(_npy(value))
        elif (data := _encoded(value, self._path)) is not None:
            self._bytes(data)
        elif isinstance(value, str):
            self._text(value)
        elif value is not None:
            self._line(value)
        self.finish()

    def chunk(self, value: Any) -> None:
        """One chunk of a stream."""
        if self._as_json or not isinstance(value, (str, bytes)):
            self._line(value)
        elif isinstance(value, str):
            self._text(value)
        else:
            self._bytes(value)

    def finish(self) -> None:
        """After the last chunk, or in the middle of one."""
        if self._path is None and not self._ends_line:
            self._ends_line = True
            sys.stdout.write("\n")
            sys.stdout.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _line(self, value: Any) -> None:
        self._text(json.dumps(to_json(value), ensure_ascii=False, allow_nan=False) + "\n")

    def _text(self, text: str) -> None:
        if self._path is not None:
            self._bytes(text.encode(errors="backslashreplace"))
            return
        if text:
            self._ends_line = text.endswith("\n")
        sys.stdout.write(text)
        sys.stdout.flush()

    def _bytes(self, data: bytes) -> None:
        if self._path is not None:
            if self._file is None:
                self._file = self._path.open("wb")
            self._file.write(data)
            self._file.flush()
            return
        if sys.stdout.isatty():
            raise UsageError(
                f"the result is {len(data)} bytes, which are not for a terminal; save them with -o FILE, or pipe them"
            )
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def to_json(value: Any) -> Any:
    """The value as JSON can carry it: arrays as lists, bytes as base64 text, numbers that are not finite as null."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): to_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(one) for one in value]
    if hasattr(value, "tolist"):  # arrays and their numbers
        return to_json(value.tolist())
    if hasattr(value, "to_dict"):  # tables
        return to_json(value.to_dict(orient="list"))
    media = value.to_media() if hasattr(value, "to_media") else value
    if hasattr(media, "to_wire"):
        return to_json(media.to_wire())
    if (data := _encoded(value, None)) is not None:
        return base64.b64encode(data).decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    return value.isoformat() if isinstance(value, (date, time)) else str(value)


def _encoded(value: Any, path: Path | None) -> bytes | None:
    """What a file of the value holds; None where it is no file."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    media = value.to_media() if hasattr(value, "to_media") else value
    if hasattr(media, "to_wire") and isinstance(getattr(media, "data", None), bytes):
        data: bytes = media.data
        return data
    if type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "save"):
        made = io.BytesIO()
        value.save(made, format=_picture_format(path))
        return made.getvalue()
    if path is not None and path.suffix == ".csv" and hasattr(value, "to_csv"):
        return str(value.to_csv(index=False)).encode()
    return None


def _picture_format(path: Path | None) -> str:
    """By the name of the file; PNG where there is none."""
    from PIL import Image

    return Image.registered_extensions().get("" if path is None else path.suffix.lower(), "PNG")


def _npy(value: Any) -> bytes:
    import numpy as np

    made = io.BytesIO()
    np.save(made, value, allow_pickle=False)
    return made.getvalue()
