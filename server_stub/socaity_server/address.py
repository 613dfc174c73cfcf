"""`check_address`: whether this machine can serve at an address, found out before anything is loaded."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from socaity.exceptions import ConfigurationError

__all__ = ["check_address", "is_loopback"]

_LAST_PORT = 65535


def check_address(host: str, port: int, *, option: str = "--port, or FASTAPI_PORT") -> None:
    """Raise ConfigurationError, which says what to do, where `host` and `port` cannot be listened on now. `option` is where
    the port is said."""
    if not 0 <= port <= _LAST_PORT:
        raise ConfigurationError(f"A port is a number from 0 (any free one) to {_LAST_PORT}, not {port}.")
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise ConfigurationError(
            f"{host!r} is no address of this machine ({exc.strerror}). Use --host 127.0.0.1, or 0.0.0.0 for all addresses."
        ) from exc
    for family, kind, protocol, _, address in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if (
                    os.name == "posix"
                ):  # as the event loop does: connections that have just ended do not count
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as exc:
            if exc.errno == errno.EAFNOSUPPORT:  # no IPv6 here; the event loop leaves it out as well
                continue
            raise ConfigurationError(f"Cannot serve at {host}:{port}: {_why(exc, option)}") from exc


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach what is served there."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:  # what is listened on: 127.1 is an address as well, and a name may lead anywhere
        places = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(_is_own(place[4][0]) for place in places)


def _is_own(text: str | int) -> bool:
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _why(exc: OSError, option: str) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            "the address is in use, as another program serves there. Stop that, or take another port "
            f"({option}; 0: any free one)."
        )
    if exc.errno == errno.EACCES:
        return f"ports below 1024 need special rights. Take a higher one ({option})."
    if exc.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address. Use --host 127.0.0.1, or 0.0.0.0 for all addresses."
    return f"{exc.strerror}."
