"""The batching policy by its invariants, and the batcher with a model that the test holds by the hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity.exceptions import InvalidInputError, ServerError
from socaity_server.batching.batcher import Batcher, Ticket
from socaity_server.batching.cost import CostModel
from socaity_server.batching.padding import Padding
from socaity_server.batching.patience import Patience
from socaity_server.batching.policy import HEAD_START, Entry, WaitingRoom, row_slices
from socaity_server.model_config import PadConfig
from socaity_server.waterfall import Waterfall

DEADLINE = 10.0
Arrays = dict[str, np.ndarray[Any, Any]]


def run_with_deadline(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * DEADLINE):
            await main()

    asyncio.run(bounded())


def rows_of(first: int, rows: int = 1) -> Arrays:
    return {"x": np.arange(first, first + rows, dtype=np.int64).reshape(rows, 1)}


def double(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2}


class GatedModel:
    """Doubles its input. A run starts when the test reads `started`, and ends when it calls `let_go`."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()
        self._gate = threading.Semaphore(0)
        self._started: queue.SimpleQueue[list[int]] = queue.SimpleQueue()

    def __call__(self, inputs: Arrays) -> Arrays:
        batch = inputs["x"].reshape(-1).tolist()
        self.batches.append(batch)
        self.threads.add(threading.current_thread().name)
        self._started.put(batch)
        assert self._gate.acquire(timeout=DEADLINE)
        return double(inputs)

    async def started(self) -> list[int]:
        return await asyncio.to_thread(self._started.get, timeout=DEADLINE)

    def let_go(self, runs: int = 1) -> None:
        self._gate.release(runs)


class Answers:
    """Collects outcomes by call, and tells when there are enough."""

    def __init__(self) -> None:
        self.values: dict[int, list[int]] = {}
        self.errors: dict[int, BaseException] = {}
        self._changed = asyncio.Event()

    def of(self, call: int) -> Callable[[Arrays | None, BaseException | None], None]:
        def on_done(outputs: Arrays | None, error: BaseException | None) -> None:
            assert call not in self.values
            assert call not in self.errors
            if error is not None:
                assert outputs is None
                self.errors[call] = error
            else:
                assert outputs is not None
                self.values[call] = outputs["y"].reshape(-1).tolist()
            self._changed.set()

        return on_done

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.values) + len(self.errors) < wanted:
                self._changed.clear()
                await self._changed.wait()


# The policy


@given(st.data(), st.integers(1, 12))
def test_policy_keeps_its_invariants(data: st.DataObject, max_rows: int) -> None:
    room: WaitingRoom[Entry] = WaitingRoom(max_rows)
    waiting: list[Entry] = []
    now = 0.0
    actions = data.draw(
        st.lists(st.sampled_from(["add", "add", "add", "take", "discard", "time", "expire"]), max_size=80)
    )
    for action in actions:
        if action == "add":
            deadline = now + data.draw(st.sampled_from([1.0, 3.0, math.inf]))
            key, rows = data.draw(st.sampled_from("abc")), data.draw(st.integers(1, max_rows))
            entry = Entry(key, rows, now, deadline=deadline, size=3 * rows)
            room.add(entry)
            waiting.append(entry)
        elif action == "discard" and waiting:
            entry = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            room.discard(entry)
            room.discard(entry)
        elif action == "time":
            now += 1.0
        elif action == "expire":
            expired = [entry for entry in waiting if entry.deadline <= now]
            assert sorted(room.take_expired(now), key=id) == sorted(expired, key=id)
            waiting = [entry for entry in waiting if entry not in expired]
        elif action == "take":
            limit = data.draw(st.integers(1, max_rows))
            check_batch(room.take(limit), waiting, limit)
        assert room.rows == sum(entry.rows for entry in waiting)
        assert room.size == 3 * room.rows
        assert room.count == len(waiting)
        assert sorted(room, key=id) == sorted(waiting, key=id)
        assert room.oldest() is (waiting[0] if waiting else None)
        assert room.next_rows() == (rows_waiting(waiting, waiting[0].key) if waiting else 0)
    while waiting:
        check_batch(room.take(), waiting, max_rows)
    assert room.rows == room.size == room.count == 0
    assert room.take() == []


def rows_waiting(waiting: list[Entry], key: Any) -> int:
    return sum(entry.rows for entry in waiting if entry.key == key)


def check_batch(batch: list[Entry], waiting: list[Entry], limit: int) -> None:
    """`batch` is one that the policy may choose out of `waiting`; takes it out."""
    assert bool(batch) == bool(waiting)
    if not batch:
        return
    rows = sum(entry.rows for entry in batch)
    assert rows <= limit or len(batch) == 1
    assert len({entry.key for entry in batch}) == 1
    assert batch[0] is waiting[0]
    same = [entry for entry in waiting if entry.key == batch[0].key]
    assert batch == same[: len(batch)]
    left = same[len(batch) :]
    assert not left or rows + left[0].rows > limit
    for entry in batch:
        assert not entry.waiting
        waiting.remove(entry)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-2, 2), st.integers(1, 4)), max_size=40),
    st.integers(4, 9),
)
def test_every_entry_of_any_priority_leaves_once_in_a_batch_of_its_key(
    entries: list[tuple[str, int, int]], max_rows: int
) -> None:
    room: WaitingRoom[Entry] = WaitingRoom(max_rows)
    added = []
    for key, priority, rows in entries:
        added.append(Entry(key, rows, priority=priority))
        room.add(added[-1])
    taken: list[Entry] = []
    while batch := room.take():
        assert sum(entry.rows for entry in batch) <= max_rows
        assert len({entry.key for entry in batch}) == 1
        assert batch[0].order == min(entry.order for entry in added if entry not in taken)
        assert [entry.priority for entry in batch] == sorted(
            (entry.priority for entry in batch), key=lambda one: (one != batch[0].priority, -one)
        )
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, added))
    assert not room._classes


