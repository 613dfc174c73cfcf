"""What a model says of itself becomes an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from socaity.exceptions import ProtocolError
from socaity_transports.openinference.models import Model, read_model


def model(metadata: dict[str, Any], config: dict[str, Any] | None = None, **more: Any) -> Model:
    return read_model(metadata, config, **{"endpoint": "m", "name": "m", **more})


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def test_inputs_are_parameters_with_dtype_and_the_shape_of_one_item() -> None:
    found = model({"inputs": [tensor("a", "FP32", -1, 3), tensor("b", "INT64", -1)]})
    assert found.has_batch_axis
    assert found.endpoint.batched
    shapes = {one.name: one.tensor for one in found.endpoint.parameters if one.tensor is not None}
    assert {name: (one.dtype, one.shape) for name, one in shapes.items()} == {
        "a": ("float32", [3]),
        "b": ("int64", []),
    }
    assert found.endpoint.parameters[0].description == "FP32 [-1, 3]"


def test_where_one_input_is_no_batch_none_is() -> None:
    found = model({"inputs": [tensor("a", "FP32", -1, -1), tensor("b", "INT64", 1)]})
    assert not found.has_batch_axis
    described = found.endpoint.parameters[0].tensor
    assert described is not None
    assert described.shape == [None, None]


@pytest.mark.parametrize(
    ("config", "batches"),
    [
        (None, True),
        ({}, True),
        ({"max_batch_size": 8}, True),
        ({"max_batch_size": 0}, False),
    ],
)
def test_a_model_that_says_that_it_does_not_batch_has_no_batch(
    config: dict[str, Any] | None, batches: bool
) -> None:
    found = model({"inputs": [tensor("a", "FP32", -1), tensor("b", "INT64", -1, -1)]}, config)
    assert found.has_batch_axis is batches
    assert found.endpoint.batched is batches
    described = found.endpoint.parameters[0].tensor
    assert described is not None
    assert described.shape == ([] if batches else [None])


def test_names_that_are_none_in_python_are_changed_and_said() -> None:
    names = ["input:0", "input_0", "class", "1st", "--", "parameters"]
    found = model({"inputs": [tensor(name, "FP32", 1) for name in names]})
    assert {argument: one.name for argument, one in found.inputs.items()} == {
        "input_0_": "input:0",
        "input_0": "input_0",
        "class_": "class",
        "_1st": "1st",
        "input": "--",
        "parameters": "parameters",
    }
    by_name = {one.name: one for one in found.endpoint.parameters}
    assert "the tensor 'input:0'" in (by_name["input_0_"].description or "")
    assert found.options_name == "parameters_"
    assert not by_name["parameters_"].required


def test_optional_inputs_come_behind_the_others() -> None:
    found = model(
        {"inputs": [tensor("a", "FP32", 1), tensor("b", "FP32", 1)]},
        {"input": [{"name": "a", "optional": True}]},
    )
    assert [(one.name, one.required) for one in found.endpoint.parameters] == [
        ("b", True),
        ("a", False),
        ("parameters", False),
    ]


@pytest.mark.parametrize(
    ("metadata", "config", "more", "streams"),
    [
        ({}, None, {}, False),
        ({}, {"model_transaction_policy": {"decoupled": True}}, {}, True),
        ({}, {"model_transaction_policy": {}}, {}, False),
        ({"properties": {"decoupled": "true"}}, None, {}, True),
        ({}, None, {"streams": True}, True),
    ],
)
def test_a_decoupled_model_streams(
    metadata: dict[str, Any], config: dict[str, Any] | None, more: dict[str, Any], streams: bool
) -> None:
    found = model(metadata, config, **more)
    assert found.is_decoupled is streams
    assert found.endpoint.streaming is streams
    assert found.endpoint.idempotent is not streams


def test_what_our_server_says_in_the_properties_is_understood() -> None:
    properties = {"any_datatype": "a", "any_shape": "a,b", "optional": "b"}
    inputs = [tensor("a", "FP32", -1), tensor("b", "INT8", -1)]
    found = model({"inputs": inputs, "properties": properties})
    assert [(one.datatype, one.shape, one.is_optional) for one in found.inputs.values()] == [
        ("", None, False),
        ("INT8", None, True),
    ]
    first, second, _ = found.endpoint.parameters
    assert first.tensor is not None
    assert (first.tensor.dtype, first.tensor.shape, second.required) == (None, None, False)
    assert first.description == "any datatype of any shape"


def test_a_model_that_says_nothing_takes_anything_by_name() -> None:
    found = model({"inputs": [], "outputs": []})
    assert [one.name for one in found.endpoint.parameters if one.variadic] == ["inputs"]
    assert found.endpoint.returns == {}


@pytest.mark.parametrize(
    "inputs",
    [
        "text",
        [None],
        [{"name": "a", "datatype": "FP32"}],
        [{"name": "a", "datatype": "FP32", "shape": [1.5]}],
        [{"name": "a", "datatype": None, "shape": [1]}],
        [{"name": 1, "datatype": "FP32", "shape": [1]}],
    ],
)
def test_metadata_in_another_form_is_a_fault_of_the_protocol(inputs: Any) -> None:
    with pytest.raises(ProtocolError, match="the model 'm' describes"):
        model({"inputs": inputs})


def test_a_version_has_a_name_of_its_own() -> None:
    found = model({"platform": "onnx_onnxv1"}, endpoint="m:2", version="2")
    assert (found.endpoint.name, found.version) == ("m:2", "2")
    assert found.endpoint.doc == "The model m, version 2 (onnx_onnxv1)."
