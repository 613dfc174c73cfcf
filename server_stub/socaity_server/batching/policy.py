"""Which of the waiting calls run together next: pure bookkeeping, no clock, no loop, no arrays.

Entries wait in buckets, one per key and priority; only entries of the same key are ever put together. Who came first is
served first, so that a rare shape never starves behind a common one. Sizes are counted in rows.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

__all__ = ["HEAD_START", "Entry", "WaitingRoom", "row_slices"]

HEAD_START = 1000
"""So many entries that came earlier are overtaken by one level of priority."""
_PRIORITY = object()

_FEW_TOMBSTONES = 64


class Entry:
    """One waiting call: its bucket's `key`, its `rows`, and when it `arrived` (any clock that never goes back).

    It is not worth running after its `deadline` (of the same clock). A higher `priority` overtakes. `size` is what its arrays
    hold in bytes. `waiting` is true from `WaitingRoom.add` until the entry is taken or discarded.
    """

    __slots__ = ("arrived", "bucket", "deadline", "key", "order", "priority", "rows", "size", "waiting")

    def __init__(
        self,
        key: Hashable,
        rows: int,
        arrived: float = 0.0,
        *,
        deadline: float = math.inf,
        priority: int = 0,
        size: int = 0,
    ) -> None:
        self.key = key
        self.rows = rows
        self.arrived = arrived
        self.deadline = deadline
        self.priority = priority
        self.size = size
        self.order = 0
        self.waiting = False
        self.bucket: _Bucket[Any] | None = None


E = TypeVar("E", bound=Entry)


class WaitingRoom(Generic[E]):
    """The entries that wait, and the choice of the next batch. No entry may have more than `max_rows` rows.

    The bucket whose head came first is served first; each level of priority counts like having come `HEAD_START` entries
    earlier, so that a lower priority waits longer but never for ever. All operations take constant time per entry, apart
    from a logarithm of the number of buckets per batch.

    With `preferred` sizes a batch that could be larger than one of them is cut at the largest that fits.
    """

    def __init__(self, max_rows: int, *, preferred: Sequence[int] = ()) -> None:
        if max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, not {max_rows}.")
        self.max_rows = max_rows
        self.preferred = tuple(sorted(preferred, reverse=True))
        self.rows = 0
        self.size = 0
        self.count = 0
        """The entries that wait."""
        self._added = 0
        self._buckets: dict[Hashable, _Bucket[E]] = {}
        # Of each key that has entries of a priority: its buckets by priority. Most services never use one.
        self._classes: dict[Hashable, dict[int, _Bucket[E]]] = {}
        # One item per bucket: (order of its head or of an earlier, gone head, tie, bucket). Corrected when it comes up.
        self._by_age: list[tuple[int, int, _Bucket[E]]] = []

    def add(self, entry: E) -> None:
        """Let `entry` wait. Its rows must fit into one batch; larger calls are cut first (see `row_slices`)."""
        rows = entry.rows
        if not 0 < rows <= self.max_rows:
            raise ValueError(f"An entry has 1 to {self.max_rows} rows, not {rows}.")
        self._added = added = self._added + 1
        entry.order = added
        if entry.priority:
            bucket = self._bucket_of_priority(entry)
        else:
            found = self._buckets.get(entry.key)
            bucket = self._new_bucket(entry.key, entry) if found is None else found
        bucket.entries.append(entry)
        bucket.rows += rows
        entry.bucket = bucket
        entry.waiting = True
        self.rows += rows
        self.size += entry.size
        self.count += 1

    def discard(self, entry: E) -> None:
        """Forget `entry`. It stays behind as a tombstone that no batch picks up; gone entries are ignored."""
        bucket = entry.bucket
        if bucket is None or not entry.waiting:
            return
        self._leave(entry, bucket)
        bucket.tombstones += 1
        if bucket.tombstones > _FEW_TOMBSTONES and bucket.tombstones * 2 > len(bucket.entries):
            bucket.entries = deque(waiting for waiting in bucket.entries if waiting.waiting)
            bucket.tombstones = 0

    def take(self, limit: int | None = None) -> list[E]:
        """The next batch of at most `limit` rows (of one entry if that has more), oldest entry first; empty if none waits."""
        bucket = self._oldest()
        if bucket is None:
            return []
        room = self.max_rows if limit is None else min(limit, self.max_rows)
        batch: list[E] = []
        left = self._cut(bucket, self._preferred_size(bucket, room), batch)
        if left > 0 and self._classes:
            for sibling in self._siblings(bucket):
                left = self._cut(sibling, left, batch)
        return batch

    def take_all(self) -> list[E]:
        """Every waiting entry, in the order of arrival; the room is empty afterwards."""
        entries = list(self)
        entries.sort(key=lambda entry: entry.order)
        for entry in entries:
            entry.waiting = False
            entry.bucket = None
        self._buckets.clear()
        self._classes.clear()
        self._by_age.clear()
        self.rows = self.size = self.count = 0
        return entries

    def take_expired(self, now: float) -> list[E]:
        """The entries whose deadline has passed, taken out."""
        expired = [entry for entry in self if entry.deadline <= now]
        for entry in expired:
            self.discard(entry)
        return expired

    def oldest(self) -> E | None:
        """The head of the bucket that is next; None if nothing waits."""
        bucket = self._oldest()
        return None if bucket is None else bucket.entries[0]

    def next_rows(self) -> int:
        """The rows of the bucket that is next: what a batch of any size could hold."""
        bucket = self._oldest()
        return 0 if bucket is None else bucket.rows

    def __iter__(self) -> Iterator[E]:
        for bucket in self._buckets.values():
            for entry in bucket.entries:
                if entry.waiting:
                    yield entry

    def _bucket_of_priority(self, entry: E) -> _Bucket[E]:
        entry.order -= entry.priority * HEAD_START
        classes = self._classes.setdefault(entry.key, {})
        bucket = classes.get(entry.priority)
        if bucket is None:
            bucket = classes[entry.priority] = self._new_bucket((_PRIORITY, entry.priority, entry.key), entry)
        return bucket

    def _new_bucket(self, key: Hashable, entry: E) -> _Bucket[E]:
        bucket = self._buckets[key] = _Bucket(key)
        heapq.heappush(self._by_age, (entry.order, self._added, bucket))
        return bucket

    def _siblings(self, bucket: _Bucket[E]) -> list[_Bucket[E]]:
        """The buckets of the same key and other priorities, the most urgent first."""
        key = bucket.plain_key
        classes = dict(self._classes.get(key, ()))
        if key in self._buckets:
            classes[0] = self._buckets[key]
        return [found for _, found in sorted(classes.items(), reverse=True) if found is not bucket]

    def _oldest(self) -> _Bucket[E] | None:
        by_age = self._by_age
        while by_age:
            order, tie, bucket = by_age[0]
            head = bucket.head()
            if head is None:
                heapq.heappop(by_age)
                self._forget(bucket)
            elif head.order == order:
                return bucket
            else:
                heapq.heapreplace(by_age, (head.order, tie, bucket))
        return None

    def _forget(self, bucket: _Bucket[E]) -> None:
        del self._buckets[bucket.key]
        if bucket.key != bucket.plain_key:
            classes = self._classes[bucket.plain_key]
            del classes[bucket.key[1]]  # type: ignore[index]
            if not classes:
                del self._classes[bucket.plain_key]

    def _preferred_size(self, bucket: _Bucket[E], room: int) -> int:
        available = min(bucket.rows, room)
        for size in self.preferred:
            if size <= available:
                return size
        return room

    def _cut(self, bucket: _Bucket[E], room: int, batch: list[E]) -> int:
        """Move entries from the head of `bucket` to `batch`; returns what is left of `room`."""
        entries = bucket.entries
        while entries and room > 0:
            entry = entries[0]
            if entry.waiting:
                if entry.rows > room and batch:
                    break
                room -= entry.rows
                self._leave(entry, bucket)
                batch.append(entry)
            else:
                bucket.tombstones -= 1
            entries.popleft()
        return room

    def _leave(self, entry: E, bucket: _Bucket[E]) -> None:
        entry.waiting = False
        entry.bucket = None
        bucket.rows -= entry.rows
        self.rows -= entry.rows
        self.size -= entry.size
        self.count -= 1


class _Bucket(Generic[E]):
    """The entries of one key in the order of arrival, with the tombstones of discarded ones between them."""

    __slots__ = ("entries", "key", "rows", "tombstones")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.entries: deque[E] = deque()
        self.rows = 0
        self.tombstones = 0

    @property
    def plain_key(self) -> Hashable:
        """The key of the entries, without the priority."""
        key = self.key
        return key[2] if type(key) is tuple and len(key) == 3 and key[0] is _PRIORITY else key

    def head(self) -> E | None:
        """The first entry that waits, after dropping the tombstones before it; None if there is none."""
        entries = self.entries
        while entries:
            if entries[0].waiting:
                return entries[0]
            entries.popleft()
            self.tombstones -= 1
        return None


def row_slices(rows: int, max_rows: int) -> Iterator[slice]:
    """Cut `rows` rows into pieces of at most `max_rows`, in order."""
    for start in range(0, rows, max_rows):
        yield slice(start, min(start + max_rows, rows))
