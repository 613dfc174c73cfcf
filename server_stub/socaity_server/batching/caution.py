"""How far predictions of the wait are off: learned from calls that were let in and came too late. Pure."""

from __future__ import annotations

__all__ = ["Caution"]

_UP, _DOWN = 1.15, 0.97
_MOST = 8.0


class Caution:
    """`factor` times the predicted wait is what a call must have time for.

    A queue that is served in order and always as long as the deadlines allow is where a small mistake of the prediction costs
    everything: each call is run a little too late. So a batch after which calls were late raises the factor, and one without
    lowers it less: with these steps about one batch in six has a late call while too much comes in.
    """

    __slots__ = ("_is_raised", "factor")

    def __init__(self) -> None:
        self.factor = 1.0
        self._is_raised = False

    def some_were_late(self) -> None:
        """Calls that were let in had no answer in time. Counts once between two batches."""
        if not self._is_raised:
            self._is_raised = True
            self.factor = min(self.factor * _UP, _MOST)

    def batch_ended(self) -> None:
        """A batch was answered."""
        if not self._is_raised:
            self.factor = max(self.factor * _DOWN, 1.0)
        self._is_raised = False
