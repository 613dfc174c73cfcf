"""Bytes -> events, whatever the cuts."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from socaity.exceptions import ProtocolError
from socaity_transports._sse import ServerSentEvent, SSEParser

LINE_ENDS = [b"\n", b"\r", b"\r\n"]
FIELDS = ["data", "event", "id", "retry", "data:", "other", "", ":"]
lines = st.tuples(
    st.sampled_from(FIELDS), st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)
).map(lambda pair: f"{pair[0]}: {pair[1]}".encode())
streams = st.lists(st.tuples(st.one_of(lines, st.just(b"")), st.sampled_from(LINE_ENDS))).map(
    lambda parts: b"".join(line + end for line, end in parts)
)


def parse(*pieces: bytes, **options: object) -> list[ServerSentEvent]:
    parser = SSEParser(**options)
    return [event for piece in pieces for event in parser.feed(piece)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(streams, st.lists(st.integers(0, 10_000)), st.booleans())
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 10], False)
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2], True)
def test_any_cut_gives_the_same_events(stream: bytes, places: list[int], bom: bool) -> None:
    stream = b"\xef\xbb\xbf" + stream if bom else stream
    assert parse(*cut(stream, places)) == parse(stream) == parse(*(bytes([b]) for b in stream))


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.lists(st.integers(0, 10_000)))
@example("data is plain text\n\n", [4])
@example("data", [2])
def test_any_cut_of_unframed_text_gives_the_same_text(text: str, places: list[int]) -> None:
    content = text.lstrip("\r\n\ufeff")
    if content.startswith(":") or content.partition(":")[0].partition("\n")[0].partition("\r")[0] in (
        "data",
        "event",
        "id",
        "retry",
    ):
        return  # framed
    parser = SSEParser(raw=True)
    events = [event for piece in cut(text.encode(), places) for event in parser.feed(piece)]
    events += parser.finish()
    assert "".join(event.data for event in events).lstrip("\ufeff") == text.lstrip("\ufeff")
    assert all(event.event == SSEParser.RAW for event in events)


@given(streams, st.lists(st.integers(0, 10_000)))
def test_framed_streams_are_read_the_same_where_raw_text_is_allowed(stream: bytes, places: list[int]) -> None:
    stream = b"data: first\n\n" + stream
    assert parse(*cut(stream, places), raw=True) == parse(stream)


def test_the_examples_of_the_specification() -> None:
    assert parse(b"data: YHOO\ndata: +2\ndata: 10\n\n") == [ServerSentEvent("", "message", "YHOO\n+2\n10")]
    stream = b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
    assert parse(stream) == [
        ServerSentEvent("1", "message", "first event"),
        ServerSentEvent("", "message", "second event"),
        ServerSentEvent("", "message", " third event"),
    ]
    assert [event.data for event in parse(b"data\n\ndata\ndata\n\ndata:")] == ["", "\n"]


def test_name_id_and_retry_are_read() -> None:
    [event] = parse(b"event: chunk\nid: 7\nretry: 250\ndata: x\n\n")
    assert event == ServerSentEvent("7", "chunk", "x", 250)


def test_an_id_with_a_nul_and_a_retry_that_is_no_number_are_ignored() -> None:
    [event] = parse("id: a\0b\nretry: ²5\ndata: x\n\n".encode())
    assert (event.id, event.retry) == ("", None)


def test_an_id_without_data_is_kept_for_the_next_event() -> None:
    assert [event.id for event in parse(b"id: 3\n\ndata: x\n\n")] == ["3"]


def test_events_of_many_megabytes_work() -> None:
    payload = b"x" * (3 << 20)
    stream = b"data: " + payload + b"\n\n"
    pieces = [stream[i : i + 65536] for i in range(0, len(stream), 65536)]
    [event] = parse(*pieces)
    assert len(event.data) == len(payload)


def test_an_event_above_the_limit_is_refused() -> None:
    parser = SSEParser(max_event=100)
    parser.feed(b"data: " + b"x" * 90)
    with pytest.raises(ProtocolError, match="larger than 100 bytes"):
        parser.feed(b"x" * 10)


def test_many_comments_are_no_large_event() -> None:
    assert parse(*[b": heartbeat\n\n"] * 100, b"data: x\n\n", max_event=100)[0].data == "x"
    assert parse(*[b": heartbeat\n"] * 100, b"data: x\n\n", max_event=100)[0].data == "x"


def test_a_stream_that_ends_without_an_empty_line_can_be_finished() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: last") == []
    assert [event.data for event in parser.finish()] == ["last"]
    assert SSEParser().finish() == []


def test_a_character_cut_in_two_is_whole_in_unframed_text() -> None:
    euro = "€".encode()
    assert "".join(e.data for e in parse(b"one " + euro[:1], euro[1:] + b" two", raw=True)) == "one € two"
