"""Waits for the jobs and calls, and reads the blobs, that arguments refer to; fetches results of other services."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from socaity.exceptions import InvalidInputError, JobCancelled, JobFailed, NotFoundError, SocaityError
from socaity.protocol.events import JobStatus
from socaity.protocol.messagepack import MalformedError, unpackb

from .origins import Source, read_source
from .references import Reference, follow, resolve

if TYPE_CHECKING:
    from .dataplane import DataPlane

__all__ = ["Calls", "Upstream"]

Calls: TypeAlias = Mapping[int, "asyncio.Future[Any]"]
"""The results of direct calls by their number, which may be still to come."""

_MAX_CHAIN = 600


class Upstream:
    """What references lead to, in one data plane."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    async def check(
        self, references: Sequence[tuple[str, Reference]], owner: str, calls: Calls | None = None
    ) -> None:
        """Raise InvalidInputError (`unknown_job`, `unknown_call`, `unknown_blob`, `fetch_refused`) for what is not here and not
        to be had."""
        for parameter, reference in references:
            if reference.origin is not None:
                self._source(reference, parameter)
            elif reference.kind in ("blob", "packed"):
                if self._dataplane.blobs.size(reference.id) is None:
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

        Raises JobFailed `upstream_failed`, which says what was not run because of what.
        """

        async def fetch(reference: Reference, parameter: str) -> Any:
            if reference.kind == "blob":
                return await asyncio.to_thread(self._read_blob, reference.id)
            if reference.kind == "packed":
                return await self._packed(reference, parameter, name)
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

        resolved = dict(arguments)
        for parameter in dict(references):
            resolved[parameter] = await resolve(arguments[parameter], fetch, parameter)
        return resolved

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

    async def _packed(self, reference: Reference, parameter: str, name: str) -> Any:
        """A result of another service, fetched from there if its bytes are not here."""
        if reference.origin is not None:
            source = self._source(reference, parameter)
            why = ""
            try:
                await self._dataplane.fetcher.fetch(
                    source, reference.id, reference.size, self._dataplane.blobs
                )
            except JobFailed as exc:
                why = str(exc)
            if why:
                raise JobFailed(f"{name} was not run: its argument {parameter!r}: {why}", code="fetch_failed")
        try:
            return await asyncio.to_thread(self._unpack_blob, reference.id, parameter)
        except NotFoundError as exc:  # others needed the room
            raise InvalidInputError(
                f"Parameter {parameter!r}: {exc}", parameter=parameter, code="unknown_blob"
            ) from exc

    def _unpack_blob(self, sha256: str, parameter: str) -> Any:
        try:
            return unpackb(self._read_blob(sha256))
        except MalformedError as exc:
            raise InvalidInputError(
                f"Parameter {parameter!r}: the blob {sha256} is no packed value: {exc}.", parameter=parameter
            ) from exc

    def _read_blob(self, sha256: str) -> bytes:
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
    with suppress(LookupError, TypeError):
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
