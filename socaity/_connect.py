"""`connect`: from a target to a Service."""

from __future__ import annotations

import inspect
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ._portal import portal
from ._retry import RetryPolicy
from ._service import Service
from .exceptions import ConfigurationError
from .transport import Target, Transport

__all__ = ["connect"]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")
_WITH_HOST = re.compile(r"(oip\+)?(https?|wss?|grpcs?)://", re.IGNORECASE)
"""Where a host and a port follow; what the schemes of others mean is theirs."""
_TIMEOUT = 10.0


def connect(
    target: Any,
    *,
    transport: str | Transport | type[Transport] | Callable[[Target], Transport] | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    retry: RetryPolicy | int | None = None,
    progress: bool | None = None,
) -> Service:
    """The service at `target`: a URL, or a `SocaityRouter` or ASGI app of this process. Returns at once.

    The scheme picks the transport; for `http` and `https` what is there is found out on first use (one of our servers: the
    socket, with HTTP as fallback; a server of the Open Inference Protocol: that; any other service with an OpenAPI document:
    HTTP). `transport` chooses one by name (`"websocket"`, `"http"`, `"inprocess"`, `"open_inference"`,
    `"open_inference_server"`) or is one. `timeout` (seconds, default 10) bounds connecting and describing, not
    jobs. `retry` is a RetryPolicy or a number of attempts. `progress=False` or `SOCAITY_PROGRESS=0` silences the bars.
    White space around `api_key` and the values of `headers` is left out, and an empty key is none.

    Raises ConfigurationError for an unknown scheme or transport, for a key or header that cannot be sent, and for any other
    option that cannot be meant.
    """
    url, app = _place(target)
    where = Target(url, _key(api_key), _sendable(headers), _seconds(timeout), app=app)
    if progress is None:
        progress = os.environ.get("SOCAITY_PROGRESS", "1") not in ("0", "false", "no", "off")
    elif not isinstance(progress, int):  # also 0 and 1
        raise ConfigurationError(f"progress must be True or False, not {_shown(progress)}")
    return Service(
        where, open_wire=_opener(where, transport), retry=_policy(retry), shows_progress=bool(progress)
    )


def _place(target: Any) -> tuple[str, Any]:
    """The URL, and the app of this process if it is one."""
    if isinstance(target, str):
        if "://" not in target:
            place = Target(f"http://{target}").place
            raise ConfigurationError(
                f"{place.removeprefix('http://')!r} is no URL; write {place} or another scheme"
            )
        if _WITH_HOST.match(target):
            _check_address(target)
        return target.rstrip("/"), None
    name = type(target).__name__
    if isinstance(target, type):
        name = f"the class {target.__name__}; connect to an object of it"
    else:
        app = target if callable(target) else getattr(target, "app", target)
        if callable(app) and _takes_three(app):
            return "inprocess:", target
        if callable(app):
            name = f"{getattr(app, '__name__', name)}(), which cannot be called with (scope, receive, send)"
    raise ConfigurationError(f"connect() takes a URL, a SocaityRouter or an ASGI app, not {name}")


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigurationError(
            f"{Target(url).place!r} is no URL: it needs a host, and a port, if it has one, from 1 to 65535"
        )


def _takes_three(app: Any) -> bool:
    """Whether it can be called as ASGI apps are."""
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        return False
    except ValueError:  # what is not written in Python may not tell
        return True
    return True


def _seconds(timeout: Any) -> float:
    if timeout is None:
        return _TIMEOUT
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise ConfigurationError(f"timeout must be a number of more than 0 seconds, not {_shown(timeout)}")
    return float(timeout)


def _policy(retry: Any) -> RetryPolicy:
    if retry is None:
        return RetryPolicy()
    if isinstance(retry, RetryPolicy):
        return retry
    if isinstance(retry, bool) or not isinstance(retry, int) or retry < 1:
        raise ConfigurationError(
            "retry must be a RetryPolicy or a number of attempts from 1 on (1: never again), "
            f"not {_shown(retry)}"
        )
    return RetryPolicy(attempts=retry)


def _shown(value: Any) -> str:
    """A wrong option in an error text."""
    return f"{type(value).__name__} {reprlib.repr(value)}"


def _key(given: Any) -> str | None:
    """The key as it is sent: a file or a variable that holds one often ends in a new line. Raises ConfigurationError."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise ConfigurationError(f"api_key must be text, not {type(given).__name__}")
    key = given.strip()
    if not _HEADER_VALUE.fullmatch(key):  # never with the key
        raise ConfigurationError(
            "the api_key has characters that no header can carry (a line break, or some that are not ASCII); "
            "look at where it is read from"
        )
    return key or None


def _sendable(headers: Any) -> dict[str, str]:
    """The headers without white space around their values, which may be secrets. Raises ConfigurationError."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise ConfigurationError(
            f"headers must map names to values, like {{'X-Team': 'a'}}, not {type(headers).__name__}"
        )
    found = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name of a header; use letters, digits and '-'")
        if not isinstance(value, str):
            raise ConfigurationError(
                f"the value of the header {name!r} must be text, not {type(value).__name__}"
            )
        text = value.strip()
        if not _HEADER_VALUE.fullmatch(text):
            raise ConfigurationError(
                f"the value of the header {name!r} has characters that no header can carry (a line break, or some that "
                "are not ASCII)"
            )
        found[name] = text
    return found


def _opener(target: Target, transport: Any) -> Callable[[], Transport]:
    """How to open the wire; finds an unknown scheme or name now and not at the first call."""
    if isinstance(transport, Transport):
        return _of_this_process(transport)
    if transport is None or isinstance(transport, str):
        from ._registry import find_transport

        found = find_transport(target.scheme, transport)
        return lambda: found.open(target)
    if isinstance(transport, type) and issubclass(transport, Transport):
        return lambda: transport.open(target)
    if callable(transport):
        return lambda: transport(target)
    raise ConfigurationError(f"transport must be a name or a Transport, not {type(transport).__name__}")


def _of_this_process(transport: Transport) -> Callable[[], Transport]:
    generation = portal.generation

    def open_wire() -> Transport:
        if generation != portal.generation:
            raise ConfigurationError(
                "the transport belongs to the parent process; give connect() its class, or a function that makes one"
            )
        return transport

    return open_wire
