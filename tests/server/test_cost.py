"""The fit of s(n) = a + b·n finds the truth, keeps what it cannot see, and is not led astray by single batches."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity_server.batching.cost import ArrivalRate, CostModel

SECONDS = st.floats(0, 1e3, allow_nan=False)


@pytest.mark.parametrize("cost", [CostModel(), CostModel(0.0, 0.0)])
def test_nothing_is_known_at_first(cost: CostModel) -> None:
    assert not cost.is_measured
    assert cost.seconds(64) == 0.0
    assert not cost.worth_waiting(1, 0.0)


@pytest.mark.parametrize(("fixed", "per_row"), [(0.001, 0.0001), (0.0, 0.002), (0.01, 0.0), (1e-4, 1e-6)])
def test_fit_finds_both_parts(fixed: float, per_row: float) -> None:
    cost = CostModel()
    chance = random.Random(1)
    for _ in range(300):
        rows = chance.choice([1, 2, 5, 8, 30, 64])
        cost.observe(rows, (fixed + per_row * rows) * chance.uniform(0.95, 1.05))
    for rows in (1, 8, 64):
        assert cost.seconds(rows) == pytest.approx(fixed + per_row * rows, rel=0.08)
    assert cost.fixed == pytest.approx(fixed, rel=0.1, abs=0.1 * per_row)


def test_one_size_says_nothing_about_the_fixed_part() -> None:
    cost = CostModel()
    for _ in range(100):
        cost.observe(4, 0.02)
    assert cost.seconds(4) == pytest.approx(0.02)
    assert cost.fixed == pytest.approx(0.0)
    assert not cost.worth_waiting(1, 1e-4)


def test_one_size_moves_only_the_level_of_what_was_measured() -> None:
    cost = CostModel(0.010, 0.001)
    for _ in range(200):
        cost.observe(10, 0.040)
    assert cost.fixed == pytest.approx(0.020, rel=0.01)
    assert cost.per_row == pytest.approx(0.002, rel=0.01)


def test_measured_profile_is_where_the_fit_starts() -> None:
    cost = CostModel(0.010, 0.001)
    assert cost.is_measured
    assert cost.seconds(5) == pytest.approx(0.015)
    cost.observe(5, 0.015)
    assert cost.seconds(5) == pytest.approx(0.015)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_start_that_is_no_time_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="fixed"):
        CostModel(bad)
    with pytest.raises(ValueError, match="per_row"):
        CostModel(0.1, bad)


def test_pause_of_one_batch_hardly_counts() -> None:
    cost = CostModel(0.001, 0.0001)
    for _ in range(50):
        cost.observe(10, 0.002)
    cost.observe(10, 1.0)
    assert cost.seconds(10) < 0.0025


def test_model_that_became_slower_is_followed() -> None:
    cost = CostModel(0.001, 0.0001)
    for _ in range(100):
        cost.observe(10, 0.2)
    assert cost.seconds(10) == pytest.approx(0.2, rel=0.1)


def test_model_that_became_quicker_is_followed() -> None:
    cost = CostModel(0.1, 0.01)
    for _ in range(100):
        cost.observe(10, 0.002)
    assert cost.seconds(10) == pytest.approx(0.002, rel=0.6)


def test_cold_first_batch_is_forgotten() -> None:
    cost = CostModel()
    cost.observe(1, 2.0)
    cost.observe(1, 0.001)
    assert cost.seconds(1) == pytest.approx(0.001)


def test_new_size_after_one_size_shows_the_fixed_part() -> None:
    cost = CostModel()
    for _ in range(50):
        cost.observe(1, 0.010)
    for _ in range(30):
        cost.observe(32, 0.012)
        cost.observe(1, 0.010)
    assert cost.seconds(32) == pytest.approx(0.012, rel=0.1)
    assert cost.fixed == pytest.approx(0.010, rel=0.1)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 1.0), (-1, 1.0), (1, math.nan), (1, math.inf), (1, -0.1)])
def test_what_is_no_measurement_is_ignored(rows: int, seconds: float) -> None:
    cost = CostModel()
    cost.observe(rows, seconds)
    assert not cost.is_measured


def test_clock_too_coarse_for_the_model_does_no_harm() -> None:
    cost = CostModel()
    cost.observe(1, 0.0)
    assert cost.is_measured
    assert cost.seconds(1) == 0.0
    cost.observe(1, 0.001)
    assert cost.seconds(1) == pytest.approx(0.001)


def test_waiting_pays_while_it_costs_less_than_the_fixed_part() -> None:
    cost = CostModel(0.010, 0.001)
    assert cost.worth_waiting(9, 0.001)
    assert not cost.worth_waiting(10, 0.001)
    assert not CostModel(0.0, 0.001).worth_waiting(1, 1e-9)
    assert not cost.worth_waiting(1, math.inf)


@given(
    st.none() | SECONDS,
    st.none() | SECONDS,
    st.lists(st.tuples(st.integers(1, 100_000), SECONDS | st.floats(0, 1e-4)), max_size=60),
)
def test_parts_are_never_negative_and_always_numbers(
    fixed: float | None, per_row: float | None, batches: list[tuple[int, float]]
) -> None:
    cost = CostModel(fixed, per_row)
    for rows, seconds in batches:
        cost.observe(rows, seconds)
        assert 0 <= cost.fixed < math.inf
        assert 0 <= cost.per_row < math.inf


@given(st.floats(1e-6, 10), st.floats(1e-7, 1), st.lists(st.integers(1, 1000), min_size=8, max_size=60))
def test_exact_times_are_never_predicted_worse_than_twice(
    fixed: float, per_row: float, sizes: list[int]
) -> None:
    cost = CostModel(fixed, per_row)
    for rows in sizes:
        cost.observe(rows, fixed + per_row * rows)
    for rows in sizes:
        assert cost.seconds(rows) == pytest.approx(fixed + per_row * rows, rel=1e-3)


def test_gap_is_unknown_before_the_second_call() -> None:
    arrivals = ArrivalRate()
    assert arrivals.gap == math.inf
    arrivals.arrived(1, 5.0)
    assert arrivals.gap == math.inf


def test_gap_is_that_between_rows() -> None:
    arrivals = ArrivalRate()
    for number in range(100):
        arrivals.arrived(4, number * 0.02)
    assert arrivals.gap == pytest.approx(0.005)


def test_pause_between_bursts_hardly_counts() -> None:
    arrivals = ArrivalRate()
    for number in range(100):
        arrivals.arrived(1, number * 0.001)
    arrivals.arrived(1, 3600.0)
    assert arrivals.gap < 0.0015


def test_rows_that_came_at_once_do_not_fix_the_gap_at_zero() -> None:
    arrivals = ArrivalRate()
    for _ in range(10):
        arrivals.arrived(1, 1.0)
    assert arrivals.gap == 0.0
    for number in range(2000):
        arrivals.arrived(1, 1.0 + number * 0.01)
    assert arrivals.gap == pytest.approx(0.01, rel=0.1)


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(-1e6, 1e6)), max_size=50))
def test_gap_is_never_negative(calls: list[tuple[int, float]]) -> None:
    arrivals = ArrivalRate()
    for rows, now in calls:
        arrivals.arrived(rows, now)
        assert arrivals.gap >= 0
        assert not math.isnan(arrivals.gap)
