"""Where results go: text as text, bytes as they are, everything else as JSON; to stdout or to a file."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from .._media import is_instance
from .._media_save import encode, is_folder, save_result
from .._whole_file import WholeFile, write_file
from ..protocol.audio import Audio
from ..protocol.media import Media
from .options import UsageError
from .terminal import harmless, let_go_of_stdout

__all__ = ["Output", "OutputError", "to_json"]


class OutputError(Exception):
    """The result is there and could not be written; says why."""


class Output:
    """Writes one result, or the chunks of a stream, each at once. A file is made when the first value is there.

    A result has the form in a file that `job.save` gives it; the name is taken as it is, and what is there already is
    written over, whole or not at all. With `as_json` every value is one JSON document in a line; bytes are base64 text.

    All methods raise UsageError for what the result is no fit for, and OutputError for what cannot be written.
    """

    def __init__(self, *, as_json: bool, file: str | None = None) -> None:
        self._as_json = as_json
        self._path = None if file in (None, "-") else Path(str(file))
        self._file: WholeFile | None = None
        self._ends_line = True
        if self._path is not None:
            _check_place(self._path)
        reconfigure: Any = getattr(sys.stdout, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    def value(self, value: Any) -> None:
        """The result. Raises UsageError for bytes that a terminal would show."""
        with self._errors():
            if self._path is not None:
                self._save(self._path, value)
            elif self._as_json:
                self._print(_line(value))
            elif _is_file(value):
                self._print_bytes(encode(value, "")[1])
            elif value is not None:
                self._print(value if isinstance(value, str) else _line(value))
        self.finish()

    def chunk(self, value: Any) -> None:
        """One chunk of a stream."""
        with self._errors():
            if self._as_json or not isinstance(value, (str, bytes)):
                value = _line(value)
            if self._path is not None:
                if self._file is None:
                    self._file = WholeFile(self._path, overwrite=True)
                self._file.write(_to_bytes(value))
            elif isinstance(value, str):
                self._print(value)
            else:
                self._print_bytes(value)

    def finish(self) -> None:
        """After the last chunk."""
        with self._errors():
            if self._file is not None:
                self._file.keep()
                self._file = None
            self._end_line()

    def drop(self) -> None:
        """In the middle of a stream, of which nothing more will come: what is in a file so far is given up."""
        if self._file is not None:
            self._file.drop()
            self._file = None
        with self._errors():
            self._end_line()

    def _end_line(self) -> None:
        """What follows on the terminal begins a line of its own."""
        if not self._ends_line:
            self._ends_line = True
            sys.stdout.write("\n")
            sys.stdout.flush()

    def _save(self, path: Path, value: Any) -> None:
        if self._as_json:
            write_file(path, _to_bytes(_line(value)), overwrite=True)
        elif path.is_dir() and not is_folder(value):
            raise UsageError(f"{path} is a folder; the result is one file")
        else:
            save_result(value, path, overwrite=True, adds_suffix=False)

    def _print(self, text: str) -> None:
        if text:
            self._ends_line = text.endswith("\n")
        sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def _print_bytes(self, data: bytes) -> None:
        if sys.stdout.isatty():
            raise UsageError(
                f"the result is {len(data)} bytes, which are not for a terminal; save them with -o FILE, or pipe them"
            )
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # who reads has enough
            raise
        except OSError as exc:
            where = self._path or "the standard output"
            if self._path is None:
                self._ends_line = True
                let_go_of_stdout()
            raise OutputError(f"the result cannot be written to {where}: {exc.strerror or exc}") from exc
        except (ValueError, ImportError) as exc:
            raise UsageError(str(exc)) from exc


def _check_place(path: Path) -> None:
    """What can be known before anything is sent."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.stat(path)
            return
        if stat.S_ISDIR(os.stat(path.absolute().parent).st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as exc:
        raise UsageError(f"-o {path}: {getattr(exc, 'strerror', None) or exc}") from exc
    raise UsageError(f"-o {path}: there is no such folder")


def _line(value: Any) -> str:
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False) + "\n"


def _to_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="backslashreplace")


def _is_file(value: Any) -> bool:
    """Whether a value is what a file holds: bytes, a picture, sound."""
    return isinstance(value, (bytes, bytearray, memoryview, Media, Audio)) or is_instance(
        value, "PIL.Image", "Image"
    )


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
    if _is_file(value):
        return base64.b64encode(encode(value, "")[1]).decode()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    return value.isoformat() if isinstance(value, (date, time)) else str(value)
