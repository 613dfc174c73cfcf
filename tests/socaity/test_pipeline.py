"""Groups, `map`, and unfinished jobs as arguments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

import socaity
from socaity import InvalidInputError, JobCancelled, JobFailed, JobLost, JobStatus
from socaity.protocol.description import ParameterDescription
from socaity.testing import ScriptedTransport, number_events
from socaity.transport import Call

from .doubles import DEADLINE, endpoint, held

BROKEN = JobFailed("broken")
TYPED = endpoint("typed", ParameterDescription(name="n", json_schema={"type": "integer"}))


def doubling(call: Call) -> Any:
    return number_events(("result", call.arguments["value"] * 2))


@pytest.fixture
def doubler() -> Iterator[socaity.Service]:
    wire = ScriptedTransport(endpoint(), doubling)
    with socaity.connect("memory://test", transport=wire, progress=False) as service:
        yield service


# -- groups ----------------------------------------------------------------------------------------------------------


def test_gather_gives_the_results_in_order() -> None:
    service, wire = held()
    group = socaity.gather(*(service.ask(i) for i in range(5)))
    assert len(group) == len(group.jobs) == group.unfinished == 5
    for index, call in reversed(list(enumerate(wire.wait_for(5)))):
        assert not group.done()
        wire.succeed(call, index)
    assert group.result(DEADLINE) == list(group) == [0, 1, 2, 3, 4]
    assert group.done()
    assert repr(group) == "<JobGroup 5 of 5 ended>"
    assert not group.cancel()
    service.close()


def test_an_empty_group_has_ended() -> None:
    assert socaity.gather().result(0) == []
    assert list(socaity.as_completed([])) == []


@pytest.mark.anyio
async def test_a_group_is_awaited_and_iterated_in_async() -> None:
    service, wire = held()
    async with service:
        group = socaity.gather(service.ask(), service.ask())
        for call in await anyio.to_thread.run_sync(wire.wait_for, 2):
            await anyio.to_thread.run_sync(wire.succeed, call, 1)
        with anyio.fail_after(DEADLINE):
            assert await group == [1, 1]
            assert [value async for value in group] == [1, 1]
            assert [await job async for job in socaity.as_completed(group.jobs)] == [1, 1]


def test_a_failed_member_keeps_the_others_and_is_named() -> None:
    service, wire = held()
    group = socaity.gather(*(service.ask() for _ in range(3)))
    first, second, third = wire.wait_for(3)
    wire.succeed(first, 1)
    wire.fail(second, BROKEN)
    wire.succeed(third, 3)
    for _ in range(2):
        with pytest.raises(JobFailed, match="broken") as caught:
            group.result(DEADLINE)
    assert len(caught.value.__notes__) == 1
    assert "member 1 of 3; 1 failed" in caught.value.__notes__[0]
    assert group.result(return_exceptions=True) == [1, BROKEN, 3]
    assert wire.cancelled == []
    service.close()


def test_a_timeout_of_a_group_leaves_its_jobs_running() -> None:
    service, wire = held()
    group = socaity.gather(service.ask())
    with pytest.raises(TimeoutError, match="the jobs run on"):
        group.result(0.001)
    wire.succeed(wire.wait_for(1)[0], 1)
    assert group.result(DEADLINE) == [1]
    service.close()


def test_a_group_cancels_its_members() -> None:
    service, wire = held()
    group = socaity.gather(service.ask(), service.ask())
    wire.wait_for(2)
    assert group.cancel()
    with pytest.raises(JobCancelled):
        group.result(DEADLINE)
    assert {job.status for job in group.jobs} == {JobStatus.CANCELLED}
    service.close()


def test_as_completed_gives_the_jobs_as_they_end() -> None:
    service, wire = held()
    jobs = [service.ask(i) for i in range(3)]
    calls = wire.wait_for(3)
    wire.succeed(calls[2], "early")
    ended = iter(socaity.as_completed(jobs))
    assert next(ended) is jobs[2]
    threading.Thread(target=lambda: wire.fail(calls[0], BROKEN), daemon=True).start()
    assert next(ended) is jobs[0]
    wire.succeed(calls[1])
    assert list(ended) == [jobs[1]]
    service.close()


# -- map -------------------------------------------------------------------------------------------------------------


def test_several_loops_over_one_as_completed_get_all_jobs() -> None:
    service, wire = held()
    jobs = [service.ask(i) for i in range(3)]
    calls = wire.wait_for(3)
    completed = socaity.as_completed(jobs)
    first = iter(completed)
    seen: list[list[Any]] = [[], []]
    threads = [threading.Thread(target=lambda one=one: one.extend(completed)) for one in seen]
    for thread in threads:
        thread.start()
    wire.succeed(calls[2])
    assert next(first) is jobs[2]
    for call in calls[:2]:
        wire.succeed(call)
    for thread in threads:
        thread.join(DEADLINE)
    assert [*seen, [jobs[2], *first], list(completed)] == [[jobs[2], jobs[0], jobs[1]]] * 4
    service.close()


def test_map_gives_the_results_in_the_order_of_the_inputs(doubler: socaity.Service) -> None:
    group = doubler.ask.map(range(100), concurrency=7)
    assert group.result(DEADLINE) == list(range(0, 200, 2))
    assert list(doubler.ask.map(range(5))) == [0, 2, 4, 6, 8]


@pytest.mark.anyio
async def test_map_is_iterated_in_async(doubler: socaity.Service) -> None:
    with anyio.fail_after(DEADLINE):
        assert [value async for value in doubler.ask.map(range(50), concurrency=3)] == list(range(0, 100, 2))


def test_a_wrong_row_fails_alone() -> None:
    wire = ScriptedTransport(TYPED, lambda call: number_events(("result", call.arguments["n"])))
    with socaity.connect("memory://test", transport=wire, progress=False) as service:
        results = service.typed.map([1, "two", 3]).result(DEADLINE, return_exceptions=True)
        assert (results[0], results[2]) == (1, 3)
        assert isinstance(results[1], InvalidInputError)
        assert len(wire.calls) == 2


def test_an_iterator_that_raises_ends_the_group_after_its_jobs(doubler: socaity.Service) -> None:
    def rows() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    group = doubler.ask.map(rows())
    with pytest.raises(OSError, match="the disk is gone"):
        group.result(DEADLINE)
    assert [job.result(DEADLINE) for job in group.jobs] == [2, 4]
    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for value in group:
            seen.append(value)
    assert seen == [2, 4]


def test_no_more_jobs_than_the_concurrency_are_unfinished() -> None:
    service, wire = held()
    taken: list[int] = []

    def rows() -> Iterator[int]:
        for i in range(40):
            taken.append(i)
            yield i

    group = service.ask.map(rows(), concurrency=4)
    for ended in range(40):
        calls = wire.wait_for(ended + 1)
        assert len(calls) - ended <= 4
        assert len(taken) - ended <= 5  # one more is read before there is room for it
        wire.succeed(calls[ended], ended)
    assert group.result(DEADLINE) == list(range(40))
    service.close()


def test_a_concurrency_of_one_goes_on() -> None:
    service, wire = held()
    group = service.ask.map([1, 2, 3], concurrency=1)
    for i in range(3):
        wire.succeed(wire.wait_for(i + 1)[i], i)
    assert group.result(DEADLINE) == [0, 1, 2]
    service.close()


def test_a_cancelled_map_starts_no_more_jobs() -> None:
    service, wire = held()
    group = service.ask.map(range(1000), concurrency=2)
    wire.wait_for(2)
    assert group.cancel()
    with pytest.raises(JobCancelled):
        group.result(DEADLINE)
    assert len(wire.calls) <= 3
    service.close()


def test_map_walks_several_inputs_together_with_constants() -> None:
    many = endpoint("many", *(ParameterDescription(name=name) for name in "abc"))
    service, wire = held(many)
    group = service.many.map([1, 2], [3, 4], c=5)
    calls = wire.wait_for(2)
    assert [call.arguments for call in calls] == [{"a": 1, "b": 3, "c": 5}, {"a": 2, "b": 4, "c": 5}]
    for call in calls:
        wire.succeed(call)
    group.result(DEADLINE)
    with pytest.raises(InvalidInputError, match="at least one iterable"):
        service.many.map()
    with pytest.raises(InvalidInputError, match="at least 1"):
        service.many.map([1], concurrency=0)
    service.close()


def test_the_rows_of_a_map_on_a_closed_service_fail() -> None:
    service, _ = held()
    ask = service.ask
    service.close()
    errors = ask.map([1, 2]).result(DEADLINE, return_exceptions=True)
    assert [type(error) for error in errors] == [socaity.ConfigurationError] * 2


# -- jobs as arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sent"),
    [
        (lambda job: job, {"images": ["x", "y"]}),
        (lambda job: job["images"][1], "y"),
        (lambda job: {"a": [job["images"][0], (job, 5)]}, {"a": ["x", [{"images": ["x", "y"]}, 5]]}),
    ],
)
def test_an_unfinished_job_is_an_argument(make: Any, sent: Any) -> None:
    service, wire = held()
    upstream = service.ask()
    job = service.ask(make(upstream))
    [first] = wire.wait_for(1)
    assert job.status is JobStatus.QUEUED
    wire.succeed(first, {"images": ["x", "y"]})
    second = wire.wait_for(2)[1]
    assert second.id == job.id
    assert second.arguments == {"value": sent} or list(second.arguments["value"]["a"]) == sent["a"]
    wire.succeed(second, "end")
    assert job.result(DEADLINE) == "end"
    service.close()


def test_a_finished_job_is_an_argument_too(doubler: socaity.Service) -> None:
    upstream = doubler.ask(1)
    assert upstream.result(DEADLINE) == 2
    assert doubler.ask(value=upstream).result(DEADLINE) == 4
    assert doubler.ask(doubler.ask(doubler.ask(1))).result(DEADLINE) == 8


def test_a_job_of_another_service_is_an_argument(doubler: socaity.Service) -> None:
    service, wire = held()
    job = service.ask([doubler.ask(1), doubler.ask(2)])
    [call] = wire.wait_for(1)
    assert call.arguments == {"value": [2, 4]}
    wire.succeed(call, "end")
    assert job.result(DEADLINE) == "end"
    service.close()


def test_a_failed_upstream_job_fails_what_needs_it() -> None:
    service, wire = held()
    upstream = service.ask()
    job = service.ask(upstream)
    after = service.ask([job])
    wire.fail(wire.wait_for(1)[0], BROKEN)
    with pytest.raises(JobFailed, match=r"an argument of ask came from .*: broken") as caught:
        job.result(DEADLINE)
    assert caught.value.__cause__ is BROKEN
    assert caught.value.job_id == job.id
    with pytest.raises(JobFailed):
        after.result(DEADLINE)
    assert len(wire.calls) == 1
    service.close()


def test_a_part_that_is_not_there_fails_the_job() -> None:
    service, wire = held()
    upstream = service.ask()
    job = service.ask(upstream["missing"])
    wire.succeed(wire.wait_for(1)[0], {})
    with pytest.raises(InvalidInputError, match="missing"):
        job.result(DEADLINE)
    service.close()


def test_what_is_wrong_besides_the_job_is_refused_at_once() -> None:
    service, _ = held(
        endpoint(
            "typed",
            ParameterDescription(name="n", json_schema={"type": "integer"}),
            ParameterDescription(name="m"),
        )
    )
    with pytest.raises(InvalidInputError, match="no argument 'o'"):
        service.typed(service.typed(1, 2), 2, o=3)
    with pytest.raises(InvalidInputError, match="expected an integer"):
        service.typed("x", service.typed(1, 2))
    with pytest.raises(InvalidInputError, match="needs the argument 'm'"):
        service.typed(service.typed(1, 2))
    service.close()


def test_the_value_of_an_upstream_job_is_checked_when_it_is_there() -> None:
    service, wire = held(TYPED)
    job = service.typed(service.typed(1))
    wire.succeed(wire.wait_for(1)[0], "no number")
    with pytest.raises(InvalidInputError, match="expected an integer"):
        job.result(DEADLINE)
    service.close()


def test_cancelling_while_an_argument_is_waited_for_sends_nothing() -> None:
    service, wire = held()
    upstream = service.ask()
    job = service.ask(upstream)
    assert job.cancel()
    assert isinstance(job.exception(DEADLINE), JobCancelled)
    wire.succeed(wire.wait_for(1)[0], 1)
    assert len(wire.calls) == 1
    assert wire.cancelled == []
    service.close()


def test_closing_ends_a_job_that_waits_for_an_argument() -> None:
    service, wire = held()
    job = service.ask(service.ask())
    wire.wait_for(1)
    service.close()
    error = job.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert isinstance(error.__cause__, JobLost)
