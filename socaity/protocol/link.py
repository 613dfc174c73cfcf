"""A numbered, acknowledged stream of frames that survives the connections it runs over; used by both sides.

Frames are kept until the other side has acknowledged them. `resume` sends again what a broken connection swallowed, and
what comes twice is dropped, so every message arrives once and in order, for as long as both sides keep the Link.
Large arrays are cut in pieces and sent only while little is unacknowledged, so that small messages of other calls pass them
and a slow reader costs the sender a window, not the array.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack

from .frames import CALL, CANCEL, FRAME_SIZE, PUBLISH, SUBMIT, WATCH, FrameReader, FrameWriter, pieces_of
from .messagepack import MAX_DEPTH, MalformedError, pack_plain

WINDOW = 4 * 1024 * 1024
"""Pieces of large arrays are sent only while fewer bytes than this are unacknowledged."""
OVERFLOW = 32 * 1024 * 1024
"""All other frames wait when so many bytes are unacknowledged."""
PATIENCE = 30.0
"""Seconds without an acknowledgement after which a side that has much to send gives the other up."""
ACK_BYTES = 64 * 1024
ACK_FRAMES = 128
ACK_DELAY = 0.5
"""An acknowledgement goes with the next frame, or alone after so many bytes, frames or seconds."""

_LONGEST_NUMBERS = 1 + 9 + 9

Write = Callable[[bytes], None]


class OversizeError(ValueError):
    """A message is larger than the other side takes."""


class Link:
    """One side of the stream. `on_unsendable(message, error)` is told of a message that has no form on the wire."""

    def __init__(
        self,
        *,
        on_unsendable: Callable[[Any, Exception], None],
        max_body: int | None = None,
        max_unacknowledged: int = 256 * 1024 * 1024,
    ) -> None:
        self._on_unsendable = on_unsendable
        self._writer = FrameWriter()
        self._reader = FrameReader(max_body)
        self._write: Write | None = None
        self._seq = 0
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self.max_unacknowledged = max_unacknowledged
        self.max_message: int | None = None
        """How many bytes a message may have with its large arrays, and `max_frame` without them."""
        self.max_frame: int | None = None
        self._overflow: deque[bytes] = deque()
        self._waiting_bytes = 0
        """Of what is in `_overflow` and `_bulk`."""
        self._progress_at = time.monotonic()
        self._bulk: deque[tuple[Any, Callable[[], list[Any]] | bytes]] = deque()
        self._in_bulk: Counter[Any] = Counter()
        self.received = 0
        self._acked = 0
        self._unacked_bytes = 0
        self._ack_timer: asyncio.TimerHandle | None = None

    def take_too_large(self) -> bool:
        """Whether an array above the limit was met since the last look; a TooLarge stands in its place."""
        met, self._reader.met_too_large = self._reader.met_too_large, False
        return met

    @property
    def is_overdue(self) -> bool:
        """There is much to send and the other side has acknowledged nothing for long: keeping more would be a leak."""
        return self.backlog > self.max_unacknowledged and time.monotonic() - self._progress_at > PATIENCE

    def hand_over(self) -> Write | None:
        """Give up the connection, for the link that takes its place."""
        write = self._write
        self.disconnect()
        return write

    @property
    def _frame_limit(self) -> int:
        return min(FRAME_SIZE, self.max_message or FRAME_SIZE, self.max_frame or FRAME_SIZE)

    @property
    def position(self) -> int:
        """The number that the last frame will have of what was given to `send`; more, if other messages pass it."""
        return self._seq + len(self._overflow) + len(self._bulk)

    @property
    def acknowledged(self) -> int:
        """The other side has all frames up to this number."""
        return self._kept[0][0] - 1 if self._kept else self._seq

    @property
    def backlog(self) -> int:
        """How many bytes the other side has not acknowledged, or was not sent because of that."""
        return self._kept_bytes + self._waiting_bytes

    @property
    def is_idle(self) -> bool:
        """Everything was sent and acknowledged."""
        return not self._kept and not self._bulk and not self._overflow

    # -- out ---------------------------------------------------------------------------------------------------------

    def connect(self, write: Write) -> None:
        """Use this connection from now on."""
        self._write = write

    def disconnect(self) -> None:
        """The connection is gone; frames are kept."""
        self._write = None
        self._stop_ack_timer()

    def send_unnumbered(self, message: Any) -> None:
        """Hello, welcome and goodbye: outside of the numbering and its acknowledgements."""
        if self._write is not None:
            self._write(b"\x93\x00\x00" + self._writer.pack([message]))

    def resume(self, received: int) -> None:
        """Send again all that the other side, which has frames up to `received`, did not get."""
        self._acknowledge(received)
        if self._write is not None:
            for _, frame in self._kept:
                self._write(frame)
        self._pump()

    def send(self, messages: Sequence[Any]) -> None:
        """Send a burst in as few frames as possible."""
        if not messages:
            return
        if len(messages) > 1 and self._in_bulk and any(map(self._follows_bulk, messages)):
            self._send_halves(messages)
            return
        try:
            packed = self._writer.pack(messages)
        except Exception as exc:  # a foreign array type may raise anything when it is asked for its data
            self._writer.take_large()
            if len(messages) == 1:
                self._on_unsendable(messages[0], exc)
            else:
                self._send_halves(messages)
            return
        follows = len(messages) == 1 and self._follows_bulk(messages[0])
        if follows or self._writer.large or (len(packed) > self._frame_limit and len(messages) > 1):
            large = self._writer.take_large()
            if len(messages) > 1:
                self._send_halves(messages)
                return
            if self._is_oversize(messages[0], len(packed), sum(len(data) for _, data in large)):
                return
            self._bulk.extend((None, piece) for number, data in large for piece in pieces_of(number, data))
            self._bulk.append((messages[0], packed))
            self._waiting_bytes += len(packed) + sum(len(data) for _, data in large)
            self._in_bulk.update(_keys_of(messages[0]))
            self._pump()
            return
        if len(packed) > self._frame_limit and self._is_oversize(messages[0], len(packed), 0):
            return
        self._put(packed)

    def _follows_bulk(self, message: Any) -> bool:
        """Whether another message of its call, or a call that it refers to, waits behind large arrays, which it must not
        pass."""
        waiting = self._in_bulk
        return bool(waiting) and (
            (type(message[1]) is int and message[1] in waiting)
            or (message[0] in (CANCEL, PUBLISH, WATCH) and message[2] in waiting)
            or (message[0] in (CALL, SUBMIT) and any(one in waiting for one in _referred(message[3])))
        )

    def _is_oversize(self, message: Any, packed: int, large: int) -> bool:
        for size, limit in ((packed, self.max_frame), (packed + large, self.max_message)):
            if limit is not None and size > limit:
                text = f"{size} bytes are more than the {limit} that the other side takes"
                self._on_unsendable(message, OversizeError(text))
                return True
        return False

    def _send_halves(self, messages: Sequence[Any]) -> None:
        half = len(messages) // 2
        self.send(messages[:half])
        self.send(messages[half:])

    def _put(self, packed: bytes) -> None:
        if self._overflow or self._kept_bytes >= OVERFLOW:
            self._overflow.append(packed)
            self._waiting_bytes += len(packed)
        else:
            self._emit(packed)

    def _emit(self, packed: bytes) -> None:
        if not self._kept:
            self._progress_at = time.monotonic()
        self._seq += 1
        frame = b"\x93" + pack_plain(self._seq) + pack_plain(self.received) + packed
        self._kept.append((self._seq, frame))
        self._kept_bytes += len(frame)
        self._note_acked()
        if self._write is not None:
            self._write(frame)

    def _pump(self) -> None:
        overflow = self._overflow
        while overflow and self._write is not None and self._kept_bytes < OVERFLOW:
            packed = overflow.popleft()
            self._waiting_bytes -= len(packed)
            self._emit(packed)
        bulk = self._bulk
        while bulk and self._write is not None and self._kept_bytes < WINDOW:
            message, item = bulk.popleft()
            if isinstance(item, bytes):
                for key in _keys_of(message):
                    self._in_bulk[key] -= 1
                    if not self._in_bulk[key]:
                        del self._in_bulk[key]
                self._waiting_bytes -= len(item)
                self._put(item)
            else:
                piece = item()
                self._waiting_bytes -= len(piece[3])
                self._put(self._writer.pack([piece]))

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes | bytearray | memoryview) -> list[Any]:
        """The messages of a frame; none if it came before. Raises MalformedError."""
        seq, ack, messages = self._reader_for(data)
        if ack > self._seq:
            raise _never_sent(ack, self._seq)
        if ack:
            self._acknowledge(ack)
            if self._bulk or self._overflow:
                self._pump()
        if seq == 0:
            return messages
        self.received = seq
        self._unacked_bytes += len(data)
        if self._unacked_bytes >= ACK_BYTES or seq - self._acked >= ACK_FRAMES:
            self._send_ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY, self._ack_late)
        return messages

    def take_ack(self, data: bytes | bytearray | memoryview) -> bool:
        """Take in what a frame acknowledges and nothing else. True: it has messages, and is to be given to `receive` later; until
        then it is not acknowledged, so that the other side stops to send. Raises MalformedError."""
        seq, ack = _peek_numbers(data)
        if ack > self._seq:
            raise _never_sent(ack, self._seq)
        self._acknowledge(ack)
        self._pump()
        return seq > self.received

    def _reader_for(self, data: bytes | bytearray | memoryview) -> tuple[int, int, list[Any]]:
        # the number is looked at first: a frame that comes twice must not be taken in twice
        seq = _peek_seq(data)
        if seq and seq <= self.received:
            return 0, 0, []
        if seq and seq != self.received + 1:
            raise MalformedError(f"frame {seq} came after frame {self.received}")
        return self._reader.read(data)

    def _acknowledge(self, ack: int) -> None:
        kept = self._kept
        if kept and kept[0][0] <= ack:
            self._progress_at = time.monotonic()
        while kept and kept[0][0] <= ack:
            self._kept_bytes -= len(kept.popleft()[1])

    def _send_ack(self) -> None:
        if self._write is not None:
            self._write(b"\x93\x00" + pack_plain(self.received) + b"\x90")
        self._note_acked()

    def _ack_late(self) -> None:
        self._ack_timer = None
        if self._acked < self.received:
            self._send_ack()

    def _note_acked(self) -> None:
        self._acked = self.received
        self._unacked_bytes = 0

    def _stop_ack_timer(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None


def _never_sent(ack: int, sent: int) -> MalformedError:
    return MalformedError(f"frame {ack} is acknowledged, but only {sent} were sent")


def _keys_of(message: Any) -> list[Any]:
    """The numbers of the calls of a message and, of a SUBMIT, the id of the job."""
    if message[0] == SUBMIT:
        return [message[1], message[4]]
    return [message[1]]


def _referred(value: Any, depth: int = 0) -> Iterator[Any]:
    """The numbers of the calls and the ids of the jobs that arguments refer to."""
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        for word in ("$call", "$job"):
            if isinstance(value.get(word), (int, str)):
                yield value[word]
                return
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for item in value:
        if isinstance(item, (dict, list, tuple)):
            yield from _referred(item, depth + 1)


def _peek_numbers(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """`seq` and `ack` without unpacking the rest."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(data[:_LONGEST_NUMBERS])
    try:
        length = unpacker.read_array_header()
        seq, ack = unpacker.unpack(), unpacker.unpack()
    except Exception as exc:  # msgpack raises many classes; all mean the same here
        raise MalformedError("a frame is not [seq, ack, messages]") from exc
    if length != 3 or type(seq) is not int or type(ack) is not int or seq < 0 or ack < 0:
        raise MalformedError("a frame is not [seq, ack, messages]")
    return seq, ack


def _peek_seq(data: bytes | bytearray | memoryview) -> int:
    """The first item of the frame without unpacking the rest."""
    if len(data) < 4 or data[0] != 0x93:
        raise MalformedError("a frame is not [seq, ack, messages]")
    first = data[1]
    if first < 0x80:
        return first
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(first)
    if size is None or len(data) < 2 + size:
        raise MalformedError("the number of a frame is not an unsigned integer")
    return int.from_bytes(data[2 : 2 + size], "big")
