"""The payload of a job, and what tells a repeated submit from a different one."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Mapping
from contextvars import Context
from typing import Any

import msgpack
import numpy as np

__all__ = ["JobArguments", "fingerprint"]


class JobArguments(dict[str, Any]):
    """The payload of a job: the arguments as they came.

    `checked` (the values for the function), `context` (the submitter's variables) and `calls` (the results, which may be
    still to come, of the direct calls that are referred to) are there only in the process that took the job.
    """

    checked: Mapping[str, Any] | None = None
    context: Context | None = None
    calls: Mapping[int, asyncio.Future[Any]] | None = None


def fingerprint(arguments: Mapping[str, Any]) -> str:
    """Tells other arguments from the same; arrays by a checksum, so that large ones stay cheap."""
    packed = msgpack.packb(sorted(arguments.items()), default=_part)
    return hashlib.blake2b(packed, digest_size=16).hexdigest()


def _part(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        data = repr(value.tolist()).encode() if value.dtype.kind == "O" else np.ascontiguousarray(value).data
        return [value.dtype.str, list(value.shape), zlib.crc32(data)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return repr(value)
