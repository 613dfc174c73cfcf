"""`Publisher`: answers the PUBLISH messages of one session, each as soon as the result that it is about is there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from socaity.exceptions import SocaityError, to_problem
from socaity.protocol.frames import ERROR, RESULT

from ..references import Reference, check_path
from .call_results import LARGE, wire_size

if TYPE_CHECKING:
    from ..dataplane import DataPlane
    from ..upstream import Calls

__all__ = ["Publisher", "published_reference"]

logger = logging.getLogger(__name__)

_PARAMETER = "result"


class Publisher:
    """What a session has published, or is about to; `post` sends a message."""

    def __init__(self, dataplane: DataPlane, post: Callable[[list[Any]], None], *, owner: str = "") -> None:
        self._owner = owner
        self._dataplane = dataplane
        self._post = post
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Somebody waits for an answer."""
        return bool(self._tasks)

    def start(self, message: list[Any], calls: Calls) -> None:
        """Answer a message, whose call was captured when it came."""
        task = asyncio.get_running_loop().create_task(self._answer(message, calls))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """The session has ended. What was published stays for its time."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, message: list[Any], calls: Calls) -> None:
        n = message[1]
        try:
            self._post([RESULT, n, await self._published(message, calls)])
        except SocaityError as exc:
            self._post([ERROR, n, to_problem(exc)])
        except Exception as exc:  # the edge of the task: somebody waits for an answer
            logger.exception("a result could not be published")
            self._post([ERROR, n, to_problem(exc)])

    async def _published(self, message: list[Any], calls: Calls) -> Any:
        """See `docs/wire-protocol.md`: nothing for a small result, which comes by itself; of a large one a small part."""
        dataplane = self._dataplane
        reference = published_reference(message)
        word: dict[str, Any] = (
            {"$job": reference.id} if reference.kind == "job" else {"$call": int(reference.id)}
        )
        if reference.path:
            word["path"] = list(reference.path)
        references = [(_PARAMETER, reference)]
        await dataplane.upstream.check(references, self._owner, calls)
        resolved = await dataplane.upstream.resolve(
            {_PARAMETER: word}, references, self._owner, name="publish", calls=calls
        )
        value = resolved[_PARAMETER]
        if wire_size(value) <= LARGE:
            return {"value": value} if reference.path else None
        publication = await dataplane.publishing.add(value)
        answer = publication.to_wire(time.monotonic())
        if dataplane.public_url is not None:
            answer["at"] = dataplane.public_url
        return answer


def published_reference(message: list[Any]) -> Reference:
    """What a PUBLISH message is about. Raises InvalidInputError."""
    _, _, source, path = message
    kind, name = ("job", source) if isinstance(source, str) else ("call", str(int(source)))
    return Reference(kind, name, check_path(path))
