"""How wide a text is in a terminal, and tables and drawings whose columns stay in line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity._text_width import cut, padded, width_of
from socaity._timeline import Phase, Span, Timeline, TimelineRow
from socaity.cli.jobs import _table

WIDE = "日本語の名前"


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("plain", 5),
        ("café", 4),
        ("cafe\N{COMBINING ACUTE ACCENT}", 4),
        (WIDE, 12),
        ("ｗｉｄｅ", 8),
        ("🚀", 2),
        ("a\N{ZERO WIDTH JOINER}b", 2),
        ("नि", 2),
    ],
)
def test_width(text: str, width: int) -> None:
    assert width_of(text) == width


@given(st.text(max_size=30), st.integers(1, 20))
def test_what_is_cut_has_room(text: str, width: int) -> None:
    short = cut(text, width)
    assert width_of(short) <= width
    assert short == text or text.startswith(short.removesuffix("…"))
    assert width_of(padded(short, width)) == width


def test_wide_names_do_not_push_the_bars() -> None:
    spans = (Span(Phase.COMPUTED, 0, 1),)
    names = ("plain", WIDE, "日本" * 20, "cafe\N{COMBINING ACUTE ACCENT}")
    rows = tuple(TimelineRow(name, "succeeded", 0, 1, spans) for name in names)
    lines = Timeline(rows, 1, True).text(60).splitlines()
    assert {width_of(line.partition("|")[0]) for line in lines[:4]} == {19}
    assert {width_of(line) for line in lines[:4]} == {60}


def test_wide_names_do_not_push_the_columns_of_a_table() -> None:
    lines = _table([("ID", "NAME", "STATUS"), ("1", WIDE, "queued"), ("2", "plain", "queued")]).splitlines()
    assert len({width_of(line[: line.lower().index("queued")]) for line in lines[1:]}) == 1
