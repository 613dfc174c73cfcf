"""Calls whose arrays differ in length, put together by filling up: the key they share, the batch, and the cut afterwards."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Sequence

import numpy as np

from socaity.exceptions import InvalidInputError

from ..model_config import PadConfig
from .ticket import Arrays, Ticket, bucket_key

__all__ = ["Padding"]

_LONGEST = 2**20


class Padding:
    """Fills up along one axis. Calls go together when the least size that fits is the same one, so that at most the share
    `waste` of a batch is filling; without sizes of their own they are made so.

    Text is not filled up, which its model does itself: calls whose texts are of about the same length go together.

    With sizes in the configuration a batch always has one of them (engines that were compiled for fixed shapes); else only the
    length of its longest call.
    """

    def __init__(self, config: PadConfig) -> None:
        self._axis = config.axis + 1  # the configuration counts without the batch axis
        self._value = config.value
        self._inputs = frozenset(config.inputs)
        self._outputs = frozenset(config.outputs)
        self._is_fixed = bool(config.to)
        self._sizes = tuple(sorted(config.to)) if config.to else _sizes(config.waste)

    def key(self, inputs: Arrays, rows: int) -> Hashable:
        """What calls that may go together have in common. Raises InvalidInputError for one that is longer than all sizes."""
        length = self._length(inputs)
        if length is None:
            return bucket_key(inputs, rows)
        bucket_key(inputs, rows)  # its checks hold here, too
        shapes = tuple(
            sorted(
                (name, array.dtype, self._open_shape(name, array.shape[1:])) for name, array in inputs.items()
            )
        )
        return (self._size(length), shapes)

    def join(self, tickets: Sequence[Ticket]) -> Arrays:
        """The inputs of one batch."""
        lengths = [self._length(ticket.inputs) for ticket in tickets]
        longest = max((length for length in lengths if length is not None), default=None)
        if longest is None or self._is_text(tickets[0].inputs):
            return _concatenated(tickets)
        if self._is_fixed:
            longest = self._size(longest)
        elif len(tickets) == 1:
            return tickets[0].inputs
        rows = sum(ticket.rows for ticket in tickets)
        joined: Arrays = {}
        for name, array in tickets[0].inputs.items():
            if not self._applies(name, array):
                joined[name] = np.concatenate([ticket.inputs[name] for ticket in tickets])
                continue
            shape = (rows, *array.shape[1 : self._axis], longest, *array.shape[self._axis + 1 :])
            filled = np.full(shape, self._value, array.dtype)
            start = 0
            for ticket in tickets:
                part = ticket.inputs[name]
                window = [slice(None)] * part.ndim
                window[0] = slice(start, start + ticket.rows)
                window[self._axis] = slice(0, part.shape[self._axis])
                filled[tuple(window)] = part
                start += ticket.rows
            joined[name] = filled
        return joined

    def cut(self, name: str, output: np.ndarray, ticket: Ticket) -> np.ndarray:
        """The rows of one call without what was filled up."""
        if name not in self._outputs or output.ndim <= self._axis or self._is_text(ticket.inputs):
            return output
        length = self._length(ticket.inputs)
        window = [slice(None)] * output.ndim
        window[self._axis] = slice(0, length)
        return output[tuple(window)]

    def _applies(self, name: str, array: np.ndarray) -> bool:
        return array.ndim > self._axis and (not self._inputs or name in self._inputs)

    def _length(self, inputs: Arrays) -> int | None:
        """The length of the call; raises InvalidInputError where its inputs differ in it."""
        if self._is_text(inputs):
            return max(
                (
                    len(text)
                    for name, array in inputs.items()
                    if array.dtype == object and (not self._inputs or name in self._inputs)
                    for text in array.flat
                ),
                default=0,
            )
        found: int | None = None
        for name, array in inputs.items():
            if not self._applies(name, array):
                continue
            length = array.shape[self._axis]
            if found is not None and length != found:
                raise InvalidInputError(
                    f"Parameter {name!r} has the length {length}, the ones before it {found}; they must be equal.",
                    parameter=name,
                )
            found = length
        return found

    def _is_text(self, inputs: Arrays) -> bool:
        return any(
            array.dtype == object and (not self._inputs or name in self._inputs)
            for name, array in inputs.items()
        )

    def _open_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        axis = self._axis - 1
        if len(shape) <= axis or (self._inputs and name not in self._inputs):
            return shape
        return (*shape[:axis], -1, *shape[axis + 1 :])

    def _size(self, length: int) -> int:
        at = bisect_left(self._sizes, length)
        if at == len(self._sizes):
            raise InvalidInputError(
                f"The input has the length {length}; this model takes at most {self._sizes[-1]}."
            )
        return self._sizes[at]


def _sizes(waste: float) -> tuple[int, ...]:
    """Sizes that grow so that no call below one has more than the share `waste` of it missing."""
    growth = 1 / (1 - min(max(waste, 0.05), 0.9))
    sizes = [8]
    while sizes[-1] < _LONGEST:
        sizes.append(max(math.floor(sizes[-1] * growth), sizes[-1] + 1))
    return tuple(sizes)


def _concatenated(tickets: Sequence[Ticket]) -> Arrays:
    if len(tickets) == 1:
        return tickets[0].inputs
    return {name: np.concatenate([ticket.inputs[name] for ticket in tickets]) for name in tickets[0].inputs}
