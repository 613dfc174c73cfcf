"""`socaity call URL ENDPOINT key=value …`: one call, its result to stdout."""

from __future__ import annotations

import argparse
from typing import Any

from .._endpoint import Endpoint
from .._job import Job
from .._service import Service
from ..exceptions import InvalidInputError, NotFoundError
from .arguments import read_arguments
from .options import UsageError, make_parser, open_service
from .output import Output
from .waiting import follow

__all__ = ["run"]

_ARGUMENTS = """arguments:
  key=value     text as it is where a text is wanted, else JSON: steps=4 tags='["a", "b"]'
  key=@FILE     what is in the file: text, bytes, JSON, or an array from .npy; key=@- reads the standard input
  key=@@text    a text that begins with @
  @FILE         a JSON object of arguments; @- reads the standard input

exit codes: 0 done, 1 the job failed or its result could not be written, 2 usage, 130 interrupted (the job runs on)"""


def run(argv: list[str]) -> int:
    """Call and wait. Text is printed as text, bytes as they are, the rest as JSON; a stream chunk by chunk."""
    options = _parser().parse_intermixed_args(argv)
    output = Output(as_json=options.json, file=options.output)
    service = open_service(options, options.url)
    endpoint = _find(service, options.endpoint)
    arguments = read_arguments(options.arguments, endpoint.description)
    try:
        job: Job[Any] = endpoint.submit(**arguments)
    except InvalidInputError as exc:  # refused here, before anything was sent
        raise UsageError(str(exc)) from exc
    return follow(job, output, name="call", url=options.url, keeps=_keeps_jobs(endpoint))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("call", "Call one endpoint of a service and print its result.", epilog=_ARGUMENTS)
    parser.add_argument("url", metavar="URL", help="of the service: http://127.0.0.1:8000")
    parser.add_argument("endpoint", metavar="ENDPOINT", help="one of `socaity endpoints URL`")
    parser.add_argument("arguments", metavar="ARGUMENT", nargs="*", help="key=value, key=@FILE or @FILE")
    parser.add_argument("-o", "--output", metavar="FILE", help="save the result there")
    return parser


def _find(service: Service, name: str) -> Endpoint:
    try:
        return service[name]
    except NotFoundError as exc:
        if exc.code == "unknown_endpoint":
            raise UsageError(str(exc)) from exc
        raise


def _keeps_jobs(endpoint: Endpoint) -> bool:
    """Whether the call is a job at the service, which outlives this process."""
    about = endpoint.service._description
    return about is not None and about.protocol is not None and not endpoint.description.direct
