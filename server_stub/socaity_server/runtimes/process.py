"""Any runtime in worker processes: batches go to a free worker, a dead one is replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError, ServerError

from .base import DEFAULT_OPTIONS, Runtime, RuntimeOptions
from .registry import place_of_engine
from .worker_process import WorkerDied, WorkerProcess

__all__ = ["ProcessRuntime", "WorkerDied"]

_logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 5.0
_LOOK_INTERVAL = 1.0
_FREE_RESTARTS = 2  # a batch that kills two workers, as it is run twice, is not yet a crash loop
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0


class ProcessRuntime(Runtime):
    """A model in `instances` worker processes, which `run` gives batches to; each is a process with the model loaded.

    The inputs are copied once into memory that both processes have, the outputs once out of it. Errors of the model get
    here as JobFailed. A worker that dies is replaced; its batch is run once more on another (`retry`), and fails with
    WorkerDied if that one dies as well. While workers keep dying, calls fail with a ServerError (503, `retry_after`).
    `model` is what messages call it (default: the name of the file).
    """

    in_process = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        options: RuntimeOptions = DEFAULT_OPTIONS,
        *,
        backend: str,
        instances: int = 1,
        retry: bool = True,
        load_timeout: float = 120.0,
        model: str | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "Worker processes need Linux or macOS. Use execution: thread for this model."
            )
        self.restarts = 0
        """How many workers were replaced."""
        self._file = Path(path)
        self._model = model or self._file.name
        self._backend = backend
        self._place = place_of_engine(backend)
        self._options = options
        self._retry = retry
        self._load_timeout = load_timeout
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        self._busy: set[WorkerProcess] = set()
        self._loading: set[WorkerProcess] = set()
        self._due: list[float] = []  # when the replacements of dead workers are to be started
        self._deaths = 0  # in a row, without a batch that worked
        self._is_closed = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._keeper = threading.Thread(target=self._keep, name=f"keeper of {self._model}", daemon=True)
        hello = self._load_first(instances)
        self.name = hello["name"]
        self.inputs = hello["inputs"]
        self.outputs = hello["outputs"]
        self.single = hello["single"]
        self.batched = hello["batched"]
        self.device = hello["device"]
        self.max_rows = hello["max_rows"]
        self.warnings = tuple(hello["warnings"])
        self._keeper.start()

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes that have the model loaded."""
        with self._changed:
            return tuple(worker.process.pid for worker in (*self._idle, *self._busy))

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run a batch on a free worker, waiting for one if need be."""
        may_retry = self._retry
        while True:
            worker = self._take()
            try:
                outputs = worker.run(inputs)
            except WorkerDied as died:
                self._lost(worker)
                if worker.is_interrupted or (died.was_started and not may_retry):
                    raise
                may_retry = may_retry and not died.was_started
                _logger.warning("%s The batch is run again.", died)
            except BaseException:
                self._give_back(worker, worked=False)
                raise
            else:
                self._give_back(worker, worked=True)
                return outputs

    def interrupt(self, *, longer_than: float = 0.0) -> int:
        """Kill the workers that run a batch for more than `longer_than` seconds, as of a model that hangs.

        Those batches fail with WorkerDied and are not run again. Returns how many. For any thread.
        """
        since = time.monotonic() - longer_than
        with self._changed:
            hanging = [worker for worker in self._busy if worker.busy_since <= since]
            for worker in hanging:
                worker.is_interrupted = True
                worker.kill()
            return len(hanging)

    def close(self) -> None:
        """End the workers: free ones by themselves, within seconds, others at once."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            idle, self._idle = self._idle, []
            for worker in (*self._busy, *self._loading):
                worker.is_interrupted = True
                worker.kill()
            self._changed.notify_all()
        self._wake_keeper()
        for worker in idle:
            worker.ask_to_end()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for worker in idle:
            worker.end(deadline - time.monotonic())
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, max(0.0, deadline - time.monotonic()))
        if self._keeper.is_alive():
            self._keeper.join(_CLOSE_TIMEOUT)
        self._wake.close()
        self._woken.close()

    def _load_first(self, instances: int) -> dict[str, Any]:
        pool = ThreadPoolExecutor(instances)
        try:
            loads = [pool.submit(self._load_one) for _ in range(instances)]
            hellos = [load.result() for load in loads]
        except BaseException:
            self.close()  # ends those that still load
            raise
        finally:
            pool.shutdown()
        return hellos[0]

    def _load_one(self) -> dict[str, Any]:
        """Start one worker and put it among the free ones."""
        worker = WorkerProcess(self._file, self._backend, self._options, model=self._model, place=self._place)
        with self._changed:
            self._loading.add(worker)
            if self._is_closed:
                worker.kill()
        is_ready = False
        try:
            hello = worker.wait_loaded(self._load_timeout)
            is_ready = True
            return hello
        finally:
            with self._changed:
                self._loading.discard(worker)
                is_ready = is_ready and not self._is_closed
                if is_ready:
                    self._idle.append(worker)
                self._changed.notify_all()
            if not is_ready:
                worker.end(0)

    def _take(self) -> WorkerProcess:
        with self._changed:
            while not self._idle:
                self._check_open()
                if self._due and not self._busy and not self._loading:
                    wait = min(self._due) - time.monotonic()
                    if wait > 0:
                        raise ServerError(
                            f"The worker processes of {self._model!r} keep dying; the next one is started in "
                            f"{wait:.1f} seconds. The server's log says why they died.",
                            status=503,
                            code="model_unavailable",
                            retry_after=wait,
                        )
                self._changed.wait(_LOOK_INTERVAL)
            self._check_open()
            worker = self._idle.pop()  # the last one used: its memory is in the caches
            worker.busy_since = time.monotonic()
            self._busy.add(worker)
            return worker

    def _check_open(self) -> None:
        if self._is_closed:
            raise RuntimeError("The model is closed.")

    def _give_back(self, worker: WorkerProcess, *, worked: bool) -> None:
        with self._changed:
            self._busy.discard(worker)
            if worked:
                self._deaths = 0
            if not self._is_closed and not worker.is_interrupted:
                self._idle.append(worker)
                self._changed.notify()
                return
        # Interrupted at the moment when its answer came.
        self._lost(worker)

    def _lost(self, worker: WorkerProcess) -> None:
        worker.end(0)
        with self._changed:
            self._busy.discard(worker)
            self._changed.notify_all()
            if not self._is_closed:
                self._restart_later(counted=not worker.is_interrupted)
        self._wake_keeper()

    def _restart_later(self, *, counted: bool) -> None:
        """For a holder of the lock."""
        self._deaths += counted
        excess = self._deaths - _FREE_RESTARTS
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** min(excess - 1, 16)) if excess > 0 else 0.0
        self._due.append(time.monotonic() + delay)
        self._changed.notify_all()

    def _wake_keeper(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake anyway; closed: it has ended
            self._wake.send(b"\0")

    def _keep(self) -> None:
        """The keeper's thread: notices the death of free workers, and starts replacements when they are due."""
        handled: set[WorkerProcess] = set()  # died under a batch: `run` sees to them
        while True:
            with self._changed:
                if self._is_closed:
                    return
                now = time.monotonic()
                due = next((time_due for time_due in self._due if time_due <= now), None)
                if due is not None:
                    self._due.remove(due)
                wait = min(self._due, default=now + 3600.0) - now
                living = {worker.fileno(): worker for worker in (*self._idle, *self._busy)}
            handled.intersection_update(living.values())
            if due is not None:
                self._replace()
                continue
            poller = select.poll()
            poller.register(self._woken, select.POLLIN)
            for descriptor, worker in living.items():
                if worker not in handled and descriptor >= 0:
                    poller.register(descriptor, 0)  # only the hang-up, which is always reported
            for descriptor, _ in poller.poll(max(0.0, wait) * 1000):
                if descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                elif not self._remove_idle(living[descriptor]):
                    handled.add(living[descriptor])

    def _remove_idle(self, worker: WorkerProcess) -> bool:
        with self._changed:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
        _logger.warning("A worker process of %r ended while it was idle; it is replaced.", self._model)
        self._lost(worker)
        return True

    def _replace(self) -> None:
        try:
            self._load_one()
        except Exception as exc:  # the edge of the thread: the next try is later
            with self._changed:
                if self._is_closed:
                    return
                self._deaths = max(self._deaths, _FREE_RESTARTS)
                self._restart_later(counted=True)
            _logger.warning("A worker process of %r could not be replaced: %s", self._model, exc)
        else:
            self.restarts += 1
