"""`socaity endpoints URL [NAME]`: what can be called, with signatures."""

from __future__ import annotations

import argparse
import json
import re
import sys

from .._endpoint import Endpoint
from .._signature import annotation_of
from ..exceptions import NotFoundError
from ..protocol.description import EndpointDescription, ParameterDescription
from .options import UsageError, make_parser, open_service
from .terminal import harmless

__all__ = ["run"]

_QUOTED = re.compile(r"(?<=: |> )'([^']*)'")
"""Types that are known by name only."""


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
    signature = _QUOTED.sub(r"\1", str(endpoint.__signature__))
    return f"{endpoint.name}{signature}{' (stream)' if endpoint.description.streaming else ''}"


def _whole(endpoint: Endpoint) -> str:
    lines = [_head(endpoint)]
    if endpoint.__doc__:
        lines += ["", *(f"    {line}".rstrip() for line in endpoint.__doc__.strip().splitlines())]
    if endpoint.description.parameters:
        lines.append("")
    for one in endpoint.description.parameters:
        lines.append(f"  {_parameter(one, endpoint.description)}")
        if one.description:
            lines.append(f"      {' '.join(one.description.split())}")
    return "\n".join(map(harmless, lines))


def _parameter(one: ParameterDescription, endpoint: EndpointDescription) -> str:
    if one.variadic:
        return f"**{one.name}: any other"
    kind = annotation_of(one, endpoint)
    name = kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")
    return f"{one.name}: {name}" + ("" if one.required else f" = {one.default!r}")
