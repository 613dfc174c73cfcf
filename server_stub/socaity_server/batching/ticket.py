"""A call on its way through the batcher: whole, or cut into pieces when it is larger than a batch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError, ServerError, SocaityError

from .policy import Entry, WaitingRoom, row_slices

__all__ = [
    "Arrays",
    "ArraysTicket",
    "BatchRun",
    "OnDone",
    "Owner",
    "Part",
    "Piece",
    "Present",
    "SplitTicket",
    "Ticket",
    "bucket_key",
    "slices",
    "text_bytes",
]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
OnDone: TypeAlias = Callable[[Any, BaseException | None], None]
Present: TypeAlias = Callable[[Arrays], Callable[[int, int, bool], Any]]
"""From the outputs of a batch to a function that gives the answer for the rows from `start` to `end`; `single`: of a call
that was given one item without a batch axis."""

_NO_ARRAYS: Arrays = {}


class Owner(Protocol):
    """Where a ticket came from, as far as the ticket needs it."""

    def cancelled(self, ticket: Ticket) -> None:
        """The caller does not want the outcome any more."""

    def ended(self, ticket: Ticket, error: BaseException | None) -> None:
        """A call in pieces has its outcome."""

    def discard(self, ticket: Ticket) -> None:
        """The ticket does not wait any more."""


class BatchRun(NamedTuple):
    """A batch of `calls` calls and `rows` rows, which took from `started` to `ended` on its instance; from `opened` on that
    was free, and waited for more of them."""

    opened: float
    started: float
    ended: float
    calls: int
    rows: int


class Part(NamedTuple):
    """Calls that ended together: with the outputs of all of them, row after row, or with one error; and how they ran."""

    tickets: Sequence[Ticket]
    outputs: Arrays | None
    error: BaseException | None
    rows: int
    run: BatchRun


class Ticket(Entry):
    """A submitted call. Its outcome goes to `on_done`, once, unless it is cancelled first.

    `run` says afterwards how it ran: with whom, when, how long. (Not the Part: that one has the tickets, and what refers to
    each other in a circle is memory that only the garbage collector gives back.)
    """

    __slots__ = ("_owner", "inputs", "on_done", "run", "single")

    def __init__(
        self,
        owner: Owner,
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
        deadline: float = math.inf,
        priority: int = 0,
        size: int = 0,
        single: bool = False,
    ) -> None:
        # Not super().__init__: this runs once per call, and the extra call costs a tenth of it.
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.priority = priority
        self.size = size
        self.order = 0
        self.waiting = False
        self.bucket = None
        self.inputs = inputs
        self.on_done: OnDone | None = on_done
        self.single = single
        self.run: BatchRun | None = None
        self._owner = owner

    def cancel(self) -> None:
        """Take the call back: it does not run if it still waits, and `on_done` is not called any more."""
        if self.on_done is None:
            return
        self.on_done = None
        self._owner.cancelled(self)
        self.withdraw()

    def withdraw(self) -> None:
        """Wait no longer."""
        if self.waiting:
            self._owner.discard(self)
            self.inputs = _NO_ARRAYS


class ArraysTicket(Ticket):
    """A call that wants its outputs as arrays by name with a batch axis, whatever form others get them in."""

    __slots__ = ()


class Piece(Ticket):
    """A part of a larger call."""

    __slots__ = ()


class SplitTicket(Ticket):
    """A call of more rows than fit into a batch: waits in pieces, and answers when the last one is there."""

    __slots__ = ("_pieces", "_present", "_results")

    def __init__(
        self,
        owner: Owner,
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
        deadline: float,
        priority: int,
        size: int,
        *,
        room: WaitingRoom[Ticket],
        present: Present,
    ) -> None:
        super().__init__(owner, key, inputs, rows, on_done, arrived, deadline, priority, size)
        self._present = present
        self._pieces: list[Ticket] = []
        self._results: dict[int, Arrays] = {}
        for number, cut in enumerate(row_slices(rows, room.max_rows)):
            count = cut.stop - cut.start
            piece = Piece(
                owner,
                key,
                {name: array[cut] for name, array in inputs.items()},
                count,
                self._receiver(number),
                arrived,
                deadline,
                priority,
                size * count // rows,
            )
            self._pieces.append(piece)
            room.add(piece)

    def withdraw(self) -> None:
        """Take back every piece."""
        self._results.clear()
        for piece in self._pieces:
            piece.on_done = None
            piece.withdraw()

    def _receiver(self, number: int) -> OnDone:
        return lambda outputs, error: self._receive(number, outputs, error)

    def _receive(self, number: int, outputs: Arrays | None, error: BaseException | None) -> None:
        on_done = self.on_done
        if on_done is None:
            return
        joined = None
        if outputs is not None:
            self._results[number] = outputs
            if len(self._results) < len(self._pieces):
                return
            try:
                parts = _concatenated([self._results[n] for n in range(len(self._pieces))])
                joined = self._present(parts)(0, self.rows, False)
            except SocaityError as exc:
                error = exc
            except (KeyError, ValueError) as exc:
                error = ServerError(f"The outputs of the pieces of a large call do not fit together: {exc}")
                error.__cause__ = exc
        self.on_done = None
        self.run = next((piece.run for piece in self._pieces if piece.run is not None), None)
        self.withdraw()
        self._owner.ended(self, error)
        on_done(joined, error)


def slices(outputs: Arrays) -> Callable[[int, int, bool], Arrays]:
    """The answers are the outputs, cut along the batch."""
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return lambda start, end, single: {name: array[start:end]}
    return lambda start, end, single: {name: array[start:end] for name, array in outputs.items()}


def text_bytes(inputs: Arrays) -> int:
    """What the texts of `inputs` hold, which their arrays only point to."""
    return sum(sum(map(sys.getsizeof, array.flat)) for array in inputs.values() if array.dtype.kind == "O")


def bucket_key(inputs: Arrays, rows: int) -> Hashable:
    """Calls with the same key may be put together: the same names, dtypes and shapes apart from the rows."""
    if len(inputs) == 1:
        for name, array in inputs.items():
            shape = array.shape
            if shape and shape[0] == rows > 0:
                return (name, array.dtype, shape[1:])
    elif inputs and rows > 0 and all(array.shape[:1] == (rows,) for array in inputs.values()):
        return tuple(sorted((name, array.dtype, array.shape[1:]) for name, array in inputs.items()))
    shapes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items()) or "no inputs"
    raise InvalidInputError(f"Every input must have {rows} rows, and at least one; these are {shapes}.")


def _concatenated(batches: list[Arrays]) -> Arrays:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
