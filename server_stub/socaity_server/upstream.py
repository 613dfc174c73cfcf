"""Waits for the jobs and calls, and reads the blobs, that arguments refer to; fetches results of other services."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from socaity.exceptions import InvalidInputError, JobCancelled, JobFailed, NotFoundError, SocaityError
from socaity.protocol.events import JobStatus
from socaity.protocol.messagepack import MalformedError, TooManyError, unpackb

from .origins import Source, read_source
from .references import ReadArguments, Reference, follow, replaced

if TYPE_CHECKING:
    from .dataplane import DataPlane

__all__ = ["Calls", "Upstream"]

Calls: TypeAlias = Mapping[int, "asyncio.Future[Any]"]
"""The results of direct calls by their number, which may be still to come."""

_MAX_CHAIN = 600
_VALUE_BYTES = 64
"""What a value in a list or map counts: about the memory that it takes."""
_MOST_AT_ONCE = 10_000
"""Lists and maps of a result that are counted between two looks at other work."""


class Upstream:
    """What references lead to, in one data plane."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    async def check(
        self, references: Sequence[tuple[str, Reference]], owner: str, calls: Calls | None = None
    ) -> None:
        """Raise InvalidInputError (`unknown_job`, `unknown_call`, `unknown_blob`, `fetch_refused`) for what is not here and not
        to be had, and 413 `too_large` for uploads that are too much together."""
        room = _Room(self._dataplane.max_referred)
        for parameter, reference in references:
            if reference.origin is not None:
                self._source(reference, parameter)
            elif reference.kind in ("blob", "packed"):
                size = self._dataplane.blobs.size(reference.id)
                room.take(size or 0, parameter)
                if size is None:
                    raise InvalidInputError(
                        f"Parameter {parameter!r} refers to the blob {reference.id}, which is not here (any more): "
                        "upload it first.",
                        parameter=parameter,
                        code="unknown_blob",
                    )
            elif reference.kind == "call":
                _expected(calls, reference, parameter)
            else:
                record = await self._dataplane.backend.get(reference.id)
                if record is None or record.owner != owner:
                    raise InvalidInputError(
                        f"Parameter {parameter!r} refers to the job {reference.id}, which is not known (any more).",
                        parameter=parameter,
                        code="unknown_job",
                    )

    async def resolve(
        self,
        arguments: Mapping[str, Any],
        references: Sequence[tuple[str, Reference]],
        owner: str,
        *,
        name: str,
        calls: Calls | None = None,
    ) -> dict[str, Any]:
        """The arguments of the endpoint `name` with the values in place, as soon as all jobs and calls have ended.

        Raises JobFailed `upstream_failed`, which says what was not run because of what, and InvalidInputError 413 `too_large`.
        """
        room = _Room(self._dataplane.max_referred)
        uploads: dict[tuple[str, str], Any] = {}
        values: defaultdict[str, list[Any]] = defaultdict(list)
        for parameter, reference in references:
            if reference.kind in ("blob", "packed"):
                value = await self._upload(reference, parameter, name, room, uploads)
            else:
                value = await self._result(reference, parameter, owner, name, calls)
                await room.take_value(value, parameter)
            values[parameter].append(value)
        resolved = dict(arguments)
        for parameter, found in values.items():
            resolved[parameter] = replaced(arguments[parameter], iter(found))
        return ReadArguments(resolved)  # what has come holds no references

    async def _result(
        self, reference: Reference, parameter: str, owner: str, name: str, calls: Calls | None
    ) -> Any:
        """The result of a call or job. Raises JobFailed `upstream_failed`."""
        try:
            if reference.kind == "call":
                return await _part_of_call(reference, _expected(calls, reference, parameter))
            return await self._part_of_job(reference, owner)
        except _NotThere as exc:
            why = str(exc)
        # not in the block, so that the error has no other behind it, whose frames refer to it
        raise JobFailed(
            f"{name} was not run: its argument {parameter!r} comes from {why}", code="upstream_failed"
        )

    async def _upload(
        self,
        reference: Reference,
        parameter: str,
        name: str,
        room: _Room,
        uploads: dict[tuple[str, str], Any],
    ) -> Any:
        """Bytes that were uploaded, or the value that they are; read once for a call, and counted each time."""
        key = (reference.kind, reference.id)
        if key not in uploads:
            room.check(max(reference.size, self._dataplane.blobs.size(reference.id) or 0), parameter)
            if reference.origin is not None:
                await self._fetch(reference, parameter, name)
            read = self._read_blob if reference.kind == "blob" else self._unpack_blob
            try:
                uploads[key] = await asyncio.to_thread(read, reference.id, parameter)
            except NotFoundError as exc:  # others needed the room
                raise InvalidInputError(
                    f"Parameter {parameter!r}: {exc}", parameter=parameter, code="unknown_blob"
                ) from exc
        await room.take_value(uploads[key], parameter)
        return uploads[key]

    def _source(self, reference: Reference, parameter: str) -> Source:
        """Where a packed result may be fetched. Raises InvalidInputError `fetch_refused`."""
        assert reference.origin is not None
        dataplane = self._dataplane
        if reference.size > dataplane.max_fetch:
            raise InvalidInputError(
                f"Parameter {parameter!r}: a result of {reference.size} bytes is not fetched from another service; the limit is "
                f"{dataplane.max_fetch}.",
                parameter=parameter,
                code="fetch_refused",
            )
        url, token = reference.origin
        return read_source(url, token, reference.id, dataplane.fetch_from, parameter=parameter)

    async def _fetch(self, reference: Reference, parameter: str, name: str) -> None:
        """Get a result of another service, if its bytes are not here. Raises JobFailed `fetch_failed`."""
        source = self._source(reference, parameter)
        why = ""
        try:
            await self._dataplane.fetcher.fetch(source, reference.id, reference.size, self._dataplane.blobs)
        except JobFailed as exc:
            why = str(exc)
        if why:
            raise JobFailed(f"{name} was not run: its argument {parameter!r}: {why}", code="fetch_failed")

    def _unpack_blob(self, sha256: str, parameter: str) -> Any:
        most = self._dataplane.max_referred
        try:
            return unpackb(self._read_blob(sha256, parameter), max_items=most // _VALUE_BYTES)
        except TooManyError as exc:
            raise _too_large(most, parameter) from exc
        except MalformedError as exc:
            raise InvalidInputError(
                f"Parameter {parameter!r}: the blob {sha256} is no packed value: {exc}.", parameter=parameter
            ) from exc

    def _read_blob(self, sha256: str, parameter: str) -> bytes:
        with self._dataplane.blobs.open(sha256) as file:
            return file.read()

    async def _part_of_job(self, reference: Reference, owner: str) -> Any:
        job = f"the job {reference.id}"
        record = None
        with suppress(NotFoundError):
            record = await self._dataplane.wait(reference.id, owner=owner)
        if record is None:
            raise _NotThere(f"{job}, which is not known any more")
        job = f"{record.queue} (job {reference.id})"
        if record.status is not JobStatus.SUCCEEDED:
            detail = str((record.error or {}).get("detail", record.status))
            raise _NotThere(f"{job}, which {_how(record.queue, str(record.status), detail)}")
        result = record.result
        route = self._dataplane.routes.get(record.queue)
        if route is not None and route.streaming:
            result = [
                event.data
                async for event in self._dataplane.backend.events(record.id)
                if event.kind == "chunk"
            ]
        return _part(result, reference, job)


class _Room:
    """What references may still bring to one call, in bytes: few words can stand for very much."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def check(self, size: int, parameter: str) -> None:
        """Raises InvalidInputError 413 where so much has no room."""
        if size > self._left:
            raise _too_large(self._most, parameter)

    def take(self, size: int, parameter: str) -> None:
        """Raises InvalidInputError 413."""
        self.check(size, parameter)
        self._left -= size

    async def take_value(self, value: Any, parameter: str) -> None:
        """Take what a value has, as often as it is referred to. Raises InvalidInputError 413."""
        pieces = _sizes(value)
        while True:
            for size in islice(pieces, _MOST_AT_ONCE):
                self.take(size, parameter)
            left = next(pieces, None)
            if left is None:
                return
            self.take(left, parameter)
            await asyncio.sleep(0)


def _sizes(value: Any) -> Iterator[int]:
    """About the bytes of a value, part by part."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            items: Collection[Any] = one.values()
        elif isinstance(one, list | tuple):
            items = one
        else:
            yield _size(one)
            continue
        yield _VALUE_BYTES * len(items)
        # one pass in C over the types keeps long lists of numbers cheap
        if not _NUMBERS.issuperset(map(type, items)):
            left.extend(item for item in items if type(item) not in _NUMBERS)


def _size(value: Any) -> int:
    if isinstance(value, str | bytes | bytearray):
        return len(value)
    return int(getattr(value, "nbytes", 0))


def _too_large(most: int, parameter: str) -> InvalidInputError:
    return InvalidInputError(
        f"Parameter {parameter!r}: what the arguments refer to is more than the {most} bytes that one call may bring together; "
        f"refer to less, or to parts of it (a value in a list or map counts {_VALUE_BYTES} bytes).",
        parameter=parameter,
        status=413,
        code="too_large",
    )


_NUMBERS = frozenset({int, float, bool, type(None)})


class _NotThere(Exception):
    """What a reference leads to did not come; says what it was and why."""


async def _part_of_call(reference: Reference, result: asyncio.Future[Any]) -> Any:
    # not awaited itself: others wait for it, and its error would refer to this frame, which refers to it
    await asyncio.wait([result])
    call = f"the call {reference.id}"
    error = result.exception()
    if error is not None:
        status = "cancelled" if isinstance(error, JobCancelled) else "failed"
        detail = Exception.__str__(error) if isinstance(error, SocaityError) else type(error).__name__
        raise _NotThere(f"{call}, which {_how('', status, detail)}")
    return _part(result.result(), reference, call)


def _expected(calls: Calls | None, reference: Reference, parameter: str) -> asyncio.Future[Any]:
    result = None if calls is None else calls.get(int(reference.id))
    if result is None:
        raise InvalidInputError(
            f"Parameter {parameter!r} refers to the call {reference.id}, which is not known (any more).",
            parameter=parameter,
            code="unknown_call",
        )
    return result


def _part(result: Any, reference: Reference, source: str) -> Any:
    with suppress(LookupError, TypeError, OverflowError):
        return follow(result, reference.path)
    path = "".join(f"[{step!r}]" for step in reference.path)
    raise _NotThere(f"{source}, whose result has no {path}")


def _how(name: str, status: str, detail: str) -> str:
    """How a step ended, in words; of one that was not run itself, because of which. `name` is empty where it is not known."""
    if status == "cancelled":
        return "was cancelled"
    before, was_not_run, chain = detail.partition(" was not run: ")
    is_chain = was_not_run and (not name or before == name)
    text = f"was not run: {chain}" if is_chain else f"{status}: {detail}"
    return text if len(text) <= _MAX_CHAIN else f"{text[: _MAX_CHAIN // 2]} … {text[-_MAX_CHAIN // 2 :]}"
