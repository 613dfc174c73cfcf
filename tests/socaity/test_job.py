"""A Job in threads, asyncio and trio: waiting, streams, callbacks, and what events do to it."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import anyio
import pytest

import socaity
from socaity import JobCancelled, JobFailed, JobLost, JobStatus, NotFoundError, ProtocolError, ServerError
from socaity.protocol.events import JobEvent

from .doubles import DEADLINE, endpoint, held, on_loop

STREAM = endpoint("write", streaming=True)


def test_a_call_returns_a_queued_job_at_once() -> None:
    service, _ = held()
    job = service.ask(1)
    assert job.status is JobStatus.QUEUED
    assert not job.done()
    assert len(job.id) == 32
    assert int(job.id, 16)
    assert (job.queue_position, job.eta, job.logs) == (None, None, [])
    service.close()


def test_ids_are_unique_and_the_calls_carry_them() -> None:
    service, wire = held()
    jobs = [service.ask(i) for i in range(100)]
    calls = wire.wait_for(100)
    assert [call.id for call in calls] == [job.id for job in jobs]
    assert len({job.id for job in jobs}) == 100
    assert [call.arguments for call in calls] == [{"value": i} for i in range(100)]
    service.close()


def test_result_waits_and_can_be_read_again() -> None:
    service, wire = held()
    job = service.ask()
    threading.Thread(target=lambda: wire.succeed(wire.wait_for(1)[0], [1, 2]), daemon=True).start()
    assert job.result(DEADLINE) == [1, 2]
    assert job.result() is job.result()
    assert job.done()
    assert job.exception() is None
    service.close()


def test_a_timeout_raises_and_the_job_runs_on() -> None:
    service, wire = held()
    job = service.ask()
    for timeout in (0, -1, 0.001):
        with pytest.raises(TimeoutError, match="it runs on"):
            job.result(timeout)
        with pytest.raises(TimeoutError):
            job.exception(timeout)
    wire.succeed(wire.wait_for(1)[0], "late")
    assert job.result(math.inf) == "late"
    assert wire.cancelled == []
    service.close()


def test_many_threads_wait_for_one_job() -> None:
    service, wire = held()
    job = service.ask()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(job.result(DEADLINE))) for _ in range(20)]
    for thread in threads:
        thread.start()
    wire.succeed(wire.wait_for(1)[0], 5)
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [5] * 20
    service.close()


@pytest.mark.anyio
async def test_many_tasks_wait_for_one_job() -> None:
    service, wire = held()
    async with service:
        job = service.ask()
        results: list[Any] = []

        async def wait() -> None:
            results.append(await job)

        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(wait)
                call = (await anyio.to_thread.run_sync(wire.wait_for, 1))[0]
                await anyio.to_thread.run_sync(wire.succeed, call, 5)
        assert results == [5] * 20
        assert await job == 5


@pytest.mark.anyio
async def test_a_cancelled_task_does_not_cancel_the_job() -> None:
    service, wire = held()
    async with service:
        job = service.ask()
        with anyio.move_on_after(0.01) as scope:
            await job
        assert scope.cancelled_caught
        assert not job.done()
        call = (await anyio.to_thread.run_sync(wire.wait_for, 1))[0]
        await anyio.to_thread.run_sync(wire.succeed, call, "later")
        with anyio.fail_after(DEADLINE):
            assert await job == "later"
        assert wire.cancelled == []


@pytest.mark.anyio
async def test_an_error_is_raised_by_await() -> None:
    service, wire = held()
    async with service:
        job = service.ask()
        call = (await anyio.to_thread.run_sync(wire.wait_for, 1))[0]
        await anyio.to_thread.run_sync(wire.fail, call, JobFailed("broken"))
        for _ in range(2):
            with pytest.raises(JobFailed, match="broken"):
                await job


def test_result_works_in_a_thread_where_a_loop_runs() -> None:
    async def cell() -> Any:
        return service.ask().result(DEADLINE)

    service, wire = held()
    threading.Thread(target=lambda: wire.succeed(wire.wait_for(1)[0], 1), daemon=True).start()
    assert asyncio.run(asyncio.wait_for(cell(), DEADLINE)) == 1
    service.close()


def test_jobs_are_awaited_on_several_loops_at_once() -> None:
    service, wire = held()
    job = service.ask()

    async def wait() -> Any:
        return await asyncio.wait_for(wait_for_job(), DEADLINE)

    async def wait_for_job() -> Any:
        return await job

    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(wait()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wire.succeed(wire.wait_for(1)[0], 1)
    for thread in threads:
        thread.join(DEADLINE)
    assert results == [1] * 3
    service.close()


def test_a_loop_that_was_closed_while_its_task_waited_harms_nobody() -> None:
    service, wire = held()
    job = service.ask()

    async def wait() -> Any:
        return await job

    loop = asyncio.new_event_loop()
    task = loop.create_task(wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    wire.succeed(wire.wait_for(1)[0], 1)
    assert job.result(DEADLINE) == 1
    task.get_coro().close()  # type: ignore[union-attr]
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    service.close()


def test_waiting_on_our_own_loop_is_refused() -> None:
    service, wire = held()
    first, second = service.ask(), service.ask()
    caught: list[BaseException] = []
    has_run = threading.Event()

    def wait(job: Any) -> None:
        try:
            second.result()
        except RuntimeError as exc:
            caught.append(exc)
        try:
            service.close()
        except RuntimeError as exc:
            caught.append(exc)
        has_run.set()

    first.add_done_callback(wait)
    wire.succeed(wire.wait_for(1)[0])
    assert has_run.wait(DEADLINE)
    assert ["own loop" in str(exc) for exc in caught] == [True, True]
    service.close()


def test_done_callbacks_run_once_also_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    service, wire = held()
    job = service.ask()
    seen: list[Any] = []

    def broken(job: Any) -> None:
        raise ValueError("mine")

    job.add_done_callback(broken)
    job.add_done_callback(lambda one: seen.append(("before", one)))
    wire.succeed(wire.wait_for(1)[0])
    job.add_done_callback(lambda one: seen.append(("after", one)))
    assert seen == [("before", job), ("after", job)]
    assert "a done callback of job" in caplog.text
    service.close()


# -- events ----------------------------------------------------------------------------------------------------------


def test_events_change_what_the_job_says() -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "queued", "queue_position": 3}))
    assert (job.status, job.queue_position) == ("queued", 3)
    wire.deliver(call, ("status", {"status": "running", "queue_position": None}))
    wire.deliver(call, ("progress", {"fraction": 0.5, "message": "half"}), ("log", {"message": "line"}))
    assert (job.status, job.queue_position) == ("running", None)
    assert job.progress == socaity.Progress(0.5, "half")
    assert job.eta is not None
    assert job.logs == ["line"]
    assert 'aria-valuenow="50"' in job._repr_html_()
    wire.deliver(call, ("result", 1))
    assert (job.status, job.eta) == ("succeeded", 0.0)
    service.close()


@pytest.mark.parametrize(
    ("sent", "shown"), [(0, 0.0), (1, 1.0), (0.25, 0.25), (42, 1.0), (-3, 0.0), (None, None), (math.nan, 0.0)]
)
def test_progress_outside_of_its_range_is_cut_off(sent: Any, shown: float | None) -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("progress", {"fraction": sent, "message": None}))
    assert job.progress == socaity.Progress(shown, None)
    assert not job.done()
    service.close()


def test_a_terminal_status_is_no_result() -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "running"}), ("status", {"status": "succeeded"}))
    assert job.status is JobStatus.RUNNING
    wire.deliver(call, ("result", "now"))
    assert job.result(DEADLINE) == "now"
    service.close()


def test_a_gap_in_the_events_is_a_protocol_error() -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    on_loop(lambda: call.deliver(JobEvent(3, "log", {"message": "a"})))
    with pytest.raises(ProtocolError, match="events 1 to 2"):
        job.result(DEADLINE)
    service.close()


def test_repeated_and_late_events_are_ignored() -> None:
    service, wire = held(STREAM)
    job = service.write()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("chunk", "a"), ("chunk", "b"))
    on_loop(lambda: call.deliver(JobEvent(1, "chunk", "a")))
    wire.deliver(call, ("result", None))
    for event in (
        JobEvent(4, "chunk", "c"),
        JobEvent(4, "status", {"status": "running"}),
        JobEvent(0, "error", {}),
    ):
        on_loop(lambda event=event: call.deliver(event))  # type: ignore[misc]
    assert job.result(DEADLINE) == ["a", "b"]
    assert job.status is JobStatus.SUCCEEDED
    service.close()


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("status", {"status": "mining"}),
        ("status", None),
        ("progress", {"fraction": "x"}),
        ("progress", 5),
        ("log", None),
        ("error", {"code": "cancelled", "logs": 5}),
        ("error", {"status": "x", "retry_after": "soon"}),
        ("error", None),
    ],
)
def test_a_malformed_event_ends_the_job(kind: Any, data: Any) -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, (kind, data))
    assert isinstance(job.exception(DEADLINE), socaity.SocaityError)
    service.close()


def test_a_failure_carries_the_id_and_the_logs() -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    problem = {
        "code": "job_failed",
        "detail": "ValueError: x",
        "error_type": "ValueError",
        "traceback": "File …",
    }
    wire.deliver(call, ("log", {"message": "before"}), ("error", problem))
    with pytest.raises(JobFailed, match="On the server:\nFile …") as caught:
        job.result(DEADLINE)
    assert (caught.value.job_id, caught.value.logs) == (job.id, ("before",))
    assert caught.value.error_type == "ValueError"
    assert job.status is JobStatus.FAILED
    assert "ValueError: x" in job._repr_html_()
    service.close()


def test_a_job_that_the_service_forgot_is_lost() -> None:
    service, wire = held()
    job = service.ask()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "running"}))
    wire.fail(call, NotFoundError("gone"))
    assert isinstance(job.exception(DEADLINE), JobLost)
    service.close()


def test_a_result_that_does_not_fit_the_declared_type_fails_the_job() -> None:
    service, wire = held()
    service.ask.decode = int
    job = service.ask()
    wire.succeed(wire.wait_for(1)[0], "x")
    with pytest.raises(JobFailed, match="declared type"):
        job.result(DEADLINE)
    service.close()


# -- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no cat"), ValueError("no cat"), ArithmeticError("no cat")])
def test_a_chunk_that_does_not_fit_the_declared_type_fails_the_job(error: Exception) -> None:
    service, wire = held(endpoint("write", streaming=True))

    def refuse(chunk: Any) -> Any:
        if chunk:
            raise error
        return chunk

    service.write.decode_chunk = refuse
    job = service.write()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("chunk", 0), ("chunk", 1), ("chunk", 0), ("result", None))
    chunks = iter(job)
    assert next(chunks) == 0
    with pytest.raises(JobFailed, match="a chunk does not fit the declared type: no cat") as caught:
        next(chunks)
    assert caught.value.__cause__ is error
    assert caught.value.error_type == type(error).__name__
    assert job.exception(DEADLINE) is caught.value
    service.close()


def test_cancel_asks_the_service_and_the_job_ends_as_cancelled() -> None:
    service, wire = held()
    job = service.ask()
    wire.wait_for(1)
    assert job.cancel()
    assert isinstance(job.exception(DEADLINE), JobCancelled)
    assert (wire.cancelled, job.status) == ([job.id], JobStatus.CANCELLED)
    assert not job.cancel()
    service.close()


def test_a_service_that_cannot_cancel_leaves_an_accepted_job_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service, wire = held()

    async def refuse(job_id: str) -> None:
        asked.set()
        raise ServerError("no")

    asked = threading.Event()
    wire.cancel = refuse  # type: ignore[method-assign]
    job, unsent = service.ask(), service.ask()
    first, _ = wire.wait_for(2)
    wire.deliver(first, ("status", {"status": "running"}))
    job.cancel()
    assert asked.wait(DEADLINE)
    wire.succeed(first, 1)
    assert job.result(DEADLINE) == 1
    assert "could not be cancelled" in caplog.text
    unsent.cancel()
    assert isinstance(unsent.exception(DEADLINE), JobCancelled)
    service.close()


# -- streams ---------------------------------------------------------------------------------------------------------


def test_two_readers_get_all_chunks_while_they_come() -> None:
    service, wire = held(STREAM)
    job = service.write()
    [call] = wire.wait_for(1)
    reader, other = iter(job), iter(job)
    wire.deliver(call, ("chunk", 1))
    assert (next(reader), next(other)) == (1, 1)
    threading.Thread(target=lambda: wire.deliver(call, ("chunk", 2), ("result", None)), daemon=True).start()
    assert list(reader) == list(other) == [2]
    assert list(job) == job.result(DEADLINE) == [1, 2]
    service.close()


@pytest.mark.anyio
async def test_chunks_are_iterated_in_async() -> None:
    service, wire = held(STREAM)
    async with service:
        job = service.write()
        call = (await anyio.to_thread.run_sync(wire.wait_for, 1))[0]
        await anyio.to_thread.run_sync(wire.deliver, call, ("chunk", 0))
        seen: list[Any] = []

        async def read() -> None:
            async for chunk in job:
                seen.append(chunk)
                is_waiting.set()

        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as group:
                is_waiting = anyio.Event()
                group.start_soon(read)
                await is_waiting.wait()
                await anyio.to_thread.run_sync(wire.deliver, call, ("chunk", 1), ("chunk", 2))
                await anyio.to_thread.run_sync(wire.deliver, call, ("result", None))
            assert await job == seen == [0, 1, 2]


def test_a_stream_that_fails_gives_its_chunks_first() -> None:
    service, wire = held(STREAM)
    job = service.write()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("chunk", 1), ("error", {"code": "job_failed", "detail": "broken"}))
    seen = []
    with pytest.raises(JobFailed, match="broken"):
        for chunk in job:
            seen.append(chunk)
    assert seen == [1]
    service.close()


@pytest.mark.anyio
async def test_only_streams_can_be_iterated() -> None:
    service, _ = held()
    async with service:
        with pytest.raises(TypeError, match="does not stream"):
            list(service.ask())
        with pytest.raises(TypeError, match="does not stream"):
            async for _ in service.ask():
                pass
        with pytest.raises(TypeError, match="cannot be iterated"):
            list(service.ask()[0])


# -- parts and attaching ---------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_reference_is_a_part_of_the_result() -> None:
    service, wire = held()
    async with service:
        job = service.ask()
        part = job["images"][1]
        call = (await anyio.to_thread.run_sync(wire.wait_for, 1))[0]
        await anyio.to_thread.run_sync(wire.succeed, call, {"images": ["a", "b"]})
        assert await part == part.result(DEADLINE) == "b"
        assert repr(part) == f"<{job!r}['images'][1]>"
        with pytest.raises(KeyError, match=r"no \['sounds'\]"):
            job["sounds"][0].result(DEADLINE)


def test_a_job_is_attached_by_its_id() -> None:
    service, wire = held()
    job = service.job("a" * 32)
    [call] = wire.wait_for(1)
    assert call.id == "a" * 32
    wire.deliver(call, ("chunk", 1), ("result", None))
    assert list(job) == [1]
    unknown = service.job("b" * 32)
    wire.fail(wire.wait_for(2)[1], NotFoundError("unknown"))
    assert isinstance(unknown.exception(DEADLINE), NotFoundError)
    service.close()


def test_closing_ends_the_jobs_and_refuses_more() -> None:
    service, wire = held()
    job = service.ask()
    wire.wait_for(1)
    service.close()
    service.close()
    assert isinstance(job.exception(DEADLINE), JobLost)
    assert wire.is_closed
    with pytest.raises(socaity.ConfigurationError, match="was closed"):
        service.ask()
    with pytest.raises(socaity.ConfigurationError, match="was closed"):
        service.job("a" * 32)


# -- jobs where values were meant ---------------------------------------------------------------------------------------


def test_a_job_has_no_truth_before_and_after_its_end() -> None:
    service, wire = held()
    job: Any = service.ask()
    for value in (None, True):
        if value is not None:
            wire.succeed(wire.wait_for(1)[0], value)
            assert job.result(DEADLINE) is value
        with pytest.raises(
            TypeError, match=r"is a job, not its result, and always true; write job\.result\(\)"
        ):
            bool(job)
        with pytest.raises(TypeError, match=r"not the value, and always true; write \.result\(\)"):
            assert not job["ok"]
        assert job is not None
        assert job != "x"
    group = socaity.gather(job)
    assert group
    assert not socaity.gather()
    service.close()


# -- asyncio.wait -------------------------------------------------------------------------------------------------------


def test_asyncio_wait_takes_jobs() -> None:
    service, wire = held()
    jobs = [service.ask(i) for i in range(3)]
    calls = wire.wait_for(3)

    async def wait(**options: Any) -> tuple[set[Any], set[Any]]:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.wait(jobs, **options)

    async def run() -> None:
        assert await wait(timeout=0) == (set(), set(jobs))
        assert not any(job._waiters for job in jobs), "whoever waits no longer is forgotten"

        waiting = asyncio.create_task(wait(return_when=asyncio.FIRST_COMPLETED))
        await asyncio.to_thread(wire.succeed, calls[0])
        assert await waiting == ({jobs[0]}, set(jobs[1:]))

        waiting = asyncio.create_task(wait(return_when=asyncio.FIRST_EXCEPTION))
        await asyncio.to_thread(wire.fail, calls[1], JobCancelled("stopped"))
        assert not waiting.done(), "a cancelled one is no exception"
        await asyncio.to_thread(wire.fail, calls[2], JobFailed("broken"))
        assert await waiting == (set(jobs), set())

        assert await wait() == (set(jobs), set()), "all have ended before"

    asyncio.run(run())
    assert [job.cancelled() for job in jobs] == [False, True, False]
    service.close()


def test_asyncio_wait_whose_loop_was_closed_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    service, wire = held()
    job = service.ask()

    def on_completion(job: Any) -> None:
        raise AssertionError("its loop is closed")

    on_completion.__module__ = "asyncio.tasks"

    async def add() -> None:
        job.add_done_callback(on_completion)

    asyncio.run(add())
    wire.succeed(wire.wait_for(1)[0], 1)
    assert job.result(DEADLINE) == 1
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    service.close()


def test_a_callback_of_a_loop_that_blocks_is_called_all_the_same() -> None:
    service, wire = held()
    job = service.ask()
    called = threading.Event()

    async def cell() -> None:
        job.add_done_callback(lambda _: called.set())
        threading.Thread(target=lambda: wire.succeed(wire.wait_for(1)[0])).start()
        assert called.wait(DEADLINE)  # as in a notebook, whose loop runs

    asyncio.run(cell())
    service.close()


def test_a_done_callback_is_taken_back() -> None:
    service, wire = held()
    job = service.ask()
    called: list[str] = []

    def first(_: object) -> None:
        called.append("first")

    for function in (first, lambda _: called.append("second"), first):
        job.add_done_callback(function)
    assert job.remove_done_callback(first) == 2
    assert job.remove_done_callback(first) == 0
    wire.succeed(wire.wait_for(1)[0])
    job.result(DEADLINE)
    assert called == ["second"]
    assert job.remove_done_callback(first) == 0
    service.close()


# -- attached by its id -------------------------------------------------------------------------------------------------


def test_an_attached_job_says_that_nothing_is_known_of_it_yet() -> None:
    service, wire = held()
    job = service.job("a" * 32)
    assert repr(job) == f"<Job {'a' * 32} (no answer yet)>"
    assert "no answer yet" in job._repr_html_()
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "queued", "queue_position": 1}))
    assert repr(job) == f"<Job job {'a' * 32} queued>"
    assert "queued, place 1" in job._repr_html_()
    wire.succeed(call, 1)
    assert repr(job) == f"<Job job {'a' * 32} succeeded>"
    service.close()


@pytest.mark.parametrize("wrong", [None, 5, b"a" * 32])
def test_a_job_is_attached_by_text_only(wrong: Any) -> None:
    service, wire = held()
    with pytest.raises(TypeError, match=r"takes the id of a job, which is text, not "):
        service.job(wrong)
    job: Any = service.ask()
    with pytest.raises(TypeError, match=r"not <Job ask .*>; its id is job\.id"):
        service.job(job)
    assert len(wire.wait_for(1)) == 1
    service.close()


# -- the wire is gone ---------------------------------------------------------------------------------------------------


def test_a_timeout_names_what_keeps_calls_from_the_service() -> None:
    service, wire = held()
    job = service.ask()
    wire.wait_for(1)
    wire.trouble = "the connection is lost and is being made again"  # type: ignore[attr-defined]
    with pytest.raises(
        TimeoutError, match=r"still queued after 0 s; the connection is lost and is being made again"
    ):
        job.result(0)
    with pytest.raises(TimeoutError, match=r"after 0 s; the connection is lost and is being made again"):
        socaity.gather(job).result(0)
    service.close()
