"""`connect`: from a target to a Service."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from ._portal import portal
from ._retry import RetryPolicy
from ._service import Service
from .exceptions import ConfigurationError
from .transport import Target, Transport

__all__ = ["connect"]

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t -~]*")


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

    Raises ConfigurationError for an unknown scheme or transport, and for a key or header that cannot be sent.
    """
    api_key, headers = _key(api_key), _sendable(headers or {})
    if isinstance(target, str):
        if "://" not in target:
            place = Target(f"http://{target}").place
            raise ConfigurationError(
                f"{place.removeprefix('http://')!r} is no URL; write {place} or another scheme"
            )
        where = Target(target.rstrip("/"), api_key, headers, 10.0 if timeout is None else timeout)
    elif callable(target) or callable(getattr(target, "app", None)):
        where = Target("inprocess:", api_key, headers, 10.0 if timeout is None else timeout, app=target)
    else:
        raise ConfigurationError(
            f"connect() takes a URL, a SocaityRouter or an ASGI app, not {type(target).__name__}"
        )
    if where.timeout <= 0:
        raise ConfigurationError(f"timeout must be more than 0 seconds, got {where.timeout}")
    if retry is None or isinstance(retry, int):
        retry = RetryPolicy() if retry is None else RetryPolicy(attempts=retry)
    if progress is None:
        progress = os.environ.get("SOCAITY_PROGRESS", "1") not in ("0", "false", "no", "off")
    return Service(where, open_wire=_opener(where, transport), retry=retry, shows_progress=progress)


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


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without white space around their values, which may be secrets. Raises ConfigurationError."""
    found = {}
    for name, value in headers.items():
        text = value.strip() if isinstance(value, str) else value
        if not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no name of a header; use letters, digits and '-'")
        if isinstance(text, str) and not _HEADER_VALUE.fullmatch(text):
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
