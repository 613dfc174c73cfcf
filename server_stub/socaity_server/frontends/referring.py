"""Whether a caller may read what the arguments of a call refer to: the same questions as for reading it alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Scope

from ..auth.actions import Action, blob_resource, job_resource
from ..auth.guard import Guard, RequestContext
from ..references import Reference, find_references

__all__ = ["permit_references", "what_is_read"]


async def permit_references(guard: Guard, scope: Scope, arguments: Mapping[str, Any]) -> None:
    """Ask for each upload and job that a request refers to. Raises AuthenticationError, and ServerError 503."""
    references = find_references(arguments)
    if not references:
        return
    principal, client = scope["socaity.principal"], scope.get("client")
    context = RequestContext(peer=client[0] if client else "", method=scope["method"], path=scope["path"])
    for action, resource in what_is_read(reference for _, reference in references):
        waiting = guard.authorize(principal, action, resource, context)
        if waiting is not None:
            await waiting


def what_is_read(references: Iterable[Reference]) -> list[tuple[Action, str]]:
    """Actions and resources, each once. The calls of a session are its own."""
    found: dict[tuple[Action, str], None] = {}
    for reference in references:
        if reference.kind == "job":
            found[Action.JOB_READ, job_resource(reference.id)] = None
        elif reference.kind != "call":
            # also of what may be fetched: it is not, where the bytes are here
            found[Action.BLOB_READ, blob_resource(reference.id)] = None
    return list(found)
