"""`Waiting`: a job that is not sent before those that it needs have come far enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ._job import Job, Notice
from ._links import links_of
from ._portal import portal
from ._refusals import refuse_not_run

if TYPE_CHECKING:
    from ._crossing import Passage

__all__ = ["Waiting"]


class Waiting:
    """Starts the job again when all it waits for is there, or one of it cannot come any more. `missing` are waited for until they
    have ended or can be referred to, `passages` until it is known how their results come."""

    __slots__ = ("job", "missing")

    def __init__(
        self,
        job: Job[Any],
        missing: Sequence[Job[Any]],
        passages: Sequence[tuple[Job[Any], Passage]] = (),
        *,
        may_refer: bool,
    ) -> None:
        self.job: Job[Any] | None = job
        self.missing = {id(up) for up in missing} | {id(passage) for _, passage in passages}
        job._held = True
        for up, passage in passages:
            passage.when_over(_bound(self._wake, up, id(passage)))
            up._add_notice(Notice(_bound(self._wake_at_end, up, id(passage))))
        for up in missing:
            wake = _bound(self._wake, up, id(up))
            if may_refer:
                # it may not be on the wire yet: as soon as it is, it can be referred to
                behind = getattr(up._endpoint.service, "_behind", None)
                if behind is not None and not up.done():
                    behind.setdefault(up, []).append(wake)
                up._when_on_its_way(wake)
            up._add_notice(Notice(wake, looks=up.done()))

    def _wake_at_end(self, up: Job[Any], key: int) -> None:
        """The value is here before it is known how it could pass, or will never come."""
        if up._ended:
            self._wake(up, key)

    def _wake(self, up: Job[Any], key: int) -> None:
        behind = getattr(up._endpoint.service, "_behind", None)
        if behind and up.done():
            behind.pop(up, None)
        job = self.job
        if job is None:
            return
        self.missing.discard(key)
        if self.missing and up._error is None:
            return
        self.job = None
        links_of(job).waiting = None
        if job._ended:
            return
        if up._error is None:
            job._endpoint.service._outbox.put(job)
        else:  # not from here: a chain may have thousands of steps
            portal.call_soon(refuse_not_run, job, up)


def _bound(function: Callable[[Job[Any], int], None], up: Job[Any], key: int) -> Callable[[], None]:
    return lambda: function(up, key)