def test_priority_overtakes_but_never_for_ever() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(1)
    patient = Entry("a", 1)
    room.add(patient)
    for number in range(HEAD_START + 10):
        room.add(Entry("b", 1, priority=1))
        (first,) = room.take()
        if first is patient:
            assert number > 10
            break
    else:
        raise AssertionError("the call without priority starved")


def test_batches_are_cut_at_preferred_sizes() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(64, preferred=[16, 4])
    for _ in range(23):
        room.add(Entry("a", 1))
    assert [len(room.take()) for _ in range(4)] == [16, 4, 3, 0]


def test_policy_compacts_tombstones_so_that_cancelled_calls_take_no_memory() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(4)
    first = Entry("a", 1)
    room.add(first)
    for _ in range(10_000):
        entry = Entry("a", 1)
        room.add(entry)
        room.discard(entry)
    assert len(room._buckets["a"].entries) < 200
    assert room.take() == [first]


def test_policy_keeps_no_bucket_of_a_key_that_is_gone() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(4)
    for key in range(100):
        room.add(Entry(key, 1))
    batches = [room.take() for _ in range(101)]
    assert [batch[0].key for batch in batches[:-1]] == list(range(100))
    assert batches[-1] == []
    assert not room._buckets
    assert not room._by_age


@given(st.integers(1, 200), st.integers(1, 50))
def test_row_slices_cover_every_row_once(rows: int, max_rows: int) -> None:
    slices = list(row_slices(rows, max_rows))
    assert [row for cut in slices for row in range(rows)[cut]] == list(range(rows))
    assert all(1 <= cut.stop - cut.start <= max_rows for cut in slices)


@pytest.mark.parametrize("rows", [0, -1, 5])
def test_policy_refuses_entries_that_fit_into_no_batch(rows: int) -> None:
    room: WaitingRoom[Entry] = WaitingRoom(4)
    with pytest.raises(ValueError, match="1 to 4 rows"):
        room.add(Entry("a", rows))


def test_policy_refuses_impossible_limits() -> None:
    with pytest.raises(ValueError, match="must"):
        WaitingRoom(0)


# The batcher: who runs with whom


def test_calls_of_one_loop_turn_run_together_and_get_their_own_rows() -> None:
    async def main() -> None:
        answers, sizes = Answers(), []

        def model(inputs: Arrays) -> Arrays:
            sizes.append(len(inputs["x"]))
            return double(inputs)

        batcher = Batcher(model, max_batch_size=8, name="m")
        for call in range(3):
            batcher.submit(rows_of(10 * call, call + 1), call + 1, answers.of(call))
        assert batcher.depth == 6
        await answers.count(3)
        assert answers.values == {0: [0], 1: [20, 22], 2: [40, 42, 44]}
        assert sizes == [6]
        assert batcher.depth == 0
        await batcher.aclose()

    run_with_deadline(main)


def test_calls_that_arrive_while_the_model_runs_form_the_next_batch() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=4, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        assert await model.started() == [0]
        for call in range(1, 7):
            batcher.submit(rows_of(call), 1, answers.of(call))
        assert batcher.depth == 6
        model.let_go(3)
        await answers.count(7)
        assert model.batches == [[0], [1, 2, 3, 4], [5, 6]]
        assert model.threads == {"m-0"}
        await batcher.aclose()

    run_with_deadline(main)


def test_shapes_dtypes_and_names_are_never_mixed() -> None:
    async def main() -> None:
        answers, seen = Answers(), []

        def model(inputs: Arrays) -> Arrays:
            seen.append({name: (array.dtype.name, array.shape) for name, array in inputs.items()})
            first = next(iter(inputs.values()))
            return {"y": np.zeros(len(first))}

        batcher = Batcher(model, max_batch_size=8, name="m")
        kinds: list[Arrays] = [
            {"x": np.zeros((1, 2), np.float32)},
            {"x": np.zeros((1, 3), np.float32)},
            {"x": np.zeros((1, 2), np.float64)},
            {"z": np.zeros((1, 2), np.float32)},
            {"x": np.zeros((1, 2), np.float32), "z": np.zeros((1, 2), np.float32)},
            {"z": np.zeros((1, 2), np.float32), "x": np.zeros((1, 2), np.float32)},
        ]
        for call in range(12):
            batcher.submit(kinds[call % 6], 1, answers.of(call))
        await answers.count(12)
        assert seen == [
            {"x": ("float32", (2, 2))},
            {"x": ("float32", (2, 3))},
            {"x": ("float64", (2, 2))},
            {"z": ("float32", (2, 2))},
            {"x": ("float32", (4, 2)), "z": ("float32", (4, 2))},
        ]
        await batcher.aclose()

    run_with_deadline(main)


def test_batch_of_one_call_gets_the_callers_array_without_a_copy() -> None:
    async def main() -> None:
        answers, seen = Answers(), []

        def model(inputs: Arrays) -> Arrays:
            seen.append(inputs["x"])
            return double(inputs)

        batcher = Batcher(model, max_batch_size=8, name="m")
        inputs = rows_of(1, 3)
        batcher.submit(inputs, 3, answers.of(0))
        await answers.count(1)
        assert seen[0] is inputs["x"]
        await batcher.aclose()

    run_with_deadline(main)


def test_call_larger_than_a_batch_runs_in_pieces_and_comes_back_as_one() -> None:
    async def main() -> None:
        answers, sizes = Answers(), []

        def model(inputs: Arrays) -> Arrays:
            sizes.append(len(inputs["x"]))
            return double(inputs)

        batcher = Batcher(model, max_batch_size=4, name="m", instances=2)
        batcher.submit(rows_of(0, 10), 10, answers.of(0))
        batcher.submit(rows_of(50, 2), 2, answers.of(1))
        await answers.count(2)
        assert answers.values == {0: list(range(0, 20, 2)), 1: [100, 102]}
        assert sorted(sizes) == [4, 4, 4]
        await batcher.aclose()

    run_with_deadline(main)


