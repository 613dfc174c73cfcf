"""Memoised calls: the same arguments to the same endpoint give the job of the first call again."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._group import JobGroup
from ._job import Job, JobReference
from ._links import links_of
from ._schema import UnfinishedError

if TYPE_CHECKING:
    from ._endpoint import Endpoint

__all__ = ["Memo", "key_of", "key_of_call"]

MAX_JOBS = 1000
"""How many jobs of one service are remembered: those that were asked for last."""


class Memo:
    """The memoised jobs of one service. Usable from any thread."""

    def __init__(self, limit: int = MAX_JOBS) -> None:
        self._limit = limit
        self._jobs: OrderedDict[tuple[object, ...], Job[Any]] = OrderedDict()
        """By the key of the call, and by what makes values of its results: a typed function has types of its own."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._jobs)

    def call(self, endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job[Any]:
        """The job of the first such call, while it has not failed, or a new one."""
        try:
            arguments: Mapping[str, Any] = endpoint._bind(args, kwargs)
        except UnfinishedError as exc:
            arguments = exc.arguments
        key = key_of(endpoint, arguments)
        if key is None:  # something that cannot be compared by its content
            return endpoint._unmemoized(*args, **kwargs)
        with self._lock:
            place = (key, endpoint.decode, endpoint.decode_chunk)
            known = self._jobs.get(place)
            if known is not None and known._error is None and known._generation == _generation():
                self._jobs.move_to_end(place)
                return known
            job = endpoint._unmemoized(*args, **kwargs)
            links_of(job).key = key
            self._jobs[place] = job
            self._jobs.move_to_end(place)
            while len(self._jobs) > self._limit:
                self._jobs.popitem(last=False)
        return job


def key_of_call(endpoint: Endpoint, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes | None:
    """The key of a call that is to be made; None if there is none. Raises InvalidInputError."""
    try:
        return key_of(endpoint, endpoint._bind(args, kwargs))
    except UnfinishedError as exc:
        return key_of(endpoint, exc.arguments)


def key_of(endpoint: Endpoint, arguments: Mapping[str, Any]) -> bytes | None:
    """Tells calls apart by endpoint, its description and the content of the arguments; None where that is not known.

    A memoised job among the arguments counts by its own key, another job by its id.
    """
    digest = hashlib.blake2b(digest_size=20)
    digest.update(endpoint.description.model_dump_json().encode())
    try:
        for name in sorted(arguments):
            _feed(name, digest.update)
            _feed(arguments[name], digest.update)
    except _UnknownError:
        return None
    return digest.digest()


class _UnknownError(Exception):
    """A value whose content cannot be told."""


def _feed(value: Any, update: Callable[[Any], None]) -> None:
    """Every value with its kind and length, so that no two different ones give the same bytes."""
    if isinstance(value, str):
        _feed_bytes(b"s", value.encode("utf-8", "surrogatepass"), update)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _feed_bytes(b"b", bytes(value) if isinstance(value, memoryview) else value, update)
    elif value is None or isinstance(value, (bool, int)):
        _feed_bytes(b"i", repr(value).encode(), update)
    elif isinstance(value, float):
        _feed_bytes(b"f", struct.pack("d", value), update)
    elif isinstance(value, Job):
        links = value._links
        key = None if links is None else links.key
        _feed_bytes(b"j", value.id.encode() if key is None else key, update)
    elif isinstance(value, JobReference):
        _feed(value.job, update)
        _feed(list(value.path), update)
    elif isinstance(value, JobGroup):
        if not value._is_fed:
            raise _UnknownError
        _feed(list(value.jobs), update)
    elif isinstance(value, (list, tuple)):
        _feed_bytes(b"l", str(len(value)).encode(), update)
        for item in value:
            _feed(item, update)
    elif isinstance(value, Mapping):
        _feed_bytes(b"m", str(len(value)).encode(), update)
        for key, item in value.items():
            _feed(key, update)
            _feed(item, update)
    elif type(value).__module__ == "numpy" and hasattr(value, "dtype") and value.dtype.kind not in "OV":
        _feed_bytes(b"a", f"{value.dtype.str}{value.shape}".encode(), update)
        update(value.tobytes())
    else:
        raise _UnknownError


def _feed_bytes(kind: bytes, data: bytes | bytearray, update: Callable[[Any], None]) -> None:
    update(kind + len(data).to_bytes(8, "big"))
    update(data)


def _generation() -> int:
    from ._portal import portal

    return portal.generation
