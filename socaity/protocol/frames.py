"""The messages of the socket protocol `socaity.v1`, and how a burst of them becomes frames and comes back.

A frame is one WebSocket message, a MessagePack array `[seq, ack, [message, …]]`; a message is an array whose first item
is one of the numbers below. Full description: `docs/wire-protocol.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from msgpack import ExtType

from .messagepack import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    TENSOR,
    MalformedError,
    TooManyError,
    _array_header,
    _default,
    _ext_hook,
    counting_hooks,
    make_tensor,
    pack_plain,
    read_tensor_header,
)

# client to server
HELLO = 1  # [1, {"protocol", "session", "received", "holds"}]
CALL = 2  # [2, n, endpoint, {arguments}, {options}?]
SUBMIT = 3  # [3, n, endpoint, {arguments}, job id, {options}?]
WATCH = 4  # [4, n, job id, after]
CANCEL = 5  # [5, n, call number | job id]
DESCRIBE = 6  # [6, n]
# both ways
BUFFER = 7  # [7, buffer number, total bytes, piece]
# client to server
FETCH = 8  # [8, n, m]: the result that is held for m
RELEASE = 9  # [9, m]
PUBLISH = 10  # [10, n, m | job id, path]: let other services read the result, or a part of it
# server to client
WELCOME = 16  # [16, {"session", "resumed", "received", "instance", "max_body", "references", "publishes", "fetches"}]
RESULT = 17  # [17, n, value, {timing}?]
ERROR = 18  # [18, n, problem]
EVENT = 19  # [19, n, seq, kind, data, {timing}?]
HELD = 20  # [20, n, seq, bytes]: the result is there, and stays with the server
GOODBYE = 21  # [21, problem]: the connection cannot go on

REFERENCE = 2
"""Extension type of a tensor whose data came before in BUFFER messages: 8 bytes buffer number, then the tensor header."""

LARGE = 256 * 1024
"""Arrays of at least this many bytes travel as BUFFER messages."""
PIECE = 512 * 1024
"""How many bytes of data go into one BUFFER message."""
FRAME_SIZE = 1024 * 1024
"""A frame is cut where it would become larger than this, between two messages."""
MAX_BUFFERS = 1024
"""Arrays that may be on their way at once, besides as many large ones as `max_body` has room for."""


class FrameWriter:
    """Packs messages; large arrays are set aside in `large` and only referred to."""

    def __init__(self) -> None:
        self._next_buffer = 0
        self.large: list[tuple[int, memoryview]] = []

    def pack(self, messages: Sequence[Any]) -> bytes:
        """The messages as MessagePack. Raises TypeError or ValueError for a value that cannot be sent."""
        return pack_plain(messages, default=self._default)

    def _default(self, value: Any) -> Any:
        if getattr(value, "nbytes", 0) >= LARGE and hasattr(value, "dtype"):
            return self._refer(value)
        return _default(value)

    def _refer(self, array: Any) -> Any:
        import numpy as np

        array = np.asarray(array)
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        header = _array_header(array.dtype, array.shape)
        self._next_buffer += 1
        self.large.append((self._next_buffer, memoryview(array.reshape(-1).view(np.uint8))))
        return ExtType(REFERENCE, self._next_buffer.to_bytes(8, "big") + (header or b""))

    def take_large(self) -> list[tuple[int, memoryview]]:
        """The arrays set aside since the last call, with their buffer numbers."""
        large, self.large = self.large, []
        return large


class FrameReader:
    """Unpacks frames. `max_body` bounds the bytes of the arrays that are on their way, and with it goes a bound for what one
    frame contains."""

    def __init__(self, max_body: int | None = None) -> None:
        self._max_body = max_body
        self._max_buffers = MAX_BUFFERS + (max_body or 0) // LARGE
        self._buffers: dict[int, tuple[bytearray, int]] = {}  # what came, and how much there will be
        self._pending = 0
        self._refused: set[int] = set()
        self.met_too_large = False

    def read(self, data: bytes | bytearray | memoryview) -> tuple[int, int, list[Any]]:
        """`seq`, `ack` and the messages, of which BUFFER messages are taken in. Raises MalformedError."""
        try:
            if len(data) <= MAX_CONTAINERS or self._max_body is None:  # each has a byte at least
                frame = msgpack.unpackb(data, ext_hook=self._ext_hook, strict_map_key=False)
            else:
                hooks = counting_hooks(self._ext_hook, MAX_CONTAINERS)
                frame = msgpack.unpackb(data, strict_map_key=False, **hooks)
        except TooManyError as exc:
            frame = self._without_arguments(data)
            if frame is None:
                raise MalformedError(f"a frame holds too much: {exc}") from exc
        except MalformedError:
            raise
        except Exception as exc:  # msgpack raises many classes; all mean the same here
            raise MalformedError(f"a frame is not MessagePack: {exc or type(exc).__name__}") from exc
        if type(frame) is not list or len(frame) != 3:
            raise MalformedError("a frame is not [seq, ack, messages]")
        seq, ack, messages = frame
        if type(seq) is not int or type(ack) is not int or type(messages) is not list or seq < 0 or ack < 0:
            raise MalformedError("a frame is not [seq, ack, messages]")
        for message in messages:
            if type(message) is not list or not message or type(message[0]) is not int:
                raise MalformedError("a message is not an array that begins with its number")
            if message[0] == BUFFER:
                self._take_piece(message)
        return seq, ack, messages

    def _take_piece(self, message: list[Any]) -> None:
        try:
            _, number, total, piece = message
            if (
                type(number) is not int
                or type(total) is not int
                or type(piece) is not bytes
                or not piece
                or not 0 < total < 2**40
            ):
                raise ValueError
        except ValueError:
            raise MalformedError("a BUFFER message is not [7, number, total, piece]") from None
        if number in self._refused:
            return
        known = self._buffers.get(number)
        if known is None:
            if self._max_body is not None and self._pending + total > self._max_body:
                if len(self._refused) >= 1024:
                    raise MalformedError("too many buffers above the limit")
                self._refused.add(number)
                return
            if self._max_body is not None and len(self._buffers) >= self._max_buffers:
                raise MalformedError(f"more than {self._max_buffers} buffers are on their way at once")
            self._pending += total
            # grows with what comes, because an announcement alone must cost no memory
            known = self._buffers[number] = (bytearray(), total)
        buffer, announced = known
        if total != announced or len(buffer) + len(piece) > announced:
            raise MalformedError(f"buffer {number} is not as long as the {announced} bytes it announced")
        buffer += piece

    def _without_arguments(self, data: bytes | bytearray | memoryview) -> list[Any] | None:
        """The frame of a single call that has too many arguments, without them; None for any other."""

        def refuse(value: Any) -> Any:
            raise MalformedError("a number or a name is none")

        unpacker = msgpack.Unpacker(max_buffer_size=len(data), list_hook=refuse, object_hook=refuse)
        unpacker.feed(data)
        try:
            is_frame = unpacker.read_array_header() == 3
            seq, ack = unpacker.unpack(), unpacker.unpack()
            is_single = unpacker.read_array_header() == 1
            unpacker.read_array_header()
            op, n, name = unpacker.unpack(), unpacker.unpack(), unpacker.unpack()
        except Exception as exc:  # see `read`
            raise MalformedError("a frame is not [seq, ack, messages]") from exc
        if not is_frame or not is_single or op not in (CALL, SUBMIT):
            return None
        self.met_too_large = True
        arguments = {"": TooLarge(MAX_CONTAINERS, "lists, maps and tensors")}
        return [seq, ack, [[op, n, name, arguments, *([""] if op == SUBMIT else [])]]]

    def _ext_hook(self, code: int, data: bytes) -> Any:
        if code != REFERENCE:
            return _ext_hook(code, data)
        number = int.from_bytes(data[:8], "big")
        if number in self._refused:
            self._refused.discard(number)
            self.met_too_large = True
            return TooLarge(self._max_body or 0)
        buffer, announced = self._buffers.pop(number, (bytearray(), -1))
        if len(buffer) != announced:
            raise MalformedError(f"buffer {number} was referred to before all of it came")
        self._pending -= len(buffer)
        if len(data) < 9:
            raise MalformedError("a reference to a buffer has no header")
        dtype, shape, size = read_tensor_header(data[9 : 9 + data[8]])
        if size != len(buffer):
            raise MalformedError(
                f"a {dtype} tensor of shape {list(shape)} needs {size} bytes, its buffer has {len(buffer)}"
            )
        return make_tensor(buffer, dtype, shape)


class TooLarge:
    """Stands where something above the limit would have been; whoever takes the message refuses it."""

    __slots__ = ("limit", "unit")

    def __init__(self, limit: int, unit: str = "bytes") -> None:
        self.limit = limit
        self.unit = unit


def pieces_of(number: int, data: memoryview) -> list[Callable[[], list[Any]]]:
    """The BUFFER messages of one array, made one at a time so that no second copy of the whole exists."""
    total = len(data)
    return [
        (lambda start=start: [BUFFER, number, total, data[start : start + PIECE]])  # type: ignore[misc]
        for start in range(0, total, PIECE)
    ]


__all__ = [
    "BUFFER",
    "CALL",
    "CANCEL",
    "DESCRIBE",
    "ERROR",
    "EVENT",
    "FETCH",
    "FRAME_SIZE",
    "GOODBYE",
    "HELD",
    "HELLO",
    "MAX_DEPTH",
    "PUBLISH",
    "RELEASE",
    "RESULT",
    "SUBMIT",
    "TENSOR",
    "WATCH",
    "WELCOME",
    "FrameReader",
    "FrameWriter",
    "TooLarge",
    "pieces_of",
]