def test_instances_run_at_the_same_time_on_their_own_threads() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=1, instances=2, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        batcher.submit(rows_of(1), 1, answers.of(1))
        await model.started()
        await model.started()
        assert model.threads == {"m-0", "m-1"}
        model.let_go(2)
        await answers.count(2)
        await batcher.aclose()

    run_with_deadline(main)


async def used_batcher(model: Callable[[Arrays], Arrays], **options: Any) -> Batcher:
    """A batcher whose model seems to take `fixed` seconds for a batch of any size, with calls that came often."""
    fixed = options.pop("fixed")
    batcher = Batcher(model, name="m", cost=CostModel(fixed, 0.0), **options)
    for call in range(50):
        batcher._patience.arrived(1, time.monotonic() + call * 1e-6)
    return batcher


def test_idle_instance_waits_for_a_fuller_batch_where_that_pays_and_ends_when_it_is_full() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = await used_batcher(model, fixed=1000.0, max_batch_size=2, max_batch_wait=None)
        batcher._patience._rate.gap = 100.0  # seconds
        first = batcher.submit(rows_of(0), 1, answers.of(0))
        await asyncio.sleep(0)  # turns of the loop, so that the timer is set
        await asyncio.sleep(0)
        assert model.batches == []
        second = batcher.submit(rows_of(1), 1, answers.of(1))
        model.let_go()
        await answers.count(2)
        assert model.batches == [[0, 1]]
        waited, came_last = Waterfall.of(first), Waterfall.of(second)
        assert waited is not None
        assert came_last is not None
        assert first.arrived <= waited.opened < second.arrived <= waited.started
        assert dict((step, seconds) for step, _, seconds in waited.steps)["batched"] == pytest.approx(
            waited.started - waited.opened
        )
        assert came_last.opened == second.arrived
        await batcher.aclose()

    run_with_deadline(main)


def test_wait_for_a_fuller_batch_ends_on_its_own() -> None:
    async def main() -> None:
        answers = Answers()
        batcher = await used_batcher(double, fixed=1.0, max_batch_size=2, max_batch_wait=0.001)
        batcher.submit(rows_of(1), 1, answers.of(0))
        await answers.count(1)
        assert answers.values == {0: [2]}
        batcher.submit(rows_of(2), 1, answers.of(1)).cancel()
        batcher.submit(rows_of(3), 1, answers.of(2))
        await answers.count(2)
        assert answers.values == {0: [2], 2: [6]}
        await batcher.aclose()

    run_with_deadline(main)


@pytest.mark.parametrize(
    ("fixed", "gap", "rows", "longest", "deadline", "pause"),
    [
        (0.010, 0.001, 1, None, math.inf, 0.004),  # until the burst seems over
        (0.010, 0.004, 1, None, math.inf, 0.010),  # never longer than what can be saved
        (0.010, 0.001, 10, None, math.inf, 0.0),  # ten wait for one: it costs what it saves
        (0.010, 0.020, 1, None, math.inf, 0.0),  # too rare
        (0.010, 0.001, 64, None, math.inf, 0.0),  # full
        (0.010, 0.001, 1, 0.002, math.inf, 0.002),
        (0.010, 0.001, 1, 0.0, math.inf, 0.0),
        (0.010, 0.001, 1, None, 0.0125, 0.0015),  # 10 ms to run, 1 ms to spare
        (0.010, 0.001, 1, None, 0.0, 0.0),
        (0.0, 0.001, 1, None, math.inf, 0.0),  # nothing is saved
    ],
)
def test_pause(
    fixed: float, gap: float, rows: int, longest: float | None, deadline: float, pause: float
) -> None:
    patience = Patience(CostModel(fixed, 0.0), longest)
    patience._rate.gap, patience._last = gap, 0.0
    room: WaitingRoom[Entry] = WaitingRoom(64)
    for _ in range(rows):
        room.add(Entry("a", 1, 0.0))
    assert patience.pause(room, 64, deadline, 0.0) == pytest.approx(pause, abs=1e-9)


def test_bursts_are_seen_as_dense_whatever_the_pauses_between_them() -> None:
    patience, now = Patience(CostModel(1.0, 0.0)), 0.0
    for _ in range(20):
        for _ in range(64):
            now += 20e-6
            patience.arrived(1, now)
        now += 0.005
    assert patience._rate.gap < 100e-6


def test_clients_that_come_back_are_waited_for_so_that_they_do_not_split_into_groups() -> None:
    """64 clients that ask again 1 ms after their answer; a batch takes 5 ms whatever its size."""
    patience, room = Patience(CostModel(0.005, 0.0)), WaitingRoom[Entry](64)
    now, sizes = 0.0, []
    running, returning = 32, 0
    for _ in range(32):
        room.add(Entry("a", 1, now))
    for _ in range(30):
        now += 0.005  # the batch ends; who was answered before has come back long ago
        patience.answered(running, now)
        returning = running
        pause = patience.pause(room, 64, math.inf, now) if room.rows else 0.0
        if pause or not room.rows:
            for number in range(returning):
                patience.arrived(1, now + 0.001 + number * 1e-6)
                room.add(Entry("a", 1, now + 0.001))
            now += 0.001 + returning * 1e-6
            assert patience.pause(room, 64, math.inf, now) == 0.0
            returning = 0
        running = len(room.take())
        sizes.append(running)
        for number in range(returning):
            patience.arrived(1, now + 0.001 + number * 1e-6)
            room.add(Entry("a", 1, now + 0.001))
    assert sizes[0] == 32
    assert sizes[-5:] == [64] * 5


