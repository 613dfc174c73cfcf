"""Groups, `map`, and unfinished jobs as arguments."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import socaity
from socaity import InvalidInputError, JobCancelled, JobFailed, JobLost, JobStatus
from socaity._memo import Memo
from socaity.protocol.description import EndpointDescription, ParameterDescription
from socaity.testing import ScriptedTransport, number_events
from socaity.transport import Call

from .doubles import DEADLINE, HeldTransport, endpoint, held, on_loop

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
    with pytest.raises(
        JobFailed, match=r"ask was not run: its argument .value. comes from ask .*, which failed: broken"
    ) as caught:
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
    assert job.cancel(upstream=False)
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


# -- steps that are referred to ----------------------------------------------------------------------------------------


class Stays:
    """A result that a test gives when it is asked for."""

    def __init__(self) -> None:
        self.asked: list[Call] = []

    def fetch(self, call: Call) -> None:
        if not self.asked:
            self.asked.append(call)


class ReferringTransport(HeldTransport):
    """Sends `["job", id, path]` for what it has."""

    takes_references = True  # type: ignore[assignment]

    def __init__(self, *endpoints: EndpointDescription) -> None:
        super().__init__(*endpoints)
        self.sent: dict[str, Any] = {}
        self.refused: set[str] = set()

    def start(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self.refused.discard(call.id)
            arguments = call.arguments_with(self._refer) if call.upstream else call.arguments
            if arguments is not None:
                self.sent[call.id] = arguments
                super().start([call])

    def _refer(self, upstream: Call, path: Sequence[str | int]) -> dict[str, Any] | None:
        is_here = upstream.id in self.sent and upstream.id not in self.refused
        return {"$": upstream.id, "path": list(path)} if is_here else None


def referring(**options: Any) -> tuple[socaity.Service, ReferringTransport]:
    wire = ReferringTransport(endpoint(), endpoint("direct", direct=True))
    return socaity.connect(
        "held://test", transport=lambda target: wire, **{"progress": False, "retry": 1, **options}
    ), wire


def test_a_step_is_sent_at_once_where_references_are_understood() -> None:
    service, wire = referring()
    one = service.ask()
    two = service.ask([one["a"], 5])
    calls = wire.wait_for(2)
    assert wire.sent[two.id] == {"value": [{"$": one.id, "path": ["a"]}, 5]}
    assert two.upstream == (one,)
    wire.succeed(calls[1], "two")
    assert two.result(DEADLINE) == "two"
    assert not one.done()
    service.close()


def test_small_values_are_sent_and_large_ones_of_jobs_referred_to() -> None:
    service, wire = referring()
    small, large, direct = service.ask(1), service.ask(2), service.direct(3)
    calls = wire.wait_for(3)
    for call, value in zip(calls, ("small", "x" * 100_000, "y" * 100_000), strict=True):
        wire.succeed(call, value)
    for job in (small, large, direct):
        job.result(DEADLINE)
    job = service.ask([small, large, direct])
    wire.wait_for(4)
    assert wire.sent[job.id] == {"value": ["small", {"$": large.id, "path": []}, "y" * 100_000]}
    service.close()


@pytest.mark.parametrize("code", ["unknown_job", "unknown_call", "upstream_failed"])
def test_a_refused_reference_becomes_a_value(code: str) -> None:
    service, wire = referring()
    one = service.direct()
    two = service.ask(one)
    first, second = wire.wait_for(2)
    refusal = (
        InvalidInputError("what?", code=code) if code != "upstream_failed" else JobFailed("no", code=code)
    )
    was_accepted = code == "upstream_failed"
    id_before = two.id
    if was_accepted:
        wire.deliver(second, ("status", {"status": "queued", "queue_position": None}))
    wire.fail(second, refusal)
    assert not two.done()
    wire.succeed(first, "value")
    again = wire.wait_for(3)[2]
    assert wire.sent[two.id] == {"value": "value"}
    # an id under which the job has ended there is used up
    assert (two.id != id_before) == was_accepted
    wire.fail(again, refusal)
    assert two.exception(DEADLINE) is refusal
    service.close()


def test_what_waits_follows_as_soon_as_the_step_before_it_is_sent() -> None:
    service, wire = referring(retry=3)
    one = service.direct()
    two = service.ask(one)
    first, second = wire.wait_for(2)
    busy = socaity.ServerError("busy", status=503, retry_after=0.0)

    def both() -> None:
        wire.refused.add(first.id)
        first.fail(busy)
        second.fail(InvalidInputError("what?", code="unknown_call"))

    on_loop(both)
    again = wire.wait_for(4)[2:]
    assert [call.id for call in again] == [one.id, two.id]
    assert wire.sent[two.id] == {"value": {"$": one.id, "path": []}}
    assert not one.done()
    service.close()


def test_a_result_that_stays_is_fetched_when_somebody_looks() -> None:
    service, wire = referring()
    job = service.ask()
    stays = Stays()
    [call] = wire.wait_for(1)
    on_loop(lambda: call.hold(stays))
    assert (job.done(), job.status, job.progress.fraction) == (True, "succeeded", 1.0)
    assert job.exception(DEADLINE) is None
    assert not job.cancel()
    assert job.retry() is job
    assert not stays.asked
    taken = service.ask(job)
    wire.wait_for(2)
    assert wire.sent[taken.id] == {"value": {"$": job.id, "path": []}}
    assert not stays.asked
    with pytest.raises(TimeoutError):
        job.result(0.01)
    assert stays.asked == [job]
    wire.succeed(call, "value")
    assert job.result(DEADLINE) == "value"
    service.close()


@pytest.mark.parametrize(
    "look", ["wait", "callback", "group", "group before", "as_completed", "other service"]
)
def test_everybody_who_needs_the_value_looks(look: str, doubler: socaity.Service) -> None:
    service, wire = referring()
    job = service.ask()
    [call] = wire.wait_for(1)
    stays, seen = Stays(), threading.Event()
    waiting: Any = None
    if look == "group before":
        waiting = socaity.gather(job)
        waiting._when_ended(seen.set)
    on_loop(lambda: call.hold(stays))
    if look == "wait":
        threading.Thread(target=lambda: (job.result(DEADLINE), seen.set()), daemon=True).start()
    elif look == "callback":
        job.add_done_callback(lambda _: seen.set())
    elif look == "group":
        socaity.gather(job)._when_ended(seen.set)
    elif look == "as_completed":
        threading.Thread(target=lambda: (list(socaity.as_completed([job])), seen.set()), daemon=True).start()
    elif look == "other service":
        waiting = doubler.ask(job)
        waiting._when_ended(seen.set)
    give_up = time.monotonic() + DEADLINE
    while not stays.asked:
        assert time.monotonic() < give_up
        on_loop(lambda: None)
    assert not seen.is_set()
    wire.succeed(call, 1)
    assert seen.wait(DEADLINE)
    service.close()


def test_a_group_that_nobody_looks_at_leaves_the_values_there() -> None:
    service, wire = referring()
    group = socaity.gather(service.ask(), service.ask())
    stays = [Stays(), Stays()]
    for call, one in zip(wire.wait_for(2), stays, strict=True):
        on_loop(lambda call=call, one=one: call.hold(one))  # type: ignore[misc]
    assert group.done()
    assert group.unfinished == 0
    taken = service.ask(group)
    wire.wait_for(3)
    assert [one["$"] for one in wire.sent[taken.id]["value"]] == [job.id for job in group.jobs]
    assert not any(one.asked for one in stays)
    service.close()


def test_a_value_that_cannot_be_had_any_more_is_lost() -> None:
    service, wire = referring()
    job = service.ask()
    [call] = wire.wait_for(1)
    on_loop(lambda: call.hold(Stays()))
    wire.fail(call, InvalidInputError("not held", code="unknown_call"))
    assert isinstance(job.exception(DEADLINE), JobLost)
    again = job.retry()
    wire.succeed(wire.wait_for(2)[1], 5)
    assert again.result(DEADLINE) == 5
    service.close()


# -- cancelling and repeating ------------------------------------------------------------------------------------------


def test_cancelling_reaches_what_nobody_else_wants() -> None:
    service, wire = referring()
    shared, alone, wanted = service.ask(1), service.ask(2), service.ask(3)
    reads = threading.Event()
    wanted.add_done_callback(lambda _: reads.set())
    middle = service.ask([shared, alone, wanted])
    last = service.ask(middle)
    other = service.ask(shared)
    wire.wait_for(6)
    assert last.cancel()
    for job in (last, middle, alone):
        assert isinstance(job.exception(DEADLINE), JobCancelled)
    assert not shared.done()
    assert not wanted.done()
    assert other.cancel()
    assert isinstance(other.exception(DEADLINE), JobCancelled)
    assert isinstance(shared.exception(DEADLINE), JobCancelled)
    assert not wanted.done()
    service.close()


def test_two_that_are_cancelled_together_take_what_both_need_with_them() -> None:
    service, wire = held()
    shared = service.ask()
    group = service.ask.map([shared, shared])
    wire.wait_for(1)
    while len(group) < 2:
        on_loop(lambda: None)
    assert group.cancel()
    on_loop(lambda: None)  # who waits from now on does not keep it
    assert isinstance(shared.exception(DEADLINE), JobCancelled)
    service.close()


def test_a_call_is_made_again_with_its_arguments() -> None:
    service, wire = held()
    job = service.ask({"a": [1, 2]})
    wire.fail(wire.wait_for(1)[0], BROKEN)
    assert job.exception(DEADLINE) is BROKEN
    again = job.retry()
    assert again.id != job.id
    call = wire.wait_for(2)[1]
    assert call.arguments == {"value": {"a": [1, 2]}}
    assert again.retry() is again
    service.close()


def test_what_failed_before_is_made_again_once() -> None:
    service, wire = held()
    good, bad = service.ask("good"), service.ask("bad")
    left, right = service.ask([bad, good]), service.ask(bad["x"])
    last = service.ask({"both": [left, right]})
    wire.succeed(wire.wait_for(2)[0], "fine")
    wire.fail(wire.wait_for(2)[1], BROKEN)
    assert isinstance(last.exception(DEADLINE), JobFailed)
    again = last.retry()
    retried = wire.wait_for(3)[2]
    assert retried.arguments == {"value": "bad"}
    wire.succeed(retried, {"x": 5})
    for call in wire.wait_for(5)[3:]:
        wire.succeed(call, call.arguments["value"])
    final = wire.wait_for(6)[5]
    assert final.arguments == {"value": {"both": [[{"x": 5}, "fine"], 5]}}
    wire.succeed(final, "end")
    assert again.result(DEADLINE) == "end"
    assert len(wire.calls) == 6
    service.close()


def test_a_row_that_was_refused_is_made_again(tmp_path: Any) -> None:
    service, wire = held(TYPED)
    group = service.typed.map(["no number", 2])
    wire.succeed(wire.wait_for(1)[0], 2)
    errors = group.result(DEADLINE, return_exceptions=True)
    assert isinstance(errors[0], InvalidInputError)
    again = group.retry()
    assert again.jobs[1] is group.jobs[1]
    assert again.jobs[0] is not group.jobs[0]
    assert isinstance(again.result(DEADLINE, return_exceptions=True)[0], InvalidInputError)
    service.close()


def test_a_job_that_was_attached_to_cannot_be_made_again() -> None:
    service, wire = held()
    job = service.job("0" * 32)
    wire.fail(wire.wait_for(1)[0], BROKEN)
    assert job.exception(DEADLINE) is BROKEN
    with pytest.raises(socaity.ConfigurationError, match="attached to by its id"):
        job.retry()
    service.close()


def test_a_group_that_still_grows_cannot_be_made_again() -> None:
    service, wire = held()
    gate = threading.Event()

    def inputs() -> Iterator[int]:
        yield 1
        assert gate.wait(DEADLINE)

    group = service.ask.map(inputs())
    waits = service.ask(group)
    wire.wait_for(1)
    with pytest.raises(RuntimeError, match="still being read"):
        group.retry()
    gate.set()
    wire.succeed(wire.wait_for(1)[0], "one")
    assert wire.wait_for(2)[1].arguments == {"value": ["one"]}
    assert waits.upstream == group.jobs
    service.close()


def test_a_group_whose_inputs_broke_fails_what_takes_it() -> None:
    service, wire = held()

    def inputs() -> Iterator[int]:
        yield 1
        raise OSError("no more inputs")

    job = service.ask(service.ask.map(inputs()))
    with pytest.raises(InvalidInputError, match="no more inputs"):
        job.result(DEADLINE)
    assert len(wire.wait_for(1)) == 1
    service.close()


def test_an_endless_loop_forgets_its_beginning(
    monkeypatch: pytest.MonkeyPatch, doubler: socaity.Service
) -> None:
    monkeypatch.setattr("socaity._links._MAX_DEPTH", 10)
    job = doubler.ask(0)
    for _ in range(95):
        job = doubler.ask(job)
        assert job.result(DEADLINE) == 0
    length = 0
    while job.upstream:
        [job] = job.upstream
        length += 1
    assert 1 <= length <= 10


def test_a_long_chain_fails_and_is_cancelled_without_recursion() -> None:
    for ends_by in ("failure", "cancel"):
        service, wire = held()
        first = job = service.ask()
        for _ in range(3000):
            job = service.ask(job)
        [call] = wire.wait_for(1)
        if ends_by == "failure":
            wire.fail(call, BROKEN)
        else:
            assert job.cancel()
        error = job.exception(DEADLINE)
        assert isinstance(error, JobFailed if ends_by == "failure" else JobCancelled)
        assert len(str(error)) < 2000
        assert first.exception(DEADLINE) is not None
        service.close()


def test_threads_that_memoise_at_once_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    service, _ = held()
    made, go_on = [], threading.Event()

    class SlowMemo(Memo):
        def __init__(self) -> None:
            made.append(self)
            assert go_on.wait(DEADLINE)
            super().__init__()

    monkeypatch.setattr("socaity._memo.Memo", SlowMemo)
    ask = service.ask.with_options(memoize=True)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(ask, 1) for _ in range(4)]
        give_up = time.monotonic() + DEADLINE
        while not made:
            assert time.monotonic() < give_up
        go_on.set()
        assert len({id(job.result(DEADLINE)) for job in jobs}) == 1
    service.close()


def test_memoised_calls_are_bounded_and_forget_failures() -> None:
    service, wire = held()
    ask = service.ask.with_options(memoize=True)
    service._memo._limit = 3
    one = ask(1)
    assert ask(1) is one
    for number in range(10, 13):
        ask(number)
    assert len(service._memo) == 3
    assert ask(1) is not one
    last = ask(1)
    wire.fail(next(call for call in reversed(wire.wait_for(5)) if call.id == last.id), BROKEN)
    assert last.exception(DEADLINE) is BROKEN
    assert ask(1) is not last
    assert ask(object()) is not ask(object())
    assert [ask(value) is ask(value) for value in ("1", 1.0, True, b"1", [1], (), None)] == [True] * 7
    assert len({id(ask(value)) for value in (1, True)}) == 2
    service.close()


def test_what_is_no_job_is_refused_at_once_with_the_right_form() -> None:
    service, _ = held()
    job = service.ask()
    for wrong in ([job], (one for one in [job]), 1):
        with pytest.raises(TypeError, match=r"write gather\(\*jobs\)"):
            socaity.gather(wrong)  # type: ignore[arg-type]
    for wrong in (job, 1, [1]):
        with pytest.raises(TypeError, match="as_completed takes"):
            socaity.as_completed(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not a part of one, <.*\['a'\]>; give the job itself"):
        socaity.gather(job["a"], job)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"as_completed takes jobs, not a part of one"):
        socaity.as_completed([job["a"]])  # type: ignore[list-item]
    with pytest.raises(
        TypeError, match=r"takes one list of jobs, or a group: as_completed\(\[job, another\]\)"
    ):
        socaity.as_completed(job, job)  # type: ignore[arg-type]
    service.close()
