"""The layout of the graph of steps: layers, folding, and an SVG in which everything is text."""

import xml.etree.ElementTree as ET
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity._graph import MAX_NODES, Layout, describe, draw, lay_out
from socaity._steps import Step, StepState

SVG = "{http://www.w3.org/2000/svg}"


def step(name: str, *needs: int, state: StepState = StepState.WAITING, fraction: float | None = None) -> Step:
    return Step(SimpleNamespace(_error=None), name, state, needs, fraction, "", None, 0.0)


def chain(length: int) -> list[Step]:
    return [step(f"s{number}", *([number - 1] if number else [])) for number in range(length)]


def parse(layout: Layout, *, is_vertical: bool = False) -> ET.Element:
    markup = draw(layout, is_vertical=is_vertical)
    return ET.fromstring(markup.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def boxes(drawing: ET.Element) -> list[tuple[float, float, float, float]]:
    rects = [group.find(f"{SVG}rect") for group in drawing.iter(f"{SVG}g")]
    return [
        (float(r.get("x", 0)), float(r.get("y", 0)), float(r.get("width", 0)), float(r.get("height", 0)))
        for r in rects
        if r is not None
    ]


def test_a_step_is_one_layer_after_the_last_that_it_needs() -> None:
    layout = lay_out([step("a"), step("b", 0), step("c", 1), step("d", 2, 0)])
    assert [(node.name, node.layer) for node in layout.nodes if node.name] == [
        ("a", 0),
        ("b", 1),
        ("c", 2),
        ("d", 3),
    ]


def test_an_edge_over_several_layers_passes_beside_the_boxes() -> None:
    layout = lay_out([step("a"), step("b", 0), step("c", 1, 0)])
    passage = next(node for node in layout.nodes if not node.name)
    beside = next(node for node in layout.nodes if node.name == "b")
    assert passage.layer == beside.layer
    assert abs(passage.slot - beside.slot) >= 1


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=40))
def test_no_graph_has_overlapping_boxes_or_is_larger_than_its_frame(wanted: list[list[int]]) -> None:
    steps = [step(f"s{n}", *sorted({need for need in needs if need < n})) for n, needs in enumerate(wanted)]
    layout = lay_out(steps)
    for is_vertical in (False, True):
        drawing = parse(layout, is_vertical=is_vertical)
        places = sorted(boxes(drawing))
        left, top, width, height = map(float, drawing.get("viewBox", "").split())
        for x, y, wide, high in places:
            assert left <= x
            assert top <= y
            assert x + wide <= left + width
            assert y + high <= top + height
        for number, (x, y, wide, high) in enumerate(places):
            for other_x, other_y, _, _ in places[number + 1 :]:
                assert other_x >= x + wide or abs(other_y - y) >= high
    names = [node for node in layout.nodes if node.name]
    assert sum(node.count for node in names) == len(steps)
    assert len(names) <= MAX_NODES


def test_steps_of_one_name_are_folded_when_there_are_many() -> None:
    pages = [step("detect", 0, state=StepState.SUCCEEDED) for _ in range(998)]
    pages[3] = step("detect", 0, state=StepState.FAILED)
    layout = lay_out([step("load", state=StepState.SUCCEEDED), *pages, step("join", *range(1, 999))])
    detect = next(node for node in layout.nodes if node.name == "detect")
    assert (detect.count, detect.state, detect.brief) == (998, StepState.FAILED, "997/998, 1 failed")
    assert detect.summary == "1 failed, 997 succeeded"
    assert layout.is_folded
    assert len(draw(layout)) < 5000


def test_the_middle_of_a_long_chain_is_one_node() -> None:
    layout = lay_out(chain(1000))
    names = [node.name for node in layout.nodes]
    assert "…" in names
    assert (names[0], names[-1]) == ("s0", "s999")
    assert all(later.layer - sooner.layer == 1 for sooner, later in pairwise(layout.nodes))
    assert describe(layout).count("after") == len(names) - 1


def test_names_of_any_service_are_text() -> None:
    evil = "</text><script>x</script>\"'&"
    drawing = parse(lay_out([step(evil), step("b", 0)]))
    assert drawing.find(f".//{SVG}script") is None
    assert evil in drawing.get("aria-label", "")
    title = drawing.find(f".//{SVG}title")
    assert title is not None
    assert title.text == f"{evil}: waiting"


def test_a_running_step_shows_how_far_it_is() -> None:
    drawing = parse(lay_out([step("a", state=StepState.RUNNING, fraction=0.5), step("b", 0)]))
    done = drawing.find(f".//{SVG}rect[@class='done']")
    assert done is not None
    assert float(done.get("width", 0)) == pytest.approx(58)


def test_the_same_steps_give_the_same_drawing() -> None:
    steps = [step("a"), step("b", 0), step("c", 0), step("d", 2, 1)]
    assert draw(lay_out(steps)) == draw(lay_out(list(steps)))


def test_nothing_is_drawn_of_nothing() -> None:
    assert lay_out([]).nodes == ()
    assert boxes(parse(lay_out([]))) == []
