"""A server with a model, ours or one of the peers: started, asked, frozen while others are measured, and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import digits
from measurement import Skipped
from models.files import Model
from models.files import model as model_files
from models.sentences import sentences
from peers.environment import HERE, python_of
from peers.forms import OURS, Form, form
from peers.processes import family

_ROWS = 64
_NUMBERS = 2**20
_SENTENCES = 512
_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Contender:
    """A running server."""

    name: str
    model: Model
    origin: str
    form: Form
    pid: int
    bodies: Path
    """A file with one request a line."""

    @property
    def url(self) -> str:
        return self.origin + self.form.path

    def ask(self, one: Any) -> Any:
        """The answer to a row or a text."""
        body = json.dumps(self.form.request(one)).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return self.form.answer(json.loads(response.read()))

    def pids(self) -> list[int]:
        return family(self.pid)

    def settle(self) -> None:
        """Wait until what the last load left behind is done: this request waits behind it."""
        self.ask(inputs(self.model.kind)[0])
        time.sleep(_SETTLE_SECONDS)

    def freeze(self) -> None:
        """Stop all processes: a server that polls must take nothing from the one whose turn it is.

        `settle` before: a batch that is stopped while it runs looks like a model that hangs, and circuit breakers open.
        """
        _signal(self.pids(), signal.SIGSTOP)

    def thaw(self) -> None:
        _signal(self.pids(), signal.SIGCONT)


def inputs(kind: str) -> list[Any]:
    """What is asked in turn: rows of pixels, a row of many numbers, or texts."""
    if kind == "tensor":
        return [[float(number % 64) for number in range(_NUMBERS)]]
    return sentences(_SENTENCES) if kind == "minilm" else digits.rows(_ROWS).tolist()


@contextlib.contextmanager
def contender(
    name: str, kind: str, *, options: dict[str, Any] | None = None, with_grpc: bool = False
) -> Iterator[Contender]:
    """`name` serving the model `kind`, once it has answered. `options` replace single ones of the best of a peer.

    `with_grpc`: ours listens for gRPC, too, at the next port, as MLServer always does.
    """
    model = model_files(kind)
    its_form = form(name, model.name)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        bodies = Path(folder) / "bodies"
        bodies.write_text("".join(json.dumps(its_form.request(one)) + "\n" for one in inputs(kind)))
        port = _free_port()
        if name == OURS:
            command = [sys.executable, "-m", "socaity.cli", "serve", str(model.folder), "--allow-pickle"]
            command += ["--port", str(port), *(["--grpc-port", str(port + 1)] if with_grpc else [])]
        else:
            command = [str(python_of(name)), str(HERE / name / "server.py"), model.kind, str(model.file)]
            command += [str(port), json.dumps(options or {})]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        one = Contender(name, model, f"http://127.0.0.1:{port}", its_form, process.pid, bodies)
        try:
            _wait_until_ready(one, process, Path(log.name))
            yield one
        finally:
            _stop(one, process)


def _wait_until_ready(one: Contender, process: subprocess.Popen[bytes], log: Path) -> None:
    question = inputs(one.model.kind)[0]
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            one.ask(question)
            return
        except (OSError, ValueError):
            time.sleep(0.1)
    raise Skipped(f"{one.name} did not start:\n{log.read_text()[-2000:]}")


def _stop(one: Contender, process: subprocess.Popen[bytes]) -> None:
    one.thaw()
    members = one.pids()
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    _signal({*members, *one.pids()}, signal.SIGKILL)
    process.wait()


def _signal(pids: Any, number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _free_port() -> int:
    """One whose successor is free, too: MLServer wants two."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                second.bind(("127.0.0.1", port + 1))
                return port
