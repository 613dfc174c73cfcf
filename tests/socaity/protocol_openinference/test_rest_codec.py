"""The REST form of requests and answers: what is written is read again, and nothing that comes in does any harm."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socaity.protocol.openinference.datatypes import DATATYPES, TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from socaity.protocol.openinference.rest import (
    read_header_length,
    read_request,
    read_response,
    write_request,
    write_response,
)
from tests.socaity.protocol_openinference.arrays import Array, arrays, assert_same, parameters, tensors

DUMPS = [None, lambda document: orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)]
LOADS = [None, orjson.loads]


def joined(pieces: list[bytes | memoryview]) -> bytes:
    return b"".join(pieces)


@settings(max_examples=150, deadline=None)
@given(
    first=tensors("a"),
    second=tensors("b"),
    params=parameters(),
    identifier=st.text(max_size=5),
    outputs=st.one_of(st.none(), st.lists(st.sampled_from("xyz"), unique=True)),
    align=st.booleans(),
    loads=st.sampled_from(LOADS),
)
def test_a_request_survives(
    first: Tensor,
    second: Tensor,
    params: dict[str, Any],
    identifier: str,
    outputs: list[str] | None,
    align: bool,
    loads: Any,
) -> None:
    wanted = None if outputs is None else [RequestedOutput(name, params) for name in outputs]
    request = InferRequest("m", [first, second], id=identifier, parameters=params, outputs=wanted)
    pieces, length = write_request(request, align=align)
    body = joined(pieces)

    again = read_request(body, length, model_name="m", loads=loads)

    assert (again.id, again.parameters) == (identifier, params)
    assert (again.outputs is None) == (outputs is None)
    assert [one.name for one in again.outputs or ()] == (outputs or [])
    for before, after in zip(request.inputs, again.inputs, strict=True):
        assert_same(before, after, is_finite_only=not before.is_binary)
        assert before.is_binary == after.is_binary
    if length is not None and align:
        assert length % 64 == 0


@settings(max_examples=150, deadline=None)
@given(
    output=tensors("a"),
    params=parameters(),
    identifier=st.text(max_size=5),
    dumps=st.sampled_from(DUMPS),
)
def test_an_answer_survives(output: Tensor, params: dict[str, Any], identifier: str, dumps: Any) -> None:
    response = InferResponse("m", [output], "3", identifier, params)
    pieces, length = write_response(response, dumps=dumps, arrays=dumps is not None)

    again = read_response(joined(pieces), length)

    assert (again.model_name, again.model_version, again.id, again.parameters) == (
        "m",
        "3",
        identifier,
        params,
    )
    assert_same(output, again.outputs[0], is_finite_only=not output.is_binary)


@pytest.mark.parametrize("kind", sorted(DATATYPES))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_datatype_survives_as_raw_bytes(kind: str, data: st.DataObject) -> None:
    array = data.draw(arrays(kind))
    tensor = Tensor("a", kind, array.shape, array, is_binary=True)
    pieces, length = write_request(InferRequest("m", [tensor]))

    again = read_request(joined(pieces), length, model_name="m")

    assert_same(tensor, again.inputs[0])


def test_a_raw_tensor_is_a_view_of_the_body() -> None:
    array = np.arange(1000, dtype=np.float32)
    pieces, length = write_request(InferRequest("m", [Tensor("a", "FP32", (1000,), array, is_binary=True)]))
    body = joined(pieces)

    read = read_request(body, length, model_name="m").inputs[0].data

    assert read is not None
    assert np.shares_memory(read, np.frombuffer(body, np.uint8))
    assert isinstance(pieces[1], memoryview)
    assert np.shares_memory(np.frombuffer(pieces[1], np.uint8), array)


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=200), length=st.one_of(st.none(), st.integers(0, 300)))
def test_no_bytes_do_harm(body: bytes, length: int | None) -> None:
    try:
        request = read_request(body, length, model_name="m", loads=orjson.loads)
    except TensorError:
        return
    assert length == 0 or isinstance(request.inputs, list)


DOCUMENTS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(["FP32", "BYTES", "INT8", "BOOL", "BF16", "a"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "inputs",
                    "outputs",
                    "name",
                    "shape",
                    "datatype",
                    "data",
                    "parameters",
                    "binary_data_size",
                    "id",
                    "x",
                ]
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=20,
)


@settings(max_examples=400, deadline=None)
@given(document=DOCUMENTS, rest=st.binary(max_size=20))
def test_no_document_does_harm(document: Any, rest: bytes) -> None:
    text = json.dumps({"inputs": [document], "parameters": {}}).encode()
    for body in (json.dumps(document).encode(), text):
        for length in (None, len(body)):
            try:
                read_request(body + (rest if length else b""), length, model_name="m")
            except TensorError:
                continue


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(DATATYPES)),
    shape=st.lists(
        st.one_of(st.integers(0, 5), st.integers(), st.sampled_from([2**31, 2**63, -1])), max_size=4
    ),
    data=DOCUMENTS,
    size=st.one_of(st.none(), st.integers(-1, 50)),
    rest=st.binary(max_size=40),
)
def test_no_tensor_does_harm(kind: str, shape: list[int], data: Any, size: int | None, rest: bytes) -> None:
    entry: dict[str, Any] = {"name": "a", "shape": shape, "datatype": kind}
    entry |= {"data": data} if size is None else {"parameters": {"binary_data_size": size}}
    text = json.dumps({"inputs": [entry]}).encode()

    try:
        request = read_request(text + rest, len(text), model_name="m")
    except TensorError:
        return
    found = request.inputs[0].data
    assert found is not None
    assert found.shape == tuple(shape)


@pytest.mark.parametrize("text", ["", " ", "-1", "+1", "1e3", "0x10", "2147483648", "9" * 5000, "1 2", "٣"])
def test_header_lengths_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(TensorError, match="Inference-Header-Content-Length"):
        read_header_length(text)


@pytest.mark.parametrize(
    ("text", "length"), [(None, None), ("0", 0), (" 17 ", 17), ("2147483647", 2**31 - 1)]
)
def test_header_lengths_are_read(text: str | None, length: int | None) -> None:
    assert read_header_length(text) == length


@pytest.mark.parametrize(
    ("depth", "is_good"), [(1, True), (50, True), (64, True), (65, False), (100, False), (101, False)]
)
def test_data_is_nested_as_deeply_as_arrays_can_be(depth: int, is_good: bool) -> None:
    data: Any = 1
    for _ in range(depth):
        data = [data]
    body = json.dumps(
        {"inputs": [{"name": "a", "shape": [1] * depth, "datatype": "INT8", "data": data}]}
    ).encode()

    if is_good:
        found = read_request(body, None, model_name="m").inputs[0].data
        assert found is not None
        assert found.ndim == depth
    else:
        with pytest.raises(TensorError):
            read_request(body, None, model_name="m")


INFINITY = float("inf")
LARGEST_BF16 = float.fromhex("0x1.fep127")


def values(array: Array) -> list[Any]:
    return list(array.reshape(-1).tolist())


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("BOOL", [True, False], [0, 1.0, "true", None]),
        ("UINT8", [0, 255], [-1, 256, True, 1.0, "1", None]),
        ("INT64", [-(2**63), 2**63 - 1], [2**63, -(2**63) - 1, 1.5]),
        ("UINT64", [0, 2**64 - 1], [2**64, -1, 10**400]),
        ("FP16", [1, 0.5, 65504, -INFINITY, None], [True, "1", [1, 2], 65520, -70000.0, 10**39, 10**400]),
        ("FP32", [1, 0.5, INFINITY, None], [True, "1", 1e39, -1e39, 10**39, 10**400]),
        ("FP64", [1, 2**60, INFINITY, None], [False, "1", 10**400]),
        ("BF16", [1, 0.5, LARGEST_BF16, INFINITY, None], [True, "x", 3.4e38, -3.4e38, 1e39, 10**400]),
        ("BYTES", ["", "ü"], [1, None, True]),
    ],
)
def test_json_is_checked_element_by_element(kind: str, good: list[Any], bad: list[Any]) -> None:
    def read(element: Any) -> Array:
        entry = {"name": "a", "shape": [1], "datatype": kind, "data": [element]}
        found = read_request(json.dumps({"inputs": [entry]}).encode(), None, model_name="m").inputs[0].data
        assert found is not None
        return found

    for element in good:
        (value,) = values(read(element))
        expected = element.encode() if isinstance(element, str) else element
        assert value == expected or (element is None and value != value)
    for element in bad:
        with pytest.raises(TensorError, match="'a'"):
            read(element)