@pytest.mark.parametrize("gap", [0.0045, 0.006, 0.05])
def test_calls_that_come_by_chance_are_not_waited_for(gap: float) -> None:
    """One call every `gap` seconds, whatever is answered; a batch takes 5 ms."""
    patience, room = Patience(CostModel(0.004, 0.001)), WaitingRoom[Entry](64)
    now = next_call = 0.0
    for _ in range(200):
        while next_call <= now:
            patience.arrived(1, next_call)
            room.add(Entry("a", 1, next_call))
            next_call += gap
        if not room.rows:
            now = next_call
            continue
        assert patience.pause(room, 64, math.inf, now) == 0.0
        rows = len(room.take())
        now += 0.005
        patience.answered(rows, now)


# Deadlines and admission


def test_expired_call_is_answered_and_never_run() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=4, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        batcher.submit(rows_of(1), 1, answers.of(1), deadline=time.monotonic() + 0.01)
        batcher.submit(rows_of(2), 1, answers.of(2), deadline=time.monotonic() + 1000)
        await answers.count(1)
        error = answers.errors[1]
        assert isinstance(error, ServerError)
        assert (error.status, error.code) == (504, "deadline_exceeded")
        model.let_go(2)
        await answers.count(3)
        assert model.batches == [[0], [2]]
        assert batcher.statistics.failures == {"expired": 1}
        await batcher.aclose()

    run_with_deadline(main)


def test_expired_call_that_runs_is_answered_and_leaves_its_mates_alone() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=4, name="m")
        batcher.submit(rows_of(1), 1, answers.of(1), deadline=time.monotonic() + 0.05)
        batcher.submit(rows_of(2), 1, answers.of(2))
        assert await model.started() == [1, 2]
        await answers.count(1)
        assert set(answers.errors) == {1}
        model.let_go()
        await answers.count(2)
        assert answers.values == {2: [4]}
        await batcher.aclose()

    run_with_deadline(main)


def test_model_that_hangs_is_given_up_and_told() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        outcomes: list[tuple[int, int]] = []
        interrupted = asyncio.Event()
        batcher = Batcher(
            model,
            max_batch_size=4,
            run_timeout=0.02,
            on_batch=lambda ok, failed, seconds, usual: outcomes.append((ok, failed)),
            interrupt=interrupted.set,
            name="m",
        )
        batcher.submit(rows_of(0), 1, answers.of(0))
        batcher.submit(rows_of(1), 1, answers.of(1))
        await model.started()
        await answers.count(2)
        assert {error.code for error in answers.errors.values() if isinstance(error, ServerError)} == {
            "timeout"
        }
        assert interrupted.is_set()
        assert outcomes == [(0, 2)]
        with pytest.raises(ServerError, match="hangs") as caught:  # it would wait for ever
            batcher.submit(rows_of(9), 1, answers.of(9))
        assert (caught.value.status, caught.value.code) == (503, "model_stuck")
        model.let_go()
        assert await batcher.drain(DEADLINE)
        batcher.submit(rows_of(2), 1, answers.of(2))
        model.let_go()
        await answers.count(3)
        assert answers.values == {2: [4]}
        assert outcomes == [(0, 2), (1, 0)]  # the batch that was given up counts once
        await batcher.aclose()

    run_with_deadline(main)


def test_batch_that_was_given_up_does_not_run_again() -> None:
    async def main() -> None:
        answers = Answers()
        ran: list[int] = []
        end = threading.Event()

        def hang(inputs: Arrays) -> Arrays:
            ran.append(len(inputs["x"]))
            assert end.wait(DEADLINE)
            raise RuntimeError("terminated")

        batcher = Batcher(hang, max_batch_size=4, run_timeout=0.02, interrupt=end.set, name="m")
        for call in range(4):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await answers.count(4)
        assert await batcher.drain(DEADLINE)
        assert ran == [4]
        await batcher.aclose()

    run_with_deadline(main)


def test_halves_of_a_failed_batch_are_without_those_who_have_gone() -> None:
    async def main() -> None:
        answers = Answers()
        ran: list[list[int]] = []
        may_fail = threading.Event()

        def fail_once(inputs: Arrays) -> Arrays:
            ran.append(inputs["x"].reshape(-1).tolist())
            if len(ran) == 1:
                assert may_fail.wait(DEADLINE)
                raise RuntimeError("once")
            return double(inputs)

        batcher = Batcher(fail_once, max_batch_size=8, name="m")
        tickets = [batcher.submit(rows_of(call), 1, answers.of(call)) for call in range(5)]
        async with asyncio.timeout(DEADLINE):
            while not ran:
                await asyncio.sleep(0)
        for call in (0, 2, 4):
            tickets[call].cancel()
        may_fail.set()
        await answers.count(2)
        assert answers.values == {1: [2], 3: [6]}
        assert ran == [[0, 1, 2, 3, 4], [1], [3]]
        await batcher.aclose()

    run_with_deadline(main)


def test_what_is_refused_or_run_again_says_nothing_about_the_service_time() -> None:
    async def main() -> None:
        answers = Answers()

        def picky(inputs: Arrays) -> Arrays:
            if (inputs["x"] < 0).any():
                raise InvalidInputError("negative")
            return double(inputs)

        batcher = Batcher(picky, max_batch_size=4, cost=CostModel(0.5, 0.1), name="m")
        for call in range(40):
            batcher.submit(rows_of(-1000), 1, answers.of(call))
            await answers.count(call + 1)
        for call in range(40, 44):  # one of the four is wrong: the others run in halves
            batcher.submit(rows_of(-1 if call == 41 else call), 1, answers.of(call))
        await answers.count(44)
        assert len(answers.values) == 3
        assert (batcher.cost.fixed, batcher.cost.per_row) == (0.5, 0.1)
        await batcher.aclose()

    run_with_deadline(main)


