"""Bytes that nobody expects: the server answers with the caller's fault, or with an answer, and lives on."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from socaity.protocol.openinference.datatypes import DATATYPES
from socaity.protocol.openinference.protobuf import messages

from .conftest import SOON, Client

FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # a request may say that it has a microsecond
}

_names = st.sampled_from(["same", "add", "greet", "count", "x", "a", "b", "name", "", "nobody"])
_sizes = st.one_of(st.integers(-1, 4), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))
_parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "binary_data_output", "own"]),
    st.one_of(
        st.booleans().map(lambda value: {"bool_param": value}),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: {"int64_param": value}),
        st.integers(0, 2**64 - 1).map(lambda value: {"uint64_param": value}),
        st.floats().map(lambda value: {"double_param": value}),
        st.text(max_size=5).map(lambda value: {"string_param": value}),
        st.just({}),
    ),
    max_size=2,
)
_contents = st.one_of(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4).map(lambda v: {"int_contents": v}),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(lambda v: {"int64_contents": v}),
    st.lists(st.floats(width=32), max_size=4).map(lambda v: {"fp32_contents": v}),
    st.lists(st.binary(max_size=4), max_size=4).map(lambda v: {"bytes_contents": v}),
    st.lists(st.booleans(), max_size=4).map(lambda v: {"bool_contents": v}),
)
_tensors = st.fixed_dictionaries(
    {
        "name": _names,
        "datatype": st.sampled_from([*DATATYPES, "", "FP31"]),
        "shape": st.lists(_sizes, max_size=3),
    },
    optional={"contents": _contents, "parameters": _parameters},
)
_requests = st.fixed_dictionaries(
    {"model_name": _names},
    optional={
        "model_version": st.sampled_from(["", "1", "2"]),
        "id": st.text(max_size=3),
        "parameters": _parameters,
        "inputs": st.lists(_tensors, max_size=3),
        "outputs": st.lists(st.fixed_dictionaries({"name": _names, "parameters": _parameters}), max_size=2),
        "raw_input_contents": st.lists(st.binary(max_size=24), max_size=3),
    },
)


def _check(service: Client, data: bytes) -> None:
    failure = None
    try:
        messages().ModelInferResponse.FromString(service.raw(data))
    except grpc.RpcError as exc:
        failure = exc
    if failure is not None:
        assert failure.code() in FAULTS, f"{failure.code()}: {failure.details()}"
        assert failure.details()


@settings(max_examples=300)
@given(data=st.binary(max_size=200))
@example(data=b"\x3a\xff\xff\xff\xff\x0f")
@example(data=b"\x3a" * 20_000)
def test_random_bytes(service: Client, data: bytes) -> None:
    _check(service, data)


@settings(max_examples=300)
@given(fields=_requests)
def test_messages_that_make_no_sense(service: Client, fields: dict[str, Any]) -> None:
    _check(service, messages().ModelInferRequest(**fields).SerializeToString())


@settings(max_examples=300)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 8)), max_size=4),
    is_large=st.booleans(),
)
def test_good_messages_with_some_bytes_changed(
    service: Client, cuts: list[tuple[int, bytes, int]], is_large: bool
) -> None:
    size = 40_000 if is_large else 16
    request = service.request("same", ("x", "FP32", [1, size // 4], bytes(size)), id="i", model_version="1")
    data = bytearray(request.SerializeToString())
    for place, new, gone in cuts:
        # the first bytes and the last are those that are not all zeros
        place = place % 100 if place % 2 else len(data) - place % 100
        data[max(place, 0) : max(place, 0) + gone] = new
    _check(service, bytes(data))


@settings(max_examples=100)
@given(packets=st.lists(st.one_of(st.binary(max_size=60), _requests), max_size=4))
def test_streams_that_make_no_sense(service: Client, packets: list[Any]) -> None:
    outgoing = [
        packet if isinstance(packet, bytes) else messages().ModelInferRequest(**packet).SerializeToString()
        for packet in packets
    ]
    call = service.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    for answer in call(iter(outgoing), timeout=SOON):
        found = messages().ModelStreamInferResponse.FromString(answer)
        assert found.error_message != "The server made an error; its log has more."


@pytest.fixture(scope="module", autouse=True)
def lives_on(service: Client) -> Any:
    yield
    assert service.call("ServerLive", timeout=SOON).live
