"""`socaity stub URL [-o FILE]`: a typed module for a service, and whether one still fits."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .._stub import is_stub, write_stub
from .._stub_check import differences
from .._whole_file import write_file
from ..protocol.description import ServiceDescription
from .options import UsageError, make_parser, open_service, shown, url_of

__all__ = ["run"]

_FITS, _DIFFERS = 0, 1


def run(argv: list[str]) -> int:
    """Write the module, or compare: 1 and a diff where it does not fit any more."""
    options = _parser().parse_args(argv)
    if options.check is not None and options.output is not None:
        raise UsageError("-o writes a module and --check compares one; give one of them")
    url = url_of(options.url)
    if options.check is not None:
        written = _read(options.check)
        return _check(written, _describe(options, url), options, url)
    target = None if options.output in (None, "-") else Path(options.output)
    if target is not None:
        _check_target(target)
    service = _describe(options, url)
    source = write_stub(service, shown(url))
    if target is not None:
        write_file(target, source.encode(), overwrite=True)  # whole: nobody imports half a module
        report: dict[str, Any] = {"file": str(target), "endpoints": [one.name for one in service.endpoints]}
        if options.json:
            _print(report)
        else:
            sys.stderr.write(f"{target}: {len(service.endpoints)} endpoints of {shown(url)}\n")
    elif options.json:
        _print({"module": source, "endpoints": [one.name for one in service.endpoints]})
    else:
        sys.stdout.write(source)
    return _FITS


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "stub", "Write a typed Python module with a function for every endpoint of a service."
    )
    parser.add_argument("url", metavar="URL", help="of the service: http://127.0.0.1:8000")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the module there (default: print it)")
    parser.add_argument(
        "--check",
        metavar="FILE",
        help="write nothing; exit with 1 and a diff if the module does not fit the service",
    )
    return parser


def _describe(options: argparse.Namespace, url: str) -> ServiceDescription:
    service = open_service(options, url)
    service.refresh()
    assert service._description is not None
    return service._description


def _check(written: str, service: ServiceDescription, options: argparse.Namespace, url: str) -> int:
    lines = differences(written, service, place=shown(url), file=options.check)
    if options.json:
        _print({"file": options.check, "fits": not lines, "diff": "\n".join(lines)})
    elif lines:
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stderr.write(
            f"socaity stub: {options.check} does not fit {shown(url)} any more; "
            f"write it anew with -o {options.check}\n"
        )
    return _DIFFERS if lines else _FITS


def _print(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{name} cannot be read: {exc}") from exc


def _check_target(target: Path) -> None:
    """Only what this command wrote is written over."""
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise UsageError(f"-o {target}: there is no such folder, or it is one")
    if target.is_file() and target.stat().st_size and not is_stub(_read(str(target))):
        raise UsageError(
            f"{target} exists and was not written by `socaity stub`; remove it or choose another name"
        )
