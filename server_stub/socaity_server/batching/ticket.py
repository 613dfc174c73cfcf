"""A call on its way through the batcher: whole, or cut into pieces when it is larger than a batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError, ServerError

from .policy import Entry, WaitingRoom, row_slices

__all__ = ["Arrays", "OnDone", "SplitTicket", "Ticket", "bucket_key"]

Arrays: TypeAlias = dict[str, np.ndarray[Any, Any]]
OnDone: TypeAlias = Callable[[Arrays | None, BaseException | None], None]

_NO_ARRAYS: Arrays = {}


class Ticket(Entry):
    """A submitted call. Its outcome goes to `on_done`, once, unless it is cancelled first."""

    __slots__ = ("_room", "inputs", "on_done")

    def __init__(
        self,
        room: WaitingRoom[Ticket],
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
    ) -> None:
        # Not super().__init__: this runs once per call, and the extra call costs a tenth of it.
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.order = 0
        self.waiting = False
        self.bucket = None
        self.inputs = inputs
        self.on_done: OnDone | None = on_done
        self._room = room

    def cancel(self) -> None:
        """Take the call back: it does not run if it still waits, and `on_done` is not called any more."""
        self.on_done = None
        if self.waiting:
            self._room.discard(self)
            self.inputs = _NO_ARRAYS


class SplitTicket(Ticket):
    """A call of more rows than fit into a batch: waits in pieces, and answers when the last one is there."""

    __slots__ = ("_pieces", "_results")

    def __init__(
        self,
        room: WaitingRoom[Ticket],
        key: Hashable,
        inputs: Arrays,
        rows: int,
        on_done: OnDone,
        arrived: float,
    ) -> None:
        super().__init__(room, key, inputs, rows, on_done, arrived)
        self._pieces: list[Ticket] = []
        self._results: dict[int, Arrays] = {}
        for number, cut in enumerate(row_slices(rows, room.max_rows)):
            piece_inputs = {name: array[cut] for name, array in inputs.items()}
            piece = Ticket(room, key, piece_inputs, cut.stop - cut.start, self._receiver(number), arrived)
            self._pieces.append(piece)
            room.add(piece)

    def cancel(self) -> None:
        """Take back every piece."""
        self.on_done = None
        self._results.clear()
        for piece in self._pieces:
            piece.cancel()

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
                joined = _concatenated([self._results[n] for n in range(len(self._pieces))])
            except (KeyError, ValueError) as exc:
                error = ServerError(f"The outputs of the pieces of a large call do not fit together: {exc}")
                error.__cause__ = exc
        self.cancel()
        on_done(joined, error)


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
