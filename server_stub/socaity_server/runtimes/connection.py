"""The small messages between the server and a worker process: MessagePack behind a length, over a socket."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

__all__ = ["Connection"]

_LENGTH = struct.Struct(">I")
_CHUNK = 2**16


class Connection:
    """One end of a socket pair. One thread at a time may send, and one receive."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._received = b""

    def fileno(self) -> int:
        """The descriptor, -1 when closed."""
        return self._socket.fileno()

    def set_timeout(self, seconds: float | None) -> None:
        """How long `receive` waits before it raises TimeoutError; it may be called again then."""
        self._socket.settimeout(seconds)

    def send(self, message: Any) -> None:
        """Raises OSError when the other side is gone."""
        data = msgpack.packb(message)
        self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """The next message; raises EOFError when the other side is gone."""
        while True:
            received = self._received
            if len(received) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(received)[0]
                if len(received) >= end:
                    self._received = received[end:]
                    return msgpack.unpackb(received[_LENGTH.size : end])
            try:
                chunk = self._socket.recv(_CHUNK)
            except ConnectionError as exc:
                raise EOFError from exc
            if not chunk:
                raise EOFError
            self._received += chunk

    def close(self) -> None:
        """A second call does nothing."""
        self._socket.close()
