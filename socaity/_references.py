"""Unfinished jobs as arguments: what of them travels as a reference, what as a value, and what has to wait first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from ._group import JobGroup
from ._job import Job, JobReference, Notice
from ._media import size_of
from ._portal import _waiters_lock, portal
from ._schema import UnfinishedError, plain
from .exceptions import InvalidInputError, JobFailed, SocaityError

if TYPE_CHECKING:
    from ._endpoint import Endpoint
    from .transport import Refer

__all__ = [
    "Links",
    "arguments_with",
    "call_with_jobs",
    "cancel",
    "forget_past",
    "groups_in",
    "jobs_in",
    "links_of",
    "refuse",
    "release",
    "replaced",
    "take_refusal",
]

LARGE = 64 * 1024
"""A result of a job that has more bytes than this is referred to even when it is here: it need not travel again."""
_MAX_DEPTH = 1000
"""Steps behind one another that are remembered; a loop that feeds a result back for ever must not keep all of them."""
_TRIES = 3
_REFUSALS = frozenset({"unknown_call", "unknown_job", "upstream_failed"})
_MAX_CHAIN = 600
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})

Put = Callable[["Job[Any]", "tuple[str | int, ...]"], Any]


class Links:
    """What ties a job to others: `arguments`, which hold jobs, and how many unfinished jobs take its result. And what only few
    jobs have, so that the others stay small."""

    __slots__ = (
        "again",
        "arguments",
        "by_value",
        "dependents",
        "depth",
        "due",
        "is_counted",
        "is_seen",
        "key",
        "listeners",
        "refusals",
        "timing",
        "waiting",
    )

    def __init__(self) -> None:
        self.arguments: Mapping[str, Any] | None = None
        self.dependents = 0
        self.is_counted = False
        """It is among the `dependents` of its upstream."""
        self.depth = 0
        self.by_value = False
        """References were refused."""
        self.refusals = 0
        self.waiting: _Waiting | None = None
        self.key: bytes | None = None
        """The key under which the job is memoised."""
        self.again: Callable[[], Job[Any]] | None = None
        """How to make this call once more, where the arguments alone do not say it."""
        self.is_seen = False
        """Somebody has seen its error."""
        self.due: float | None = None
        """When the service expects it to end, by the clock here."""
        self.timing: Mapping[str, float] | None = None
        self.listeners: tuple[Callable[[Job[Any]], object], ...] = ()
        """Who is told of its progress."""


def links_of(job: Job[Any]) -> Links:
    """The links of a job, made if there are none."""
    return job._more()


# -- calling -----------------------------------------------------------------------------------------------------------


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
        portal.call_soon(_refuse_not_run, job, failed)
        return
    groups = groups_in(_arguments_of(job))
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
            job.arguments = job._endpoint._bind((), replaced(_arguments_of(job), _not_there))
        except Exception as exc:
            refuse(job, exc)
        else:
            service._outbox.put(job)


def link(job: Job[Any]) -> None:
    """Note what the arguments of a job need."""
    links = links_of(job)
    found = {id(up): up for up in jobs_in(_arguments_of(job))}
    release(job)
    every = [links_of(up) for up in found.values()]
    depth = 1 + max((one.depth for one in every), default=0)
    with _waiters_lock:
        job.upstream = tuple(found.values())
        links.depth = depth
        links.is_counted = True
        for one in every:
            one.dependents += 1


def release(job: Job[Any]) -> None:
    """The job does not need its upstream any more."""
    links = job._links
    if links is None:
        return
    waiting, links.waiting = links.waiting, None
    if waiting is not None:
        waiting.job = None
    if not links.is_counted:
        return
    with _waiters_lock:
        if links.is_counted:
            links.is_counted = False
            for up in job.upstream:
                if up._links is not None:
                    up._links.dependents -= 1


def forget_past(job: Job[Any]) -> None:
    """Of a very long chain that went well nobody needs the beginning."""
    if job._error is None and forget_depth(job):
        links_of(job).arguments = None
        job.upstream = ()


def forget_depth(job: Job[Any]) -> bool:
    """Whether it is so deep in a chain that it does not keep what was before it; the count begins anew."""
    links = job._links
    if links is None or not links.depth or links.depth % _MAX_DEPTH:
        return False
    links.depth = 0
    return True


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


# -- what is sent ------------------------------------------------------------------------------------------------------


def arguments_with(job: Job[Any], refer: Refer | None) -> Mapping[str, Any] | None:
    """See `socaity.transport.Call.arguments_with`."""
    links = links_of(job)
    if links.by_value:
        refer = None
    service = job._endpoint.service
    missing = []
    for up in job.upstream:
        if up._error is not None:
            refuse(job, not_run(job, up))
            return None
        source = up._target().job
        if not source._ended and (
            refer is None or source._endpoint.service is not service or refer(source, ()) is None
        ):
            missing.append(up if source is up or not source.done() else source)
    if not missing and not _takes_parts(job):
        missing = [up for up in job.upstream if not up._ended]
    if missing:
        links.waiting = _Waiting(job, missing, may_refer=refer is not None)
        return None
    try:
        return _put_together(job, refer)
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
    arguments = _arguments_of(job)
    return not any(
        name in texts and not isinstance(value, (Job, JobReference)) and jobs_in(value)
        for name, value in arguments.items()
    )


def _put_together(job: Job[Any], refer: Refer | None) -> Mapping[str, Any] | None:
    arguments = _arguments_of(job)
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
        if refer is not None and is_here and is_large(value) and refer(up, path) is not None:
            return part
        has_values = True
        return value

    mixed = replaced(arguments, put_value)
    if has_values:
        try:
            arguments = job._endpoint._bind((), mixed)
        except UnfinishedError as exc:
            arguments = exc.arguments
    if service._uploads is not None and service._uploads.hold(job, arguments):
        return None

    def put_reference(step: Job[Any], path: tuple[str | int, ...]) -> Any:
        source = step._target()
        return None if refer is None else refer(source.job, (*source.path, *path))

    with_references: Mapping[str, Any] = replaced(arguments, put_reference)
    return with_references


class _Waiting:
    """A job that is started again when all it waits for is there, or one of it cannot come any more."""

    __slots__ = ("job", "missing", "service")

    def __init__(self, job: Job[Any], missing: Sequence[Job[Any]], *, may_refer: bool) -> None:
        self.job: Job[Any] | None = job
        self.missing = {id(up) for up in missing}
        job._held = True
        service = self.service = job._endpoint.service
        for up in missing:
            wake = _bound(self.wake, up)
            if may_refer and up._endpoint.service is service and not up.done():
                # it is not on the wire yet: as soon as it is, it can be referred to
                service._behind.setdefault(up, []).append(wake)
            elif may_refer:
                up._when_on_its_way(wake)
            up._add_notice(Notice(wake, looks=up.done()))

    def wake(self, up: Job[Any]) -> None:
        if up.done():
            self.service._behind.pop(up, None)
        job = self.job
        if job is None:
            return
        self.missing.discard(id(up))
        if self.missing and up._error is None:
            return
        self.job = None
        links_of(job).waiting = None
        if job._ended:
            return
        if up._error is None:
            self.service._outbox.put(job)
        else:  # not from here: a chain may have thousands of steps
            portal.call_soon(_refuse_not_run, job, up)


# -- what went wrong ---------------------------------------------------------------------------------------------------


def refuse(job: Job[Any], exc: BaseException) -> None:
    """End a job that was never sent."""
    error = exc if isinstance(exc, SocaityError) else None
    if error is None:
        error = InvalidInputError(f"{job._endpoint.name}: {exc.args[0] if exc.args else exc}")
        error.__cause__ = exc
    one: BaseException | None = exc
    while one is not None and one.__traceback__ is not None:
        one.__traceback__ = None  # its frames refer to the job, which has the error: a circle
        one = one.__cause__ or one.__context__
    job._accepted = True
    job._end_in(error)


def _refuse_not_run(job: Job[Any], up: Job[Any]) -> None:
    if not job._ended:
        refuse(job, not_run(job, up))


def not_run(job: Job[Any], up: Job[Any]) -> JobFailed:
    """The error of a job whose argument `up` did not come, with the chain of those before it."""
    name, parameter = job._endpoint.name, parameter_of(job, up)
    error = up._error
    assert error is not None
    text = Exception.__str__(error)
    prefix = f"{up._endpoint.name} was not run: "
    if up.status == "cancelled":
        how = "was cancelled"
    elif text.startswith(prefix):
        how = "was not run: " + text.removeprefix(prefix)
    else:
        how = f"failed: {text}"
    if len(how) > _MAX_CHAIN:
        how = f"{how[: _MAX_CHAIN // 2]} … {how[-_MAX_CHAIN // 2 :]}"
    failed = JobFailed(
        f"{name} was not run: its argument {parameter!r} comes from {up._endpoint.name} (job {up.id}), which {how}",
        job_id=job.id,
        code="upstream_failed",
    )
    failed.__cause__ = error
    return failed


def parameter_of(job: Job[Any], up: Job[Any]) -> str:
    """The first argument in which `up` stands."""
    arguments = _arguments_of(job)
    return next((name for name, value in arguments.items() if up in jobs_in(value)), "?")


def take_refusal(job: Job[Any], error: SocaityError) -> SocaityError | None:
    """What the refusal of a job with upstream comes to; None: the job goes on, when its upstream does."""
    if getattr(error, "code", None) not in _REFUSALS:
        return error
    failed = next((up for up in job.upstream if up._error is not None), None)
    if failed is not None:
        return not_run(job, failed)
    links = links_of(job)
    links.refusals += 1
    if links.by_value and all(up._ended for up in job.upstream):
        return error  # it had the values
    if links.refusals >= _TRIES or not any(up._held for up in job.upstream):
        links.by_value = True
    if job._accepted:  # and ended there: that id is used up
        job._renew()
    job._held = True
    job._endpoint.service._outbox.put(job)
    return None


# -- jobs inside of arguments ------------------------------------------------------------------------------------------


def jobs_in(value: Any) -> list[Job[Any]]:
    """All jobs in a value, as often as they stand there."""
    found: list[Job[Any]] = []

    def put(up: Job[Any], path: tuple[str | int, ...]) -> None:
        found.append(up)

    replaced(value, put)
    return found


def groups_in(value: Any) -> list[JobGroup[Any]]:
    """All groups in a value."""
    found: list[JobGroup[Any]] = []
    replaced(value, _not_there, found.append)
    return found


def replaced(value: Any, put: Put, note_group: Callable[[JobGroup[Any]], None] | None = None) -> Any:
    """`value` with `put(job, path)` in the place of every job, and a group as the list of its members; what holds them
    becomes plain."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if isinstance(value, Job):
        return put(value, ())
    if isinstance(value, JobReference):
        return put(value.job, value.path)
    if isinstance(value, JobGroup):
        if note_group is not None:
            note_group(value)
        return [put(member, ()) for member in value.jobs]
    if kind is list or kind is tuple:
        if _ATOMS.issuperset(map(type, value)):
            return value
        items = [replaced(item, put, note_group) for item in value]
        return items if kind is list else tuple(items)
    if isinstance(value, Mapping):
        return {key: replaced(item, put, note_group) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(item, put, note_group) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: replaced(getattr(value, name), put, note_group) for name in names}
    dump = getattr(value, "model_dump", None)
    if dump is not None and hasattr(value, "model_fields_set"):
        return replaced(dump(mode="python"), put, note_group)
    return plain(value)


def is_large(value: Any) -> bool:
    """Whether a value takes more than LARGE bytes on the wire, or a little less."""
    return _bytes_of(value, LARGE) > LARGE


def _bytes_of(value: Any, enough: int) -> int:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    size = size_of(value)
    if size is not None:
        return size
    total = int(getattr(value, "nbytes", 0) or 9)
    if isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            total += _bytes_of(item, enough)
            if total > enough:
                break
    return total


def _arguments_of(job: Job[Any]) -> Mapping[str, Any]:
    arguments = links_of(job).arguments
    return {} if arguments is None else arguments


def _not_there(up: Job[Any], path: tuple[str | int, ...]) -> None:
    return None


def _bound(function: Callable[[Any], None], argument: Any) -> Callable[[], None]:
    return lambda: function(argument)
