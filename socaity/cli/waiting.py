"""Waiting for a job in a terminal: its chunks as they come, Ctrl-C that leaves it running, and a reader that goes away."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Iterator
from typing import Any

from .._display import tell
from .._job import Job
from ..exceptions import InvalidInputError, SocaityError
from .options import UsageError, shown
from .output import Output, OutputError
from .terminal import complain

__all__ = ["follow"]

_SUCCEEDED, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130
_CANCEL_DEADLINE = 5.0


class _Interrupted(BaseException):
    """Ctrl-C. No KeyboardInterrupt: for that a Job says how to go on in Python."""


def follow(job: Job[Any], output: Output, *, name: str, url: str, keeps: bool) -> int:
    """Wait for the job and write what it gives; returns the exit code. `keeps`: the service keeps it when we go."""
    try:
        with _ctrl_c():
            _write(job, output)
    except _Interrupted:
        with contextlib.suppress(BrokenPipeError, OutputError):
            output.drop()
        tell(_how_to_go_on(job.id, url, keeps))
        return _INTERRUPTED
    except BrokenPipeError:  # nobody reads the rest
        with contextlib.suppress(BrokenPipeError, OutputError):
            output.drop()
        # an event, as waiting for the job itself would show that after a while
        has_ended = threading.Event()
        job.add_done_callback(lambda _: has_ended.set())
        if job.cancel():
            has_ended.wait(_CANCEL_DEADLINE)
        raise
    except SocaityError as exc:
        with contextlib.suppress(OutputError):
            output.drop()
        complain(name, exc)
        # what the service has refused was written wrongly, as what was refused here
        return _USAGE if isinstance(exc, InvalidInputError) else _FAILED
    except (UsageError, OutputError) as exc:
        with contextlib.suppress(OutputError):
            output.drop()
        again = f"\nThe result is kept: socaity jobs {job.id} --url {_word(url)} -o FILE" if keeps else ""
        complain(name, f"{exc}{again}")
        return _USAGE if isinstance(exc, UsageError) else _FAILED
    return _SUCCEEDED


def _write(job: Job[Any], output: Output) -> None:
    if not job._endpoint.may_stream:
        output.value(job.result())
        return
    count = 0
    for chunk in job:
        count += 1
        output.chunk(chunk)
    if count or job._endpoint.description.streaming:
        output.finish()
    else:  # a job that was attached to: only now it is known that it does not stream
        output.value(job.result())


@contextlib.contextmanager
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C raises _Interrupted inside; what a shell ignores for what runs in its background stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more ends it at once
        raise _Interrupted

    try:
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    finally:
        if before is signal.default_int_handler and signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _how_to_go_on(job_id: str, url: str, keeps: bool) -> str:
    if not keeps:
        return "Interrupted; the call ends with its connection."
    again = f"socaity jobs {job_id} --url {_word(url)}"
    return f"Stopped waiting; the job runs on.\n  to wait again:  {again}\n  to stop it:     {again} --cancel"


def _word(url: str) -> str:
    return shlex.quote(shown(url))
