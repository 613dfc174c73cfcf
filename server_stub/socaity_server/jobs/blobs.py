"""Large bytes in a directory, named by their SHA-256."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from socaity.exceptions import InvalidInputError, NotFoundError

from .backend import BlobStore

_SHA256 = re.compile(r"[0-9a-f]{64}")
_WRITE_AT_ONCE = 2**20


class DirectoryBlobStore(BlobStore):
    """Files in `directory` (default: a temporary one, gone after `close`).

    Above `max_total` bytes the blobs that were used least recently go; a client uploads them again.
    """

    def __init__(self, directory: str | Path | None = None, *, max_total: int = 10 * 2**30) -> None:
        self.max_total = max_total
        self._directory = None if directory is None else Path(directory)
        self._is_temporary = directory is None
        self._sizes: OrderedDict[str, int] | None = None
        self._total = 0

    async def put(self, sha256: str, chunks: AsyncIterator[bytes], *, max_size: int) -> int:
        if not _SHA256.fullmatch(sha256):
            raise InvalidInputError(
                f"{sha256!r} is not a SHA-256 in 64 lower-case hex digits.", code="invalid_hash"
            )
        known = self.size(sha256)
        if known is not None:
            return known
        directory = self._open_directory()
        size = 0
        digest = hashlib.sha256()
        file = tempfile.NamedTemporaryFile(dir=directory, prefix="upload-", delete=False)  # noqa: SIM115 - renamed below
        try:
            buffer: list[bytes] = []
            buffered = 0
            async for chunk in chunks:
                size += len(chunk)
                if size > max_size:
                    raise InvalidInputError(
                        f"A blob may have {max_size} bytes at most.", status=413, code="too_large"
                    )
                buffer.append(chunk)
                buffered += len(chunk)
                if buffered >= _WRITE_AT_ONCE:
                    await asyncio.to_thread(_write, file, digest, buffer)
                    buffer, buffered = [], 0
            _write(file, digest, buffer)
            file.close()
            if digest.hexdigest() != sha256:
                raise InvalidInputError(
                    f"The {size} bytes that came have the SHA-256 {digest.hexdigest()}, not {sha256}.",
                    code="hash_mismatch",
                )
            os.replace(file.name, directory / sha256)
        except BaseException:
            file.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)
            raise
        self._add(sha256, size)
        return size

    def size(self, sha256: str) -> int | None:
        sizes = self._index()
        if sha256 not in sizes:
            return None
        sizes.move_to_end(sha256)
        return sizes[sha256]

    def open(self, sha256: str) -> BinaryIO:
        if self._directory is not None and self.size(sha256) is not None:
            try:
                return (self._directory / sha256).open("rb")
            except FileNotFoundError:
                self._forget(sha256)
        raise NotFoundError(f"There is no blob {sha256} (any more).", code="blob_not_found")

    async def delete(self, sha256: str) -> None:
        if sha256 in self._index():
            self._forget(sha256)

    def close(self) -> None:
        """Remove the directory if it is a temporary one."""
        if self._is_temporary and self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory, self._sizes, self._total = None, None, 0

    def _open_directory(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="socaity-blobs-"))
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory

    def _index(self) -> OrderedDict[str, int]:
        if self._sizes is None:
            self._sizes = OrderedDict()
            if self._directory is not None and self._directory.is_dir():
                files = [path for path in self._directory.iterdir() if _SHA256.fullmatch(path.name)]
                for path in sorted(files, key=lambda path: path.stat().st_mtime):
                    self._sizes[path.name] = path.stat().st_size
            self._total = sum(self._sizes.values())
        return self._sizes

    def _add(self, sha256: str, size: int) -> None:
        sizes = self._index()
        if sha256 not in sizes:
            self._total += size
        sizes[sha256] = size
        while self._total > self.max_total and len(sizes) > 1:
            self._forget(next(iter(sizes)))

    def _forget(self, sha256: str) -> None:
        self._total -= self._index().pop(sha256, 0)
        if self._directory is not None:
            (self._directory / sha256).unlink(missing_ok=True)


def _write(file: object, digest: hashlib._Hash, chunks: list[bytes]) -> None:
    for chunk in chunks:
        file.write(chunk)  # type: ignore[attr-defined]
        digest.update(chunk)
