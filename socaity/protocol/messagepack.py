"""MessagePack with tensors: extension type 1 is `header length, [dtype, shape], raw data`.

Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md ; the extension is ours
(`docs/wire-protocol.md`). numpy is used when it is there and never imported before the first tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any, cast

import msgpack
from msgpack import ExtType

pack_plain = cast(Callable[..., bytes], msgpack.packb)

TENSOR = 1
"""Extension type of a tensor."""

MAX_DEPTH = 64
"""How deep lists and maps may be nested."""

MAX_CONTAINERS = 2**20
"""How many lists, maps and tensors a request may have: an empty one is a byte on the wire, and a hundred in memory."""

# numpy names that may travel, with the format character that `memoryview.cast` knows (None: numpy only).
DTYPES: dict[str, str | None] = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": None,
    "float32": "f",
    "float64": "d",
    "complex64": None,
    "complex128": None,
}


class MalformedError(ValueError):
    """The bytes are not what the protocol allows."""


class TooManyError(MalformedError):
    """There is more in it than may be."""


def packb(value: Any) -> bytes:
    """Pack `value`; raises TypeError for a type that has no form on the wire."""
    return _pack(value)


def unpackb(
    data: bytes | bytearray | memoryview,
    *,
    max_containers: int | None = None,
    max_items: int | None = None,
) -> Any:
    """Unpack one value; arrays are views of what was received. Raises MalformedError.

    Raises TooManyError for more lists, maps and tensors than `max_containers`, or more of them and their items than
    `max_items`.
    """
    limit = len(data)
    longest = limit if max_items is None else min(limit, max_items)
    hooks: dict[str, Any] = {"ext_hook": _ext_hook}
    if max_items is not None:
        hooks = counting_hooks(_ext_hook, max_items, counts_items=True)
    elif max_containers is not None and limit > max_containers:  # each has a byte at least
        hooks = counting_hooks(_ext_hook, max_containers)
    try:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=longest,
            max_map_len=longest,
            max_ext_len=limit,
            **hooks,
        )
    except MalformedError:
        raise
    except Exception as exc:  # msgpack raises many classes; all mean the same here
        if longest < limit and str(exc).endswith((f"max_array_len({longest})", f"max_map_len({longest})")):
            raise TooManyError(f"there are more than {max_items} values in it") from exc
        raise MalformedError(
            f"not a MessagePack value of this protocol: {exc or type(exc).__name__}"
        ) from exc


def counting_hooks(
    ext_hook: Callable[[int, bytes], Any], most: int, *, counts_items: bool = False
) -> dict[str, Any]:
    """Hooks for msgpack that raise TooManyError as soon as there are more than `most` lists, maps and extensions. They cost
    some time for each of these, so they are for what is large."""
    left = most

    def count(value: Any) -> Any:
        nonlocal left
        left -= 1 + len(value) if counts_items else 1
        if left < 0:
            what = "values" if counts_items else "lists, maps and tensors"
            raise TooManyError(f"there are more than {most} {what} in it")
        return value

    def count_extension(code: int, data: bytes) -> Any:
        count(())
        return ext_hook(code, data)

    return {"list_hook": count, "object_hook": count, "ext_hook": count_extension}


def tensor_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a tensor extension: its length in one byte, then MessagePack `[dtype, shape]`."""
    return _header(dtype, shape)


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    if dtype not in DTYPES:
        raise TypeError(f"arrays of dtype {dtype!r} cannot be sent (known: {', '.join(DTYPES)})")
    packed = pack_plain([dtype, list(shape)])
    if len(packed) > 255:
        raise TypeError(f"an array of {len(shape)} dimensions cannot be sent")
    return bytes([len(packed)]) + packed


@lru_cache(maxsize=4096)
def read_tensor_header(header: bytes) -> tuple[str, tuple[int, ...], int]:
    """dtype, shape and number of data bytes; raises MalformedError."""
    try:
        dtype, shape = msgpack.unpackb(header)
        if dtype not in DTYPES or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise ValueError(f"dtype {dtype!r}, shape {shape!r}")
    except Exception as exc:
        raise MalformedError(f"a tensor header is not [dtype, shape]: {exc}") from exc
    return dtype, tuple(shape), prod(shape) * ITEM_SIZES[dtype]


ITEM_SIZES = {
    name: {"bool": 1, "int8": 1, "uint8": 1, "complex64": 8, "complex128": 16}.get(name)
    or int("".join(filter(str.isdigit, name))) // 8
    for name in DTYPES
}


@lru_cache(maxsize=4096)
def _array_header(dtype: Any, shape: tuple[int, ...]) -> bytes | None:
    """None for an array that is not little-endian."""
    swapped = dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")
    return None if swapped else _header(dtype.name, shape)


def _default(value: Any) -> Any:
    try:
        # The hot path: `dtype.name` is computed anew at every access, the cached header is not.
        shape = value.shape
        header = _array_header(value.dtype, shape) if shape else None
    except (AttributeError, TypeError):
        return _rare(value)
    return _rare(value) if header is None else ExtType(TENSOR, header + value.tobytes())


def _rare(value: Any) -> Any:
    kind = type(value)
    if kind is tuple or kind is set or kind is frozenset:
        return list(value)
    if hasattr(value, "__array__"):
        import numpy as np

        if isinstance(value, np.generic):
            item = value.item()
            if type(item) in (bool, int, float, str, bytes):
                return item
            raise TypeError(f"a numpy.{kind.__name__} cannot be sent; convert it to plain values or an array")
        array = np.asarray(value)
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        return ExtType(TENSOR, _header(array.dtype.name, array.shape) + array.tobytes())
    raise TypeError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be sent; convert it to plain values or an array"
    )


def _pack(value: Any) -> bytes:
    return pack_plain(value, default=_default)


def _ext_hook(code: int, data: bytes) -> Any:
    if code != TENSOR:
        raise MalformedError(f"unknown MessagePack extension type {code}")
    if not data:
        raise MalformedError("a tensor extension is empty")
    start = data[0] + 1
    dtype, shape, size = read_tensor_header(data[1:start])
    if len(data) - start != size:
        raise MalformedError(
            f"a {dtype} tensor of shape {list(shape)} has {len(data) - start} bytes instead of {size}"
        )
    return make_tensor(data, dtype, shape, start)


def make_tensor(buffer: Any, dtype: str, shape: tuple[int, ...], offset: int = 0) -> Any:
    """A view of `buffer` as an array; as a memoryview (bytes for half floats) where numpy is not installed."""
    global _build
    if _build is None:
        _build = _numpy_builder() or _plain_tensor
    return _build(buffer, dtype, shape, offset)


_build: Callable[[Any, str, tuple[int, ...], int], Any] | None = None


def _numpy_builder() -> Callable[[Any, str, tuple[int, ...], int], Any] | None:
    try:
        import numpy as np
    except ImportError:
        return None
    dtypes = {name: np.dtype(name).newbyteorder("<") for name in DTYPES}
    ndarray = np.ndarray

    def build(buffer: Any, dtype: str, shape: tuple[int, ...], offset: int) -> Any:
        return ndarray(shape, dtypes[dtype], buffer, offset)

    return build


def _plain_tensor(buffer: Any, dtype: str, shape: tuple[int, ...], offset: int) -> Any:
    view = memoryview(buffer)[offset:]
    code = DTYPES[dtype]
    if code is None or not shape or 0 in shape:
        return view
    flat: Any = view.cast("B")
    return flat.cast(code, shape)
