"""The inputs of a batched route: one call's arguments as arrays with a batch axis. The hottest path of the server."""

from __future__ import annotations

from array import array as FlatArray
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError
from socaity.protocol.description import TensorDescription

from .parameters import shown
from .runtimes.base import numpy_dtype

__all__ = ["Prepared", "Rows", "TensorInput", "TensorInputs"]

_RowsReader: TypeAlias = Callable[[list[Any]], "np.ndarray[Any, Any] | None"]
Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]


Prepared: TypeAlias = tuple[Arrays, int, bool]
"""A call for the batcher: inputs, rows, and whether it is a single item, whose result has no batch axis."""


class Rows(list[Any]):
    """An argument whose first axis is the batch, where the shape of an item is not known."""


@dataclass(frozen=True, slots=True)
class TensorInput:
    """One input. `item_shape` has no batch axis; an axis of any length is None, and None instead of a shape: unknown."""

    name: str
    dtype: str | None
    item_shape: tuple[int | None, ...] | None


class TensorInputs:
    """All inputs of one route, compiled.

    An argument with the rank of an item is one item; with one more axis it is a stack of rows. Where the shape is unknown,
    each call is one item; with `stacks_unknown` an array of two axes or more is a stack of rows then. With
    `has_batch_axis=False` the shapes are whole and nothing is ever stacked by a caller.
    """

    def __init__(
        self,
        route: str,
        inputs: Sequence[TensorInput],
        *,
        has_batch_axis: bool = True,
        stacks_unknown: bool = False,
    ) -> None:
        self.route = route
        self.inputs = {item.name: item for item in inputs}
        self.has_batch_axis = has_batch_axis
        self._takers = {
            item.name: _taker(item, has_batch_axis, stacks_unknown=stacks_unknown and has_batch_axis)
            for item in inputs
        }
        self._only = inputs[0] if len(inputs) == 1 else None
        self.prepare: Callable[[Mapping[str, Any]], Prepared] = self._prepare
        self.has_one_form = self._only is not None and has_batch_axis and _is_fixed(self._only)
        """Every call becomes one array of one dtype and shape, but for the rows."""
        if self._only is not None and self.has_one_form:
            self.prepare = _fast_prepare(self._only, self._takers[self._only.name], self._prepare)

    def describe(self, name: str) -> TensorDescription:
        item = self.inputs[name]
        return TensorDescription(
            dtype=None if item.dtype is None else numpy_dtype(item.dtype).name,
            shape=None if item.item_shape is None else list(item.item_shape),
        )

    def _prepare(self, arguments: Mapping[str, Any]) -> Prepared:
        takers = self._takers
        if arguments.keys() != takers.keys():
            raise self._wrong_names(arguments)
        arrays: Arrays = {}
        rows = 0
        is_single = True
        for name, take in takers.items():
            array, single = take(arguments[name])
            count = array.shape[0]
            if arrays and (count != rows or single != is_single):
                first = next(iter(arrays))
                raise InvalidInputError(
                    f"Parameters {first!r} and {name!r} must have the same number of rows; got {_rows(rows, is_single)} "
                    f"and {_rows(count, single)}.",
                    parameter=name,
                )
            arrays[name], rows, is_single = array, count, single
        if rows == 0:
            name = next(iter(arrays))
            raise InvalidInputError(f"Parameter {name!r} has no rows.", parameter=name)
        return arrays, rows, is_single

    def _wrong_names(self, arguments: Mapping[str, Any]) -> InvalidInputError:
        unknown = [name for name in arguments if name not in self._takers]
        if unknown:
            # `features` alone stands for the only input: what is wrong is rather what came with it
            name = next((one for one in unknown if one != "features"), unknown[0])
            near = get_close_matches(name, list(self._takers), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            takes = ", ".join(self._takers)
            return InvalidInputError(
                f"{self.route}() has no parameter {name!r}{hint}. It takes {takes}.", parameter=name
            )
        missing = next(name for name in self._takers if name not in arguments)
        return InvalidInputError(f"{self.route}() needs the parameter {missing!r}.", parameter=missing)


_Taker: TypeAlias = Callable[[Any], tuple[np.ndarray[Any, Any], bool]]


def _is_fixed(item: TensorInput) -> bool:
    return item.dtype not in (None, "object") and item.item_shape is not None and None not in item.item_shape


def _fast_prepare(
    item: TensorInput, take: _Taker, slow: Callable[[Mapping[str, Any]], Prepared]
) -> Callable[[Mapping[str, Any]], Prepared]:
    """For one input of a known shape: an array that fits is recognised with a few comparisons."""
    name, shape = item.name, item.item_shape
    assert item.dtype is not None
    dtype = numpy_dtype(item.dtype)
    rank = len(shape or ())
    ndarray = np.ndarray
    rows_of = _rows_reader(dtype, shape)

    def prepare(arguments: Mapping[str, Any]) -> Prepared:
        if len(arguments) == 1 and name in arguments:
            array = arguments[name]
            if type(array) is ndarray and array.dtype == dtype:
                found = array.shape
                if found == shape:
                    return {name: array[None]}, 1, True
                if len(found) == rank + 1 and found[1:] == shape and found[0]:
                    return {name: array}, found[0], False
            if rows_of is not None and type(array) is list:
                stacked = rows_of(array)
                if stacked is not None:
                    return {name: stacked}, len(array), False
            array, is_single = take(array)
            if array.shape[0]:
                return {name: array}, array.shape[0], is_single
        return slow(arguments)

    return prepare


def _rows_reader(dtype: np.dtype[Any], shape: tuple[int | None, ...] | None) -> _RowsReader | None:
    """For rows of floats as nested lists, the usual JSON body: three times as fast as `np.asarray`, which looks at every
    number twice. None as a result says that the slow way must look at it: it knows what is wrong."""
    code = {"float32": "f", "float64": "d"}.get(dtype.name)
    if code is None or shape is None or len(shape) != 1 or shape[0] is None:
        return None
    width, ndarray = shape[0], np.ndarray

    def read(rows: list[Any]) -> np.ndarray[Any, Any] | None:
        numbers = FlatArray(code)
        try:
            for row in rows:
                if len(row) != width or type(row) is not list or type(row[0]) is bool:
                    return None
                numbers.fromlist(row)
        except (TypeError, OverflowError, IndexError):
            return None
        return ndarray((len(rows), width), dtype, numbers) if rows else None

    return read


def _taker(item: TensorInput, has_batch_axis: bool, *, stacks_unknown: bool = False) -> _Taker:
    name, shape = item.name, item.item_shape
    dtype = None if item.dtype is None else numpy_dtype(item.dtype)
    rank = None if shape is None else len(shape)
    fixed = [] if shape is None else [(axis, size) for axis, size in enumerate(shape) if size is not None]

    def take(value: Any) -> tuple[np.ndarray[Any, Any], bool]:
        array = value if type(value) is np.ndarray else _as_array(name, item, value)
        is_rows = rank is None and type(value) is Rows
        if dtype is not None and array.dtype != dtype:
            array = _cast(name, array, dtype, value)
        if rank is None:
            if array.ndim and not array.size:
                raise InvalidInputError(f"Parameter {name!r} is empty.", parameter=name)
            is_stack = is_rows or (stacks_unknown and array.ndim > 1)
            return (array, False) if is_stack else (array[None], True)
        single = array.ndim == rank
        found = array.shape if single else array.shape[1:]
        if not (single or (has_batch_axis and array.ndim == rank + 1)) or any(
            found[axis] != size for axis, size in fixed
        ):
            raise InvalidInputError(
                f"Parameter {name!r} must have the shape {_shape_text(item, has_batch_axis)}; got {list(array.shape)}.",
                parameter=name,
            )
        return (array[None], True) if single else (array, False)

    return take


def _as_array(name: str, item: TensorInput, value: Any) -> np.ndarray[Any, Any]:
    if value is None or isinstance(value, dict | bytes | bytearray):
        raise _wrong(name, item, shown(value))
    # Numpy would give every text the room of the longest one, in a block of its own.
    is_text = item.dtype == "object" or _holds_text(value)
    if is_text and item.dtype not in (None, "object"):
        raise InvalidInputError(
            f"Parameter {name!r} must be numbers ({item.dtype}); got text: {shown(value)}.", parameter=name
        )
    try:
        array = np.asarray(value, object if is_text else None)
    except (TypeError, ValueError) as exc:
        reason = "lists of different lengths" if "inhomogeneous" in str(exc) else shown(value)
        raise _wrong(name, item, reason) from exc
    if is_text:
        if any(type(cell) is list for cell in array.flat):
            raise _wrong(name, item, "lists of different lengths")
        return array
    if array.dtype.kind == "O":
        raise _wrong(name, item, f"a list with something else in it: {shown(value)}")
    return array


def _holds_text(value: Any) -> bool:
    """Whether there is text, or bytes, at any depth."""
    if not isinstance(value, list | tuple):
        return isinstance(value, str | bytes)
    left = [value]
    while left:
        one = left.pop()
        kinds = set(map(type, one))  # one pass in C: long lists of numbers are cheap
        if str in kinds or bytes in kinds:
            return True
        if list in kinds or tuple in kinds:
            left += [part for part in one if type(part) in (list, tuple)]
    return False


def _cast(name: str, array: np.ndarray[Any, Any], dtype: np.dtype[Any], value: Any) -> np.ndarray[Any, Any]:
    """`array` as `dtype` where no meaning is lost: any number as a float, whole numbers in range as an integer."""
    source, target = array.dtype.kind, dtype.kind
    if target == "f" and (source == "f" or source == "i"):
        if array.dtype.itemsize <= dtype.itemsize:
            return array.astype(dtype)
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if target == "O" or source == target == "b":
        return array.astype(dtype)
    if source not in "biuf" + ("c" if target == "c" else "") or (source == "b") != (target == "b"):
        raise _wrong_dtype(name, dtype, array, value)
    if target in "iu":
        info = np.iinfo(dtype)
        if source == "f" and not (np.isfinite(array).all() and (array == np.trunc(array)).all()):
            raise InvalidInputError(
                f"Parameter {name!r} must hold whole numbers ({dtype}); got fractions or NaN.", parameter=name
            )
        if array.size and not (info.min <= array.min() and array.max() <= info.max):
            raise InvalidInputError(
                f"Parameter {name!r} must hold numbers from {info.min} to {info.max} ({dtype}); "
                f"got {array.min()} to {array.max()}.",
                parameter=name,
            )
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _wrong_dtype(
    name: str, dtype: np.dtype[Any], array: np.ndarray[Any, Any], value: Any
) -> InvalidInputError:
    got = "text" if array.dtype.kind in "OUS" else str(array.dtype)
    return InvalidInputError(
        f"Parameter {name!r} must be numbers ({dtype}); got {got}: {shown(value)}.", parameter=name
    )


def _wrong(name: str, item: TensorInput, got: str) -> InvalidInputError:
    what = f"a {item.dtype} array" if item.dtype else "an array"
    shape = "" if item.item_shape is None else f" of shape {_shape_text(item, True)}"
    return InvalidInputError(f"Parameter {name!r} must be {what}{shape}; got {got}.", parameter=name)


def _shape_text(item: TensorInput, has_batch_axis: bool) -> str:
    sizes = ["any" if size is None else str(size) for size in item.item_shape or ()]
    one = f"[{', '.join(sizes)}]"
    return f"{one} or, for several, [{', '.join(['rows', *sizes])}]" if has_batch_axis else one


def _rows(count: int, is_single: bool) -> str:
    return "a single item" if is_single else f"{count} rows"
