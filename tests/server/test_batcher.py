"""The batching policy by its invariants, and the batcher with a model that the test holds by the hand."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socaity.exceptions import InvalidInputError, ServerError
from socaity_server.batching.batcher import Batcher, Ticket
from socaity_server.batching.policy import Entry, WaitingRoom, row_slices

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


@settings(deadline=None)
@given(st.data(), st.integers(1, 12), st.sampled_from([0.0, 3.0]))
def test_policy_keeps_its_invariants(data: st.DataObject, max_rows: int, max_wait: float) -> None:
    room: WaitingRoom[Entry] = WaitingRoom(max_rows, max_wait)
    waiting: list[Entry] = []
    now = 0.0
    actions = data.draw(
        st.lists(st.sampled_from(["add", "add", "add", "take", "discard", "time"]), max_size=80)
    )
    for action in actions:
        if action == "add":
            entry = Entry(data.draw(st.sampled_from("abc")), data.draw(st.integers(1, max_rows)), now)
            room.add(entry)
            waiting.append(entry)
        elif action == "discard" and waiting:
            entry = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
            room.discard(entry)
            room.discard(entry)
        elif action == "time":
            now += 1.0
        elif action == "take":
            check_batch(room.take(now), waiting, max_rows, max_wait, now)
        assert room.rows == sum(entry.rows for entry in waiting)
        assert room.has_full_batch == any(rows_waiting(waiting, key) >= max_rows for key in "abc")
        assert room.due_at() == (waiting[0].arrived + max_wait if waiting else None)
    while waiting:
        check_batch(room.take(now + max_wait), waiting, max_rows, max_wait, now + max_wait)
    assert room.rows == 0
    assert room.take(now + max_wait) == []


def rows_waiting(waiting: list[Entry], key: str) -> int:
    return sum(entry.rows for entry in waiting if entry.key == key)


def check_batch(batch: list[Entry], waiting: list[Entry], max_rows: int, max_wait: float, now: float) -> None:
    """`batch` is one that the policy may choose out of `waiting`; takes it out."""
    full = {key for key in "abc" if rows_waiting(waiting, key) >= max_rows}
    due = bool(waiting) and now >= waiting[0].arrived + max_wait
    assert bool(batch) == (due or bool(full))
    if not batch:
        return
    assert sum(entry.rows for entry in batch) <= max_rows
    assert len({entry.key for entry in batch}) == 1
    if due:
        assert batch[0] is waiting[0]
    else:
        assert batch[0] is next(entry for entry in waiting if entry.key in full)
    same = [entry for entry in waiting if entry.key == batch[0].key]
    assert batch == same[: len(batch)]
    left = same[len(batch) :]
    assert not left or sum(entry.rows for entry in batch) + left[0].rows > max_rows
    for entry in batch:
        waiting.remove(entry)


def test_policy_compacts_tombstones_so_that_cancelled_calls_take_no_memory() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(4)
    first = Entry("a", 1)
    room.add(first)
    for _ in range(10_000):
        entry = Entry("a", 1)
        room.add(entry)
        room.discard(entry)
    assert len(room._buckets["a"].entries) < 200
    assert room.take(0.0) == [first]


def test_policy_keeps_no_bucket_of_a_key_that_is_gone() -> None:
    room: WaitingRoom[Entry] = WaitingRoom(4)
    for key in range(100):
        room.add(Entry(key, 1))
    batches = [room.take(0.0) for _ in range(101)]
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


@pytest.mark.parametrize(("max_rows", "max_wait"), [(0, 0.0), (1, -1.0)])
def test_policy_refuses_impossible_limits(max_rows: int, max_wait: float) -> None:
    with pytest.raises(ValueError, match="must"):
        WaitingRoom(max_rows, max_wait)


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


def test_max_batch_wait_ends_early_when_the_batch_is_full() -> None:
    async def main() -> None:
        answers, model = Answers(), GatedModel()
        batcher = Batcher(model, max_batch_size=2, max_batch_wait=1000.0, name="m")
        batcher.submit(rows_of(0), 1, answers.of(0))
        await asyncio.sleep(0)  # a turn of the loop, so that the timer is set
        await asyncio.sleep(0)
        assert model.batches == []
        batcher.submit(rows_of(1), 1, answers.of(1))
        model.let_go()
        await answers.count(2)
        assert model.batches == [[0, 1]]
        await batcher.aclose()

    run_with_deadline(main)


def test_max_batch_wait_ends_on_its_own() -> None:
    async def main() -> None:
        answers = Answers()
        batcher = Batcher(double, max_batch_size=2, max_batch_wait=0.001, name="m")
        batcher.submit(rows_of(1), 1, answers.of(0))
        await answers.count(1)
        assert answers.values == {0: [2]}
        batcher.submit(rows_of(2), 1, answers.of(1)).cancel()
        batcher.submit(rows_of(3), 1, answers.of(2))
        await answers.count(2)
        assert answers.values == {0: [2], 2: [6]}
        await batcher.aclose()

    run_with_deadline(main)


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


def test_after_batch_is_called_once_after_all_answers_of_a_batch() -> None:
    async def main() -> None:
        answers, seen = Answers(), []
        batcher = Batcher(double, max_batch_size=8, name="m")
        batcher.after_batch = lambda: seen.append(len(answers.values))
        for call in range(5):
            batcher.submit(rows_of(call), 1, answers.of(call))
        await answers.count(5)
        await batcher.aclose()
        assert seen == [5]

    run_with_deadline(main)


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
        batcher = Batcher(model, max_batch_size=2, queue_rows=6, instances=1, name="m")
        batcher._drained_rows, batcher._drained_seconds = 10.0, 1000.0  # 100 s a row
        batcher.submit(rows_of(0, 2), 2, answers.of(0))
        await model.started()
        batcher.submit(rows_of(2, 6), 6, answers.of(1))
        with pytest.raises(ServerError) as caught:
            batcher.submit(rows_of(9), 1, answers.of(9))
        assert caught.value.retry_after == pytest.approx(800.0)
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
        batcher = Batcher(model, max_batch_size=1, name="m")
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
        assert not any(thread.name == "m-0" for thread in threading.enumerate())

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


@settings(deadline=None)  # threads on a busy machine
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
