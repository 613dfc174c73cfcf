"""Logging in with a browser: `/login` takes a token or an API key, and gives a cookie that no page of another origin can use."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from html import escape
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from socaity.exceptions import AuthenticationError, InvalidInputError, SocaityError

from ..auth.guard import Credentials, Guard, Principal, RequestContext
from .bodies import limited_stream
from .responses import problem_response

__all__ = ["Login", "cookie_name", "login_page", "read_cookie"]

_MAX_FORM = 64 * 1024
_FORM_SECONDS = 20.0
_PLACE = re.compile(r"/(?![/\\])[\w./~-]*", re.ASCII)
_AFTER = "/dashboard"
_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:15vh auto;padding:0 1.5rem}"
    "h1{font-size:1.4rem}label{display:block;margin:1rem 0 .3rem}input,button{font:inherit;padding:.5rem .7rem;width:100%;"
    "box-sizing:border-box}button{margin-top:1rem;cursor:pointer}.trouble{border-left:4px solid #c62828;padding-left:.8rem}"
)
_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)


class Login:
    """The handlers of `/login` and `/logout`."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def show(self, request: Request) -> Response:
        """The form, and who has logged in."""
        session = read_cookie(request.scope, cookie_name(request.scope))
        known = None if session is None else self._guard.sessions.find(session)
        return login_page(request.scope, None, known=known, status=200)

    async def take(self, request: Request) -> Response:
        """Log in: the cookie, and on to the page that was wanted; or the form again, with what was wrong."""
        try:
            async with asyncio.timeout(_FORM_SECONDS):
                body = b"".join([chunk async for chunk in limited_stream(request, _MAX_FORM)])
        except TimeoutError:  # anybody may send something here
            late = InvalidInputError(
                f"The form did not come within {_FORM_SECONDS:g} s; send it again.",
                status=408,
                code="too_slow",
            )
            return problem_response(late)
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        token = form.get("token", [""])[0].strip()
        after = form.get("next", [_AFTER])[0]
        place = after if _PLACE.fullmatch(after) else _AFTER
        try:
            if not token:
                raise AuthenticationError("Give a token or an API key.")
            found = self._guard.identify(Credentials(authorization=f"Bearer {token}"))
            principal = found if isinstance(found, Principal) else await found
        except AuthenticationError as exc:
            client = request.client
            self._guard.log_refusal(exc, "login", RequestContext(peer=client.host if client else ""))
            return login_page(request.scope, exc, after=place)
        except SocaityError as exc:
            return problem_response(exc)
        word, seconds = self._guard.sessions.open(principal)
        response = _redirect(place)
        _set_cookie(response, request.scope, word, int(seconds))
        return response

    async def leave(self, request: Request) -> Response:
        """Log out."""
        session = read_cookie(request.scope, cookie_name(request.scope))
        if session is not None:
            self._guard.sessions.close(session)
        response = _redirect(f"{request.scope.get('root_path', '')}/login")
        _set_cookie(response, request.scope, "", 0)
        return response


def login_page(
    scope: Scope,
    error: AuthenticationError | None,
    *,
    known: Principal | None = None,
    after: str | None = None,
    status: int | None = None,
) -> Response:
    """The form; with `error` the answer to a request that was refused."""
    root = scope.get("root_path", "")
    place = after if after is not None else scope["path"]
    if place.removeprefix(root) in ("/login", "/logout") or not _PLACE.fullmatch(place):
        place = f"{root}{_AFTER}"
    trouble = ""
    if error is not None and error.code != "unauthenticated":
        trouble = f"<p class=trouble role=alert>{escape(str(error))}</p>"
    leave = ""
    if known is not None:
        leave = (
            f'<form method=post action="{escape(root)}/logout"><p>You are logged in as {escape(known.name)}.</p>'
            "<button>Log out</button></form>"
        )
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Log in</title>"
        f'<meta name=viewport content="width=device-width"><style>{_STYLE}</style><h1>Log in</h1>{trouble}'
        f'<form method=post action="{escape(root)}/login"><input type=hidden name=next value="{escape(place)}">'
        "<label for=token>Token or API key</label>"
        "<input id=token name=token type=password autocomplete=current-password required autofocus>"
        f"<button>Log in</button></form>{leave}</html>"
    )
    code = status if status is not None else 401 if error is None else error.status
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    if code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(page, code, headers, "text/html")


def cookie_name(scope: Scope) -> str:
    """With the port, for browsers share cookies between all services of a host."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    port = host.rpartition(b":")[2]
    return f"socaity_session_{port.decode() if port.isdigit() else 'default'}"


def read_cookie(scope: Scope, name: str) -> str | None:
    """Its value, where it is sent."""
    for header, value in scope["headers"]:
        if header != b"cookie":
            continue
        for part in value.decode("latin-1").split(";"):
            found, _, word = part.strip().partition("=")
            if found == name and word:
                return str(word)
    return None


def _set_cookie(response: Response, scope: Scope, word: str, seconds: int) -> None:
    response.set_cookie(
        cookie_name(scope),
        word,
        max_age=seconds,
        path=scope.get("root_path", "") or "/",
        httponly=True,
        samesite="strict",
        secure=scope.get("scheme") in ("https", "wss"),
    )


def _redirect(place: str) -> Response:
    return RedirectResponse(place, 303, {"Cache-Control": "no-store"})
