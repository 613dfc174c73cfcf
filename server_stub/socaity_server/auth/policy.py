"""`Policy`: asks a policy decision point, remembers for a while what it said, and refuses where it says nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from socaity.exceptions import AuthenticationError, ServerError

from ..sparing_log import SparingLog
from .actions import Action
from .principal import Principal, RequestContext

if TYPE_CHECKING:
    from .config import Auth
    from .decision_client import DecisionClient

__all__ = ["Access", "DecisionPoint", "JunkError", "Policy"]

_logger = logging.getLogger(__name__)

_MOST_DECISIONS = 10_000
_MAX_ANSWER = 64 * 1024
_LONGEST_PATH = 256


@dataclass(frozen=True, slots=True)
class Access:
    """What is to be decided."""

    principal: Principal
    action: Action
    resource: str
    context: RequestContext

    @property
    def key(self) -> Hashable:
        """Equal for questions whose answer is the same."""
        principal, context = self.principal, self.context
        return (
            principal.owner,
            principal.roles,
            self.action,
            self.resource,
            context.peer,
            context.method,
            _shortened(context.path),
        )


class JunkError(ValueError):
    """The decision point answered something that is no decision."""


class DecisionPoint(ABC):
    """One kind of decision point: what it is asked, and what its answers mean. No I/O."""

    content_type = "application/json"

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def question(self, access: Access) -> bytes:
        """The body of the request."""

    @abstractmethod
    def permits(self, answer: bytes) -> bool:
        """What the body of a good answer says. Raises JunkError."""

    def key(self, access: Access) -> Hashable:
        """Equal for questions that look the same to it."""
        return access.key


class Policy:
    """`point` is asked within `timeout` seconds, and its decisions hold for `ttl`. Equal questions are asked once at a time."""

    def __init__(
        self,
        point: DecisionPoint,
        *,
        timeout: float = 0.5,
        ttl: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(point.url)
        self.place = f"{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        self._point = point
        self._timeout = timeout
        self._ttl = ttl
        self._clock = clock
        self._decisions: OrderedDict[Hashable, tuple[bool, float]] = OrderedDict()
        self._asked: dict[Hashable, asyncio.Task[bool]] = {}
        self._client: DecisionClient | None = None
        self._log = SparingLog(_logger)

    @classmethod
    def of(cls, auth: Auth) -> Policy | None:
        """None where whoever is identified may do everything."""
        from .opa import OpenPolicyAgent
        from .xacml import XACML

        point: DecisionPoint
        if auth.pdp_url:
            point = XACML(auth.pdp_url, compat=auth.pdp_compat)
        elif auth.opa_url:
            point = OpenPolicyAgent(auth.opa_url)
        else:
            return None
        return cls(point, timeout=auth.policy_timeout, ttl=auth.policy_ttl)

    def check(self, access: Access) -> Awaitable[None] | None:
        """None: permitted, as far as it is remembered; else something to await. Raises AuthenticationError `forbidden`."""
        key = self._point.key(access)
        known = self._decisions.get(key)
        if known is not None and known[1] > self._clock():
            if not known[0]:
                raise _forbidden(access)
            return None
        return self._ask(key, access)

    async def aclose(self) -> None:
        """Close the connections, and forget what was decided."""
        asked = list(self._asked.values())
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        self._decisions.clear()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _ask(self, key: Hashable, access: Access) -> _Decision:
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.get_running_loop().create_task(self._decide(access))
            task.add_done_callback(lambda done: self._note(key, done))
        return _Decision(task, access)

    def _note(self, key: Hashable, task: asyncio.Task[bool]) -> None:
        self._asked.pop(key, None)
        if task.cancelled() or task.exception() is not None:
            return
        if self._ttl <= 0:
            return
        self._decisions[key] = (task.result(), self._clock() + self._ttl)
        self._decisions.move_to_end(key)
        while len(self._decisions) > _MOST_DECISIONS:
            self._decisions.popitem(last=False)

    async def _decide(self, access: Access) -> bool:
        import httpx

        from .decision_client import DecisionClient

        if self._client is None:
            self._client = DecisionClient(self._point.url)
        why = ""
        try:
            async with asyncio.timeout(self._timeout):
                status, body = await self._client.fetch(
                    "POST",
                    limit=_MAX_ANSWER,
                    headers={"Content-Type": self._point.content_type},
                    content=self._point.question(access),
                )
            if status != 200:
                why = f"it answered with HTTP {status}"
            else:
                permits = self._point.permits(body)
        except TimeoutError:
            why = f"it did not answer within {self._timeout:g} s"
        except (httpx.HTTPError, OSError, ValueError, RecursionError) as exc:
            why = str(exc) if isinstance(exc, JunkError) else type(exc).__name__
        if why:
            self._log.warn(why, f"the policy decision point at {self.place} cannot be asked: {why}")
            raise ServerError(
                "Whether this is allowed cannot be found out now, so it is not done; try again.",
                status=503,
                code="policy_unreachable",
                retry_after=1.0,
            )
        _logger.debug("%r: %s on %r: %s", access.principal.owner, access.action, access.resource, permits)
        return permits


class _Decision:
    """What is awaited for a decision; who does not wait for it after all leaves nothing behind."""

    __slots__ = ("_access", "_task")

    def __init__(self, task: asyncio.Task[bool], access: Access) -> None:
        self._task = task
        self._access = access

    def __await__(self) -> Generator[Any, None, None]:
        # one who goes away does not end it for the others
        permits = yield from asyncio.shield(self._task).__await__()
        if not permits:
            raise _forbidden(self._access)


def _shortened(text: str) -> str | bytes:
    """What is remembered of a text that the caller chose: it may be as long as the head of a request."""
    if len(text) <= _LONGEST_PATH:
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _forbidden(access: Access) -> AuthenticationError:
    return AuthenticationError(
        f"{access.principal.name!r} may not do this ({access.action} of {access.resource}): the policy of the service says no.",
        status=403,
        code="forbidden",
    )
