"""A model that is quicker than the way to its thread runs on the loop, and goes back when it is not."""

from __future__ import annotations

import asyncio
import math
import threading

import numpy as np
import pytest

from socaity_server.batching import inline
from socaity_server.batching.batcher import Batcher
from socaity_server.batching.inline import QUICK, InlinePolicy


def quick(policy: InlinePolicy, times: int = 16, *, elapsed: float = QUICK) -> None:
    for _ in range(times):
        policy.ran_on_thread(QUICK / 2, elapsed)


def test_quick_model_becomes_inline_after_a_trial() -> None:
    policy = InlinePolicy(is_allowed=True)
    quick(policy, 15)
    assert not policy.is_inline
    quick(policy, 1)
    assert policy.is_inline


def test_model_that_was_not_allowed_stays_on_its_thread() -> None:
    policy = InlinePolicy(is_allowed=False)
    quick(policy, 100)
    assert not policy.is_inline


def test_one_slow_batch_starts_the_trial_again() -> None:
    policy = InlinePolicy(is_allowed=True)
    quick(policy, 15)
    policy.ran_on_thread(2 * QUICK, 2 * QUICK)
    quick(policy, 15)
    assert not policy.is_inline
    quick(policy, 1)
    assert policy.is_inline


def test_model_that_waits_for_something_else_is_not_quick() -> None:
    policy = InlinePolicy(is_allowed=True)
    quick(policy, 100, elapsed=100 * QUICK)
    assert not policy.is_inline


def test_waits_for_the_interpreter_do_not_make_a_model_slow() -> None:
    policy = InlinePolicy(is_allowed=True)
    quick(policy, 15, elapsed=100 * QUICK)
    quick(policy, 1)
    assert policy.is_inline


def test_inline_model_that_holds_up_the_loop_goes_back_for_long() -> None:
    policy = InlinePolicy(is_allowed=True)
    quick(policy)
    policy.ran_inline(10 * QUICK)
    assert not policy.is_inline
    quick(policy, 1000)
    assert not policy.is_inline
    quick(policy, 100)
    assert policy.is_inline


async def call(batcher: Batcher, rows: int) -> list[float]:
    future: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()

    def done(outputs: dict[str, np.ndarray] | None, error: BaseException | None) -> None:
        if outputs is None:
            future.set_exception(error or AssertionError("neither outputs nor an error"))
        else:
            future.set_result(outputs["y"].tolist())

    batcher.submit({"x": np.arange(rows, dtype=np.float32)}, rows, done)
    return await asyncio.wait_for(future, 10)


def test_inline_batches_run_on_the_loop_and_give_each_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    # another program may have the processor for a moment, which is not the model's fault
    monkeypatch.setattr(inline, "_SLOW", math.inf)
    threads: list[int] = []

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        threads.append(threading.get_ident())
        if (inputs["x"] > 4).any():
            raise ValueError("more than four")
        return {"y": inputs["x"] * 2}

    async def main() -> None:
        batcher = Batcher(run, max_batch_size=8, name="test", inline=True)
        await call(batcher, 1)
        quick(batcher._instances[0].policy)
        threads.clear()
        answers = await asyncio.gather(*[call(batcher, 1 + n % 4) for n in range(20)])
        assert answers == [[2.0 * row for row in range(1 + n % 4)] for n in range(20)]
        assert set(threads) == {threading.get_ident()}
        poisoned = await asyncio.gather(*[call(batcher, rows) for rows in (1, 6, 2)], return_exceptions=True)
        assert poisoned[0] == [0.0]
        assert isinstance(poisoned[1], ValueError)
        assert poisoned[2] == [0.0, 2.0]
        await batcher.aclose()

    asyncio.run(main())
