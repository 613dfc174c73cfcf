"""What the commands share: their options, the service they talk to, and the error of wrong usage."""

from __future__ import annotations

import argparse
import os
from urllib.parse import urlsplit, urlunsplit

from .._connect import connect
from .._service import Service

__all__ = ["UsageError", "make_parser", "open_service", "shown", "url_of"]


class UsageError(Exception):
    """The command was not written as it can be meant; says what to write instead."""


def make_parser(name: str, description: str, *, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    parser = argparse.ArgumentParser(
        prog=f"socaity {name}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="what is printed is JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a header of every request; may be given several times",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="sent as a bearer token (default: SOCAITY_API_KEY, which others cannot see)",
    )
    return parser


def url_of(text: str) -> str:
    """A URL; `127.0.0.1:8000` is taken for http. Raises UsageError."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        has_place = False
    if not has_place:
        raise UsageError(f"{text!r} is no URL; a service has one like http://127.0.0.1:8000")
    return url


def open_service(
    options: argparse.Namespace, url: str, *, transport: str | None = None, timeout: float | None = None
) -> Service:
    """The service at `url`. Nothing is sent yet."""
    headers = {}
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise UsageError(f"a header is written 'NAME: VALUE', not {header!r}")
        headers[name.strip()] = value.strip()
    return connect(
        url_of(url),
        transport=transport,
        timeout=timeout,
        headers=headers,
        api_key=options.api_key or os.environ.get("SOCAITY_API_KEY") or None,
        progress=False if options.quiet else None,
    )


def shown(url: str) -> str:
    """A URL without user and password, for messages and files."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
