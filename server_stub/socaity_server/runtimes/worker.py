"""The program of a worker process: loads one model, then runs the batches that lie in shared memory.

Started by `process.ProcessRuntime` as `python -m socaity_server.runtimes.worker SOCKET REQUESTS RESPONSES`, all three
numbers of inherited descriptors. It ends when the server closes the socket or dies.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from socaity.exceptions import APIError, ConfigurationError, JobError, JobFailed, to_problem

from .base import Runtime, RuntimeOptions, TensorSpec
from .connection import Connection
from .registry import load_here
from .shared import SharedArea
from .specs import of_type

__all__ = ["main"]

_GRACE = 1.0
_LONGEST_TRACEBACK = 20_000
_OURS = str(Path(__file__).parents[1])


def main(arguments: list[str]) -> None:
    """Serve until the socket ends."""
    end, requests, responses = (int(argument) for argument in arguments)
    for descriptor in (end, requests, responses):
        os.set_inheritable(descriptor, False)  # a process that the model starts would keep the socket open
    os.dup2(2, 1)  # stdout may be the server's protocol; what a model prints is for people
    # A service manager's stop reaches all processes of a service. The server decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    connection = Connection(socket.socket(fileno=end))
    threading.Thread(target=_end_with_server, args=(end,), daemon=True).start()
    runtime = _load(connection)
    if runtime is not None:
        with contextlib.suppress(EOFError, OSError):
            _serve(connection, runtime, SharedArea(requests), SharedArea(responses))
        runtime.close()


def _end_with_server(end: int) -> None:
    """A model that hangs must not outlive the server."""
    poller = select.poll()
    poller.register(end, 0)  # only the hang-up, which is always reported
    poller.poll()
    threading.Event().wait(_GRACE)  # the main thread ends by itself unless the model keeps it
    os._exit(1)


def _load(connection: Connection) -> Runtime | None:
    message = connection.receive()
    sys.path[:] = message["sys_path"]
    file = message["path"]
    try:
        runtime = load_here(file, message["backend"], _options(message["options"]), place=message["place"])
    except ConfigurationError as exc:
        connection.send({"error": str(exc)})
    except BaseException as exc:
        lines = "".join(traceback.format_exception(exc, limit=-3))
        connection.send({"error": f"{file!r} cannot be loaded: {of_type(exc)}.\n{lines}"})
    else:
        connection.send(
            {
                "name": runtime.name,
                "inputs": _plain_specs(runtime.inputs),
                "outputs": _plain_specs(runtime.outputs),
                "single": runtime.single,
                "batched": runtime.batched,
                "device": runtime.device,
                "max_rows": runtime.max_rows,
                "warnings": runtime.warnings,
            }
        )
        return runtime
    return None


def _serve(connection: Connection, runtime: Runtime, requests: SharedArea, responses: SharedArea) -> None:
    while True:
        message = connection.receive()
        if message is None:
            return
        connection.send(_answer(runtime, message, requests, responses))
        message = None


def _answer(runtime: Runtime, message: Any, requests: SharedArea, responses: SharedArea) -> Any:
    """Layout and size of the outputs, or the problem."""
    layout, size = message
    try:
        return [responses.write(runtime.run(requests.views(layout, size))), responses.size]
    except BaseException as exc:  # SystemExit as well: a model must not end its worker by mistake
        return to_problem(_failure(exc))


def _failure(exc: BaseException) -> APIError | JobError:
    """What crosses of an exception: type, text, and the frames of the model's own code."""
    if isinstance(exc, APIError | JobError):
        return exc
    frame = exc.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OURS):
        frame = frame.tb_next
    lines = "".join(traceback.format_exception(type(exc), exc, frame))
    name, text = type(exc).__qualname__, str(exc)
    return JobFailed(
        f"{name}: {text}" if text else name, error_type=name, remote_traceback=lines[-_LONGEST_TRACEBACK:]
    )


def _options(plain: dict[str, Any]) -> RuntimeOptions:
    specs = {
        key: tuple(
            TensorSpec(name, dtype, None if shape is None else tuple(shape))
            for name, dtype, shape in plain[key]
        )
        for key in ("inputs", "outputs")
    }
    return RuntimeOptions(**{**plain, **specs})


def _plain_specs(specs: tuple[TensorSpec, ...]) -> list[Any]:
    return [(spec.name, spec.dtype, spec.shape) for spec in specs]


if __name__ == "__main__":
    main(sys.argv[1:])
