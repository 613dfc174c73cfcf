"""One worker process, as the server sees it: started, loaded, given batches, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError, ServerError, from_problem

from .base import RuntimeOptions, TensorSpec
from .connection import Connection
from .shared import SharedArea

__all__ = ["WorkerDied", "WorkerProcess"]

_LOOK_INTERVAL = 1.0
_EXIT_TIMEOUT = 5.0
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class WorkerDied(ServerError):
    """The process that ran the model ended: it was killed, crashed in native code, or ended itself.

    `was_started` tells whether the batch had reached the worker.
    """

    default_code = "worker_died"

    def __init__(self, message: str, *, was_started: bool = True) -> None:
        super().__init__(message)
        self.was_started = was_started


class WorkerProcess:
    """A process that has one model. One thread at a time may use it, but `kill` may be called from anywhere."""

    def __init__(
        self, file: Path, backend: str, options: RuntimeOptions, *, model: str, place: str | None = None
    ) -> None:
        self.file = file
        self.model = model
        self.is_interrupted = False
        """It was killed on purpose."""
        self.busy_since = 0.0
        """When it was given its last batch."""
        self._requests, self._responses = SharedArea.create(), SharedArea.create()
        ours, theirs = socket.socketpair()
        self._connection = Connection(ours)
        try:
            with theirs:
                passed = (theirs.fileno(), self._requests.descriptor, self._responses.descriptor)
                self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    # -P: files beside the server's start must not hide modules.
                    [sys.executable, "-P", "-m", "socaity_server.runtimes.worker", *map(str, passed)],
                    pass_fds=passed,
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C does not reach it, also before it can ignore the signal
                    env=_environment(options.threads),
                )
        except BaseException:
            self._free()
            raise
        self._connection.set_timeout(_LOOK_INTERVAL)
        self._configuration = {
            "path": str(file),
            "backend": backend,
            "place": place,
            "options": _plain_options(options),
            "sys_path": _sys_path(),
        }

    def wait_loaded(self, timeout: float) -> dict[str, Any]:
        """What the worker says of its model. Raises ConfigurationError, which says why it is not loaded."""
        deadline = time.monotonic() + timeout
        try:
            self._connection.send(self._configuration)
            hello = self._receive(deadline)
        except TimeoutError as exc:
            raise ConfigurationError(
                f"Loading {str(self.file)!r} took longer than {timeout:g} seconds, and was given up."
            ) from exc
        except TypeError as exc:
            raise ConfigurationError(
                f"The arguments of {str(self.file)!r} must be plain values (text, numbers, lists, maps) for a worker "
                "process. Use such, or execution: thread."
            ) from exc
        except (EOFError, OSError) as exc:
            raise ConfigurationError(
                f"The worker process that loads {str(self.file)!r} {self._how_it_ended()}"
            ) from exc
        if "error" in hello:
            raise ConfigurationError(hello["error"])
        for key in ("inputs", "outputs"):
            hello[key] = tuple(
                TensorSpec(name, dtype, None if shape is None else tuple(shape))
                for name, dtype, shape in hello[key]
            )
        return dict(hello)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run one batch. Raises WorkerDied, or what the model raised, as JobFailed."""
        requests = self._requests
        layout = requests.write(inputs)
        try:
            self._connection.send((layout, requests.size))
        except OSError as exc:
            raise WorkerDied(
                f"The worker process of {self.model!r} {self._how_it_ended()}", was_started=False
            ) from exc
        try:
            answer = self._receive(None)
        except EOFError as exc:
            raise WorkerDied(
                f"The worker process of {self.model!r} {self._how_it_ended()} It was running a batch."
            ) from exc
        if isinstance(answer, dict):
            raise from_problem(answer)
        return self._responses.copies(*answer)

    def fileno(self) -> int:
        """The socket, which hangs up when the worker dies."""
        return self._connection.fileno()

    def kill(self) -> None:
        """End it at once; who waits for its answer gets WorkerDied."""
        self.process.kill()

    def ask_to_end(self) -> None:
        """Let it end by itself; `end` follows."""
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def end(self, timeout: float) -> None:
        """Wait for the end of the process, or kill it, and free everything. A second call does nothing."""
        if timeout > 0:
            with contextlib.suppress(EOFError, OSError):
                self._receive(time.monotonic() + timeout)
        else:
            self.process.kill()
        try:
            self.process.wait(max(timeout, 0.0) and _LOOK_INTERVAL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._free()

    def _receive(self, deadline: float | None) -> Any:
        while True:
            try:
                return self._connection.receive()
            except TimeoutError:
                # A process that the model has started may hold the socket open: no hang-up then.
                if self.process.poll() is not None:
                    raise EOFError from None
                if deadline is not None and time.monotonic() > deadline:
                    raise

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return (
                "closed its socket and went on; the model must leave descriptors that it does not own alone."
            )
        if self.is_interrupted:
            return "was ended from outside."
        if status >= 0:
            return f"ended with exit status {status}: the model, or what it calls, ended its process. Remove the exit."
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        hint = _HINTS.get(name, "See what the server's stderr says of it.")
        return f"was killed by signal {-status} ({name}). {hint}"

    def _free(self) -> None:
        self._connection.close()
        self._requests.close()
        self._responses.close()


_HINTS = {
    "SIGKILL": "If nobody killed it, the memory ran out: make max_batch_size or instances smaller, or give it more.",
    "SIGSEGV": "Native code of the model crashed; the server's stderr says where. Look for a newer version of it.",
    "SIGABRT": "Native code of the model gave up; the server's stderr says where. Look for a newer version of it.",
    "SIGBUS": "The memory ran out: make max_batch_size or instances smaller, or give it more.",
}


def _environment(threads: int) -> dict[str, str]:
    # The numeric libraries read these once, when they are imported.
    return {
        **os.environ,
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": os.pathsep.join(_sys_path()),
    }


def _sys_path() -> list[str]:
    return [path or os.getcwd() for path in sys.path]


def _plain_options(options: RuntimeOptions) -> dict[str, Any]:
    return {
        "threads": options.threads,
        "device": options.device,
        "inputs": [(spec.name, spec.dtype, spec.shape) for spec in options.inputs],
        "outputs": [(spec.name, spec.dtype, spec.shape) for spec in options.outputs],
        "arguments": dict(options.arguments),
        "sha256": options.sha256,
        "allow_pickle": options.allow_pickle,
        "is_alone": options.is_alone,
    }
