"""`Content`: the bytes of one large argument, wherever they are, read in pieces and never as a whole."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .protocol.media import OCTETS, guess_type, safe_name

__all__ = ["Content", "download"]

PIECE = 2**18
"""Bytes that are read, hashed and sent at a time."""
MAX_DOWNLOAD = 2 * 2**30
"""Bytes of the largest URL that is fetched."""
DOWNLOAD_TIMEOUT = 30.0
"""Seconds without a byte."""
_MAX_HASHES = 4096


class Content:
    """Bytes with a size; `pieces` may be walked any number of times. Satisfies `socaity.transport.Blob`."""

    def __init__(
        self, size: int, read: Callable[[], Iterator[bytes]], media_type: str, name: str | None
    ) -> None:
        self.size = size
        self.media_type = media_type
        self.name = safe_name(name)
        self.sha256 = ""
        """In hex; empty before `hash`."""
        self.owner: object = None
        """What must live as long as this, because it holds the file."""
        self._read = read
        self._hash_key: tuple[Any, ...] | None = None
        self._close: Callable[[], None] | None = None

    @classmethod
    def of_bytes(cls, data: bytes, media_type: str, name: str | None) -> Content:
        def read() -> Iterator[bytes]:
            view = memoryview(data)
            for at in range(0, len(data), PIECE):
                yield bytes(view[at : at + PIECE])

        return cls(len(data), read, media_type, name)

    @classmethod
    def of_path(cls, path: Path, media_type: str, name: str | None) -> Content:
        found = path.stat()

        def read() -> Iterator[bytes]:
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    yield piece

        content = cls(found.st_size, read, media_type, name)
        content._hash_key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, 0)
        return content

    @classmethod
    def of_descriptor(
        cls, descriptor: int, offset: int, size: int, media_type: str, name: str | None
    ) -> Content:
        """A part of an open file, read without moving its position."""
        found = os.fstat(descriptor)

        def read() -> Iterator[bytes]:
            at = offset
            while piece := os.pread(descriptor, min(PIECE, offset + size - at), at):
                at += len(piece)
                yield piece

        content = cls(size, read, media_type, name)
        content._hash_key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, offset)
        return content

    def pieces(self) -> Iterator[bytes]:
        """From the first byte to the last. Raises OSError."""
        return self._read()

    def whole(self) -> bytes:
        """All of it at once, for transports that know no blobs."""
        return b"".join(self._read())

    def hash(self) -> None:
        """Read it once for its SHA-256; a file that has not changed since the last time is not read."""
        known = None if self._hash_key is None else _hashes.get(self._hash_key)
        if known is None:
            digest = hashlib.sha256()
            size = 0
            for piece in self._read():
                digest.update(piece)
                size += len(piece)
            if size != self.size:
                raise ValueError(f"the file changed while it was read: {size} bytes instead of {self.size}")
            known = digest.hexdigest()
            if self._hash_key is not None:
                _hashes[self._hash_key] = known
                while len(_hashes) > _MAX_HASHES:
                    _hashes.popitem(last=False)
        self.sha256 = known

    def forget_hash(self) -> None:
        """Another file came to lie in the same place at the same moment: read it the next time."""
        if self._hash_key is not None:
            _hashes.pop(self._hash_key, None)

    def close(self) -> None:
        """Delete what was stored only for this."""
        if self._close is not None:
            self._close()
            self._close = None


_hashes: OrderedDict[tuple[Any, ...], str] = OrderedDict()


class _OnlyWeb(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if not newurl.startswith(("http://", "https://")):
            raise urllib.error.URLError(f"it redirects to {urlsplit(newurl).scheme}:")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str) -> Content:
    """What is behind an http(s) URL, in a temporary file until `close`. No key and no header of a service goes there.

    Raises ValueError; nothing is left of a download that fails.
    """
    shown = urlsplit(url)
    place = f"{shown.scheme}://{shown.netloc.rpartition('@')[2]}{shown.path}"
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyWeb(),
    ):
        opener.add_handler(handler)
    handle, name = tempfile.mkstemp(prefix="socaity-")
    path = Path(name)
    try:
        with open(handle, "wb") as file:
            request = urllib.request.Request(url, headers={"User-Agent": "socaity"})  # noqa: S310 - only http(s), above
            with opener.open(request, timeout=DOWNLOAD_TIMEOUT) as response:
                declared = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                _copy(response, file)
        file_name = unquote(shown.path).rpartition("/")[2]
        with path.open("rb") as file:
            kind = guess_type(file_name, file.read(16))
        content = Content.of_path(
            path, kind if kind != OCTETS or "/" not in declared else declared, file_name
        )
    except BaseException as exc:
        path.unlink()
        if isinstance(exc, (OSError, HTTPException, UnicodeError)):
            reason: object = exc.reason if isinstance(exc, urllib.error.URLError) else exc
            if isinstance(exc, urllib.error.HTTPError):
                reason = f"{exc.code} {exc.reason}"
                exc.close()
            raise ValueError(f"{place} could not be fetched: {reason}") from exc
        raise
    content._hash_key = None  # the inode of a temporary file is soon that of another
    content._close = path.unlink
    return content


def _copy(response: Any, file: Any) -> None:
    length = response.headers.get("content-length", "")
    expected = int(length) if length.isdigit() else None
    size = 0
    while piece := response.read(PIECE):
        size += len(piece)
        if size > MAX_DOWNLOAD:
            raise OSError(f"it is larger than {MAX_DOWNLOAD} bytes")
        file.write(piece)
    if expected is not None and size != expected:
        raise OSError(f"it broke off after {size} of {expected} bytes")
