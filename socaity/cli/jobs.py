"""`socaity jobs [ID] --url URL`: the jobs of a service, or one of them: wait for it, or stop it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .._portal import portal
from .._service import Service
from .._text_width import cut, padded, width_of
from ..exceptions import ConfigurationError, NotFoundError, SocaityError
from ..protocol.events import JobStatus
from .options import UsageError, make_parser, open_service, shown, url_of
from .output import Output
from .terminal import complain
from .waiting import follow

__all__ = ["run"]

_SUCCEEDED, _FAILED = 0, 1
_DEADLINE = 30.0
_MAX_JOBS = 1000
_COLUMNS = ("ID", "ENDPOINT", "STATUS", "PROGRESS", "CREATED")


def run(argv: list[str]) -> int:
    """Without an id the newest jobs in a table; with --json a JSON list."""
    options = _parser().parse_args(argv)
    if options.id is not None and "://" in options.id and options.url is None:
        options.id, options.url = None, options.id  # as with the other commands, the URL first
    url = options.url or os.environ.get("SOCAITY_URL")
    if not url:
        raise UsageError("jobs are at a service; say at which: --url URL, or set SOCAITY_URL")
    if options.id is None:
        if options.cancel or options.output:
            raise UsageError("--cancel and -o are for one job: socaity jobs ID --url URL")
        return _list(options, url)
    if options.cancel:
        return _cancel(_over_http(options, url), options.id, as_json=options.json)
    output = Output(as_json=options.json, file=options.output)
    job = open_service(options, url).job(options.id)
    return follow(job, output, name="jobs", url=url, keeps=True)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "jobs", "List the newest jobs of a service; with an ID wait for that job and print its result."
    )
    parser.add_argument("id", metavar="ID", nargs="?", help="wait for this job")
    parser.add_argument("--url", metavar="URL", help="of the service (default: SOCAITY_URL)")
    parser.add_argument("--cancel", action="store_true", help="stop the job")
    parser.add_argument("--status", choices=[str(one) for one in JobStatus], help="only jobs that are so")
    parser.add_argument("--endpoint", metavar="NAME", help="only jobs of this endpoint")
    parser.add_argument(
        "--limit", type=_limit, default=100, metavar="N", help="at most so many, up to 1000 (default: 100)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="save the result there")
    return parser


def _limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_JOBS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_JOBS}")
    return int(text)


def _over_http(options: argparse.Namespace, url: str) -> Service:
    """These are requests that are answered, also where the jobs themselves go over the socket."""
    url = url_of(url)
    if url.lower().startswith("oip+"):
        raise ConfigurationError(
            f"{shown(url)}: a server of the Open Inference Protocol keeps no jobs; a call ends with the connection it was "
            "made on. One of ours keeps those of its other endpoints, at its address with http://"
        )
    if url.startswith("ws"):
        url = "http" + url.removeprefix("ws").removesuffix("/ws")
    return open_service(options, url, transport="http")


def _list(options: argparse.Namespace, url: str) -> int:
    service = _over_http(options, url)

    async def ask() -> list[dict[str, Any]]:
        return await service._wire().jobs(
            status=options.status, endpoint=options.endpoint, limit=options.limit
        )

    try:
        jobs = portal.spawn(ask()).result(_DEADLINE)
    except NotImplementedError as exc:
        raise ConfigurationError(str(exc)) from exc
    except NotFoundError as exc:
        if exc.code == "endpoint_not_found":  # what --endpoint names
            raise UsageError(str(exc)) from exc
        raise
    if options.json:
        sys.stdout.write(json.dumps(jobs, ensure_ascii=False) + "\n")
    elif jobs:
        sys.stdout.write(_table([_COLUMNS, *map(_row, jobs)]))
    else:
        sys.stderr.write(
            "There are no such jobs.\n" if options.status or options.endpoint else "There are no jobs.\n"
        )
    return _SUCCEEDED


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    progress = job.get("progress") or {}
    fraction = progress.get("fraction")
    told = [] if fraction is None else [f"{fraction:.0%}"]
    if job.get("queue_position"):
        told.append(f"place {job['queue_position']}")
    if progress.get("message"):
        told.append(str(progress["message"]))
    words = (
        job.get("id"),
        job.get("endpoint"),
        job.get("status"),
        " ".join(told),
        _when(job.get("created_at")),
    )
    return tuple(_cell(str(one or "")) for one in words)


def _when(created: Any) -> str:
    try:
        return datetime.fromisoformat(created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError):
        return str(created or "")


def _cell(text: str) -> str:
    return cut("".join(one if one.isprintable() else " " for one in text), 80)


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(width_of, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _cancel(service: Service, job_id: str, *, as_json: bool) -> int:
    """Ask the service, and wait until it has confirmed."""

    async def ask() -> None:
        await service._wire().cancel(job_id)

    try:
        portal.spawn(ask()).result(_DEADLINE)
    except SocaityError as exc:
        complain("jobs", exc)
        return _FAILED
    if as_json:
        sys.stdout.write(json.dumps({"id": job_id, "asked_to_stop": True}) + "\n")
    else:
        sys.stderr.write(f"Asked the service to stop job {job_id}.\n")
    return _SUCCEEDED
