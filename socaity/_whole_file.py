"""Files that are there whole or not at all: written beside their place, and moved there at their end."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import BinaryIO, Self

__all__ = ["WholeFile", "exists", "write_file"]


def write_file(target: Path, data: bytes, *, overwrite: bool) -> None:
    """Raises FileExistsError where there is a file already, unless `overwrite`."""
    with WholeFile(target, overwrite=overwrite) as file:
        file.write(data)


class WholeFile:
    """A file that is written piece by piece; it is in its place when `keep` was called, or `with` has ended.

    Who writes over a file writes through a link, keeps its permissions, and writes straight into what has no place that
    could be taken: a device or a pipe.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._draft: Path | None = None
        self._mode: int | None = None
        found = _status(target)
        if found is not None and not overwrite:
            raise exists(target)
        if found is not None and not stat.S_ISREG(found.st_mode):
            self._file: BinaryIO = target.open("wb")
        else:
            target = target.resolve() if overwrite and target.is_symlink() else target
            self._mode = None if found is None else stat.S_IMODE(found.st_mode)
            self._draft = target.with_name(f".{target.name[:50]}.{secrets.token_hex(4)}")
            self._file = self._draft.open("xb")
        self._target = target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.keep()
        else:
            self.drop()

    def write(self, data: bytes) -> None:
        """One piece; into a device or pipe at once."""
        self._file.write(data)
        if self._draft is None:
            self._file.flush()

    def keep(self) -> None:
        """All has been written."""
        try:
            self._file.close()
            if self._draft is None:
                return
            if self._mode is not None:
                self._draft.chmod(self._mode)
            if self._overwrite:
                self._draft.replace(self._target)
            else:
                _move_to_free_place(self._draft, self._target)
        finally:
            self.drop()

    def drop(self) -> None:
        """Nothing is left of it."""
        with contextlib.suppress(OSError):  # what could not be written
            self._file.close()
        if self._draft is not None:
            self._draft.unlink(missing_ok=True)


def exists(target: Path) -> FileExistsError:
    """The error for a place that is taken."""
    return FileExistsError(f"{target} is there already; use overwrite=True or another name")


def _status(target: Path) -> os.stat_result | None:
    try:
        return target.stat()
    except FileNotFoundError:
        return None


def _move_to_free_place(draft: Path, target: Path) -> None:
    try:
        os.link(draft, target)  # refuses where a file has come since, which a rename does not
    except FileExistsError:
        raise exists(target) from None
    except (OSError, NotImplementedError):  # a file system without links
        if target.exists():
            raise exists(target) from None
        draft.replace(target)
