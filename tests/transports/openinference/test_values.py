"""Arguments become tensors, and tensors values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from socaity.exceptions import InvalidInputError, ProtocolError
from socaity.protocol.openinference.datatypes import datatype_of
from socaity.protocol.openinference.messages import InferResponse, Tensor
from socaity_transports.openinference.models import Model, read_model
from socaity_transports.openinference.values import read_value, write_inputs


def model(
    inputs: dict[str, tuple[str, list[int]]],
    outputs: dict[str, tuple[str, list[int]]] | None = None,
    config: dict[str, Any] | None = None,
) -> Model:
    def tensors(given: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
        return [{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape) in given.items()]

    metadata = {"inputs": tensors(inputs), "outputs": tensors(outputs or {})}
    return read_model(metadata, config, endpoint="m", name="m")


def answered(found: Model, is_single: bool, **arrays: np.ndarray[Any, Any]) -> Any:
    outputs = []
    for name, array in arrays.items():
        declared = found.outputs.get(name)
        kind = declared.datatype if declared is not None else "FP32"
        outputs.append(Tensor(name, kind, array.shape, array))
    return read_value(found, InferResponse("m", outputs), is_single=is_single)


def texts(*shape: int, of: str | bytes = b"x") -> np.ndarray[Any, Any]:
    array = np.empty(shape, object)
    array[...] = of
    return array


def test_an_item_without_its_batch_axis_gets_one() -> None:
    found = model({"a": ("FP32", [-1, 2]), "b": ("INT64", [-1])})
    tensors, is_single = write_inputs(found, {"a": np.ones(2, np.float32), "b": np.int64(3)})
    assert is_single
    assert [one.shape for one in tensors] == [(1, 2), (1,)]
    tensors, is_single = write_inputs(found, {"a": np.ones((4, 2), np.float32), "b": np.arange(4)})
    assert not is_single
    assert [one.shape for one in tensors] == [(4, 2), (4,)]


def test_one_item_among_rows_is_refused() -> None:
    found = model({"a": ("FP32", [-1, 2]), "b": ("INT64", [-1])})
    with pytest.raises(InvalidInputError, match="got a 3 rows, b one item") as caught:
        write_inputs(found, {"a": np.ones((3, 2), np.float32), "b": np.int64(3)})
    assert caught.value.parameter == "b"


def test_inputs_of_a_model_that_does_not_batch_have_any_number_of_rows() -> None:
    found = model(
        {"a": ("FP64", [-1]), "b": ("INT64", [-1, -1]), "c": ("BYTES", [-1])}, config={"max_batch_size": 0}
    )
    tensors, is_single = write_inputs(found, {"a": [1.0, 2.0], "b": [[1]], "c": "x"})
    assert not is_single
    assert [one.shape for one in tensors] == [(2,), (1, 1), (1,)]
    with pytest.raises(InvalidInputError, match=r"expected INT64 \[-1, -1\], got INT64 \[2\]"):
        write_inputs(found, {"b": [1, 2]})


@pytest.mark.parametrize(
    ("shape", "value", "sent"),
    [
        ([1], "a", (1,)),
        ([1], ["a"], (1,)),
        ([-1], "a", (1,)),
        ([-1], ["a", "b"], (2,)),
        ([-1, 1], "a", (1, 1)),
        ([-1, 1], ["a"], (1, 1)),
        ([-1, 1], ["a", "b"], (2, 1)),
        ([-1, 2], ["a", "b"], (1, 2)),
        ([-1, 2], [["a", "b"], ["c", "d"]], (2, 2)),
        ([], "a", ()),
    ],
)
def test_text_finds_its_place(shape: list[int], value: Any, sent: tuple[int, ...]) -> None:
    [tensor], _ = write_inputs(model({"a": ("BYTES", shape)}), {"a": value})
    assert tensor.shape == sent
    assert tensor.data is not None
    assert tensor.data.dtype == object


def test_bytes_keep_the_zeros_at_their_end() -> None:
    [tensor], _ = write_inputs(model({"a": ("BYTES", [-1])}), {"a": [b"a\0", "b"]})
    assert tensor.data is not None
    assert tensor.data.tolist() == [b"a\0", "b"]


@pytest.mark.parametrize(
    ("kind", "shape", "value", "said"),
    [
        ("BYTES", [2], ["a"], r"m\(a=…\): expected BYTES \[2\], got BYTES \[1\]"),
        ("BYTES", [-1], [1, 2], "expected text or bytes in every element, got int"),
        ("BYTES", [-1], np.ones(2), r"expected text \(BYTES\), got float64"),
        ("BYTES", [-1], [["a"], ["b", "c"]], "in every element, got list"),
        ("BYTES", [2, 2], "a", r"got BYTES \[\]"),
        ("INT8", [-1], np.array([300]), "'a' takes INT8, from -128 to 127"),
        ("INT8", [-1], np.array([1.5]), "'a' takes INT8; got an array of float64"),
        ("FP32", [-1, 3], np.ones((2, 2), np.float32), r"expected FP32 \[-1, 3\], got FP32 \[2, 2\]"),
        ("FP8", [-1], np.ones(2), "unknown datatype 'FP8'"),
        ("FP16", [-1], [1e6], r"'a' \(FP16\) holds a number that is too large for it"),
        ("FP32", [-1], [1.0, 1e39], r"'a' \(FP32\) holds a number that is too large for it"),
        ("FP32", [-1], np.ma.array([1.0, 2.0], mask=[False, True]), r"masked.*give array\.filled"),
        ("BYTES", [-1], np.ma.array(["a", "b"], mask=[False, True]), r"masked.*give array\.filled"),
    ],
)
def test_what_does_not_fit_names_the_tensor(kind: str, shape: list[int], value: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        write_inputs(model({"a": (kind, shape)}), {"a": value})
    assert caught.value.parameter == "a"


def test_an_input_that_is_not_described_has_the_datatype_of_its_array() -> None:
    given = {"a": np.arange(3, dtype=np.int16), "b": "text", "c": [[1.5]]}
    tensors, is_single = write_inputs(model({}), given)
    assert not is_single
    assert [(one.name, one.datatype, one.shape) for one in tensors] == [
        ("a", "INT16", (3,)),
        ("b", "BYTES", (1,)),
        ("c", "FP64", (1, 1)),
    ]
    with pytest.raises(InvalidInputError, match="complex128 has no datatype"):
        write_inputs(model({}), {"a": np.ones(2, complex)})


@pytest.mark.parametrize("dtype", [">i4", ">f8", ">u2", ">f2"])
def test_the_order_of_the_bytes_does_not_matter_where_the_datatype_is_free(dtype: str) -> None:
    array = np.arange(3).astype(dtype)
    [tensor], _ = write_inputs(model({}), {"a": array})
    assert tensor.data is not None
    assert tensor.data.dtype == array.dtype.newbyteorder("=")
    assert tensor.data.tolist() == [0, 1, 2]
    assert tensor.datatype == datatype_of(tensor.data.dtype)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([2**70], "a int has no datatype"),
        ({"a": 1}, "a dict has no datatype"),
        ([None], "a NoneType has no datatype"),
        (["a", 1], "expected text or bytes in every element, got int"),
        (np.ma.array([1, 2], mask=[False, True]), "masked"),
    ],
)
def test_what_has_no_datatype_says_what_it_is(value: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        write_inputs(model({}), {"a": value})


def test_an_array_without_a_masked_element_is_an_array() -> None:
    [tensor], _ = write_inputs(model({}), {"a": np.ma.array([1.5, 2.5], mask=[False, False])})
    assert type(tensor.data) is np.ndarray
    assert tensor.data.tolist() == [1.5, 2.5]


def test_one_output_is_an_array_and_several_are_a_mapping() -> None:
    one = np.ones((2, 2), np.float32)
    assert answered(model({}, {"x": ("FP32", [-1, 2])}), False, x=one).shape == (2, 2)
    several = model({}, {"x": ("FP32", [-1, 2]), "y": ("FP32", [-1, 2])})
    assert set(answered(several, False, x=one, y=one)) == {"x", "y"}
    assert set(answered(several, False, x=one)) == {"x"}, "what is a mapping stays one"
    assert answered(model({}), False, x=one).shape == (2, 2)
    assert set(answered(model({}), False, x=one, y=one)) == {"x", "y"}


def test_an_answer_without_outputs_is_none_where_there_is_one_at_most() -> None:
    for outputs in ({}, {"x": ("FP32", [-1])}):
        assert answered(model({}, outputs), False) is None
    assert answered(model({}, {"x": ("FP32", [-1]), "y": ("FP32", [-1])}), False) == {}


def test_the_only_output_may_have_another_name_than_is_said() -> None:
    found = model({}, {"output-0": ("FP64", [-1, 1])})
    assert answered(found, False, **{"output-1": np.ones((2, 1))}).shape == (2, 1)


def test_the_answer_to_one_item_has_no_batch_axis() -> None:
    found = model({}, {"x": ("FP32", [-1, 2]), "y": ("INT8", [-1]), "z": ("FP32", [3])})
    value = answered(
        found, True, x=np.ones((1, 2), np.float32), y=np.array([7], np.int8), z=np.ones(3, np.float32)
    )
    assert value["x"].shape == (2,)
    assert value["y"] == 7
    assert isinstance(value["y"], np.int8)
    assert value["z"].shape == (3,)


def test_arrays_of_an_answer_may_be_written_to() -> None:
    view = np.frombuffer(bytes(8), np.float32)
    value = answered(model({}, {"x": ("FP32", [-1])}), False, x=view)
    value[0] = 1
    assert value.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("shape", "got", "is_single", "expected"),
    [
        ([1], (1,), False, "é"),
        ([1], (1, 1), False, "é"),  # MLServer adds an axis
        ([1, 1], (1, 1), False, "é"),
        ([-1, 1], (1, 1), True, "é"),
        ([-1], (1,), True, "é"),
        ([-1], (1,), False, ["é"]),
        ([-1, 2], (1, 2), True, ["é", "é"]),
    ],
)
def test_text_that_is_never_more_than_one_is_a_str(
    shape: list[int], got: tuple[int, ...], is_single: bool, expected: Any
) -> None:
    value = answered(model({}, {"x": ("BYTES", shape)}), is_single, x=texts(*got, of="é".encode()))
    assert (value if isinstance(value, str) else value.tolist()) == expected


def test_bytes_that_are_no_text_stay_bytes_all_of_them() -> None:
    array = texts(2)
    array[1] = b"\xff"
    value = answered(model({}, {"x": ("BYTES", [-1])}), False, x=array)
    assert value.tolist() == [b"x", b"\xff"]


def test_an_answer_without_data_is_a_fault_of_the_protocol() -> None:
    found = model({}, {"x": ("FP32", [-1])})
    with pytest.raises(ProtocolError, match="without the data of its output 'x'"):
        read_value(found, InferResponse("m", [Tensor("x", "FP32", (1,), None)]), is_single=False)
