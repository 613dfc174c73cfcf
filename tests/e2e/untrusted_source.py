"""A service that was allowed and misbehaves: an HTTP server on a thread that answers as `how` says, and remembers who asked."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.e2e.servers import DEADLINE

Answer = Callable[["UntrustedSource", socketserver.StreamRequestHandler], None]


class UntrustedSource:
    """`how` writes the answer to a request whose head has been read; `heads` has all heads that came."""

    def __init__(self, how: Answer | None = None) -> None:
        self.how = how
        self.heads: list[bytes] = []
        self.is_over = threading.Event()
        source = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = b""
                while line := self.rfile.readline():
                    head += line
                    if line in (b"\r\n", b"\n"):
                        break
                source.heads.append(head)
                if source.how is not None:
                    with contextlib.suppress(OSError):  # the other side had enough
                        source.how(source, self)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(DEADLINE)


def whole(body: bytes, status: str = "200 OK", *headers: str) -> Answer:
    """A proper answer."""

    def how(source: UntrustedSource, handler: socketserver.StreamRequestHandler) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        handler.wfile.write("\r\n".join(lines).encode() + body)

    return how


def endless(source: UntrustedSource, handler: socketserver.StreamRequestHandler) -> None:
    """A body in chunks without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    while not source.is_over.is_set():
        handler.wfile.write(piece)


def endless_head(source: UntrustedSource, handler: socketserver.StreamRequestHandler) -> None:
    """Headers without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not source.is_over.is_set():
        handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")


def silent(source: UntrustedSource, handler: socketserver.StreamRequestHandler) -> None:
    """A head, a byte, and then nothing."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
    source.is_over.wait(DEADLINE)


def dripping(source: UntrustedSource, handler: socketserver.StreamRequestHandler) -> None:
    """A byte now and then: never silent, and never done."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not source.is_over.wait(0.05):
        handler.wfile.write(b"x")
