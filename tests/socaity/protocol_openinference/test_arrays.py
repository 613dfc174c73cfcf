"""Arrays become arrays of a datatype only where no value changes its meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.tensors import as_array

INFINITY = float("inf")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("FP16", np.array([1e6])),
        ("FP16", np.array([1, -(10**6)])),
        ("FP16", np.array([1e6, INFINITY], np.float32)),
        ("FP32", np.array([[1.0], [-1e39]])),
        ("FP32", np.array(1e39)),
        ("BF16", np.array([3.4e38])),
        ("BF16", np.array(1e39)),
    ],
)
def test_a_number_does_not_become_infinite(kind: str, given: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TensorError, match=rf"'a' \({kind}\) holds a number that is too large for it"):
        as_array("a", kind, given)


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "BF16"])
@pytest.mark.parametrize("dtype", ["float64", ">f8", "float32", "float16", "int64", "uint8"])
def test_what_is_infinite_or_fits_is_taken(kind: str, dtype: str) -> None:
    values = (
        [0, 1, 200] if dtype.strip("u") in ("int64", "int8") else [0.5, -INFINITY, INFINITY, float("nan")]
    )
    given = np.array(values).astype(dtype)
    found = as_array("a", kind, given)
    np.testing.assert_array_equal(found, given)
    assert found.dtype == {"FP16": np.float16, "FP64": np.float64}.get(kind, np.float32)


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64", "BF16"])
def test_one_number_keeps_its_shape(kind: str) -> None:
    assert as_array("a", kind, 0.5).shape == ()


def test_an_array_of_the_datatype_is_taken_as_it_is() -> None:
    given = np.array([INFINITY, 3.4e38], np.float32)
    for kind in ("FP32", "BF16"):
        assert as_array("a", kind, given) is given
