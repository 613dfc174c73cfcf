"""What is taken for text by models: one text, lists, and arrays of text; all of it is sent as plain text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from socaity._job import Job
from socaity._schema import Check, UnfinishedError, compile_check
from socaity._signature import make_bind
from socaity.exceptions import InvalidInputError
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription
from socaity.protocol.messagepack import packb, unpackb

from .doubles import held


def check(
    shape: list[int | None] | None,
    *,
    dtype: str | None = "object",
    batched: bool = False,
    direct: bool = True,
) -> Check:
    parameter = ParameterDescription(name="x", tensor=TensorDescription(dtype=dtype, shape=shape))
    return compile_check(parameter, EndpointDescription(name="f", path="/f", batched=batched, direct=direct))


TEXTS = ["ä", "bc"]


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS),
        [np.str_(text) for text in TEXTS],
        pd.Series(TEXTS),
        pd.Series(TEXTS, dtype="category"),
    ],
)
@pytest.mark.parametrize(("shape", "batched"), [([], True), ([2], False), ([None], False), (None, True)])
def test_lists_and_arrays_of_text_are_sent_as_lists(
    given: Any, shape: list[int | None] | None, batched: bool
) -> None:
    found = check(shape, batched=batched)(given)
    assert type(found) in (list, tuple)
    assert list(found) == TEXTS
    assert unpackb(packb(found)) == TEXTS


@pytest.mark.parametrize("given", ["ä", np.str_("ä"), np.array("ä", dtype=object)])
@pytest.mark.parametrize("batched", [True, False])
def test_one_text_is_sent_as_it_is(given: Any, batched: bool) -> None:
    assert check([], batched=batched)(given) == "ä"
    assert check(None, dtype=None, batched=batched)(given) == "ä"
    assert check([1], batched=batched)(given) == ["ä"]
    assert check([1, 1], batched=batched)(given) == [["ä"]]


def test_rows_of_several_texts() -> None:
    rows = [["a", "b"], ["c", "d"]]
    assert check([2], batched=True)(rows) == rows
    assert check([2], batched=True)(np.array(rows)) == rows
    assert check([1], batched=True)(pd.Series(TEXTS)) == [["ä"], ["bc"]]
    assert check([], batched=True)([b"\x00\xff"]) == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("given", "shape", "batched", "message"),
    [
        (TEXTS, [], False, "expected one text, got lists of text [2]"),
        ([TEXTS], [], True, "expected one text or a list of texts, got lists of text [1, 2]"),
        ("a", [2], True, "expected text [2] or [n, 2], got one text"),
        ([["a"], ["b", "c"]], [2], True, "rows of different lengths"),
        (5, [], False, "expected text, got int 5"),
        (["a", 5], [], True, "expected text, got int 5"),
        ({"a": 1}, [], False, "expected text, got dict"),
        (None, [], False, "expected text, got NoneType"),
        (np.zeros(2), [], True, "expected text, got float64 [2]"),
        ("x" * 100_000, [2], False, "got one text"),
    ],
)
def test_what_is_wrong_is_said(given: Any, shape: list[int | None], batched: bool, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(shape, batched=batched)(given)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_models_that_do_not_say_what_they_take_get_text_or_numbers() -> None:
    undeclared = check(None, dtype=None, batched=True)
    assert undeclared(TEXTS) == TEXTS
    assert undeclared(np.array(TEXTS)) == TEXTS
    assert undeclared([1, 2]).tolist() == [1, 2]
    with pytest.raises(ValueError, match="expected any dtype"):
        check(None, dtype=None, direct=False)("a path, perhaps")


def test_a_job_inside_is_waited_for() -> None:
    service, _ = held()
    job: Job[Any] = Job(service.ask, {})
    for value in (job, ["a", job], [["a"], [job["b"]]]):
        with pytest.raises(UnfinishedError):
            check([], batched=True)(value)
    service.close()


def test_the_parameter_is_named() -> None:
    text = ParameterDescription(name="text", tensor=TensorDescription(dtype="object", shape=[]))
    bind = make_bind(EndpointDescription(name="say", path="/say", parameters=[text], direct=True))
    assert bind(("abc",), {}) == {"text": "abc"}
    with pytest.raises(InvalidInputError, match=r"say\(text=…\): expected text, got int 5"):
        bind((5,), {})
