"""What callers are told about the wait is never nonsense, grows with the queue, and is true for one instance."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity_server.batching.admission import predicted_wait, retry_after
from socaity_server.batching.caution import Caution
from socaity_server.batching.cost import CostModel

COST = CostModel(0.010, 0.001)
UNMEASURED = CostModel()

costs = st.builds(CostModel, st.floats(0, 10), st.floats(0, 1))
rows_of_calls = st.integers(0, 500)
queues = st.integers(0, 100_000)
residuals = st.floats(0, 100)
instances_of_models = st.integers(1, 16)
sizes = st.integers(1, 1024)


@pytest.mark.parametrize(
    ("queued", "residual", "rows", "instances", "batch", "expected"),
    [
        (0, 0.0, 1, 1, 10, 0.011),
        (0, 0.0, 0, 1, 10, 0.0),
        (0, 0.5, 1, 1, 10, 0.511),
        (9, 0.0, 1, 1, 10, 0.020),
        (10, 0.0, 1, 1, 10, 0.031),
        (20, 0.005, 5, 1, 10, 0.060),
        (0, 0.0, 25, 1, 10, 0.055),
        (20, 0.0, 10, 2, 10, 0.040),
    ],
)
def test_wait_is_the_queue_in_batches_and_the_own_batch(
    queued: int, residual: float, rows: int, instances: int, batch: int, expected: float
) -> None:
    assert predicted_wait(queued, residual, rows, COST, instances, batch) == pytest.approx(expected)


def test_unmeasured_model_is_only_waited_for_as_long_as_it_runs() -> None:
    assert predicted_wait(1000, 0.0, 1, UNMEASURED, 1, 10) == 0.0
    assert predicted_wait(1000, 0.3, 1, UNMEASURED, 1, 10) == pytest.approx(0.3)


@pytest.mark.parametrize("residual", [-1.0, math.inf, math.nan])
def test_residual_that_is_no_time_gives_one(residual: float) -> None:
    assert 0 <= predicted_wait(5, residual, 1, COST, 1, 10) <= 86400


def test_call_that_is_in_time_need_not_come_back() -> None:
    assert retry_after(10, 0.0, 1, COST, 1, 10, allowed=0.1) == 0.0
    assert retry_after(10, 0.0, 1, COST, 1, 10, allowed=math.inf) == 0.0


def test_call_that_is_never_in_time_comes_back_to_an_idle_model() -> None:
    assert retry_after(10, 0.0, 1, COST, 1, 10, allowed=0.001) == pytest.approx(0.020)
    assert retry_after(10, 0.0, 1, COST, 1, 10, allowed=-5.0) == pytest.approx(0.020)


@given(queues, residuals, rows_of_calls, costs, instances_of_models, sizes, st.integers(0, 1000))
def test_wait_grows_with_the_queue(
    queued: int, residual: float, rows: int, cost: CostModel, instances: int, batch: int, more: int
) -> None:
    less = predicted_wait(queued, residual, rows, cost, instances, batch)
    assert predicted_wait(queued + more, residual, rows, cost, instances, batch) >= less * (1 - 1e-9)


@given(queues, residuals, rows_of_calls, costs, instances_of_models, sizes)
def test_wait_falls_with_instances_and_rises_with_what_runs(
    queued: int, residual: float, rows: int, cost: CostModel, instances: int, batch: int
) -> None:
    wait = predicted_wait(queued, residual, rows, cost, instances, batch)
    assert predicted_wait(queued, residual, rows, cost, instances + 1, batch) <= wait * (1 + 1e-9)
    assert predicted_wait(queued, residual + 1.0, rows, cost, instances, batch) >= wait


@given(
    st.integers(-10, 10**12),
    st.floats(),
    st.integers(-10, 10**12),
    st.builds(CostModel, st.floats(0, 1e300), st.floats(0, 1e300)),
    st.integers(-1, 10),
    st.integers(-1, 10),
    st.floats(allow_nan=False),
)
def test_answers_are_never_negative_and_always_numbers(
    queued: int, residual: float, rows: int, cost: CostModel, instances: int, batch: int, allowed: float
) -> None:
    assert 0 <= predicted_wait(queued, residual, rows, cost, instances, batch) < math.inf
    assert 0 <= retry_after(queued, residual, rows, cost, instances, batch, allowed=allowed) < math.inf


def drain(
    queued: int, residual: float, cost: CostModel, instances: int, batch: int, seconds: float
) -> tuple[int, float]:
    """The rows that still wait after `seconds`, and what is left of those that run: what happens, step by step."""
    free_at = [residual] + [0.0] * (instances - 1)
    while queued and min(free_at) <= seconds:
        first = free_at.index(min(free_at))
        taken = min(queued, batch)
        queued -= taken
        free_at[first] += cost.seconds(taken)
    return queued, sum(max(end - seconds, 0.0) for end in free_at)


@given(
    st.integers(0, 2000),
    st.floats(0, 1),
    st.integers(1, 100),
    st.builds(CostModel, st.floats(1e-4, 0.1), st.floats(1e-5, 0.01)),
    st.integers(1, 64),
    st.floats(0, 3),
)
def test_who_comes_back_as_told_is_admitted(
    queued: int, residual: float, rows: int, cost: CostModel, batch: int, slack: float
) -> None:
    allowed = predicted_wait(0, 0.0, rows, cost, 1, batch) * (1 + slack) + 1e-6
    told = retry_after(queued, residual, rows, cost, 1, batch, allowed=allowed)
    then = drain(queued, residual, cost, 1, batch, told + 1e-9)
    assert predicted_wait(*then, rows, cost, 1, batch) <= allowed + 1e-6


@given(
    st.integers(0, 2000),
    st.floats(0, 1),
    st.integers(1, 64),
    st.builds(CostModel, st.floats(1e-4, 0.1), st.floats(1e-5, 0.01)),
    st.integers(1, 64),
)
def test_one_instance_answers_when_predicted(
    queued: int, residual: float, rows: int, cost: CostModel, batch: int
) -> None:
    wait = predicted_wait(queued, residual, rows, cost, 1, batch)
    assert drain(queued + rows, residual, cost, 1, batch, wait + 1e-6) == (0, 0.0)


@given(
    st.integers(0, 2000),
    st.floats(0, 1),
    st.integers(1, 64),
    st.builds(CostModel, st.floats(1e-4, 0.1), st.floats(1e-5, 0.01)),
    st.integers(1, 8),
    st.integers(1, 64),
)
def test_several_instances_keep_the_promise_but_for_the_batch_that_runs(
    queued: int, residual: float, rows: int, cost: CostModel, instances: int, batch: int
) -> None:
    wait = predicted_wait(queued, residual, rows, cost, instances, batch)
    assert drain(queued + rows, residual, cost, instances, batch, wait + residual + 1e-6) == (0, 0.0)


def test_caution_grows_with_every_late_batch_and_goes_more_slowly() -> None:
    caution = Caution()
    caution.batch_ended()
    assert caution.factor == 1.0
    for _ in range(5):
        for _ in range(3):  # once for a batch
            caution.some_were_late()
        caution.batch_ended()
    high = caution.factor
    assert 1.5 < high < 3.0
    for _ in range(10):
        caution.batch_ended()
    assert 1.0 < caution.factor < high
    for _ in range(200):
        caution.batch_ended()
    assert caution.factor == 1.0
    for _ in range(200):
        caution.some_were_late()
        caution.batch_ended()
    assert caution.factor == 8.0
