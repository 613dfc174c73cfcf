"""`Gate`: asks the guard about every HTTP request and every socket, before anything else looks at it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from starlette.responses import Response
from starlette.types import Scope

from socaity.exceptions import AuthenticationError, SocaityError

from ..auth.guard import SERVICE, Action, Credentials, Guard, Principal, RequestContext
from ..auth.principal import EXEMPT
from ..route import Route
from ..values import to_json
from .access import OPEN_INFERENCE, is_let_through, path_below_mount, wanted
from .login import cookie_name, login_page, read_cookie
from .origin import is_own_page
from .responses import problem_parts, problem_response

__all__ = ["Gate", "credentials_of", "refusal_of_socket"]


_LOGIN_PAGES = frozenset({"/dashboard", "/docs", "/available_models"})


class Gate:
    """The guard for ASGI scopes. `endpoints` are the routes by path and `names` by name, as they are at the moment."""

    def __init__(self, guard: Guard, endpoints: Mapping[str, Route], names: Mapping[str, Route]) -> None:
        self.guard = guard
        self._endpoints = endpoints
        self._names = names

    async def enter(self, scope: Scope) -> Response | None:
        """Say in the scope who asks and whose the jobs are; the refusal of those who may not go on."""
        path = path_below_mount(scope) or "/"
        method = scope["method"]
        if is_let_through(method, path, scope["headers"]):
            return None
        action, resource = wanted(method, path, scope["query_string"], self._endpoints, self._names)
        if self.guard.is_exempt(action):
            scope["socaity.principal"] = EXEMPT
            return None
        try:
            principal = await self._principal(scope, action)
            waiting = self.guard.authorize(principal, action, resource, context_of(scope))
            if waiting is not None:
                await waiting
        except SocaityError as exc:
            return self._refusal(scope, path, exc)
        _name(scope, principal)
        return None

    async def enter_socket(self, scope: Scope, *, is_live: bool, is_ours: bool) -> Response | None:
        """The same for the handshake of a WebSocket; the calls on one of ours are looked at one by one."""
        try:
            principal = await self._principal(scope, Action.DASHBOARD if is_live else "socket")
            waiting: Awaitable[None] | None = None
            if is_live:
                waiting = self.guard.authorize(principal, Action.DASHBOARD, SERVICE, context_of(scope))
            elif not is_ours:
                waiting = self.guard.authorize(
                    principal, Action.OTHER, f"path:{scope['path'][:128]}", context_of(scope)
                )
            if waiting is not None:
                await waiting
        except SocaityError as exc:
            return problem_response(exc)
        _name(scope, principal)
        return None

    async def _principal(self, scope: Scope, action: str) -> Principal:
        try:
            found = self.guard.identify(credentials_of(scope))
            return found if isinstance(found, Principal) else await found
        except AuthenticationError as exc:
            self.guard.log_refusal(exc, action, context_of(scope))
            raise

    def _refusal(self, scope: Scope, path: str, error: SocaityError) -> Response:
        if path == OPEN_INFERENCE or path.startswith(
            f"{OPEN_INFERENCE}/"
        ):  # the protocol rules its own form of errors
            status, headers, _ = problem_parts(error)
            return Response(to_json({"error": str(error)}), status, headers, "application/json")
        if (
            isinstance(error, AuthenticationError)
            and path in _LOGIN_PAGES
            and scope["method"] == "GET"
            and b"text/html" in dict(scope["headers"]).get(b"accept", b"")
        ):
            return login_page(scope, error)
        return problem_response(error)


def credentials_of(scope: Scope) -> Credentials:
    """What a request brings; its cookie only where a page of this origin sends it. Raises AuthenticationError."""
    session = None
    if any(name == b"cookie" for name, _ in scope["headers"]):
        session = read_cookie(scope, cookie_name(scope))
        if session is not None and not is_own_page(scope):
            session = None
    return Credentials.of_headers(scope["headers"], session=session)


def context_of(scope: Scope) -> RequestContext:
    """What a policy may want to know besides."""
    client = scope.get("client")
    return RequestContext(
        peer=client[0] if client else "", method=scope.get("method", "GET"), path=scope["path"]
    )


def refusal_of_socket(scope: Scope, response: Response) -> list[dict[str, object]]:
    """The messages that end a handshake: with an HTTP status where the server can say one."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        return [{"type": "websocket.close", "code": 3000, "reason": "not authenticated"}]
    return [
        {
            "type": "websocket.http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        },
        {"type": "websocket.http.response.body", "body": bytes(response.body)},
    ]


def _name(scope: Scope, principal: Principal) -> None:
    scope["socaity.principal"] = principal
    scope["socaity.owner"] = principal.owner
