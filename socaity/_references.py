"""Unfinished jobs as arguments: what of them travels as a reference, what as a value, and what has to wait first."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ._crossing import passages_of
from ._job import Job, JobReference
from ._links import arguments_of, link, links_of, release
from ._media import given, ungiven
from ._parts import groups_in, holds_media, is_large, jobs_in, not_there, replaced
from ._portal import portal
from ._refusals import not_run, refuse, refuse_not_run
from ._schema import UnfinishedError
from ._waiting import Waiting

if TYPE_CHECKING:
    from ._crossing import Passage, Path
    from ._endpoint import Endpoint
    from .transport import Refer

__all__ = ["arguments_with", "call_with_jobs", "cancel"]


def call_with_jobs(endpoint: Endpoint, arguments: Mapping[str, Any]) -> Job[Any]:
    """A call whose arguments hold jobs, all else of them checked; goes out at once if references can."""
    job: Job[Any] = Job(endpoint, arguments)
    job.context = copy_context()  # the wire may not be open yet
    links_of(job).arguments = arguments
    start(job)
    return job


def start(job: Job[Any]) -> None:
    """Send a job with links as soon as the groups among its arguments have all their members."""
    if job._ended:  # cancelled while a group grew
        return
    service = job._endpoint.service
    link(job)
    failed = next((up for up in job.upstream if up._error is not None), None)
    if failed is not None:
        job._held = True
        portal.call_soon(refuse_not_run, job, failed)
        return
    groups = groups_in(arguments_of(job))
    growing = next((group for group in groups if not group._is_fed), None)
    broken = next((group._feed_error for group in groups if group._feed_error is not None), None)
    if broken is not None:
        job._held = True
        portal.call_soon(refuse, job, broken)
    elif growing is not None:
        job._held = True
        growing._when_fed(lambda: start(job))
    elif job.upstream:
        service._outbox.put(job)
    else:  # empty groups
        try:
            job.arguments = job._endpoint._bind((), replaced(arguments_of(job), not_there))
        except Exception as exc:
            refuse(job, exc)
        else:
            service._outbox.put(job)


def cancel(job: Job[Any], upstream: bool) -> None:
    """Cancel a job, and those before it that nobody else wants; on the loop."""
    unwanted = [job]
    if upstream:
        # all are found before the first ends: who learns of that may begin to wait for another
        for one in unwanted:
            release(one)
            unwanted.extend(up for up in one.upstream if not up.done() and not up._is_wanted())
    for one in unwanted:
        if not one.done():
            one._endpoint.service._cancel(one)


def arguments_with(job: Job[Any], refer: Refer | None) -> Mapping[str, Any] | None:
    """See `socaity.transport.Call.arguments_with`."""
    if links_of(job).by_value or not _takes_parts(job):
        refer = None
    service = job._endpoint.service
    missing: list[Job[Any]] = []
    pending: list[tuple[Job[Any], Passage]] = []
    passages: dict[tuple[int, Path], Passage] = {}
    for up in job.upstream:
        if up._error is not None:
            refuse(job, not_run(job, up))
            return None
        source = up._target().job
        if source._ended:
            continue
        if refer is not None and source._endpoint.service is not service:
            found = passages_of(job, source)
            if found is not None:
                passages |= found
                pending += [(up, one) for one in found.values() if not one.is_over]
                continue
        elif refer is not None and refer(source, ()) is not None:
            continue
        missing.append(up if source is up or not source.done() else source)
    if missing or pending:
        links_of(job).waiting = Waiting(job, missing, pending, may_refer=refer is not None)
        return None
    try:
        return _put_together(job, refer, passages)
    except Exception as exc:  # the edge of the loop: results and arguments are of the user's own types
        refuse(job, exc)
        return None


def _takes_parts(job: Job[Any]) -> bool:
    """Whether references may stand where they stand. A stack of texts takes anything as a text."""
    endpoint = job._endpoint.description
    if not endpoint.batched:
        return True
    texts = {
        one.name for one in endpoint.parameters if one.tensor is not None and one.tensor.dtype == "object"
    }
    arguments = arguments_of(job)
    return not any(
        name in texts and not isinstance(value, (Job, JobReference)) and jobs_in(value)
        for name, value in arguments.items()
    )


def _put_together(
    job: Job[Any], refer: Refer | None, passages: Mapping[tuple[int, Path], Passage]
) -> Mapping[str, Any] | None:
    arguments = arguments_of(job)
    service = job._endpoint.service
    has_values = False

    def put_value(step: Job[Any], path: tuple[str | int, ...]) -> Any:
        nonlocal has_values
        source = step._target()
        up, path = source.job, (*source.path, *path)
        part = JobReference(up, path)
        if not up._ended:
            return part
        value = part.resolve(up._value)
        is_here = not up._endpoint.description.direct and up._endpoint.service is service
        # media too: there they are what they were, and not what we have made of them
        stays = refer is not None and is_here and (is_large(value) or holds_media(value))
        if stays and refer is not None and refer(up, path) is not None:
            return part
        has_values = True
        return given(replaced(value, not_there)) if job._endpoint.opens_files else value

    mixed = replaced(arguments, put_value)
    if has_values:
        try:
            arguments = ungiven(job._endpoint._bind((), mixed))
        except UnfinishedError as exc:
            arguments = ungiven(exc.arguments)
    if service._uploads is not None and service._uploads.hold(job, arguments):
        return None

    def put_reference(step: Job[Any], path: tuple[str | int, ...]) -> Any:
        source = step._target()
        path = (*source.path, *path)
        passage = passages.get((id(source.job), path))
        if passage is not None:
            return passage.reference
        return None if refer is None else refer(source.job, path)

    with_references: Mapping[str, Any] = replaced(arguments, put_reference)
    return with_references
