"""A server in a process of its own, known by the line in which it says that it is ready."""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

DEADLINE = 60


@contextlib.contextmanager
def served(target: str, folder: Path) -> Iterator[str]:
    """`socaity serve target` in a folder; gives host and port."""
    command = [sys.executable, "-m", "socaity.cli", "serve", target, "--port", "0"]
    with running(command, folder, ready=r"at http://(\S+)") as address:
        yield address


@contextlib.contextmanager
def running(
    command: Sequence[str], folder: Path, *, ready: str, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A command until it prints what the pattern `ready` finds; gives its first group. Ends it, and what it started."""
    server = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        start_new_session=True,
    )
    assert server.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(server.stdout, lines), name="reader of the server")
    reader.start()
    try:
        said = ""
        while (found := re.search(ready, said)) is None:
            line = lines.get(timeout=DEADLINE)
            assert line, f"the server did not start:\n{said}"
            said += line
        yield found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(DEADLINE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # workers that outlived it
        reader.join(DEADLINE)
        server.stdout.close()


def free_port() -> int:
    """A port for servers that cannot choose one themselves."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def _read(stream: IO[str], lines: "queue.SimpleQueue[str]") -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
