"""What is taken for an array besides arrays: single numbers, columns, and what other libraries hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from socaity._schema import Check, compile_check
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription


def check(*shape: int | None, dtype: str = "float32", batched: bool = False, **more: Any) -> Check:
    parameter = ParameterDescription(
        name="x", tensor=TensorDescription(dtype=dtype, shape=list(shape)), **more
    )
    return compile_check(parameter, EndpointDescription(name="f", path="/f", batched=batched))


@pytest.mark.parametrize("given", [2, 2.0, True, np.float64(2), np.array(2)])
@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_a_number_fills_an_array_with_room_for_one(given: Any, shape: tuple[int, ...]) -> None:
    found = check(*shape)(given)
    assert found.dtype == np.float32
    assert found.shape == shape
    assert found.item() == float(given)


@pytest.mark.parametrize("shape", [(2,), (None,), (1, 2)])
def test_a_number_does_not_fill_more(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="expected float32"):
        check(*shape)(2.0)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_series_is_a_column_of_rows_with_one_number(rows: int) -> None:
    found = check(1, batched=True)(pd.Series(np.arange(rows)))
    assert found.shape == (rows, 1)
    assert check(batched=True)(pd.Series(np.arange(rows))).shape == (rows,)


def test_a_list_is_still_one_row() -> None:
    assert check(1, batched=True)([1.0]).shape == (1,)
    with pytest.raises(ValueError, match="expected float32"):
        check(1, batched=True)([1.0, 2.0])


class OnlyDLPack:
    """Without a word of numpy."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class TypedDLPack(OnlyDLPack):
    """With a dtype and a shape, as most have them."""

    dtype = "theirs.float64"
    shape = (2,)


@pytest.mark.parametrize("kind", [OnlyDLPack, TypedDLPack])
def test_what_speaks_dlpack_is_an_array(kind: type[OnlyDLPack]) -> None:
    found = check(2)(kind(np.array([1.0, 2.0])))
    assert found.dtype == np.float32
    assert found.tolist() == [1, 2]


def test_numbers_that_numpy_has_not_become_floats() -> None:
    torch = pytest.importorskip("torch")
    found = check(2)(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    assert found.dtype == np.float32


def test_an_array_that_may_be_left_out_may_be_none() -> None:
    assert check(2, required=False)(None) is None
    with pytest.raises(ValueError, match="got NoneType"):
        check(2)(None)
