"""Tensors and frames: what goes in comes out, and what is malformed raises MalformedError only."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any
from unittest import mock

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from socaity.protocol import messagepack
from socaity.protocol.frames import (
    BUFFER,
    CALL,
    LARGE,
    MAX_BUFFERS,
    PIECE,
    REFERENCE,
    RESULT,
    SUBMIT,
    FrameReader,
    FrameWriter,
    TooLarge,
    pieces_of,
)
from socaity.protocol.messagepack import (
    DTYPES,
    MAX_CONTAINERS,
    MalformedError,
    TooManyError,
    packb,
    tensor_header,
    unpackb,
)

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(np.dtype(name), hnp.array_shapes(min_dims=0, min_side=0, max_dims=5, max_side=6))
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def frames_of(writer: FrameWriter, messages: list[Any]) -> list[bytes]:
    """All frames of a burst, with the pieces of large arrays first."""
    packed = writer.pack(messages)
    bodies = [
        writer.pack([piece()]) for number, data in writer.take_large() for piece in pieces_of(number, data)
    ]
    bodies.append(packed)
    return [b"\x93" + msgpack.packb(seq) + b"\x00" + body for seq, body in enumerate(bodies, 1)]


def read(frames: list[bytes], reader: FrameReader | None = None) -> list[Any]:
    reader = reader or FrameReader()
    messages = [message for frame in frames for message in reader.read(frame)[2]]
    return [message for message in messages if message[0] != BUFFER]


# -- values ----------------------------------------------------------------------------------------------------------


@given(values)
def test_plain_values_survive(value: Any) -> None:
    assert unpackb(packb(value)) == value


@given(arrays)
def test_a_tensor_survives_with_dtype_shape_and_bits(array: np.ndarray) -> None:
    for back in (unpackb(packb(array)), unpackb(packb({"a": [array]}))["a"][0]):
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(arrays)
def test_any_layout_and_byte_order_survives(array: np.ndarray) -> None:
    for given_form in (
        array.astype(array.dtype.newbyteorder(">")),
        np.asfortranarray(array),
        array[..., ::-1] if array.ndim else array,
    ):
        back = unpackb(packb(given_form))
        assert back.dtype == array.dtype
        assert back.tobytes() == given_form.astype(array.dtype).tobytes()


def test_a_received_array_is_a_view_of_what_came() -> None:
    data = packb(np.arange(1000))
    assert unpackb(data).base is not None


def test_odd_kinds_become_plain() -> None:
    assert unpackb(packb((1, {2}, frozenset([3]), np.float32(0.5), np.int8(4)))) == [1, [2], [3], 0.5, 4]


@pytest.mark.parametrize(
    "value", [object(), 1j, np.array(["a"]), np.array([object()]), np.datetime64("2024-01-01")]
)
def test_what_has_no_form_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        packb([value])


def test_without_numpy_a_tensor_is_a_memoryview(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messagepack, "_build", messagepack._plain_tensor)
    back = unpackb(packb(np.arange(6, dtype=np.float32).reshape(2, 3)))
    assert isinstance(back, memoryview)
    assert back.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert bytes(unpackb(packb(np.ones(2, np.float16)))) == np.ones(2, np.float16).tobytes()


# -- malformed bytes -------------------------------------------------------------------------------------------------


@settings(max_examples=500)
@given(st.binary(max_size=100))
def test_bytes_that_are_no_value_are_malformed(data: bytes) -> None:
    for body in (
        data,
        b"\xc7" + bytes([len(data)]) + b"\x01" + data,
        b"\xc7" + bytes([len(data)]) + b"\x02" + data,
    ):
        with contextlib.suppress(MalformedError):
            unpackb(body)
        with contextlib.suppress(MalformedError):
            FrameReader(1000).read(body)


@given(arrays, st.data())
def test_a_damaged_tensor_is_malformed_or_another_value(array: np.ndarray, data: st.DataObject) -> None:
    packed = bytearray(packb([array]))
    for _ in range(3):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedError):
        unpackb(bytes(packed))


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x05ab",
        tensor_header("float32", (2,))[:-1],
        bytes([9]) + msgpack.packb(["float128", [1]]),
        b"\x40" + msgpack.packb(["uint8", [-1]]),
        b"\x40" + msgpack.packb(["uint8", [2**60]]),
        tensor_header("uint8", (0, 2**47, 2**47)),
        tensor_header("uint8", (1,) * 70) + b"a",
        tensor_header("float64", (2,)) + b"too short",
    ],
)
def test_a_tensor_header_that_lies_is_malformed(header: bytes) -> None:
    with pytest.raises(MalformedError):
        unpackb(msgpack.packb(msgpack.ExtType(1, header)))


def test_an_unknown_extension_is_malformed() -> None:
    with pytest.raises(MalformedError, match="extension type 9"):
        unpackb(msgpack.packb(msgpack.ExtType(9, b"")))


def test_deep_nesting_is_malformed() -> None:
    with pytest.raises(MalformedError):
        unpackb(b"\x91" * 100_000 + b"\xc0")
    with pytest.raises(MalformedError):
        FrameReader().read(b"\x93\x01\x00" + b"\x91" * 100_000 + b"\xc0")


# -- large arrays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_a_large_array_survives_in_pieces(dtype: str) -> None:
    size = (2 * PIECE + 7 * 16) // np.dtype(dtype).itemsize
    array = np.frombuffer(np.random.default_rng(1).bytes(size * np.dtype(dtype).itemsize), np.uint8)
    array = (array & 1 if dtype == "bool" else array).view(dtype)[::-1]
    frames = frames_of(FrameWriter(), [[RESULT, 1, {"a": array}], [RESULT, 2, array.reshape(1, -1)]])
    assert len(frames) == 7
    (_, _, one), (_, _, two) = read(frames)
    assert one["a"].dtype == array.dtype
    assert one["a"].tobytes() == array.tobytes()
    assert two.shape == (1, size)


def test_pieces_of_several_arrays_may_be_mixed() -> None:
    first, second = np.zeros(PIECE * 2, np.uint8), np.ones(PIECE * 2, np.uint8)
    frames = frames_of(FrameWriter(), [[RESULT, 1, first, second]])
    mixed = [frames[i] for i in (2, 0, 1, 3, 4)]
    [[_, _, one, two]] = read(mixed)
    assert one.sum() == 0
    assert two.sum() == PIECE * 2


def test_a_reference_before_its_data_is_malformed() -> None:
    frames = frames_of(FrameWriter(), [[RESULT, 1, np.zeros(PIECE * 2, np.uint8)]])
    with pytest.raises(MalformedError, match="before all of it came"):
        read(frames[1:])


@pytest.mark.parametrize(
    "message",
    [
        [BUFFER],
        [BUFFER, 1, 10],
        [BUFFER, 1, 0, b""],
        [BUFFER, 1, -1, b""],
        [BUFFER, 1, 2**40, b""],
        [BUFFER, "1", 10, b""],
        [BUFFER, 1, 10, "text"],
        [BUFFER, 1, 3, b"four"],
        [BUFFER, 1.0, 3, b"a"],
    ],
)
def test_a_malformed_piece_is_refused(message: Any) -> None:
    with pytest.raises(MalformedError):
        read([msgpack.packb([1, 0, [message]])])


def test_pieces_that_disagree_are_malformed() -> None:
    with pytest.raises(MalformedError, match="announced"):
        read([msgpack.packb([1, 0, [[BUFFER, 1, 10, b"abc"], [BUFFER, 1, 11, b"abc"]]])])


def test_a_reference_that_does_not_fit_its_data_is_malformed() -> None:
    piece = msgpack.packb([1, 0, [[BUFFER, 1, 3, b"abc"]]])
    for header in (b"", tensor_header("float32", (1,)), b"\x05ab"):
        reference = msgpack.ExtType(REFERENCE, (1).to_bytes(8, "big") + header)
        with pytest.raises(MalformedError):
            read([piece, msgpack.packb([2, 0, [[RESULT, 1, reference]]])])


# -- memory ----------------------------------------------------------------------------------------------------------


def test_what_is_above_the_limit_is_not_kept_and_others_go_on() -> None:
    writer, reader = FrameWriter(), FrameReader(LARGE * 2)
    big, fitting = np.zeros(LARGE * 3, np.uint8), np.ones(LARGE, np.uint8)
    messages = read(frames_of(writer, [[RESULT, 1, big]]), reader)
    assert isinstance(messages[0][2], TooLarge)
    assert messages[0][2].limit == LARGE * 2
    assert reader.met_too_large
    [[_, _, back]] = read(frames_of(writer, [[RESULT, 2, fitting]]), reader)
    assert back.sum() == LARGE


def test_the_limit_counts_all_arrays_on_their_way_and_forgets_those_that_arrived() -> None:
    reader = FrameReader(100)
    for number in range(1, 50):
        piece = msgpack.packb([1, 0, [[BUFFER, number, 60, b"x" * 60]]])
        reference = msgpack.ExtType(REFERENCE, number.to_bytes(8, "big") + tensor_header("uint8", (60,)))
        [[_, value]] = read([piece, msgpack.packb([2, 0, [[RESULT, reference]]])], reader)
        assert value.shape == (60,)
    first = msgpack.packb([1, 0, [[BUFFER, 100, 60, b"x"]]])
    second = msgpack.packb([1, 0, [[BUFFER, 101, 60, b"x"]]])
    reference = msgpack.ExtType(REFERENCE, (101).to_bytes(8, "big") + tensor_header("uint8", (60,)))
    [[_, value]] = read([first, second, msgpack.packb([2, 0, [[RESULT, reference]]])], reader)
    assert isinstance(value, TooLarge)


def test_an_announcement_costs_no_memory() -> None:
    reader = FrameReader(2**38)
    tracemalloc.start()
    try:
        reader.read(msgpack.packb([1, 0, [[BUFFER, n, 2**30, b"x"] for n in range(100)]]))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_refused_buffers_without_end_are_malformed() -> None:
    reader = FrameReader(10)
    with pytest.raises(MalformedError, match="too many"):
        for n in range(2000):
            reader.read(msgpack.packb([1, 0, [[BUFFER, n, 20, b"x"]]]))


def test_large_arrays_are_not_copied_by_the_writer() -> None:
    array = np.zeros(16 * 1024 * 1024, np.uint8)
    writer = FrameWriter()
    tracemalloc.start()
    try:
        writer.pack([[RESULT, 1, array]])
        pieces = [piece for number, data in writer.take_large() for piece in pieces_of(number, data)]
        for piece in pieces:
            writer.pack([piece()])
        assert tracemalloc.get_traced_memory()[1] < 8 * PIECE
    finally:
        tracemalloc.stop()


def test_buffers_that_are_never_filled_are_few() -> None:
    reader = FrameReader(2**26)
    with pytest.raises(MalformedError, match="buffers are on their way at once"):
        for n in range(1, 100_000):
            reader.read(msgpack.packb([1, 0, [[BUFFER, n, 2, b"x"]]]))
    assert len(reader._buffers) <= MAX_BUFFERS + 2**26 // LARGE


def test_a_piece_holds_something() -> None:
    with pytest.raises(MalformedError, match="BUFFER"):
        read([msgpack.packb([1, 0, [[BUFFER, 1, 1, b""]]])])


def test_as_many_large_arrays_as_fit_may_be_on_their_way() -> None:
    writer, reader = FrameWriter(), FrameReader(LARGE * 200)
    with mock.patch("socaity.protocol.frames.MAX_BUFFERS", 0):
        reader = FrameReader(LARGE * 200)
    arrays = [np.zeros(LARGE, np.uint8)] * 200
    [[_, _, back]] = read(frames_of(writer, [[RESULT, 1, arrays]]), reader)
    assert len(back) == 200


def packed_lists(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count


@pytest.mark.parametrize(
    ("call", "size"),
    [([CALL, 7, "f"], 4), ([SUBMIT, 7, "f"], 5)],
)
def test_a_call_with_too_many_lists_is_refused_and_the_rest_goes_on(call: list[Any], size: int) -> None:
    reader = FrameReader(2**26)
    head = b"\x93\x01\x00\x91" + bytes([0x90 + size]) + b"".join(map(msgpack.packb, call))
    tail = msgpack.packb("0" * 32) if size == 5 else b""
    frame = head + b"\x81\xa1x" + packed_lists(MAX_CONTAINERS) + tail
    seq, ack, [message] = reader.read(frame)
    assert (seq, ack, message[:3]) == (1, 0, call)
    assert reader.met_too_large
    [too_large] = message[3].values()
    assert isinstance(too_large, TooLarge)
    assert (too_large.limit, too_large.unit) == (MAX_CONTAINERS, "lists, maps and tensors")
    assert reader.read(msgpack.packb([2, 0, [[RESULT, 1, []]]]))[2] == [[RESULT, 1, []]]


@pytest.mark.parametrize(
    "frame",
    [
        b"\x93\x01\x00\x91\x93" + bytes([RESULT, 7]) + packed_lists(MAX_CONTAINERS),
        b"\x93\x01\x00\x91\x94" + bytes([CALL]) + packed_lists(MAX_CONTAINERS) + b"\xa1f\x80",
        b"\x93\x01\x00" + packed_lists(MAX_CONTAINERS),
        b"\x93" + packed_lists(MAX_CONTAINERS) + b"\x00\x90",
    ],
)
def test_too_much_in_anything_else_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedError):
        FrameReader(2**26).read(frame)
    with pytest.raises(MalformedError):  # one that was cut
        FrameReader(2**26).read(frame[:-10])


def test_many_numbers_are_no_lists() -> None:
    numbers = list(range(MAX_CONTAINERS * 2))
    assert FrameReader(2**26).read(msgpack.packb([1, 0, [[CALL, 1, "f", {"x": numbers}]]]))[2][0][3] == {
        "x": numbers
    }


def test_a_reader_without_a_limit_takes_whatever_a_server_sends() -> None:
    frame = b"\x93\x01\x00\x91\x93" + bytes([RESULT, 7]) + packed_lists(MAX_CONTAINERS)
    assert len(FrameReader().read(frame)[2][0][2]) == MAX_CONTAINERS


def test_unpacking_counts_lists_or_all_values() -> None:
    data = packb([[1, 2], {"a": np.zeros(3)}])
    assert len(unpackb(data, max_containers=4)) == 2
    # counted only where there can be so many: each has a byte at least
    lists = packb([[]] * 100)
    assert len(unpackb(lists, max_containers=101)) == 100
    with pytest.raises(TooManyError, match="more than 100 lists, maps and tensors"):
        unpackb(lists, max_containers=100)
    assert len(unpackb(data, max_items=10)) == 2
    with pytest.raises(TooManyError, match="more than 7 values"):
        unpackb(data, max_items=7)
    for many in ([0] * 100, dict.fromkeys(range(100))):
        with pytest.raises(TooManyError, match="more than 50 values"):
            unpackb(packb(many), max_items=50)
