"""Which of the waiting calls run together next: pure bookkeeping, no clock, no loop, no arrays.

Entries wait in buckets, one per key; only entries of the same bucket are ever put together. The bucket whose head came
first is served first, so that a rare shape never starves behind a common one. Sizes are counted in rows.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

__all__ = ["Entry", "WaitingRoom", "row_slices"]

_FEW_TOMBSTONES = 64


class Entry:
    """One waiting call: its bucket's `key`, its `rows`, and when it `arrived` (any clock that never goes back).

    `waiting` is true from `WaitingRoom.add` until the entry is taken or discarded.
    """

    __slots__ = ("arrived", "bucket", "key", "order", "rows", "waiting")

    def __init__(self, key: Hashable, rows: int, arrived: float = 0.0) -> None:
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.order = 0
        self.waiting = False
        self.bucket: _Bucket[Any] | None = None


E = TypeVar("E", bound=Entry)


class WaitingRoom(Generic[E]):
    """The entries that wait, and the choice of the next batch of at most `max_rows` rows.

    A batch is *due* when it is full or when its oldest entry has waited for `max_wait`. All operations take constant
    time per entry, apart from a logarithm of the number of buckets per batch.
    """

    def __init__(self, max_rows: int, max_wait: float = 0.0) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}.")
        if max_wait < 0:
            raise ValueError(f"max_wait must not be negative, not {max_wait}.")
        self.max_rows = max_rows
        self.max_wait = max_wait
        self.rows = 0
        self._added = 0
        self._buckets: dict[Hashable, _Bucket[E]] = {}
        self._full: set[_Bucket[E]] = set()
        # One item per bucket: (order of its head or of an earlier, gone head, bucket). Corrected when it comes up.
        self._by_age: list[tuple[int, _Bucket[E]]] = []

    @property
    def has_full_batch(self) -> bool:
        """Some bucket holds a whole batch: waiting longer gains nothing."""
        return bool(self._full)

    def add(self, entry: E) -> None:
        """Let `entry` wait. Its rows must fit into one batch; larger calls are cut first (see `row_slices`)."""
        rows = entry.rows
        if not 0 < rows <= self.max_rows:
            raise ValueError(f"An entry has 1 to {self.max_rows} rows, not {rows}.")
        self._added = entry.order = self._added + 1
        bucket = self._buckets.get(entry.key)
        if bucket is None:
            bucket = self._buckets[entry.key] = _Bucket(entry.key)
            heapq.heappush(self._by_age, (entry.order, bucket))
        bucket.entries.append(entry)
        bucket.rows += rows
        if bucket.rows >= self.max_rows:
            self._full.add(bucket)
        entry.bucket = bucket
        entry.waiting = True
        self.rows += rows

    def discard(self, entry: E) -> None:
        """Forget `entry`. It stays behind as a tombstone that no batch picks up; gone entries are ignored."""
        bucket = entry.bucket
        if bucket is None or not entry.waiting:
            return
        entry.waiting = False
        entry.bucket = None
        self._subtract(bucket, entry.rows)
        bucket.tombstones += 1
        if bucket.tombstones > _FEW_TOMBSTONES and bucket.tombstones * 2 > len(bucket.entries):
            bucket.entries = deque(waiting for waiting in bucket.entries if waiting.waiting)
            bucket.tombstones = 0

    def take(self, now: float) -> list[E]:
        """The next batch that is due at `now`, oldest entry first; empty if none is."""
        oldest = self._oldest()
        if oldest is None:
            return []
        if self.max_wait and now < oldest.entries[0].arrived + self.max_wait:
            if not self._full:
                return []
            oldest = min(self._full, key=_Bucket.first_order)
        return self._cut(oldest)

    def take_all(self) -> list[E]:
        """Every waiting entry, in the order of arrival; the room is empty afterwards."""
        entries = [entry for bucket in self._buckets.values() for entry in bucket.entries if entry.waiting]
        entries.sort(key=lambda entry: entry.order)
        for entry in entries:
            entry.waiting = False
            entry.bucket = None
        self._buckets.clear()
        self._full.clear()
        self._by_age.clear()
        self.rows = 0
        return entries

    def due_at(self) -> float | None:
        """When the oldest entry has waited long enough; None if nothing waits."""
        oldest = self._oldest()
        return None if oldest is None else oldest.entries[0].arrived + self.max_wait

    def _oldest(self) -> _Bucket[E] | None:
        by_age = self._by_age
        while by_age:
            order, bucket = by_age[0]
            first = bucket.first_order()
            if first == order:
                return bucket
            if first:
                heapq.heapreplace(by_age, (first, bucket))
            else:
                heapq.heappop(by_age)
                del self._buckets[bucket.key]
        return None

    def _cut(self, bucket: _Bucket[E]) -> list[E]:
        batch: list[E] = []
        entries = bucket.entries
        room = self.max_rows
        while entries:
            entry = entries[0]
            if entry.waiting:
                if entry.rows > room:
                    break
                room -= entry.rows
                entry.waiting = False
                entry.bucket = None
                batch.append(entry)
            else:
                bucket.tombstones -= 1
            entries.popleft()
        self._subtract(bucket, self.max_rows - room)
        return batch

    def _subtract(self, bucket: _Bucket[E], rows: int) -> None:
        self.rows -= rows
        bucket.rows -= rows
        if bucket.rows < self.max_rows:
            self._full.discard(bucket)


class _Bucket(Generic[E]):
    """The entries of one key in the order of arrival, with the tombstones of discarded ones between them."""

    __slots__ = ("entries", "key", "rows", "tombstones")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.entries: deque[E] = deque()
        self.rows = 0
        self.tombstones = 0

    def first_order(self) -> int:
        """The order of the first entry that waits, after dropping the tombstones before it; 0 if there is none."""
        entries = self.entries
        while entries:
            if entries[0].waiting:
                return entries[0].order
            entries.popleft()
            self.tombstones -= 1
        return 0


def row_slices(rows: int, max_rows: int) -> Iterator[slice]:
    """Cut `rows` rows into pieces of at most `max_rows`, in order."""
    for start in range(0, rows, max_rows):
        yield slice(start, min(start + max_rows, rows))