def test_call_with_little_time_ends_a_pause_that_is_too_long_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def pause(self: Patience, waiting: object, enough: int, deadline: float, now: float) -> float:
        self.wanted = enough
        return max(min(DEADLINE, deadline - now - 1.0), 0.0)

    monkeypatch.setattr(Patience, "pause", pause)

    async def main() -> None:
        answers = Answers()
        batcher = Batcher(double, max_batch_size=4, name="m")
        batcher.submit(rows_of(1), 1, answers.of(0))
        await asyncio.sleep(0)  # turns of the loop, so that the timer is set
        await asyncio.sleep(0)
        assert not answers.values
        began = time.monotonic()
        batcher.submit(rows_of(2), 1, answers.of(1), deadline=began + 1.0)
        await answers.count(2)
        assert answers.values == {0: [2], 1: [4]}
        assert time.monotonic() - began < 0.9
        await batcher.aclose()

    run_with_deadline(main)


def test_texts_count_with_their_bytes() -> None:
    async def main() -> None:
        answers, model = Answers(), threading.Event()

        def wait(inputs: Arrays) -> Arrays:
            assert model.wait(DEADLINE)
            return {"y": np.zeros((len(inputs["x"]), 1))}

        batcher = Batcher(wait, max_batch_size=1, queue_bytes=250_000, has_text=True, name="m")
        for call in range(3):  # one runs, two wait
            batcher.submit({"x": np.array(["a" * 100_000], object)}, 1, answers.of(call))
            await asyncio.sleep(0)
        assert batcher.queued_bytes > 200_000
        with pytest.raises(ServerError, match="bytes wait") as caught:
            batcher.submit({"x": np.array(["a" * 100_000], object)}, 1, answers.of(3))
        assert caught.value.code == "queue_full"
        model.set()
        await answers.count(3)
        await batcher.aclose()

    run_with_deadline(main)


def test_call_that_would_be_late_is_refused_at_the_door() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, cost=CostModel(0.0, 100.0), name="m")
        batcher.submit(rows_of(0, 2), 2, answers.of(0))
        await model.started()
        soon = time.monotonic() + 250.0
        batcher.submit(rows_of(2), 1, answers.of(1), deadline=soon)  # nothing waits: it may be lucky
        with pytest.raises(ServerError, match="could answer in about") as caught:
            batcher.submit(rows_of(3), 1, answers.of(2), deadline=soon)
        assert (caught.value.status, caught.value.code) == (503, "too_late")
        assert caught.value.retry_after == pytest.approx(
            150.0, abs=5.0
        )  # 200 run, 2 × 100 wait, 250 are allowed
        with pytest.raises(ServerError, match="could answer"):
            batcher.submit(rows_of(3), 1, answers.of(2), max_wait=1.0)
        batcher.submit(rows_of(4), 1, answers.of(3), deadline=soon + 1000)
        assert batcher.statistics.failures == {"rejected": 2}
        model.let_go(3)
        await answers.count(3)
        await batcher.aclose()

    run_with_deadline(main)


def test_queue_is_bounded_in_bytes() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, queue_bytes=16, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        batcher.submit(rows_of(1, 2), 2, answers.of(1))
        assert batcher.queued_bytes == 16
        with pytest.raises(ServerError, match="16 of 16 bytes wait"):
            batcher.submit(rows_of(3), 1, answers.of(2))
        with pytest.raises(InvalidInputError, match="24 bytes can never"):
            batcher.submit(rows_of(3, 3), 3, answers.of(2))
        model.let_go(2)
        await answers.count(2)
        assert batcher.queued_bytes == 0
        await batcher.aclose()

    run_with_deadline(main)


def test_batches_grow_in_a_rush_before_anything_is_refused() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, rush_batch_size=8, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        for call in range(1, 12):
            batcher.submit(rows_of(call), 1, answers.of(call))
        model.let_go(4)
        await answers.count(12)
        assert [len(batch) for batch in model.batches] == [1, 8, 3]
        for call in range(12, 14):
            batcher.submit(rows_of(call), 1, answers.of(call))
        model.let_go()
        await answers.count(14)
        assert [len(batch) for batch in model.batches] == [1, 8, 3, 2]
        await batcher.aclose()

    run_with_deadline(main)


def test_urgent_calls_overtake() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=1, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        for call, priority in ((1, 0), (2, 0), (3, 5), (4, -5)):
            batcher.submit(rows_of(call), 1, answers.of(call), priority=priority)
        model.let_go(5)
        await answers.count(5)
        assert model.batches == [[0], [3], [1], [2], [4]]
        await batcher.aclose()

    run_with_deadline(main)


# Supervision


def test_mistake_in_the_policy_fails_the_calls_and_nothing_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(double, max_batch_size=4, name="m")

        def broken(*_: Any) -> list[Ticket]:
            raise RuntimeError("a mistake")

        with monkeypatch.context() as patch:
            patch.setattr(batcher._waiting, "take", broken)
            batcher.submit(rows_of(0), 1, answers.of(0))
            batcher.submit(rows_of(1), 1, answers.of(1))
            await answers.count(2)
        assert {error.code for error in answers.errors.values() if isinstance(error, ServerError)} == {
            "internal"
        }
        batcher.submit(rows_of(2), 1, answers.of(2))
        await answers.count(3)
        assert answers.values == {2: [4]}
        await batcher.aclose()

    run_with_deadline(main)
    assert "the calls that waited fail" in caplog.text


def test_drain_waits_for_what_waits_and_runs() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=1, name="m")
        assert await batcher.drain()
        for call in range(3):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await model.started()
        assert not await batcher.drain(0.001)
        draining = asyncio.create_task(batcher.drain(DEADLINE))
        model.let_go(3)
        await within_deadline(draining)
        assert draining.result()
        assert len(answers.values) == 3
        await batcher.aclose()

    run_with_deadline(main)


