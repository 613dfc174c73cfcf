"""The two forms of a tensor's data on the wire, raw bytes and numbers in JSON, as numpy arrays and back.

Raw data is little-endian, row-major and without padding; an element of BYTES is its length in four bytes and then its bytes.
Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from functools import cache
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

from .datatypes import Datatype, TensorError, datatype

if TYPE_CHECKING:
    import numpy as np

__all__ = ["as_array", "checked_shape", "nesting_of", "read_json", "read_raw", "write_json", "write_raw"]

MAX_ELEMENTS = 2**63 - 1
MAX_DEPTH = 100
_WIDEST = 8
"""Bytes of the largest element, on the wire and in memory."""
_LENGTH = struct.Struct("<I")
_IS_BIG_ENDIAN = sys.byteorder == "big"
_FITTING = {
    "b": frozenset({bool}),
    "u": frozenset({int}),
    "i": frozenset({int}),
    "f": frozenset({int, float, type(None)}),  # null stands for what is no number
    "O": frozenset({str, bytes}),  # JSON has no bytes, but lists in Python may
}
_SAYS = {"b": "true and false", "u": "whole numbers", "i": "whole numbers", "f": "numbers", "O": "text"}


def checked_shape(name: str, shape: object, what: str = "input") -> tuple[int, ...]:
    """`shape` as a tuple; raises TensorError for what is no list of sizes, and for more elements than can be counted.

    `what` the tensor is, `input` or `output`, is for the text.
    """
    if type(shape) is not list and (not isinstance(shape, Sequence) or isinstance(shape, str | bytes)):
        raise TensorError(f"the tensor {name!r} needs a shape, a list of sizes; got {_shown(shape)}")
    sizes = tuple(shape)
    for size in sizes:
        if type(size) is not int or size < 0:
            raise TensorError(
                f"Unable to parse 'shape' of the tensor {name!r}: attempt to access JSON non-unsigned-integer as "
                f"unsigned-integer ({_shown(size)})"
            )
    if len(sizes) > MAX_DEPTH:
        raise TensorError(f"the tensor {name!r} has {len(sizes)} dimensions; {MAX_DEPTH} is the most")
    count = prod(sizes)
    if 0 < count <= MAX_ELEMENTS // _WIDEST:  # nearly always
        return sizes
    if count > MAX_ELEMENTS or max(sizes, default=0) > MAX_ELEMENTS:
        raise TensorError(
            f"the shape of the tensor {name!r} causes total element count to exceed maximum size of {MAX_ELEMENTS}"
        )
    # an empty tensor has no elements, and numpy counts its other dimensions all the same
    if prod(size for size in sizes if size) > MAX_ELEMENTS // _WIDEST:
        raise TensorError(f"byte size overflow for {what} {name!r}: its shape is {list(sizes)}")
    return sizes


def read_raw(
    name: str, type_name: str, shape: tuple[int, ...], data: bytes | bytearray | memoryview
) -> np.ndarray[Any, Any]:
    """Raw bytes as an array, which is a view of them where that is possible. Raises TensorError if they do not fit."""
    kind = datatype(type_name, name)
    count = prod(shape)
    if kind.size == 0:
        return _read_bytes(name, shape, count, data)
    size = count * kind.size
    if len(data) != size:
        raise TensorError(
            f"the tensor {name!r} ({type_name} {list(shape)}) needs {size} bytes; got {len(data)}"
        )
    import numpy as np

    _check_dimensions(name, shape)
    if kind.name == "BF16":
        return _from_bf16(np.frombuffer(data, "<u2")).reshape(shape)
    if kind.name == "BOOL":
        flags = np.frombuffer(data, np.uint8)
        # any other byte would be a bool that is neither
        if flags.size and flags.max() > 1:
            raise TensorError(f"the tensor {name!r} (BOOL) holds bytes other than 0 and 1")
        return flags.view(np.bool_).reshape(shape)
    array = np.frombuffer(data, np.dtype(kind.dtype).newbyteorder("<")).reshape(shape)
    if _IS_BIG_ENDIAN:
        return array.astype(kind.dtype)
    # what lies across the borders of its numbers is slower in numpy, and wrong for some who get its address
    return array if array.flags.aligned else array.copy()


def write_raw(array: np.ndarray[Any, Any], type_name: str) -> bytes | memoryview:
    """An array as raw bytes: a view of it where that is possible. Its dtype is that of the datatype, or BYTES of any text."""
    import numpy as np

    if type_name == "BYTES":
        return _write_bytes(array)
    array = np.ascontiguousarray(array)
    if type_name == "BF16":
        return _to_bf16(array).tobytes()
    if _IS_BIG_ENDIAN:
        array = array.astype(array.dtype.newbyteorder("<"))
    if not array.size:
        return b""
    view: memoryview = array.reshape(-1).view(np.uint8).data
    return view


def read_json(name: str, type_name: str, shape: tuple[int, ...], data: object) -> np.ndarray[Any, Any]:
    """Numbers or text of a JSON document, nested as the shape says or in one flat list, as an array; raises TensorError.

    Whole numbers are taken for floats, `null` there as NaN; nothing else is converted, and nothing may be out of range.
    """
    kind = datatype(type_name, name)
    _check_dimensions(name, shape)
    import numpy as np

    flat = _flattened(name, shape, data)
    code = np.dtype(kind.dtype).kind
    _check_elements(name, kind, code, flat)
    count = prod(shape)
    if code == "O":
        array = np.empty(count, object)
        array[:] = [text if type(text) is bytes else text.encode("utf-8", "surrogatepass") for text in flat]
        return array.reshape(shape)
    if code in "iu":
        info = np.iinfo(kind.dtype)
        if flat and not (info.min <= min(flat) and max(flat) <= info.max):
            worst = min(flat) if min(flat) < info.min else max(flat)
            raise TensorError(
                f"the tensor {name!r} ({type_name}) holds {_shown(worst)}; {type_name} goes from {info.min} to {info.max}"
            )
    if code == "f":
        return _as_floats(name, kind, flat).reshape(shape)
    return np.array(flat, kind.dtype).reshape(shape)


def nesting_of(data: object) -> tuple[int, ...]:
    """The lengths of the lists of JSON that `read_json` has taken, from the outside in: (2, 3) for two lists of three."""
    found: list[int] = []
    while isinstance(data, list):
        found.append(len(data))
        data = data[0] if data else None
    return tuple(found)


def write_json(array: np.ndarray[Any, Any], type_name: str) -> list[Any]:
    """An array as a flat list for JSON. What is no finite number becomes None, as strict parsers refuse NaN.

    BYTES become text; raises TensorError where they are no UTF-8 (raw data has them as they are).
    """
    import numpy as np

    flat = array.reshape(-1)
    if type_name == "BYTES":
        try:
            return [one.decode() if isinstance(one, bytes) else str(one) for one in flat.tolist()]
        except UnicodeDecodeError as exc:
            raise TensorError(
                "BYTES that are no UTF-8 have no form in JSON; ask for binary data (`binary_data_output`)"
            ) from exc
    values: list[Any] = flat.tolist()
    if array.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if finite else None for value, finite in zip(values, np.isfinite(flat), strict=True)]
    return values


def as_array(name: str, type_name: str, value: object) -> np.ndarray[Any, Any]:
    """Any array-like as an array that can be written as `type_name`; raises TensorError where that would change its meaning."""
    import numpy as np

    kind = datatype(type_name, name)
    array: np.ndarray[Any, Any] = np.asarray(value)
    if kind.name == "BYTES":
        return array if array.dtype.kind in "OSU" else array.astype(str)
    target = np.dtype(kind.dtype)
    if array.dtype == target:
        return array
    # to numpy, bfloat16 is bytes without a meaning
    source = "f" if str(array.dtype) == "bfloat16" else array.dtype.kind
    fits = source in "iuf" if target.kind == "f" else source in "iu" if target.kind in "iu" else source == "b"
    if not fits:
        if array.size == 0:
            return array.astype(target)
        raise TensorError(f"the tensor {name!r} takes {type_name}; got an array of {array.dtype}")
    if target.kind in "iu" and array.size:
        info = np.iinfo(target)
        low, high = int(array.min()), int(array.max())
        if low < info.min or high > info.max:
            raise TensorError(
                f"the tensor {name!r} takes {type_name}, from {info.min} to {info.max}; got {low} to {high}"
            )
    if target.kind == "f" and (kind.name == "BF16" or not np.can_cast(array.dtype, target)):
        return _as_floats(name, kind, array).reshape(array.shape)
    return array.astype(target)


def _as_floats(name: str, kind: Datatype, given: list[Any] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numbers, in a list or an array of another dtype, as floats; raises TensorError where one is too large and would become
    infinite. Those that are infinite stay so."""
    import numpy as np

    too_large = f"the tensor {name!r} ({kind.name}) holds a number that is too large for it"
    try:
        with np.errstate(over="ignore"):
            array = np.array(given, kind.dtype)
    except OverflowError as exc:
        raise TensorError(too_large) from exc
    if kind.name == "BF16":
        array = _from_bf16(_to_bf16(array))
    is_infinite = np.isinf(array)
    if is_infinite.any():
        before = given if isinstance(given, np.ndarray) else np.array(given, np.float64)
        if np.isfinite(before.reshape(array.shape)[is_infinite]).any():
            raise TensorError(too_large)
    return array


