"""Whether a model is so quick that handing it to its thread costs more than running it: pure policy.

A batch that takes 60 µs waits longer for the interpreter lock, twice, than it runs. Such a model runs on the loop thread,
as long as it stays that quick. The time that is compared is the processor time of the thread, because the other kind counts
the waits for the lock; but a model that waits for something else is not quick, so the shortest real time counts as well.
"""

from __future__ import annotations

__all__ = ["QUICK", "InlinePolicy"]

QUICK = 200e-6
"""Seconds of processor time below which a batch is quick."""
_SHORTEST = 2 * QUICK
_SLOW = 5 * QUICK
"""An inline batch that took longer than this sends the model back to its thread."""
_TRIAL = 16
_PENALTY = 1024


class InlinePolicy:
    """Fed with the times of every batch; `is_inline` says where the next one runs."""

    def __init__(self, *, is_allowed: bool) -> None:
        self.is_inline = False
        self._is_allowed = is_allowed
        self._left = _TRIAL
        self._shortest = float("inf")

    def ran_on_thread(self, busy: float, elapsed: float) -> None:
        """A batch took `busy` seconds of processor time and `elapsed` seconds in all."""
        if not self._is_allowed:
            return
        if busy > QUICK:
            self._left = max(self._left, _TRIAL)
            self._shortest = float("inf")
            return
        self._shortest = min(self._shortest, elapsed)
        self._left -= 1
        if self._left <= 0:
            self.is_inline = self._shortest <= _SHORTEST
            self._left, self._shortest = _TRIAL, float("inf")

    def ran_inline(self, elapsed: float) -> None:
        """A batch held up the loop for `elapsed` seconds."""
        if elapsed > _SLOW:
            self.is_inline = False
            self._left = _PENALTY