def test_statistics_count_calls_rows_and_batches() -> None:
    async def main() -> None:
        answers = Answers()

        def model(inputs: Arrays) -> Arrays:
            if (inputs["x"] < 0).any():
                raise ValueError("poison")
            return double(inputs)

        batcher = Batcher(model, max_batch_size=4, name="m")
        batcher.submit(rows_of(0, 10), 10, answers.of(0))
        await answers.count(1)
        batcher.submit(rows_of(-1), 1, answers.of(1))
        batcher.submit(rows_of(5), 1, answers.of(2))
        ticket = batcher.submit(rows_of(6), 1, answers.of(3))
        ticket.cancel()
        ticket.cancel()
        await answers.count(3)
        statistics = batcher.statistics
        assert (statistics.succeeded, dict(statistics.failures)) == (2, {"cancelled": 1, "model": 1})
        assert (statistics.rows, statistics.batches) == (12, 4)
        assert (statistics.latency.count, statistics.batch_rows.count) == (3, 4)
        assert statistics.compute_seconds > 0
        await batcher.aclose()

    run_with_deadline(main)


# Filling up


def test_calls_of_different_length_run_together_filled_up_and_are_cut_again() -> None:
    async def main() -> None:
        answers: dict[int, Any] = {}
        seen: list[tuple[int, ...]] = []
        done = asyncio.Event()

        def model(inputs: Arrays) -> Arrays:
            seen.append(inputs["ids"].shape)
            return {"sum": inputs["ids"].sum(axis=1), "ids": inputs["ids"] + 1}

        config = PadConfig(axis=0, to=(4, 8), value=0, outputs=("ids",))
        batcher = Batcher(model, max_batch_size=8, padding=Padding(config), name="m")

        def on_done(call: int) -> Callable[[Arrays | None, BaseException | None], None]:
            def take(outputs: Arrays | None, error: BaseException | None) -> None:
                assert outputs is not None, error
                answers[call] = {name: array.tolist() for name, array in outputs.items()}
                if len(answers) == 3:
                    done.set()

            return take

        for call, length in enumerate((2, 3, 7)):
            batcher.submit({"ids": np.full((1, length), call + 1)}, 1, on_done(call))
        with pytest.raises(InvalidInputError, match="at most 8"):
            batcher.submit({"ids": np.ones((1, 9), int)}, 1, on_done(9))
        await within_deadline(asyncio.ensure_future(done.wait()))
        assert seen == [(2, 4), (1, 8)]
        assert answers == {
            0: {"sum": [2], "ids": [[2, 2]]},
            1: {"sum": [6], "ids": [[3, 3, 3]]},
            2: {"sum": [21], "ids": [[4] * 7]},
        }
        await batcher.aclose()

    run_with_deadline(main)


def test_texts_of_about_the_same_length_go_together_as_they_are() -> None:
    async def main() -> None:
        seen: list[list[str]] = []
        done = asyncio.Event()
        answers: list[Any] = []

        def model(inputs: Arrays) -> Arrays:
            seen.append(inputs["text"].tolist())
            return {"y": np.array([len(text) for text in seen[-1]])}

        def on_done(outputs: Arrays | None, error: BaseException | None) -> None:
            assert outputs is not None, error
            answers.append(outputs["y"].tolist())
            if len(answers) == 4:
                done.set()

        padding = Padding(PadConfig(inputs=("text",)))
        batcher = Batcher(model, max_batch_size=8, padding=padding, name="m")
        for length in (20, 500, 22, 490):
            batcher.submit({"text": np.array(["x" * length], object)}, 1, on_done)
        await within_deadline(asyncio.ensure_future(done.wait()))
        assert [[len(text) for text in batch] for batch in seen] == [[20, 22], [500, 490]]
        assert answers == [[20], [22], [500], [490]]
        await batcher.aclose()

    run_with_deadline(main)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0.05, 0.9))
def test_calls_that_share_a_batch_differ_no_more_than_allowed(one: int, other: int, waste: float) -> None:
    padding = Padding(PadConfig(waste=waste))
    keys = [padding.key({"x": np.empty((1, length), np.int8)}, 1) for length in (one, other)]
    if keys[0] == keys[1] and max(one, other) > 8:
        assert 1 - min(one, other) / max(one, other) <= waste + 1 / max(one, other)


# Cancelling


def test_cancelled_waiting_call_never_runs_and_leaves_the_others_alone() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=8, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        tickets = [batcher.submit(rows_of(call), 1, answers.of(call)) for call in (1, 2, 3)]
        tickets[1].cancel()
        tickets[1].cancel()
        assert batcher.depth == 2
        model.let_go(2)
        await answers.count(3)
        assert model.batches == [[0], [1, 3]]
        assert answers.values == {0: [0], 1: [2], 3: [6]}
        await batcher.aclose()

    run_with_deadline(main)


def test_cancelled_running_call_is_not_answered_and_leaves_the_others_alone() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=8, name="m")
        tickets = [batcher.submit(rows_of(call), 1, answers.of(call)) for call in (1, 2, 3)]
        assert await model.started() == [1, 2, 3]
        tickets[1].cancel()
        model.let_go()
        await answers.count(2)
        assert answers.values == {1: [2], 3: [6]}
        tickets[0].cancel()  # too late: nothing happens
        await batcher.aclose()

    run_with_deadline(main)


def test_callback_may_cancel_a_neighbour_of_its_batch() -> None:
    async def main() -> None:
        answers, tickets = Answers(), list[Ticket]()
        batcher = Batcher(double, max_batch_size=8, name="m")

        def cancel_next(outputs: Arrays | None, error: BaseException | None) -> None:
            tickets[0].cancel()

        batcher.submit(rows_of(0), 1, cancel_next)
        tickets.append(batcher.submit(rows_of(1), 1, answers.of(1)))
        batcher.submit(rows_of(2), 1, answers.of(2))
        await answers.count(1)
        assert answers.values == {2: [4]}
        await batcher.aclose()

    run_with_deadline(main)


