"""Checks of text for models: one text, or lists of texts in the shape that the model takes. They travel as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .protocol.description import TensorDescription

_TEXTS = (str, bytes)
_NUMPY_TEXT = "OSUT"
"""The kinds of numpy dtypes that hold text."""


def text_array_check(
    tensor: TensorDescription, batched: bool, plain: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """The check of a tensor of text; it gives plain texts, nested in lists. `plain` raises where a job is inside."""
    item = None if tensor.shape is None else tuple(tensor.shape)
    has_room_for_one = item is not None and bool(item) and set(item) == {1}

    def fits(shape: tuple[int, ...]) -> bool:
        if item is None:
            return True
        if batched and len(shape) == len(item) + 1:
            shape = shape[1:]
        return len(shape) == len(item) and all(
            want is None or want == found for want, found in zip(item, shape, strict=True)
        )

    def check(value: Any) -> Any:
        if hasattr(value, "dtype"):
            value = _from_array(value, is_column=batched and item == (1,))
        value = plain(value)
        shape = _shape_of(value)
        if shape == () and has_room_for_one:
            for _ in item or ():
                value = [value]
        elif not fits(shape):
            raise ValueError(f"expected {_expected(item, batched)}, got {_found(shape)}")
        return value

    return check


def holds_text(value: Any) -> bool:
    """Whether the first item, at any depth, is text."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        return getattr(dtype, "kind", "") in _NUMPY_TEXT
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, _TEXTS)


def _from_array(value: Any, *, is_column: bool) -> Any:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in _NUMPY_TEXT:
        raise ValueError(f"expected text, got {array.dtype} {_sizes(array.shape)}")
    if is_column and array.ndim == 1 and type(value).__module__.partition(".")[0] == "pandas":
        array = array[:, None]
    return array.tolist()


def _shape_of(value: Any) -> tuple[int, ...]:
    """The shape of nested lists of text; raises ValueError where there is something else."""
    if isinstance(value, _TEXTS):
        return ()
    if not isinstance(value, Sequence) or isinstance(value, (bytearray, memoryview)):
        text = repr(value)
        shown = text if len(text) <= 60 else text[:57] + "…"
        raise ValueError(f"expected text, got {type(value).__name__} {shown}")
    if {str, bytes}.issuperset(map(type, value)):  # one pass in C: long lists of texts are cheap
        return (len(value),)
    shapes = {_shape_of(one) for one in value}
    if len(shapes) > 1:
        raise ValueError("expected text, got rows of different lengths")
    return (len(value), *shapes.pop())


def _expected(item: tuple[int | None, ...] | None, batched: bool) -> str:
    if not item:
        return "one text or a list of texts" if batched else "one text"
    return f"text {_sizes(item)}{' or ' + _sizes(('n', *item)) if batched else ''}"


def _found(shape: tuple[int, ...]) -> str:
    return f"lists of text {_sizes(shape)}" if shape else "one text"


def _sizes(shape: Sequence[Any]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
