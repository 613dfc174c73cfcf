"""Arrays of every datatype, for hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from socaity.protocol.openinference.datatypes import DATATYPES
from socaity.protocol.openinference.messages import Tensor

Array = np.ndarray[Any, Any]

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn, kind: str, *, is_text: bool = False) -> Array:
    """Any array of a datatype; BYTES that are UTF-8 with `is_text`."""
    shape = draw(SHAPES)
    if kind == "BYTES":
        count = int(np.prod(shape))
        one = st.text(max_size=6).map(str.encode) if is_text else st.binary(max_size=6)
        array = np.empty(count, object)
        array[:] = draw(st.lists(one, min_size=count, max_size=count))
        return array.reshape(shape)
    if kind == "BF16":
        halves = draw(hnp.arrays(np.uint16, shape))
        wide: Array = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.where(np.isnan(wide), np.float32(np.nan), wide).reshape(shape)
    return draw(hnp.arrays(DATATYPES[kind].dtype, shape))


@st.composite
def tensors(draw: st.DrawFn, name: str, *, is_binary: bool | None = None, is_text: bool = True) -> Tensor:
    """A tensor of any datatype, in either form unless `is_binary` says which."""
    kind = draw(st.sampled_from(sorted(DATATYPES)))
    array = draw(arrays(kind, is_text=is_text))
    binary = draw(st.booleans()) if is_binary is None else is_binary
    return Tensor(name, kind, array.shape, array, draw(parameters()), is_binary=binary)


def parameters() -> st.SearchStrategy[dict[str, Any]]:
    """What may stand in `parameters`."""
    values = st.one_of(
        st.text(max_size=5),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    )
    names = st.text(min_size=1, max_size=5).filter(
        lambda name: name not in ("binary_data_size", "shared_memory_region")
    )
    return st.dictionaries(names, values, max_size=2)


def assert_same(one: Tensor, other: Tensor, *, is_finite_only: bool = False) -> None:
    """The same name, datatype, shape and bits (NaN of any kind are the same); in JSON nothing infinite survives."""
    assert (one.name, one.datatype, one.shape, one.parameters) == (
        other.name,
        other.datatype,
        other.shape,
        other.parameters,
    )
    assert one.data is not None
    assert other.data is not None
    assert one.data.dtype == other.data.dtype
    expected = one.data
    if is_finite_only and expected.dtype.kind == "f":
        expected = np.where(np.isfinite(expected), expected, np.array(np.nan, expected.dtype))
    np.testing.assert_array_equal(expected, other.data)
