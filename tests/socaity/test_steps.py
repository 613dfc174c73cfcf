"""The steps of a pipeline in words: what each is, which went wrong, and which never ran because of it."""

import threading
from collections.abc import Iterator

import pytest

import socaity
from socaity._steps import (
    StepState,
    count_of,
    duration,
    explain,
    fraction_of,
    names_of,
    one_line,
    read_steps,
    state_of,
)

from .doubles import DEADLINE, held
from .pipelines import STEPS, Pipeline


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    pipeline = Pipeline()
    yield pipeline
    pipeline.close()


def states(pipeline: Pipeline) -> list[str]:
    return [str(step.state) for step in read_steps([pipeline.save])]


def test_every_step_comes_once_and_after_what_it_needs(pipeline: Pipeline) -> None:
    steps = read_steps([pipeline.save, pipeline.read])
    assert [step.name for step in steps] == list(STEPS)
    assert [step.needs for step in steps] == [(), (0,), (1,), (2, 0), (3,)]


def test_the_job_of_a_pipeline_needs_only_its_last_steps(pipeline: Pipeline) -> None:
    @socaity.pipeline
    def whole() -> socaity.Job[str]:
        detected = pipeline.service["detect"]("page")
        pipeline.service["draw"]("page")
        last = pipeline.service["read"](detected)
        is_made.set()
        return last

    is_made = threading.Event()
    job = whole()
    assert is_made.wait(DEADLINE)
    steps = read_steps([job])
    needs = {step.name: {steps[need].name for need in step.needs} for step in steps}
    assert needs == {"detect": set(), "draw": set(), "read": {"detect"}, "whole": {"draw", "read"}}
    job.cancel()


def test_a_step_waits_for_others_before_it_waits_in_the_queue(pipeline: Pipeline) -> None:
    assert states(pipeline) == ["queued", "waiting", "waiting", "waiting", "waiting"]
    pipeline.succeed(pipeline.load)
    pipeline.queue(pipeline.detect, 3)
    steps = read_steps([pipeline.save])
    assert [step.describe() for step in steps][:3] == ["succeeded", "queued, place 3", "waiting"]
    pipeline.run(pipeline.detect, 0.5, "tile 1")
    steps = read_steps([pipeline.save])
    assert steps[1].describe() == "running, 50%"
    assert (count_of(steps), fraction_of(steps), state_of(steps)) == ("1/5", 0.3, StepState.RUNNING)
    assert explain(steps) == ""


def test_a_failed_step_is_named_with_all_that_never_ran(pipeline: Pipeline) -> None:
    pipeline.succeed(pipeline.load, pipeline.detect)
    pipeline.fail(pipeline.read, socaity.JobFailed("RuntimeError: out of memory."))
    pipeline.end()
    assert states(pipeline) == ["succeeded", "succeeded", "failed", "not run", "not run"]
    steps = read_steps([pipeline.save])
    assert state_of(steps) is StepState.FAILED
    assert explain(steps) == (
        "read failed (step 3 of 5): RuntimeError: out of memory. Not run because of it: draw, save."
    )


def test_a_failed_branch_leaves_the_other_running(pipeline: Pipeline) -> None:
    other = pipeline.service["read"](pipeline.load)
    pipeline.succeed(pipeline.load)
    pipeline.run(other)
    pipeline.fail(pipeline.detect, socaity.JobFailed("no"))
    pipeline.end()
    assert [str(step.state) for step in read_steps([other])] == ["succeeded", "running"]
    assert states(pipeline) == ["succeeded", "failed", "not run", "not run", "not run"]


def test_a_lost_server_is_no_failure_and_says_only_what_had_not_started(pipeline: Pipeline) -> None:
    pipeline.succeed(pipeline.load)
    pipeline.run(pipeline.detect)
    pipeline.fail(pipeline.detect, socaity.JobLost("the service went away"))
    pipeline.end()
    assert states(pipeline) == ["succeeded", "lost", "not run", "not run", "not run"]
    assert explain(read_steps([pipeline.save])) == (
        "detect was lost (step 2 of 5): the service went away. Had not started: read, draw, save."
    )


def test_a_cancelled_step_is_the_cause_of_what_did_not_run(pipeline: Pipeline) -> None:
    pipeline.succeed(pipeline.load)
    pipeline.run(pipeline.detect)
    pipeline.fail(pipeline.detect, socaity.JobCancelled("cancelled by the caller"))
    pipeline.end()
    assert states(pipeline)[:2] == ["succeeded", "cancelled"]
    assert explain(read_steps([pipeline.save])).startswith("detect was cancelled (step 2 of 5).")


def test_a_pipeline_that_was_cancelled_needs_no_cause(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.load)
    pipeline.save.cancel()
    pipeline.end()
    steps = read_steps([pipeline.save])
    assert state_of(steps) is StepState.CANCELLED
    assert explain(steps) == ""


def test_a_slow_step_shows_how_long_it_has_run(pipeline: Pipeline) -> None:
    pipeline.succeed(pipeline.load)
    pipeline.run(pipeline.detect)
    assert pipeline.detect._started is not None
    step = read_steps([pipeline.save], now=pipeline.detect._started + 90)[1]
    assert (step.state, duration(step.elapsed)) == (StepState.RUNNING, "1:30")


def test_a_chain_of_thousands_is_read_without_recursion() -> None:
    service, _ = held()
    with service:
        job = service["ask"]()
        for _ in range(3000):
            job = service["ask"](job)
        steps = read_steps([job])
        assert len(steps) == 3001
        assert steps[-1].needs == (2999,)
        assert len(read_steps([job], limit=10)) == 10


def test_names_are_counted_and_cut() -> None:
    assert names_of(["a", "b", "a", "c"], 2) == "a ×2, b and 1 more"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0003, "0.3 ms"),
        (0.042, "42 ms"),
        (3.14, "3.1 s"),
        (42.4, "42 s"),
        (59.7, "1:00"),
        (3723, "1:02:03"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nothing_in_a_name_moves_the_cursor_or_turns_the_direction() -> None:
    assert one_line("a\r\nb\x1b[2J\u202ec\u200bd") == "a  b [2J c d"
