"""Doubles and a contract suite for people who test programs or write transports."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from . import connect
from ._job import Job
from ._retry import RetryPolicy
from ._service import Service
from .exceptions import (
    APIError,
    ConfigurationError,
    ConnectError,
    JobCancelled,
    JobError,
    JobFailed,
    JobLost,
    NotFoundError,
    ServerError,
    SocaityError,
    to_problem,
)
from .protocol.description import EndpointDescription, ServiceDescription
from .protocol.events import JobEvent, JobStatus
from .transport import Call, Target, Transport

__all__ = ["ScriptedTransport", "TransportContract", "number_events"]

Events: TypeAlias = Iterable[JobEvent] | AsyncIterable[JobEvent]
Script: TypeAlias = Callable[[Call], Events] | Sequence[JobEvent]

_DEADLINE = 20.0
_NOTHING = (JobEvent(1, "result", None),)


def number_events(*events: tuple[Any, Any]) -> list[JobEvent]:
    """`(kind, data)` pairs as events with numbers from 1: `number_events(("log", {"message": "hi"}), ("result", 3))`."""
    return [JobEvent(seq, kind, data) for seq, (kind, data) in enumerate(events, 1)]


@dataclass(slots=True, eq=False)
class _ScriptedJob:
    """A job as the pretended service keeps it."""

    events: list[JobEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def has_ended(self) -> bool:
        return bool(self.events) and self.events[-1].is_terminal

    def append(self, event: JobEvent) -> None:
        if not self.has_ended:
            self.events.append(event)
            self.changed.set()
            self.changed = asyncio.Event()


class ScriptedTransport(Transport):
    """A service that lives in memory and answers by a script; pass it to `connect(url, transport=…)`.

    `description` says what can be called: a ServiceDescription or EndpointDescriptions. `script` is called with every call
    and gives its events, all at once or one after the other; a plain list answers every call alike. What the script raises
    when it is called refuses the call, what it raises later is a failed job. `calls` records `(endpoint name, arguments)`,
    `ids` the job ids of all tries, `cancelled` the ids of cancelled jobs.

        transport = ScriptedTransport(EndpointDescription(name="ask", path="/ask"), number_events(("result", 42)))
        service = socaity.connect("memory://test", transport=transport)
        assert service.ask().result() == 42
    """

    def __init__(
        self,
        description: ServiceDescription | EndpointDescription | Sequence[EndpointDescription],
        script: Script = _NOTHING,
    ) -> None:
        if isinstance(description, EndpointDescription):
            description = [description]
        if not isinstance(description, ServiceDescription):
            description = ServiceDescription(title="scripted", endpoints=list(description))
        self.description = description
        self.calls: list[tuple[str, Mapping[str, Any]]] = []
        self.ids: list[str] = []
        self.cancelled: list[str] = []
        self.is_closed = False
        self._script = script
        self._refusals: deque[APIError | ConnectError] = deque()
        self._jobs: dict[str, _ScriptedJob] = {}
        self._watchers: set[asyncio.Future[None]] = set()

    @classmethod
    def open(cls, target: Target) -> Self:
        """A double is made by the test and not by a URL: raises ConfigurationError."""
        raise ConfigurationError("pass the double itself: connect(url, transport=ScriptedTransport(…))")

    # -- faults; usable from any thread --------------------------------------------------------------------------------

    def refuse(self, error: APIError | ConnectError, *, times: int = 1) -> None:
        """Refuse the next `times` tries with `error`."""
        self._refusals.extend([error] * times)

    def lose_connection(self, error: SocaityError | None = None) -> None:
        """End every watch with `error` (default: JobLost). The jobs go on and `service.job(id)` attaches to them again."""
        lost = error or JobLost("the connection was lost")
        for watcher in list(self._watchers):
            watcher.get_loop().call_soon_threadsafe(_break, watcher, lost)

    # -- the seam --------------------------------------------------------------------------------------------------------

    async def describe(self) -> ServiceDescription:
        return self.description

    async def submit(self, call: Call) -> None:
        self.calls.append((call.endpoint.name, dict(call.arguments)))
        self.ids.append(call.id)
        if self._refusals:
            raise self._refusals.popleft()
        if call.id in self._jobs:
            return  # the same key is the same job
        script = self._script
        events = script(call) if callable(script) else script
        job = self._jobs[call.id] = _ScriptedJob()
        if isinstance(events, list | tuple):
            for event in events:
                job.append(event)
        else:
            job.task = asyncio.get_running_loop().create_task(_play(job, events))

    async def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        job = self._find(job_id)
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers.add(broken)
        index = 0
        try:
            while True:
                changed = asyncio.ensure_future(job.changed.wait())
                try:
                    while index < len(job.events):
                        event = job.events[index]
                        index += 1
                        if event.seq > after or event.is_terminal:
                            yield event
                    if job.has_ended:
                        return
                    waited: list[asyncio.Future[Any]] = [changed, broken]
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if broken.done():
                    broken.result()
        finally:
            self._watchers.discard(broken)
            broken.cancel()

    async def cancel(self, job_id: str) -> None:
        job = self._find(job_id)
        self.cancelled.append(job_id)
        if job.task is not None:
            job.task.cancel()
        problem = to_problem(JobCancelled("cancelled", job_id=job_id))
        job.append(JobEvent(len(job.events) + 1, "error", problem))

    async def aclose(self) -> None:
        self.is_closed = True
        await self._cancel_tasks()
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, job_id: str) -> _ScriptedJob:
        if job_id not in self._jobs:
            raise NotFoundError(f"there is no job {job_id}", code="unknown_job")
        return self._jobs[job_id]


def _break(watcher: asyncio.Future[None], error: SocaityError) -> None:
    if not watcher.done():
        watcher.set_exception(error)


async def _play(job: _ScriptedJob, events: Events) -> None:
    try:
        if isinstance(events, AsyncIterable):
            async for event in events:
                job.append(event)
        else:
            for event in events:
                job.append(event)
                await asyncio.sleep(0)
    except Exception as exc:  # the script is the pretended remote function: whatever it raises is its failure
        error = exc if isinstance(exc, SocaityError) else JobFailed(str(exc), error_type=type(exc).__name__)
        job.append(JobEvent(len(job.events) + 1, "error", to_problem(error)))


class TransportContract:
    """What every transport to a service of ours must do, as tests; subclass it and give the fixture `service_url`.

        class TestMyTransport(TransportContract):
            @pytest.fixture
            def service_url(self): ...          # a running service; yield its URL

    Override `connect` if a URL is not enough. The service behind it must offer:

    * `echo(value)`: the value as it came;  `add(a: int, b: int = 1)`: the sum
    * `wait(gate: str)`: returns `gate` when `release(gate)` was called, before or after; stops when it is cancelled
    * `narrow(gate: str)`: the same with one at a time and a queue of one
    * `release(gate: str)`: opens a gate; for `narrow` and `wait`
    * `running(gate: str)`: returns when a `wait` or `narrow` with this gate runs
    * `count(n: int)`: yields 0 … n-1;  `trickle(gate: str)`: yields 0, and 1 after the gate was opened
    * `fail(message: str)`: raises ValueError(message)
    * `progress(gate: str)`: logs "started", reports fraction 0.5 and message "half way", waits for the gate, returns "done"
    * `double(x)`: batched, called with stacked float32 arrays of shape [3], gives them times two
    """

    def connect(self, service_url: Any, *, retry: RetryPolicy | int = 1) -> Service:
        """A silent service on the transport under test."""
        return connect(service_url, progress=False, retry=retry)

    # -- calls -----------------------------------------------------------------------------------------------------------

    def test_describes_its_endpoints(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            assert {"echo", "add", "wait", "narrow", "count", "fail", "progress", "double"} <= set(service)
            assert list(service.add.__signature__.parameters) == ["a", "b"]
            assert service.count.description.streaming

    def test_gives_the_result(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.add(2, 3)
            assert job.result(_DEADLINE) == 5
            assert job.status is JobStatus.SUCCEEDED

    def test_the_service_fills_in_defaults(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            assert service.add(2).result(_DEADLINE) == 3

    def test_text_bytes_and_nested_values_survive(self, service_url: Any) -> None:
        values = [
            "",
            "grüße 🐱 \x00 \u2028",
            {"a": [1, -2.5, None, True], "b": {"c": []}},
            [[1], [2, [3]]],
            2**53,
            0.1,
        ]
        with self.connect(service_url) as service:
            for value in values:
                assert service.echo(value).result(_DEADLINE) == value
            echoed = service.echo(b"\x00\xff\x80").result(_DEADLINE)
            assert echoed in (b"\x00\xff\x80", "AP+A")  # JSON carries bytes as base64

    def test_arrays_keep_dtype_and_shape(self, service_url: Any) -> None:
        import numpy as np

        with self.connect(service_url) as service:
            for array in self.arrays():
                echoed = service.echo(array).result(_DEADLINE)
                assert (echoed.dtype, echoed.shape) == (array.dtype, array.shape)
                assert np.array_equal(echoed, array)

    def arrays(self) -> Sequence[Any]:
        """Arrays that must come back as they went; override it for a wire that has no arrays."""
        import numpy as np

        return [
            np.arange(6, dtype=np.int64).reshape(2, 3),
            np.array([[0.5, -1.0]], dtype=np.float32),
            np.zeros((0, 4), dtype=np.uint8),
            np.array([True, False]),
            np.arange(300_000, dtype=np.float64),  # travels in pieces
        ]

    def test_batched_calls_get_their_own_rows(self, service_url: Any) -> None:
        import numpy as np

        with self.connect(service_url) as service:
            rows = [np.full(3, i, dtype=np.float32) for i in range(20)]
            jobs = [service.double(row) for row in rows]
            for row, job in zip(rows, jobs, strict=True):
                assert np.array_equal(np.asarray(job.result(_DEADLINE)), row * 2)

    def test_many_calls_at_once(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            jobs = [service.add(i, i) for i in range(200)]
            assert [job.result(_DEADLINE) for job in jobs] == [2 * i for i in range(200)]

    def test_a_result_can_be_read_twice_and_by_another_watcher(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.wait("open")
            service.release("open").result(_DEADLINE)
            assert job.result(_DEADLINE) == job.result(_DEADLINE) == "open"
            assert service.job(job.id).result(_DEADLINE) == "open"

    # -- failures --------------------------------------------------------------------------------------------------------

    def test_a_failing_function_tells_type_message_and_traceback(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.fail("no such cat")
            error = job.exception(_DEADLINE)
            assert isinstance(error, JobFailed)
            assert "no such cat" in str(error)
            assert error.error_type == "ValueError"
            assert "in fail" in (error.remote_traceback or "")
            assert job.status is JobStatus.FAILED

    def test_an_unknown_job_is_not_found(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            error = service.job("0" * 32).exception(_DEADLINE)
            assert isinstance(error, NotFoundError)

    # -- streams ---------------------------------------------------------------------------------------------------------

    def test_a_stream_gives_all_chunks_in_order(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.count(50)
            assert list(job) == list(range(50))
            assert list(job) == job.result(_DEADLINE) == list(range(50))

    def test_a_stream_in_async(self, service_url: Any) -> None:
        async def read() -> tuple[list[Any], Any]:
            async with self.connect(service_url) as service:
                job = service.count(50)
                return [chunk async for chunk in job], await job

        chunks, result = asyncio.run(asyncio.wait_for(read(), _DEADLINE))
        assert chunks == result == list(range(50))

    def test_chunks_arrive_while_the_function_runs_and_for_two_readers(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.trickle("stream")
            reader = iter(job)
            assert next(reader) == 0
            assert not job.done()
            others: list[Any] = []
            thread = threading.Thread(target=lambda: others.extend(job))
            thread.start()
            service.release("stream").result(_DEADLINE)
            assert list(reader) == [1]
            thread.join(_DEADLINE)
            assert others == [0, 1]

    def test_progress_and_logs_arrive(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.progress("bar")
            _wait_until(job, lambda: bool(job.logs) and job.progress.fraction == 0.5)
            assert (job.status, job.progress.message) == (JobStatus.RUNNING, "half way")
            service.release("bar").result(_DEADLINE)
            assert job.result(_DEADLINE) == "done"
            assert job.logs == ["started"]

    # -- stopping --------------------------------------------------------------------------------------------------------

    def test_a_timeout_leaves_the_job_running(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.wait("patience")
            try:
                job.result(0.001)
            except TimeoutError:
                pass
            else:
                raise AssertionError("result() must raise TimeoutError")
            service.release("patience").result(_DEADLINE)
            assert job.result(_DEADLINE) == "patience"

    def test_a_running_job_is_cancelled(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            job = service.wait("never")
            service.running("never").result(_DEADLINE)
            assert job.cancel()
            assert isinstance(job.exception(_DEADLINE), JobCancelled)
            assert job.status is JobStatus.CANCELLED
            assert not job.cancel()

    def test_a_queued_job_is_cancelled(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            running = service.narrow("first")
            service.running("first").result(_DEADLINE)
            queued = service.narrow("second")
            queued.cancel()
            assert isinstance(queued.exception(_DEADLINE), JobCancelled)
            service.release("first").result(_DEADLINE)
            assert running.result(_DEADLINE) == "first"

    def test_a_full_queue_refuses_and_says_when_to_come_back(self, service_url: Any) -> None:
        with self.connect(service_url) as service:
            jobs = self._fill(service)
            error = service.narrow("full").exception(_DEADLINE)
            assert isinstance(error, ServerError)
            assert (error.status, error.code) == (503, "queue_full")
            assert error.retry_after is not None
            self._drain(service, jobs)

    def test_what_a_full_queue_refused_is_accepted_by_a_retry(self, service_url: Any) -> None:
        with self.connect(service_url, retry=RetryPolicy(attempts=1000, max_time=_DEADLINE)) as service:
            jobs = self._fill(service)
            waiting = service.narrow("full")
            service.echo("the refusal has come").result(_DEADLINE)
            assert not waiting.done()
            service.release("full").result(_DEADLINE)
            self._drain(service, jobs)
            assert waiting.result(_DEADLINE) == "full"

    def test_closing_ends_the_jobs_here(self, service_url: Any) -> None:
        service = self.connect(service_url)
        job = service.wait("closed")
        service.running("closed").result(_DEADLINE)
        service.close()
        assert isinstance(job.exception(_DEADLINE), JobError | ConnectError)

    def _fill(self, service: Service) -> list[Job[Any]]:
        running = service.narrow("full")
        service.running("full").result(_DEADLINE)
        return [running, service.narrow("full")]

    def _drain(self, service: Service, jobs: list[Job[Any]]) -> None:
        service.release("full").result(_DEADLINE)
        assert [job.result(_DEADLINE) for job in jobs] == ["full", "full"]


def _wait_until(job: Job[Any], holds: Callable[[], bool]) -> None:
    """Wait for a state of a job that runs; fails at the deadline."""
    deadline = time.monotonic() + _DEADLINE
    while not holds():
        assert time.monotonic() < deadline, f"{job!r} does not get there"
        try:
            job.result(0.01)
        except TimeoutError:
            continue
        assert holds(), f"{job!r} ended first"
