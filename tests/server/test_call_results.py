"""What calls of a session may refer to, and what is held for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import InvalidInputError, JobCancelled, JobFailed, to_problem
from socaity.protocol.frames import ERROR, HELD, RESULT
from socaity_server.frontends.call_results import LARGE, CallResults, HeldBytes, wire_size
from socaity_server.references import Reference

pytestmark = pytest.mark.anyio
BIG = np.zeros(LARGE + 1, np.uint8)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def results(*, holds: bool = True, in_all: HeldBytes | None = None, limit: int = 10**9) -> CallResults:
    made = CallResults(in_all or HeldBytes(), limit=limit)
    made.holds = holds
    return made


def refer(
    made: CallResults, number: int, *, running: Sequence[int] = (), outbox: Sequence[Sequence[Any]] = ()
) -> "asyncio.Future[Any]":
    return made.capture([("x", Reference("call", str(number)))], running, outbox)[number]


async def test_a_running_call_is_waited_for_and_its_small_result_sent() -> None:
    made = results()
    one, other = refer(made, 1, running=[1]), refer(made, 1, running=[1])
    assert one is other
    assert not one.done()
    assert made.settle(1, 5, None) is None
    assert await one == 5
    assert made.awaited == {}


async def test_a_large_result_is_held_until_it_is_released() -> None:
    made = results()
    refer(made, 1, running=[1])
    assert made.settle(1, BIG, None) == [HELD, 1, 0, BIG.nbytes]
    assert made.held_bytes == BIG.nbytes
    assert (await refer(made, 1)) is BIG
    assert made.fetch(1) is BIG
    made.release(1)
    made.release(1)
    assert made.held_bytes == 0
    with pytest.raises(InvalidInputError, match="call 1 is not held"):
        made.fetch(1)
    with pytest.raises(InvalidInputError, match="'x' refers to the call 1, which is not known") as caught:
        refer(made, 1)
    assert (caught.value.code, caught.value.parameter) == ("unknown_call", "x")


async def test_a_client_that_knows_nothing_of_it_gets_every_result() -> None:
    made = results(holds=False)
    refer(made, 1, running=[1])
    assert made.settle(1, BIG, None) is None


@pytest.mark.parametrize("of_all", [True, False])
async def test_what_would_be_too_much_is_sent(of_all: bool) -> None:
    in_all = HeldBytes(3 * BIG.nbytes // 2 if of_all else 10**9)
    made = results(in_all=in_all, limit=10**9 if of_all else 3 * BIG.nbytes // 2)
    for number in (1, 2):
        refer(made, number, running=[number])
    assert made.settle(1, BIG, None)
    assert made.settle(2, BIG, None) is None
    made.close()
    assert in_all.taken == made.held_bytes == 0


async def test_a_row_is_held_without_its_batch() -> None:
    made = results()
    batch = np.zeros((8, LARGE + 1), np.uint8)
    refer(made, 1, running=[1])
    made.settle(1, batch[3], None)
    assert made.fetch(1).base is None


async def test_a_failed_call_fails_who_waits_for_it() -> None:
    made = results()
    future = refer(made, 1, running=[1])
    assert made.settle(1, None, JobFailed("boom")) is None
    with pytest.raises(JobFailed, match="boom"):
        await future


async def test_a_result_is_known_until_it_is_acknowledged() -> None:
    made = results()
    problem = to_problem(JobFailed("boom"))
    made.sent(7, 0, [[RESULT, 1, "one"], [ERROR, 2, problem]])
    assert await refer(made, 1) == "one"
    with pytest.raises(JobFailed, match="boom"):
        await refer(made, 2)
    assert await refer(made, 3, outbox=[[RESULT, 3, "not flushed yet"]]) == "not flushed yet"
    made.sent(8, 6, [[RESULT, 4, "four"]])
    assert await refer(made, 1) == "one"
    made.sent(9, 7, [])
    assert await refer(made, 4) == "four"
    with pytest.raises(InvalidInputError, match="call 1"):
        refer(made, 1)


async def test_who_waits_when_the_session_ends_waits_in_vain() -> None:
    made = results()
    future = refer(made, 1, running=[1])
    made.close()
    with pytest.raises(JobCancelled, match="session"):
        await future


async def test_only_large_results_of_jobs_that_were_referred_to_stay() -> None:
    made = results()
    made.capture([("x", Reference("job", "a")), ("y", Reference("job", "b"))], (), ())
    assert made.job_ended("a", BIG, True) == BIG.nbytes
    assert made.job_ended("a", BIG, True) == 0
    assert made.job_ended("b", BIG, False) == 0
    assert made.job_ended("c", BIG, True) == 0


def test_the_size_of_a_value_is_about_what_it_takes() -> None:
    assert wire_size(BIG) == BIG.nbytes
    assert wire_size("x" * 100) == 105
    assert wire_size({"a": [1.0] * 10, "b": b"xyz"}) == 5 + 6 + 5 + 90 + 6 + 8
