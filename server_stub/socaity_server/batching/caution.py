"""How far predictions of the wait are off: learned from calls that were let in and came too late. Pure."""

from __future__ import annotations

__all__ = ["Caution"]

_UP, _DOWN = 1.25, 0.98
_MOST = 8.0


class Caution:
    """`factor` times the predicted wait is what a call must have time for.

    A queue that is served in order and always as long as the deadlines allow is where a small mistake of the prediction costs
    everything: each call is run a little too late. So a moment with late calls raises the factor at once, and each batch without
    one lowers it a little.
    """

    __slots__ = ("factor",)

    def __init__(self) -> None:
        self.factor = 1.0

    def some_were_late(self) -> None:
        """Calls that were let in had no answer in time."""
        self.factor = min(self.factor * _UP, _MOST)

    def all_were_in_time(self) -> None:
        """A batch was answered, and nobody was late since the one before."""
        self.factor = max(self.factor * _DOWN, 1.0)
