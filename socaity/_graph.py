"""The graph of the steps of a pipeline as inline SVG: layers from left to right, or from top to bottom where it is narrow."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ._steps import Step, StepState
from ._text_width import cut

MAX_NODES = 24
"""With more than this, steps of one name and one layer become one node."""

_WIDTH, _HEIGHT = 132, 40
_GAP_ALONG, _GAP_ACROSS = 32, 12
_LABEL, _DETAIL = 17, 18
_LEAST = 0.75
"""How small a drawing may become before it is scrolled."""
_MARKS = {
    StepState.WAITING: "○",
    StepState.QUEUED: "○",
    StepState.RUNNING: "▶",
    StepState.SUCCEEDED: "✓",
    StepState.FAILED: "✕",
    StepState.LOST: "?",
    StepState.CANCELLED: "■",
    StepState.NOT_RUN: "–",
}
_GOOD = (
    StepState.WAITING,
    StepState.QUEUED,
    StepState.RUNNING,
    StepState.SUCCEEDED,
    StepState.NOT_RUN,
)
# what a node that stands for many is, if it is not all the same: the worst, or what is still to come
_RANK = (
    StepState.FAILED,
    StepState.LOST,
    StepState.CANCELLED,
    StepState.RUNNING,
    StepState.QUEUED,
    StepState.WAITING,
    StepState.NOT_RUN,
    StepState.SUCCEEDED,
)


@dataclass(slots=True)
class Node:
    """What is drawn as one box: one step, or many folded into one. Without a name: where an edge passes a layer."""

    name: str
    layer: int
    states: Counter[StepState] = field(default_factory=Counter)
    fraction: float | None = None
    detail: str = ""
    needs: set[int] = field(default_factory=set)
    slot: float = 0.0

    @property
    def count(self) -> int:
        return self.states.total()

    @property
    def state(self) -> StepState:
        return next((state for state in _RANK if self.states[state]), StepState.WAITING)

    @property
    def text(self) -> str:
        """`detect ×12: 3 failed, 9 succeeded`."""
        name = self.name if self.count == 1 else f"{self.name} ×{self.count}"
        return f"{name}: {self.summary}"

    @property
    def brief(self) -> str:
        """What fits into the box: `9/12, 3 failed`."""
        if self.count == 1:
            return self.detail or str(self.state)
        bad = self.count - sum(self.states[state] for state in _GOOD)
        return f"{self.states[StepState.SUCCEEDED]}/{self.count}{f', {bad} failed' if bad else ''}"

    @property
    def summary(self) -> str:
        if self.count == 1:
            return self.detail or str(self.state)
        return ", ".join(f"{self.states[state]} {state}" for state in _RANK if self.states[state])


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is: nodes have a layer and a slot in it; an edge is a pair of node numbers."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    layers: int
    slots: float

    @property
    def is_folded(self) -> bool:
        return any(node.count > 1 for node in self.nodes)


def lay_out(steps: Sequence[Step], *, max_nodes: int = MAX_NODES, is_group: bool = False) -> Layout:
    """Steps in layers, each right of all it needs; folded until there are at most `max_nodes`. The same steps of the members
    of a group are one node, however few there are."""
    layers = _layers_of(steps)
    keys: tuple[Callable[[int], object], ...] = (
        lambda number: number,
        lambda number: (layers[number], steps[number].name),
        lambda number: layers[number],
    )
    nodes: list[Node] = []
    for key in keys[1:] if is_group else keys:
        nodes = _fold(steps, layers, key)
        if len(nodes) <= max_nodes:
            break
    else:
        nodes = _fold_middle(nodes, max_nodes)
    nodes, edges = _with_passages(nodes)
    slots = _arrange(nodes, edges)
    return Layout(tuple(nodes), tuple(edges), 1 + max((node.layer for node in nodes), default=-1), slots)


def _layers_of(steps: Sequence[Step]) -> list[int]:
    layers: list[int] = []
    for step in steps:
        layers.append(1 + max((layers[need] for need in step.needs), default=-1))
    return layers


def _fold(steps: Sequence[Step], layers: Sequence[int], key: Callable[[int], object]) -> list[Node]:
    homes: dict[object, int] = {}
    nodes: list[Node] = []
    home_of: list[int] = []
    for number, step in enumerate(steps):
        home = homes.setdefault(key(number), len(nodes))
        if home == len(nodes):
            nodes.append(Node(step.name, layers[number]))
        home_of.append(home)
        node = nodes[home]
        if step.name != node.name and not node.name.endswith(", …"):
            node.name += ", …"
        node.states[step.state] += 1
        node.fraction = (node.fraction or 0.0) + (1.0 if step.state.is_over else step.fraction or 0.0)
        node.detail = step.describe()
        node.needs.update(home_of[need] for need in step.needs)
    for node in nodes:
        node.fraction = None if node.fraction is None else node.fraction / node.count
    return nodes


def _fold_middle(nodes: list[Node], max_nodes: int) -> list[Node]:
    """A long chain: the first and the last, and one node for all between them."""
    first, last = nodes[: max_nodes // 2], nodes[-(max_nodes // 2) :]
    between = nodes[len(first) : -len(last)]
    rest = Node("…", len(first), needs={len(first) - 1})
    for node in between:
        rest.states.update(node.states)
    done = sum((node.fraction or 0.0) * node.count for node in between)
    rest.fraction = done / rest.count
    shift = len(between) - 1
    for node in last:
        node.layer -= shift
        node.needs = {
            need - shift if need >= len(first) + len(between) else len(first) for need in node.needs
        }
    return [*first, rest, *last]


def _with_passages(nodes: list[Node]) -> tuple[list[Node], list[tuple[int, int]]]:
    """An edge over several layers gets a place in each of them, so that it passes between the boxes."""
    nodes = list(nodes)
    edges: list[tuple[int, int]] = []
    for number in range(len(nodes)):
        for need in sorted(nodes[number].needs):
            at = need
            for layer in range(nodes[need].layer + 1, nodes[number].layer):
                nodes.append(Node("", layer))
                edges.append((at, len(nodes) - 1))
                at = len(nodes) - 1
            edges.append((at, number))
    return nodes, edges


def _arrange(nodes: Sequence[Node], edges: Sequence[tuple[int, int]]) -> float:
    """Give each node a slot: near its neighbours, so that few edges cross. Returns how many slots the widest layer has."""
    layers: dict[int, list[int]] = {}
    for number, node in enumerate(nodes):
        layers.setdefault(node.layer, []).append(number)
    before: dict[int, list[int]] = {number: [] for number in range(len(nodes))}
    after: dict[int, list[int]] = {number: [] for number in range(len(nodes))}
    for start, end in edges:
        after[start].append(end)
        before[end].append(start)
    widest = max((len(numbers) for numbers in layers.values()), default=0)
    for numbers in layers.values():
        _spread(nodes, numbers, widest)
    for neighbours, order in ((before, sorted(layers)), (after, sorted(layers, reverse=True))) * 2:
        for layer in order:
            layers[layer].sort(key=lambda number, near=neighbours: _middle(nodes, near[number], number))  # type: ignore[misc]
            _spread(nodes, layers[layer], widest)
    return float(widest)


def _spread(nodes: Sequence[Node], numbers: Sequence[int], widest: int) -> None:
    for place, number in enumerate(numbers):
        nodes[number].slot = place + (widest - len(numbers)) / 2


def _middle(nodes: Sequence[Node], neighbours: Sequence[int], number: int) -> tuple[float, int]:
    if not neighbours:
        return nodes[number].slot, number
    return sum(nodes[one].slot for one in neighbours) / len(neighbours), number


# -- drawing -------------------------------------------------------------------------------------------------------------


def describe(layout: Layout) -> str:
    """The graph in words, for those who do not see it: `load, detect (after load), …`."""
    texts = []
    for node in layout.nodes:
        if node.name:
            after = [layout.nodes[need].name for need in sorted(node.needs)]
            texts.append(f"{node.text} (after {', '.join(after)})" if after else node.text)
    return "; ".join(texts)


def draw(layout: Layout, *, is_vertical: bool = False, kind: str = "") -> str:
    """An SVG without any style of its own: the page around it colours the classes `node`, `edge` and `data-state`."""
    along, across = (_HEIGHT, _WIDTH) if is_vertical else (_WIDTH, _HEIGHT)
    length = layout.layers * along + max(0, layout.layers - 1) * _GAP_ALONG
    breadth = layout.slots * across + max(0.0, layout.slots - 1) * _GAP_ACROSS
    width, height = (breadth, length) if is_vertical else (length, breadth)

    def corner(node: Node) -> tuple[float, float]:
        one, other = node.layer * (along + _GAP_ALONG), node.slot * (across + _GAP_ACROSS)
        return (other, one) if is_vertical else (one, other)

    parts = [
        f'<svg class="graph {kind}" role="img" viewBox="-2 -2 {_number(width + 4)} {_number(height + 4)}" '
        f'width="{_number(width + 4)}" height="{_number(height + 4)}" style="min-width:{_LEAST * (width + 4):.0f}px" '
        f'aria-label="{html.escape(describe(layout), quote=True)}">'
    ]
    parts.extend(
        _edge(corner(layout.nodes[a]), corner(layout.nodes[b]), layout.nodes[b], is_vertical)
        for a, b in layout.edges
    )
    for node in layout.nodes:
        x, y = corner(node)
        if node.name:
            parts.append(_box(node, x, y))
        elif is_vertical:
            parts.append(_line([(x + _WIDTH / 2, y), (x + _WIDTH / 2, y + _HEIGHT)]))
        else:
            parts.append(_line([(x, y + _HEIGHT / 2), (x + _WIDTH, y + _HEIGHT / 2)]))
    parts.append("</svg>")
    return "".join(parts)


def _edge(start: tuple[float, float], end: tuple[float, float], to: Node, is_vertical: bool) -> str:
    if is_vertical:
        x1, y1, x2, y2 = start[0] + _WIDTH / 2, start[1] + _HEIGHT, end[0] + _WIDTH / 2, end[1]
        bend = (y1 + y2) / 2
        curve = f"C{_number(x1)} {_number(bend)} {_number(x2)} {_number(bend)} {_number(x2)} {_number(y2)}"
        tip = [(x2 - 4, y2 - 6), (x2, y2 - 1), (x2 + 4, y2 - 6)]
    else:
        x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
        bend = (x1 + x2) / 2
        curve = f"C{_number(bend)} {_number(y1)} {_number(bend)} {_number(y2)} {_number(x2)} {_number(y2)}"
        tip = [(x2 - 6, y2 - 4), (x2 - 1, y2), (x2 - 6, y2 + 4)]
    path = f'<path class="edge" d="M{_number(x1)} {_number(y1)}{curve}"/>'
    return path + _line(tip) if to.name else path


def _line(points: Iterable[tuple[float, float]]) -> str:
    places = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return f'<path class="edge" d="M{places}"/>'


def _box(node: Node, x: float, y: float) -> str:
    name = (
        node.name
        if node.count == 1
        else f"{cut(node.name, max(2, _LABEL - 2 - len(str(node.count))))} ×{node.count}"
    )
    bar = ""
    if node.state is StepState.RUNNING and node.fraction:
        bar = (
            f'<rect class="done" x="{_number(x + 8)}" y="{_number(y + _HEIGHT - 5)}" rx="1.5" height="3" '
            f'width="{_number((_WIDTH - 16) * min(node.fraction, 1.0))}"/>'
        )
    return (
        f'<g class="node" data-state="{node.state}"><title>{html.escape(node.text)}</title>'
        f'<rect x="{_number(x)}" y="{_number(y)}" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>'
        f'<text class="name" x="{_number(x + 10)}" y="{_number(y + 16)}">{html.escape(cut(name, _LABEL))}</text>'
        f'<text class="state" x="{_number(x + 10)}" y="{_number(y + 30)}">'
        f"{_MARKS[node.state]} {html.escape(cut(node.brief, _DETAIL))}</text>{bar}</g>"
    )


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
