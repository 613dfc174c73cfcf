"""MLServer from PyPI with models of our own, in its environment and in a process of its own.

    with MLServer(folder) as server:                       # folder: an empty one, for settings and the log
        socaity.connect(f"oip+grpc://{server.host}:{server.grpc_port}")
        socaity.connect(server.url)                        # http://127.0.0.1:…

As a fixture of a module:

    @pytest.fixture(scope="module")
    def mlserver(tmp_path_factory):
        with MLServer(tmp_path_factory.mktemp("mlserver")) as server:
            yield server

The environment is made by `make peers` and where CI is set; elsewhere the test that asks for it is left out. What it serves:

| model | version | inputs | outputs |
|---|---|---|---|
| simple | 1 | INPUT0, INPUT1 INT32 [-1, 16] | OUTPUT0 (sum), OUTPUT1 (difference) INT32 [-1, 16] |
| identity_bool, identity_int8 … identity_fp64 | 1 | INPUT0 [-1] | OUTPUT0 [-1] |
| identity_bytes | 1 | INPUT0 BYTES [-1] | OUTPUT0 BYTES [-1] |
| identity_fp32_matrix | 1 | INPUT0 FP32 [-1, -1] | OUTPUT0 FP32 [-1, -1] |
| words | 1 | PROMPT BYTES [1] | TEXT BYTES [1]; streams one response for each word |
| slow | 1 | INPUT0 FP32 [1] | OUTPUT0 FP32 [1], after INPUT0 seconds |
| bare | none | INPUT0 FP32 [-1] | OUTPUT0 FP32 [-1]; says nothing of its inputs and outputs |
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.docs.environments import python_of
from tests.docs.served import free_port

HERE = Path(__file__).parent
START_SECONDS = 60.0
STOP_SECONDS = 15.0
ATTEMPTS = 3
"""Ports are looked for before MLServer takes them, so another program may be quicker."""

DATATYPES = (
    "BOOL",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "FP16",
    "FP32",
    "FP64",
)
"""Of the identity models besides BYTES; MLServer has no BF16."""


class MLServer:
    """A running MLServer; `folder` is empty, and keeps its settings and its log."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, *, parallel_workers: int = 0) -> None:
        self.folder = folder
        self.http_port = 0
        self.grpc_port = 0
        self._parallel_workers = parallel_workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the REST server."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has written so far."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start, and wait until all models are ready; raises with its log if it does not become so."""
        python = python_of("mlserver")
        for _ in range(ATTEMPTS):
            self.http_port, self.grpc_port = free_port(), free_port()
            _write_settings(self.folder, self.http_port, self.grpc_port, self._parallel_workers)
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    [str(python), "-m", "mlserver.cli.main", "start", str(self.folder)],
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": str(HERE / "mlserver_models")},
                    start_new_session=True,  # its workers end with it
                )
            if self._is_ready():
                return
            self.stop()
        raise AssertionError(f"MLServer did not start:\n{self.log[-3000:]}")

    def stop(self) -> None:
        """Ask it to end, and end it and its workers if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _is_ready(self) -> bool:
        """It is another process and says nothing when it is ready: it has to be asked."""
        assert self._process is not None
        stop, pause = time.monotonic() + START_SECONDS, threading.Event()
        while time.monotonic() < stop and self._process.poll() is None:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5):
                    # the gRPC server begins to listen after the other
                    socket.create_connection((self.host, self.grpc_port), timeout=5).close()
                    return True
            pause.wait(0.05)
        return False


def _models() -> Iterator[dict[str, Any]]:
    """What stands in the model-settings.json of each model."""
    pair = [_tensor(name, "INT32", -1, 16) for name in ("INPUT0", "INPUT1")]
    results = [_tensor(name, "INT32", -1, 16) for name in ("OUTPUT0", "OUTPUT1")]
    yield _model("simple", "Simple", pair, results)
    for datatype in (*DATATYPES, "BYTES"):
        yield _identity(f"identity_{datatype.lower()}", datatype, -1)
    yield _identity("identity_fp32_matrix", "FP32", -1, -1)
    yield _model("words", "Words", [_tensor("PROMPT", "BYTES", 1)], [_tensor("TEXT", "BYTES", 1)])
    yield _model("slow", "Slow", [_tensor("INPUT0", "FP32", 1)], [_tensor("OUTPUT0", "FP32", 1)])
    yield {"name": "bare", "implementation": "runtime.Identity"}


def _identity(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return _model(
        name, "Identity", [_tensor("INPUT0", datatype, *shape)], [_tensor("OUTPUT0", datatype, *shape)]
    )


def _model(
    name: str, implementation: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "name": name,
        "platform": "python",
        "implementation": f"runtime.{implementation}",
        "parameters": {"version": "1"},
        "versions": ["1"],
        "inputs": inputs,
        "outputs": outputs,
    }


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _write_settings(folder: Path, http_port: int, grpc_port: int, parallel_workers: int) -> None:
    settings = {
        "debug": False,
        "host": MLServer.host,
        "http_port": http_port,
        "grpc_port": grpc_port,
        "metrics_endpoint": None,
        "gzip_enabled": False,  # with it, it streams nothing
        "parallel_workers": parallel_workers,
        "grpc_max_message_length": 64 * 2**20,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    for model in _models():
        its_folder = folder / model["name"]
        its_folder.mkdir(exist_ok=True)
        (its_folder / "model-settings.json").write_text(json.dumps(model))
