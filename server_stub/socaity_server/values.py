"""What a function returns, as plain values that can be sent, and those as JSON."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import os
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
from pydantic import BaseModel

from socaity.exceptions import JobFailed
from socaity.protocol.messagepack import DTYPES, MAX_DEPTH

from . import media

_PLAIN = frozenset({str, bool, float, bytes, type(None)})
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def to_plain(value: Any) -> Any:
    """`value` made of dicts, lists, text, numbers, bytes and arrays; raises JobFailed `result_not_serialisable`."""
    if type(value) in _PLAIN:
        return value
    return _plain(value, (), 0)


def to_json(value: Any) -> bytes:
    """A plain value as JSON: arrays as nested lists, bytes as base64 text, NaN and infinities as `null`."""
    try:
        return orjson.dumps(value, default=_json_default, option=_OPTIONS)
    except TypeError:
        return orjson.dumps(value, default=_json_default, option=_OPTIONS | orjson.OPT_NON_STR_KEYS)


def _plain(value: Any, place: tuple[Any, ...], depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        raise _unsendable(value, place, "an integer of more than 64 bits")
    if depth > MAX_DEPTH:
        raise _unsendable(value, place[:8], f"nested deeper than {MAX_DEPTH}")
    if kind is list or kind is tuple:
        return [_plain(item, (*place, index), depth + 1) for index, item in enumerate(value)]
    if kind is dict:
        return {_key(key, place): _plain(item, (*place, key), depth + 1) for key, item in value.items()}
    if kind is np.ndarray:
        return _array(value, place, depth)
    return _converted(value, place, depth)


def _converted(value: Any, place: tuple[Any, ...], depth: int) -> Any:
    """Everything that has to become something else first; subclasses of plain types too."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, place, depth + 1)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(), place, depth + 1)
    try:
        encoded = media.encode(value)
    except (ValueError, TypeError, OSError) as exc:
        raise _unsendable(value, place, str(exc)) from exc
    if encoded is not None:
        # the cells of a table may be anything
        return _plain(encoded, place, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {
            field.name: _plain(getattr(value, field.name), (*place, field.name), depth + 1)
            for field in fields
        }
    if isinstance(value, np.generic):
        return _plain(value.item(), place, depth + 1)
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | Decimal):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return _plain(int(value), place, depth + 1)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, Mapping):
        return _plain(dict(value), place, depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        return _plain(list(value), place, depth + 1)
    if hasattr(value, "__array__"):
        try:
            return _array(_as_array(value), place, depth)
        except (TypeError, RuntimeError, ValueError) as exc:
            raise _unsendable(value, place, str(exc)) from exc
    raise _unsendable(value, place, None)


def _as_array(value: Any) -> np.ndarray[Any, Any]:
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, wherever it lives
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no such type
            value = value.float()
    return np.asarray(value)


def _array(value: np.ndarray[Any, Any], place: tuple[Any, ...], depth: int) -> Any:
    if value.dtype.name in DTYPES:
        return value if value.ndim else value.item()
    if value.dtype.kind in "USO":
        return _plain(value.tolist(), place, depth + 1)
    raise _unsendable(value, place, f"an array of {value.dtype}")


def _key(key: Any, place: tuple[Any, ...]) -> Any:
    if type(key) in (str, int):
        return key
    if isinstance(key, enum.Enum):
        return _key(key.value, place)
    if isinstance(key, np.generic):
        return _key(key.item(), place)
    if key is None or isinstance(key, str | int | float):
        return key
    if isinstance(key, uuid.UUID | datetime.date):
        return str(key)
    raise _unsendable(key, place, "it is a key")


def _unsendable(value: Any, place: tuple[Any, ...], why: str | None) -> JobFailed:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    where = "result" + "".join(f"[{part!r}]" for part in place)
    reason = f" ({why})" if why else ""
    return JobFailed(
        f"{where} is a {name}, which cannot be sent{reason}; return plain values, arrays, media, dataclasses or pydantic models.",
        code="result_not_serialisable",
    )


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise TypeError(f"a {type(value).__qualname__} has no form in JSON")