def test_cancelled_split_call_takes_back_the_pieces_that_wait() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, name="m")
        ticket = batcher.submit(rows_of(0, 6), 6, answers.of(0))
        assert await model.started() == [0, 1]
        assert batcher.depth == 4
        ticket.cancel()
        assert batcher.depth == 0
        batcher.submit(rows_of(9), 1, answers.of(1))
        model.let_go(2)
        await answers.count(1)
        assert answers.values == {1: [18]}
        await batcher.aclose()

    run_with_deadline(main)


# Failing


def failing_for(poison: int) -> Callable[[Arrays], Arrays]:
    def model(inputs: Arrays) -> Arrays:
        if poison in inputs["x"]:
            raise ArithmeticError(f"cannot take {poison}")
        return double(inputs)

    return model


@pytest.mark.parametrize("poison", range(7))
def test_poisoned_call_fails_alone(poison: int) -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(failing_for(poison), max_batch_size=8, name="m")
        for call in range(7):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await answers.count(7)
        assert answers.values == {call: [2 * call] for call in range(7) if call != poison}
        assert [str(error) for error in answers.errors.values()] == [f"cannot take {poison}"]
        await batcher.aclose()

    run_with_deadline(main)


def test_failed_batch_is_not_run_again_without_replay() -> None:
    async def main() -> None:
        answers, runs = Answers(), []

        def model(inputs: Arrays) -> Arrays:
            runs.append(len(inputs["x"]))
            raise ArithmeticError

        batcher = Batcher(model, max_batch_size=8, name="m", replay=False)
        for call in range(3):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await answers.count(3)
        assert runs == [3]
        assert all(isinstance(error, ArithmeticError) for error in answers.errors.values())
        await batcher.aclose()

    run_with_deadline(main)


def test_failed_piece_fails_the_whole_call_once() -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(failing_for(3), max_batch_size=2, name="m")
        batcher.submit(rows_of(0, 7), 7, answers.of(0))
        batcher.submit(rows_of(7), 1, answers.of(1))
        await answers.count(2)
        assert answers.values == {1: [14]}
        assert isinstance(answers.errors[0], ArithmeticError)
        await batcher.aclose()

    run_with_deadline(main)


def test_pieces_whose_outputs_do_not_fit_together_are_an_error() -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(lambda inputs: {"y": np.zeros((len(inputs["x"]),) * 2)}, max_batch_size=2, name="m")
        batcher.submit(rows_of(0, 3), 3, answers.of(0))
        await answers.count(1)
        assert "do not fit together" in str(answers.errors[0])
        await batcher.aclose()

    run_with_deadline(main)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"y": np.zeros((2, 1))}, "got 3 rows, but its output 'y' has the shape (2, 1)"),
        ({"y": np.zeros((3, 1)), "z": np.zeros(4)}, "its output 'z' has the shape (4,)"),
        ({"y": np.array(1.0)}, "has the shape ()"),
        ({"y": [1, 2, 3]}, "must be an array, not list"),
        ({}, "an empty dict"),
        (None, "returned NoneType"),
    ],
)
def test_wrong_outputs_are_an_error_for_every_call_and_never_misassigned(outputs: Any, message: str) -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(lambda inputs: outputs, max_batch_size=8, name="m")
        for call in range(3):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await answers.count(3)
        assert answers.values == {}
        assert all(isinstance(e, ServerError) and e.code == "model_error" for e in answers.errors.values())
        assert all(message in str(error) for error in answers.errors.values())
        await batcher.aclose()

    run_with_deadline(main)


def test_model_that_exits_does_not_end_the_thread() -> None:
    async def main() -> None:
        answers = Answers()

        def model(inputs: Arrays) -> Arrays:
            if 0 in inputs["x"]:
                raise SystemExit(1)
            return double(inputs)

        batcher = Batcher(model, max_batch_size=8, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await answers.count(1)
        assert isinstance(answers.errors[0], ServerError)
        batcher.submit(rows_of(1), 1, answers.of(1))
        await answers.count(2)
        assert answers.values == {1: [2]}
        await batcher.aclose()

    run_with_deadline(main)


def test_callback_that_raises_is_logged_and_the_others_are_answered(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(double, max_batch_size=8, name="m")

        def broken(outputs: Arrays | None, error: BaseException | None) -> None:
            raise LookupError("my mistake")

        batcher.submit(rows_of(0), 1, broken)
        batcher.submit(rows_of(1), 1, answers.of(1))
        await answers.count(1)
        assert answers.values == {1: [2]}
        await batcher.aclose()

    with caplog.at_level(logging.ERROR):
        run_with_deadline(main)
    assert "my mistake" in caplog.text


# Refusing


def test_full_queue_refuses_exactly_at_its_limit_with_retry_after() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, queue_rows=4, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        for call in range(1, 4):
            batcher.submit(rows_of(call), 1, answers.of(call))
        with pytest.raises(ServerError, match="3 of 4 rows wait"):
            batcher.submit(rows_of(8, 2), 2, answers.of(8))
        last = batcher.submit(rows_of(4), 1, answers.of(4))
        with pytest.raises(ServerError) as caught:
            batcher.submit(rows_of(9), 1, answers.of(9))
        assert (caught.value.status, caught.value.code) == (503, "queue_full")
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1.0  # nothing has been measured yet
        last.cancel()
        batcher.submit(rows_of(5), 1, answers.of(5))
        model.let_go(3)
        await answers.count(5)
        assert sorted(answers.values) == [0, 1, 2, 3, 5]
        await batcher.aclose()

    run_with_deadline(main)


def test_retry_after_follows_the_measured_rate() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, queue_rows=6, cost=CostModel(0.0, 100.0), name="m")
        batcher.submit(rows_of(0, 2), 2, answers.of(0))
        await model.started()
        batcher.submit(rows_of(2, 6), 6, answers.of(1))
        with pytest.raises(ServerError) as caught:
            batcher.submit(rows_of(9), 1, answers.of(9))
        assert caught.value.retry_after == pytest.approx(800.0, abs=5.0)
        model.let_go(4)
        await answers.count(2)
        await batcher.aclose()

    run_with_deadline(main)


def test_call_that_can_never_be_queued_is_told_so() -> None:
    async def main() -> None:
        batcher = Batcher(double, max_batch_size=2, queue_rows=4, name="m")
        with pytest.raises(InvalidInputError, match="at most 4") as caught:
            batcher.submit(rows_of(0, 5), 5, lambda outputs, error: None)
        assert caught.value.status == 413
        await batcher.aclose()

    run_with_deadline(main)


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [
        ({}, 1),
        ({"x": np.zeros((2, 1))}, 1),
        ({"x": np.zeros((0, 1))}, 0),
        ({"x": np.array(1.0)}, 1),
        ({"x": np.zeros((2, 1)), "y": np.zeros((3, 1))}, 2),
    ],
)
def test_rows_that_do_not_match_are_refused_at_the_door(inputs: Arrays, rows: int) -> None:
    async def main() -> None:
        batcher = Batcher(double, max_batch_size=2, name="m")
        with pytest.raises(InvalidInputError, match="Every input must have"):
            batcher.submit(inputs, rows, lambda outputs, error: None)
        assert batcher.depth == 0
        await batcher.aclose()

    run_with_deadline(main)


