"""Server-Sent Events from bytes, however the bytes are cut; pure, no input or output.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import codecs
from typing import NamedTuple

from socaity.exceptions import ProtocolError

__all__ = ["SSEParser", "ServerSentEvent"]

_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"data", b"event", b"id", b"retry")
DEFAULT_MAX_EVENT = 256 * 1024 * 1024


class ServerSentEvent(NamedTuple):
    """One event. `id` is the last one seen, `event` is `message` where the stream names none, `retry` is milliseconds.

    Unframed text comes as an event called `SSEParser.RAW`.
    """

    id: str
    event: str
    data: str
    retry: int | None = None


class SSEParser:
    """Fed with bytes, gives the events that are complete.

    `max_event` bounds the bytes of one event. With `raw=True` a stream whose first content is not a field of the format
    is taken as plain text: it comes piece by piece as it arrives, so only the whole text does not depend on the cuts.
    """

    RAW = "raw"

    def __init__(self, *, max_event: int = DEFAULT_MAX_EVENT, raw: bool = False) -> None:
        self._max_event = max_event
        self._undecided = raw
        self._text: codecs.IncrementalDecoder | None = None
        self._head = b""
        self._skip_lf = False
        self._at_start = True
        self._partial: list[bytes] = []
        self._size = 0
        self._id = ""
        self._event = ""
        self._data: list[str] = []
        self._retry: int | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end in `chunk`. Raises ProtocolError for an event above `max_event`."""
        if self._undecided:
            self._head += chunk
            chunk = self._decide()
        if self._text is not None:
            return self._raw(self._text.decode(chunk))
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if not chunk:
            return []
        events: list[ServerSentEvent] = []
        for line in chunk.splitlines(keepends=True):
            self._size += len(line)
            if self._size > self._max_event:
                raise ProtocolError(f"an event of the stream is larger than {self._max_event} bytes")
            if line[-1] not in b"\r\n":
                self._partial.append(line)
                continue
            line = line.rstrip(b"\r\n")
            if self._partial:
                line = b"".join((*self._partial, line))
                self._partial.clear()
            self._line(line, events)
        # The LF of a CRLF that was cut in two is not a second line end.
        self._skip_lf = chunk[-1:] == b"\r"
        return events

    def finish(self) -> list[ServerSentEvent]:
        """What is left when the other side ended the stream properly but without the last empty line."""
        if self._undecided:
            self._undecided = False
            self._text = codecs.getincrementaldecoder("utf-8")("replace")
            return self._raw(self._text.decode(self._head, final=True))
        if self._text is not None:
            return self._raw(self._text.decode(b"", final=True))
        return self.feed(b"\n\n")

    def _line(self, line: bytes, events: list[ServerSentEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                events.append(
                    ServerSentEvent(self._id, self._event or "message", "\n".join(self._data), self._retry)
                )
            self._event, self._data, self._retry, self._size = "", [], None, 0
            return
        name, _, raw = line.partition(b":")
        if not name:  # a comment
            if not self._data:
                self._size = 0
            return
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id":
            if "\0" not in value:
                self._id = value
        elif name == b"retry" and value.isascii() and value.isdigit():
            self._retry = int(value)

    def _decide(self) -> bytes:
        """Is this a stream of events or plain text? Gives the bytes to go on with, none while it is unknown."""
        head = self._head.removeprefix(_BOM)
        if not head or _BOM.startswith(self._head):
            return b""
        content = head.lstrip(b"\r\n")
        if not content or any((field + b":").startswith(content) for field in _FIELDS):
            return b""
        self._undecided, self._at_start = False, False
        framed = content[:1] == b":" or any(
            content.startswith(field) and content[len(field) : len(field) + 1] in (b":", b"\r", b"\n")
            for field in _FIELDS
        )
        if not framed:
            self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._head = b""
        return head

    def _raw(self, text: str) -> list[ServerSentEvent]:
        return [ServerSentEvent("", self.RAW, text)] if text else []