def _read_bytes(
    name: str, shape: tuple[int, ...], count: int, data: bytes | bytearray | memoryview
) -> np.ndarray[Any, Any]:
    import numpy as np

    if count * _LENGTH.size > len(data):  # so that nobody makes us reserve what they do not send
        raise TensorError(
            f"the tensor {name!r} (BYTES {list(shape)}) needs {count} elements; {len(data)} bytes cannot hold them"
        )
    _check_dimensions(name, shape)
    view = memoryview(data)
    found: list[bytes] = []
    position, end = 0, len(view)
    unpack = _LENGTH.unpack_from
    while position < end:
        start = position + _LENGTH.size
        position = start + unpack(view, position)[0] if start <= end else end + 1
        if position > end or len(found) == count:
            what = (
                "one of its elements is cut off" if position > end else f"it has more than {count} elements"
            )
            raise TensorError(f"the tensor {name!r} (BYTES {list(shape)}) is malformed: {what}")
        found.append(bytes(view[start:position]))
    if len(found) != count:
        raise TensorError(
            f"the tensor {name!r} (BYTES {list(shape)}) needs {count} elements; got {len(found)}"
        )
    array = np.empty(count, object)
    array[:] = found
    return array.reshape(shape)


def _write_bytes(array: np.ndarray[Any, Any]) -> bytes:
    pieces: list[bytes] = []
    for one in array.reshape(-1).tolist():
        data = one if isinstance(one, bytes) else str(one).encode("utf-8", "surrogateescape")
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def _from_bf16(halves: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    return (halves.astype("<u4") << np.uint32(16)).view("<f4").astype(np.float32, copy=False)


def _to_bf16(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The upper halves of float32 numbers, rounded to the nearest, to even where two are as near."""
    import numpy as np

    numbers = np.ascontiguousarray(array, "<f4")
    bits = numbers.view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # rounding could carry a NaN over into an infinity
    return np.where(np.isnan(numbers), np.uint32(0x7FC0), rounded).astype("<u2")


def _check_dimensions(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) > _most_dimensions():
        raise TensorError(
            f"the tensor {name!r} has {len(shape)} dimensions; {_most_dimensions()} is the most"
        )


@cache
def _most_dimensions() -> int:
    import numpy as np

    return 64 if int(np.__version__.split(".")[0]) >= 2 else 32


def _flattened(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    """The elements in one list; raises TensorError where there are too few or many, or the lists are nested otherwise."""
    if not isinstance(data, list):
        if shape == () and not isinstance(data, dict):
            return [data]
        raise TensorError(f"the data of the tensor {name!r} is a list; got {_shown(data)}")
    count = prod(shape)
    level: list[Any] = data
    found = [len(data)]
    while level and type(level[0]) is list:
        if len(found) == MAX_DEPTH:
            raise TensorError(
                f"the data of the tensor {name!r}: JSON nesting depth exceeds maximum allowed limit ({MAX_DEPTH})"
            )
        if set(map(type, level)) != {list} or len(set(map(len, level))) != 1:
            raise TensorError(
                f"the data of the tensor {name!r} has lists of different lengths; its shape is {_shown(list(shape))}"
            )
        found.append(len(level[0]))
        level = list(chain.from_iterable(level))
    if not _is_nested_as(found, shape, count):
        got = f"{found[0]} elements" if len(found) == 1 else f"the shape {_shown(found)}"
        raise TensorError(
            f"the tensor {name!r} has the shape {_shown(list(shape))}, which is {count} elements; its data has {got}"
        )
    return level


def _is_nested_as(found: list[int], shape: tuple[int, ...], count: int) -> bool:
    """One flat list is right for every shape. Dimensions of one element may be there or not."""
    if len(found) == 1:
        return found[0] == count
    if not count:  # lists without an element say nothing about the dimensions below them
        return tuple(found) == shape[: len(found)]
    return [size for size in found if size != 1] == [size for size in shape if size != 1]


def _check_elements(name: str, kind: Datatype, code: str, flat: list[Any]) -> None:
    kinds = set(map(type, flat))
    wrong = kinds - _FITTING[code]
    if wrong:
        index = next(position for position, one in enumerate(flat) if type(one) in wrong)
        raise TensorError(
            f"the tensor {name!r} has the datatype {kind.name}, which is {_SAYS[code]}; element {index} is {_shown(flat[index])}"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
