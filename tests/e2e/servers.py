"""A server process that can be killed, and proxies that cut its connections, or delay and count what goes over them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

DEADLINE = 30.0
HERE = Path(__file__).parent


class ServerProcess:
    """`socaity serve` in a process of its own, on a port that it keeps when it is started again."""

    def __init__(
        self, target: str = "fault_service:router", *arguments: str, env: Mapping[str, str] | None = None
    ) -> None:
        self._target = target
        self._arguments = arguments
        self._env = dict(env or {})
        self._port = 0
        self._said = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def port(self) -> int:
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start and wait until it says that it is ready."""
        arguments = ["serve", self._target, "--port", str(self._port), *self._arguments]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "socaity.cli", *arguments],
            cwd=HERE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._env},
        )
        watchdog = threading.Timer(DEADLINE, self._process.kill)
        watchdog.start()
        lines = []
        assert self._process.stderr is not None
        for line in self._process.stderr:
            lines.append(line)
            if found := re.search(r"https?://127\.0\.0\.1:(\d+)", line):
                self._port = int(found.group(1))
                break
        else:
            raise AssertionError(f"the server did not start:\n{''.join(lines)}")
        watchdog.cancel()
        self._said = "".join(lines)
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """What it wrote before it was ready."""
        return self._said

    def terminate(self) -> int:
        """SIGTERM, and wait: it drains. Returns the exit status."""
        assert self._process is not None
        process = self._process
        process.terminate()
        status = process.wait(DEADLINE)
        self.kill()
        return status

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)
            self._drain.join(DEADLINE)
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class CuttingProxy:
    """A TCP proxy on a thread: `cut()` breaks all connections at once; `after_bytes` breaks one by itself."""

    delay = 0.0

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        """Bytes from the client and from the server."""
        self._target = port
        self.port = 0
        self.connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._limits: list[int] = []
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(DEADLINE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        self._on_loop(self._cut)

    def cut_after(self, *bytes_down: int) -> None:
        """The next connections break after so many bytes from the server."""
        self._on_loop(lambda: self._limits.extend(bytes_down))

    def close(self) -> None:
        self._on_loop(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _on_loop(self, function: Callable[[], Any]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        assert done.wait(DEADLINE)

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def _run(self, ready: threading.Event) -> None:
        async def begin() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            self._server = server
            ready.set()

        self._loop.run_until_complete(begin())
        self._loop.run_forever()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        limit = self._limits.pop(0) if self._limits else None
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        mine = {writer, up_writer}
        self._open |= mine
        try:
            await asyncio.gather(
                self._pump(reader, up_writer, None, "up"), self._pump(up_reader, writer, limit, "down")
            )
        except OSError:
            pass
        finally:
            for one in mine:
                one.transport.abort()
            self._open -= mine

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None, way: str
    ) -> None:
        while data := await reader.read(65536):
            if limit is not None:
                limit -= len(data)
                if limit <= 0:
                    raise OSError("cut")
            setattr(self, way, getattr(self, way) + len(data))
            await self._pass_on(writer, data)
        raise OSError("closed")

    async def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()


class DelayingProxy(CuttingProxy):
    """A long way: every byte arrives `delay` seconds later, in both directions, however many there are."""

    delay = 0.025

    async def _pass_on(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        # all delays are the same, and the clock moves on between two of them: the order stays
        loop = asyncio.get_running_loop()
        due = self._due = max(loop.time() + self.delay, self._due + 1e-6)
        loop.call_at(due, self._write, writer, data)

    _due = 0.0

    @staticmethod
    def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)
