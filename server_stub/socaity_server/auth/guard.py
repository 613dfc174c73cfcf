"""`Guard`: the one thing that every front end asks, whatever its protocol: who is this, and may they do that?

`dataplane.guard` is the guard of a service, and None where authentication is off: then everything is open, and jobs have no
owner (`""`). A front end asks in one step::

    credentials = Credentials.of_headers(headers)            # HTTP headers, gRPC metadata, the handshake of a socket
    context = RequestContext(peer="10.0.0.7", method="POST", path="/v2/models/digits/infer")
    principal = await guard.admit(credentials, Action.INFER, model_resource("digits", "1"), context)
    await dataplane.submit(route, arguments, owner=principal.owner)

or, where a task per call is too much, in two that wait only if they have to::

    found = guard.identify(credentials)                      # a Principal, or something to await for one
    waiting = guard.authorize(principal, action, resource, context)    # None: permitted
    if waiting is not None:
        await waiting

Exempt actions (`guard.is_exempt(action)`; health, unless configured otherwise) need no credentials: `admit` gives `EXEMPT`.
Health is `Action.HEALTH` with `SERVICE`: live and ready of the server, and gRPC's health service.

All raise AuthenticationError (401 `unauthenticated`, `invalid_token`, `token_expired`, …; 403 `forbidden`), which gRPC says as
UNAUTHENTICATED and PERMISSION_DENIED, or ServerError (503 `policy_unreachable`, `keys_unreachable`; UNAVAILABLE). No message has
a token in it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Generator
from typing import Any

from socaity.exceptions import AuthenticationError

from ..sparing_log import SparingLog
from .actions import SERVICE, Action, job_resource, model_resource
from .api_keys import APIKeys
from .config import Auth
from .key_set import KeySet
from .policy import Access, Policy
from .principal import ANONYMOUS, EXEMPT, Credentials, Principal, RequestContext
from .sessions import Sessions
from .tokens import TokenVerifier

__all__ = [
    "SERVICE",
    "Action",
    "Credentials",
    "Guard",
    "Principal",
    "RequestContext",
    "job_resource",
    "model_resource",
]

_logger = logging.getLogger(__name__)

_BEARER = "bearer"
_LONGEST = 16 * 1024
"""Characters of a token or key."""


class Guard:
    """Made of an `Auth`; raises ConfigurationError for one with which nobody could be identified. Belongs to one event loop."""

    def __init__(self, auth: Auth) -> None:
        auth.check()
        self._anonymous = auth.anonymous
        self._exempt = frozenset(auth.exempt)
        self._keys = APIKeys(auth.api_keys)
        key_set = None if auth.jwks_url is None else KeySet(auth.jwks_url)
        self._key_set = key_set
        self._tokens = TokenVerifier.of(auth, key_set)
        self._policy = Policy.of(auth)
        self._refusals = SparingLog(_logger)
        self.sessions = Sessions()
        """Of people who have logged in with a browser."""

    def __repr__(self) -> str:
        ways = [
            *(["API keys"] if self._keys else []),
            *([] if self._tokens is None else [f"tokens ({', '.join(self._tokens.algorithms)})"]),
            *(["anonymous"] if self._anonymous else []),
        ]
        policy = "" if self._policy is None else f", policy at {self._policy.place}"
        return f"Guard({', '.join(ways)}{policy})"

    @property
    def lets_anonymous_in(self) -> bool:
        """Whether callers who send nothing may do more than what is exempt."""
        return self._anonymous

    def is_exempt(self, action: Action) -> bool:
        """Whether everybody may do this without saying who they are."""
        return action in self._exempt

    def identify(self, credentials: Credentials) -> Principal | Awaitable[Principal]:
        """Who it is; something to await only where the keys of an issuer have to be fetched."""
        header = credentials.authorization
        if header is not None:
            scheme, _, token = header.partition(" ")
            token = token.strip()
            if scheme.lower() != _BEARER or not token:
                raise AuthenticationError(
                    "The Authorization header has to say: Bearer, then a token or an API key."
                )
            return self._of_token(token)
        if credentials.api_key is not None:
            principal = self._keys.find(credentials.api_key[:_LONGEST])
            if principal is None:
                raise AuthenticationError(
                    "The API key in X-API-Key is not known here.", code="invalid_api_key"
                )
            return principal
        if credentials.session is not None:
            principal = self.sessions.find(credentials.session)
            if principal is not None:
                return principal
        if self._anonymous:
            return ANONYMOUS
        raise AuthenticationError(
            "This service wants to know who calls: send a token or an API key (Authorization: Bearer …; "
            "socaity.connect(url, api_key=…))."
        )

    def authorize(
        self,
        principal: Principal,
        action: Action,
        resource: str = SERVICE,
        context: RequestContext | None = None,
    ) -> Awaitable[None] | None:
        """None: `principal` may do it. Something to await where the decision point has to be asked. Refusals are in the log."""
        try:
            waiting = self._authorize(principal, action, resource, context or _NOTHING)
        except AuthenticationError as exc:
            self.log_refusal(exc, action, context)
            raise
        return None if waiting is None else _Logged(self, waiting, action, context)

    def log_refusal(self, error: AuthenticationError, action: str, context: RequestContext | None) -> None:
        """A line in the log, unless there are many; front ends that ask in two steps call it for what `identify` raises."""
        peer = (context or _NOTHING).peer or "an unknown address"
        self._refusals.warn((peer, error.code, action), f"refused {peer}: {error.code} ({action})")

    def _authorize(
        self, principal: Principal, action: Action, resource: str, context: RequestContext
    ) -> Awaitable[None] | None:
        if principal.kind == EXEMPT.kind:
            if action in self._exempt:
                return None
            raise AuthenticationError("This needs somebody who says who they are.")
        if principal.has_expired:
            raise AuthenticationError(
                "The token has expired; connect again with a new one.", code="token_expired"
            )
        if self._policy is None:
            return None
        return self._policy.check(Access(principal, action, resource, context))

    async def admit(
        self,
        credentials: Credentials,
        action: Action,
        resource: str = SERVICE,
        context: RequestContext | None = None,
    ) -> Principal:
        """Both questions at once: who it is, if they may."""
        if action in self._exempt:
            return EXEMPT
        try:
            found = self.identify(credentials)
            principal = found if type(found) is Principal else await found  # type: ignore[misc]
        except AuthenticationError as exc:
            self.log_refusal(exc, action, context)
            raise
        waiting = self.authorize(principal, action, resource, context)
        if waiting is not None:
            await waiting
        return principal

    async def aclose(self) -> None:
        """Give connections back. What is asked later opens them again."""
        if self._policy is not None:
            await self._policy.aclose()
        if self._key_set is not None:
            await self._key_set.aclose()

    def _of_token(self, token: str) -> Principal | Awaitable[Principal]:
        if len(token) > _LONGEST:
            raise AuthenticationError(f"The token has more than {_LONGEST} characters.", code="invalid_token")
        if self._keys:
            principal = self._keys.find(token)
            if principal is not None:
                return principal
        if self._tokens is None:
            raise AuthenticationError("The API key is not known here.", code="invalid_api_key")
        return self._tokens.identify(token)


class _Logged:
    """What is awaited for a decision, whose refusal is in the log."""

    __slots__ = ("_action", "_context", "_guard", "_waiting")

    def __init__(
        self, guard: Guard, waiting: Awaitable[None], action: Action, context: RequestContext | None
    ) -> None:
        self._guard = guard
        self._waiting = waiting
        self._action = action
        self._context = context

    def __await__(self) -> Generator[Any, None, None]:
        try:
            yield from self._waiting.__await__()
        except AuthenticationError as exc:
            self._guard.log_refusal(exc, self._action, self._context)
            raise


_NOTHING = RequestContext()
