"""Waits for the jobs and reads the blobs that arguments refer to."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from socaity.exceptions import InvalidInputError, JobFailed, NotFoundError
from socaity.protocol.events import JobStatus

from .references import Reference, follow, resolve

if TYPE_CHECKING:
    from .dataplane import DataPlane

__all__ = ["Upstream"]


class Upstream:
    """What references lead to, in one data plane."""

    def __init__(self, dataplane: DataPlane) -> None:
        self._dataplane = dataplane

    async def check(self, references: Sequence[tuple[str, Reference]], owner: str) -> None:
        """Raise InvalidInputError (`unknown_job`, `unknown_blob`) for what is not here."""
        for parameter, reference in references:
            if reference.kind == "blob":
                if self._dataplane.blobs.size(reference.id) is None:
                    raise InvalidInputError(
                        f"Parameter {parameter!r} refers to the blob {reference.id}, which is not here (any more): "
                        "upload it first.",
                        parameter=parameter,
                        code="unknown_blob",
                    )
                continue
            record = await self._dataplane.backend.get(reference.id)
            if record is None or record.owner != owner:
                raise InvalidInputError(
                    f"Parameter {parameter!r} refers to the job {reference.id}, which is not known (any more).",
                    parameter=parameter,
                    code="unknown_job",
                )

    async def resolve(
        self, arguments: Mapping[str, Any], references: Sequence[tuple[str, Reference]], owner: str
    ) -> dict[str, Any]:
        """The arguments with the values in place, as soon as all jobs have ended; raises JobFailed that names the one."""

        async def fetch(reference: Reference, parameter: str) -> Any:
            if reference.kind == "blob":
                return await asyncio.to_thread(self._read_blob, reference.id)
            return await self._part_of_job(reference, parameter, owner)

        resolved = dict(arguments)
        for parameter in dict(references):
            resolved[parameter] = await resolve(arguments[parameter], fetch, parameter)
        return resolved

    def _read_blob(self, sha256: str) -> bytes:
        with self._dataplane.blobs.open(sha256) as file:
            return file.read()

    async def _part_of_job(self, reference: Reference, parameter: str, owner: str) -> Any:
        try:
            record = await self._dataplane.wait(reference.id, owner=owner)
        except NotFoundError as exc:
            raise JobFailed(
                f"Parameter {parameter!r} refers to the job {reference.id}, which is not known any more."
            ) from exc
        if record.status is not JobStatus.SUCCEEDED:
            reason = (record.error or {}).get("detail", record.status)
            raise JobFailed(
                f"Parameter {parameter!r} refers to the job {reference.id} ({record.queue}), which {record.status}: {reason}"
            )
        result = record.result
        route = self._dataplane.routes.get(record.queue)
        if route is not None and route.streaming:
            result = [
                event.data
                async for event in self._dataplane.backend.events(record.id)
                if event.kind == "chunk"
            ]
        try:
            return follow(result, reference.path)
        except (LookupError, TypeError) as exc:
            path = "".join(f"[{step!r}]" for step in reference.path)
            raise JobFailed(
                f"Parameter {parameter!r} refers to {path} of the job {reference.id}, whose result has no such part."
            ) from exc
