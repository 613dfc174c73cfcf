"""Arrays in memory that two processes share: one side writes them, the other reads them."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from socaity.exceptions import ServerError

__all__ = ["Layout", "SharedArea"]

_ALIGNMENT = 64
_LEAST = 2**16
_PAGE = 4096

Layout = Sequence[Sequence[Any]]
"""`[name, dtype, shape, start, size]` of every array; plain values, for MessagePack."""


class SharedArea:
    """An area of memory behind a file descriptor. It has no name, so that nothing is left when its processes die.

    It grows with what is written and never shrinks. The layout that `write` gives must travel to the other side, with
    `size`, for `views` or `copies`. Arrays of text travel as MessagePack within.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = 0
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> SharedArea:
        """A new, empty area."""
        return cls(_open_unnamed())

    def write(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Layout:
        """Copy `arrays` into the area, over what was there."""
        layout: list[tuple[str, str, tuple[int, ...], int, int]] = []
        sources: list[Any] = []
        end = 0
        for name, array in arrays.items():
            dtype = array.dtype
            source: Any = array
            code, size = dtype.str, array.nbytes
            if dtype.hasobject:
                source = _pack(name, array)
                code, size = "O", len(source)
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + size
            layout.append((name, code, array.shape, start, size))
            sources.append(source)
        if end > self.size:
            self._grow(end)
        buffer: Any = self._map
        for (_, code, shape, start, size), source in zip(layout, sources, strict=True):
            if code == "O":
                buffer[start : start + size] = source
            elif size:
                np.copyto(np.ndarray(shape, source.dtype, buffer, start), source)
        return layout

    def views(self, layout: Layout, size: int) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays, read-only, where they lie: the next `write` of the other side changes them."""
        if size > self.size:
            self._close_map()
            self._map = mmap.mmap(self.descriptor, size, access=mmap.ACCESS_READ)
            self.size = size
        buffer: Any = self._map
        return {
            name: _unpack(buffer[start : start + length], shape)
            if code == "O"
            else np.ndarray(shape, code, buffer if length else b"", start if length else 0)
            for name, code, shape, start, length in layout
        }

    def copies(self, layout: Layout, size: int) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays, copied out of the area."""
        return {
            name: array if array.dtype.hasobject else array.copy()
            for name, array in self.views(layout, size).items()
        }

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._close_map()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _grow(self, least: int) -> None:
        size = -(-max(_LEAST, least + least // 4) // _PAGE) * _PAGE
        self._close_map()
        self.size = 0
        try:
            _reserve(self.descriptor, size)
        except OSError as exc:
            raise ServerError(
                f"There is no shared memory for a batch of {least / 2**20:.0f} MiB: {exc.strerror}. Make max_batch_size "
                "smaller, or give the server more memory.",
                status=503,
                code="out_of_memory",
            ) from exc
        self._map = mmap.mmap(self.descriptor, size)
        self.size = size

    def _close_map(self) -> None:
        if self._map is not None:
            # A model may still hold a view: then the memory goes when the view goes.
            with contextlib.suppress(BufferError):
                self._map.close()
            self._map = None


def _open_unnamed() -> int:
    if hasattr(os, "memfd_create"):  # unlike /dev/shm, which containers limit to 64 MiB
        return os.memfd_create("socaity")
    descriptor, path = tempfile.mkstemp()
    os.unlink(path)
    return descriptor


def _reserve(descriptor: int, size: int) -> None:
    """Real memory, now: where there is none, this raises, while a later write would kill the process with SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _pack(name: str, array: np.ndarray[Any, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(array.ravel().tolist(), unicode_errors="surrogatepass")
    except (TypeError, ValueError, OverflowError) as exc:
        kinds = ", ".join(sorted({type(item).__name__ for item in array.flat})[:5])
        raise TypeError(f"The array {name!r} has items that cannot be sent to a process: {kinds}.") from exc
    return packed


def _unpack(data: bytes, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    items: Iterable[Any] = msgpack.unpackb(data, unicode_errors="surrogatepass", strict_map_key=False)
    return np.fromiter(items, dtype=object).reshape(shape)
