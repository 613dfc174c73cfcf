"""Servers measured in turns: one after the other in every round, each round beginning with another one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from measurement import Skipped
from peers.contender import Contender, contender, inputs
from peers.forms import EVERYONE, OURS
from rates import median

Measured = TypeVar("Measured")
_COMPARED = 20
_TOLERANCE = 1e-3


@contextlib.contextmanager
def contenders(
    kind: str,
    names: Sequence[str] = EVERYONE,
    *,
    options: dict[str, Any] | None = None,
    with_grpc: bool = False,
) -> Iterator[dict[str, Contender]]:
    """All with the same model, all frozen. They have given the same answers; a peer that does not run is left out.

    `options` replace single ones of the peers; `with_grpc`: ours listens for gRPC, too.
    """
    with contextlib.ExitStack() as stack:
        running: dict[str, Contender] = {}
        for name in names:
            try:
                one = stack.enter_context(contender(name, kind, options=options, with_grpc=with_grpc))
            except Skipped as exc:
                if name == OURS:
                    raise
                print(exc, file=sys.stderr)
                continue
            running[name] = one
        expected = _answers(running[names[0]])
        for one in running.values():
            if not np.allclose(_answers(one), expected, atol=_TOLERANCE):
                raise Skipped(f"{one.name} answers something else than {names[0]}")
            one.freeze()
        yield running


def in_turns(
    servers: dict[str, Contender],
    measure: Callable[[Contender], Measured],
    *,
    rounds: int,
    each_round: Callable[[], object] | None = None,
) -> dict[str, list[Measured]]:
    """What `measure` gives for each server in each round; only the one whose turn it is runs."""
    found: dict[str, list[Measured]] = {name: [] for name in servers}
    names = list(servers)
    for number in range(rounds):
        if each_round is not None:
            each_round()
        first = number % len(names)
        for name in names[first:] + names[:first]:
            servers[name].thaw()
            found[name].append(measure(servers[name]))
            servers[name].settle()
            servers[name].freeze()
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the rounds."""
    return median([mine / its for mine, its in zip(ours, theirs, strict=True)])


def _answers(one: Contender) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    questions = inputs(one.model.kind)[:_COMPARED]
    return np.array([np.ravel(one.ask(question)) for question in questions], np.float64)
