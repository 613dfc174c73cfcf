"""`socaity endpoints URL [NAME]`: what can be called, with signatures."""

from __future__ import annotations

import argparse
import json
import sys

from .._endpoint import Endpoint
from .._signature import plain_signature
from ..exceptions import NotFoundError
from .options import UsageError, make_parser, open_service
from .parameters import parameter_lines
from .terminal import harmless

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """All endpoints, or all about one. With --json the description as the service gives it."""
    options = _parser().parse_args(argv)
    service = open_service(options, options.url)
    if options.name is None:
        found = [endpoint for _, endpoint in sorted(service.endpoints.items())]
    else:
        try:
            found = [service[options.name]]
        except NotFoundError as exc:
            raise UsageError(str(exc)) from exc
    if options.json:
        documents = [endpoint.description.model_dump(mode="json") for endpoint in found]
        _print(json.dumps(documents if options.name is None else documents[0], ensure_ascii=False))
    elif options.name is not None:
        _print(_whole(found[0]))
    else:
        for endpoint in found:
            _print(_line(endpoint))
        if not found:
            sys.stderr.write("The service has no endpoints.\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("endpoints", "List what can be called on a service.")
    parser.add_argument("url", metavar="URL", help="of the service: http://127.0.0.1:8000")
    parser.add_argument("name", metavar="NAME", nargs="?", help="everything about this one")
    return parser


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _line(endpoint: Endpoint) -> str:
    about = (endpoint.__doc__ or "").strip().partition("\n")[0]
    return harmless(_head(endpoint)) + (f"\n    {harmless(about)}" if about else "")


def _head(endpoint: Endpoint) -> str:
    return f"{endpoint.name}{plain_signature(endpoint.__signature__)}{' (stream)' if endpoint.description.streaming else ''}"


def _whole(endpoint: Endpoint) -> str:
    lines = [_head(endpoint)]
    if endpoint.__doc__:
        lines += ["", *(f"    {line}".rstrip() for line in endpoint.__doc__.strip().splitlines())]
    if endpoint.description.parameters:
        lines.append("")
    for one in endpoint.description.parameters:
        lines += [f"  {line}" for line in parameter_lines(one, endpoint.description)]
    return "\n".join(map(harmless, lines))