# Closing


def test_close_refuses_the_waiting_and_lets_the_running_finish() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=1, name="closing")
        for call in range(3):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await model.started()
        closing = asyncio.create_task(batcher.aclose())
        await answers.count(2)
        assert {
            call: error.code for call, error in answers.errors.items() if isinstance(error, ServerError)
        } == {
            1: "unavailable",
            2: "unavailable",
        }
        model.let_go()
        await within_deadline(closing)
        assert answers.values == {0: [0]}
        with pytest.raises(ServerError, match="being unloaded"):
            batcher.submit(rows_of(0), 1, answers.of(9))
        await batcher.aclose()
        assert not any(thread.name == "closing-0" for thread in threading.enumerate())

    run_with_deadline(main)


def test_close_gives_up_on_a_model_that_does_not_return(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=1, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await model.started()
        await within_deadline(batcher.aclose(timeout=0.001))
        assert isinstance(answers.errors[0], ServerError)
        model.let_go()
        await batcher.aclose()
        assert answers.values == {}

    run_with_deadline(main)
    assert "still runs" in caplog.text


def test_close_before_the_first_call_does_nothing() -> None:
    async def main() -> None:
        await Batcher(double, max_batch_size=2, name="m").aclose()

    run_with_deadline(main)


@pytest.mark.parametrize(
    "wrong", [{"instances": 0}, {"queue_rows": 0}, {"max_batch_size": 0}, {"max_batch_wait": -1.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Batcher(double, **{"max_batch_size": 2, "name": "m", **wrong})


async def within_deadline(awaitable: Awaitable[None]) -> None:
    async with asyncio.timeout(DEADLINE):
        await awaitable


# All of it at once


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 120),
)
def test_every_call_is_answered_once_with_its_own_rows(
    plan: list[tuple[int, bool, bool]], max_batch_size: int, instances: int, poison: int
) -> None:
    async def main() -> None:
        answers, sizes = Answers(), []
        model = failing_for(poison)

        def recording(inputs: Arrays) -> Arrays:
            sizes.append(len(inputs["x"]))
            return model(inputs)

        batcher = Batcher(recording, max_batch_size=max_batch_size, instances=instances, name="m")
        first, expected, failing, cancelled = 0, dict[int, list[int]](), set[int](), set[int]()
        for call, (rows, cancel, pause) in enumerate(plan):
            ticket = batcher.submit(rows_of(first, rows), rows, answers.of(call))
            values = range(first, first + rows)
            first += rows
            if cancel:
                ticket.cancel()
                cancelled.add(call)
            elif poison in values:
                failing.add(call)
            else:
                expected[call] = [2 * value for value in values]
            if pause:
                await asyncio.sleep(0)
        await answers.count(len(expected) + len(failing))
        await batcher.aclose()
        assert answers.values == expected
        assert set(answers.errors) == failing
        assert max(sizes, default=0) <= max_batch_size

    run_with_deadline(main)


def test_model_that_is_slower_than_measured_still_answers_most_of_what_it_lets_in() -> None:
    """Twice as slow as it was measured, four times too many calls: without learning, each would come a little too late."""

    async def main() -> None:
        slow = 0.004
        computed: list[float] = []

        def work(inputs: Arrays) -> Arrays:
            time.sleep(slow * len(inputs["x"]))  # the model's own time, not the test's
            computed.extend([time.monotonic()] * len(inputs["x"]))
            return double(inputs)

        batcher = Batcher(work, max_batch_size=4, cost=CostModel(0.0, slow / 2), name="m")
        answered: list[float] = []
        late = 0

        def on_done(outputs: Arrays | None, error: BaseException | None) -> None:
            nonlocal late
            if error is None:
                answered.append(time.monotonic())
            else:
                late += 1

        began = time.monotonic()
        sent = 0
        while time.monotonic() - began < 2.0:
            due = int((time.monotonic() - began) * 4 / slow)
            while sent < due:
                sent += 1
                with contextlib.suppress(ServerError):
                    batcher.submit(rows_of(sent), 1, on_done, deadline=time.monotonic() + 0.4)
            await asyncio.sleep(0.002)
        # of what the model computed, not of what it might have on a machine that nobody else uses
        in_the_end = [sum(moment > began + 1.0 for moment in one) for one in (answered, computed)]
        assert in_the_end[0] > 0.8 * in_the_end[1] > 0, (in_the_end, late)
        await batcher.aclose()

    run_with_deadline(main)
