"""What a shell asks while somebody types: `socaity __complete SHELL …` prints one candidate in a line.

It asks the live service for endpoints and parameters, for a moment only, and is silent about whatever goes wrong.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..exceptions import SocaityError
from ..protocol.description import EndpointDescription, ParameterDescription
from ..protocol.schemas import SchemaWalk
from .commands import OWN, command_names

__all__ = ["candidates", "run"]

_DEADLINE = 1.5
_ALARM = 3
_SHARED = ["--api-key", "--header", "--help", "--json", "--quiet"]
_OPTIONS: dict[str, list[str]] = {
    "call": ["--output"],
    "completion": [],
    "endpoints": [],
    "jobs": ["--cancel", "--endpoint", "--limit", "--output", "--status", "--url"],
    "stub": ["--check", "--output"],
}
_WITH_VALUE = frozenset(
    {"--api-key", "--check", "--endpoint", "--header", "--limit", "--output", "--status", "--url", "-o"}
)
_FILES = frozenset({"--check", "--output", "-o"})
_STATUSES = ["cancelled", "failed", "queued", "running", "succeeded"]
_MAX_FILES = 200

# What a service says is typed into the command line: it must mean nothing to a shell.
_HARMLESS = re.compile(r"[\w./:@%+,=-]+")


def run(argv: list[str]) -> int:
    """Print the candidates and leave, without waiting for whatever is still open."""
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.alarm(_ALARM)
    try:
        lines = _answer(argv)
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except Exception:  # noqa: S110 - an error text would land in the middle of somebody's typing
        pass
    os._exit(0)


def _answer(argv: list[str]) -> list[str]:
    if argv[:1] == ["bash"]:
        line, breaks = argv[1], argv[2] if len(argv) > 2 else ""
        words = split_line(line)
        if len(words) < 2:
            return []
        behind = _behind_break(words[-1], breaks)
        return [re.sub(r"([^\w./:@%+,=~-])", r"\\\1", one[behind:]) for one in candidates(words[1:])]
    return candidates(argv[1:] or [""])


def _behind_break(word: str, breaks: str) -> int:
    """Where bash takes the word to begin: behind the last of its word breaks, but at an `@`."""
    found = (word.rfind(one) + (one != "@") for one in breaks if one not in "\"'\\")
    return max([0, *found])


def split_line(line: str) -> list[str]:
    """The words of a line that may end within one; the last one is empty behind a blank."""
    for end in ("", '"', "'"):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return words if line[-1:].strip() or end else [*words, ""]
    return []


def candidates(words: list[str]) -> list[str]:
    """What the last of the words behind `socaity` can become; all of them begin with it."""
    *before, last = words
    if not before:
        return _beginning(last, [*command_names(), "--help", "--version"])
    command, *rest = before
    if command not in OWN:
        return _files(last)
    if rest and rest[-1] in _WITH_VALUE:
        return _value_of(rest[-1], rest, last)
    if last.startswith("-"):
        options = ["--help", "--json"] if command == "completion" else [*_OPTIONS[command], *_SHARED]
        return _beginning(last, sorted(options))
    return _positional(command, rest, last)


def _positional(command: str, rest: list[str], last: str) -> list[str]:
    given = _positionals(rest)
    if command == "completion":
        return _beginning(last, ["bash", "fish", "zsh"])
    if command == "endpoints" and len(given) == 1:
        return _beginning(last, _endpoints(given[0], rest))
    if command != "call" or not given:
        return []
    if len(given) == 1:
        return _beginning(last, _endpoints(given[0], rest))
    if last.startswith("@"):
        return [f"@{one}" for one in _files(last[1:])]
    endpoint = _endpoints(given[0], rest).get(given[1])
    return [] if endpoint is None else _arguments(endpoint, given[2:], last)


def _positionals(rest: list[str]) -> list[str]:
    found = []
    is_value = False
    for word in rest:
        if not is_value and not word.startswith("-"):
            found.append(word)
        is_value = not is_value and word in _WITH_VALUE
    return found


def _value_of(option: str, rest: list[str], last: str) -> list[str]:
    if option in _FILES:
        return _files(last)
    if option == "--status":
        return _beginning(last, _STATUSES)
    if option == "--endpoint" and "--url" in rest[:-1]:
        return _beginning(last, _endpoints(rest[rest.index("--url") + 1], rest))
    return []


def _arguments(endpoint: EndpointDescription, given: list[str], last: str) -> list[str]:
    key, equals, text = last.partition("=")
    known = {one.name: one for one in endpoint.parameters if not one.variadic}
    if not equals:
        used = {word.partition("=")[0] for word in given}
        return _beginning(last, [f"{name}=" for name in known if name not in used])
    if text.startswith("@"):
        return [f"{key}=@{one}" for one in _files(text[1:])]
    parameter = known.get(key)
    values = [] if parameter is None else _values(parameter)
    return _beginning(last, [f"{key}={value}" for value in values])


def _values(parameter: ParameterDescription) -> list[str]:
    """The values a parameter can have, where they can be told."""
    found: dict[str, None] = {}
    walk = SchemaWalk(parameter.json_schema)

    def look(schema: Any, depth: int) -> None:
        schema = walk.enter(schema, depth)
        if schema is None:
            return
        if "$ref" in schema:
            look(walk.follow(schema["$ref"]), depth + 1)
        for value in schema["enum"] if isinstance(schema.get("enum"), list) else []:
            found[value if isinstance(value, str) else json.dumps(value)] = None
        if schema.get("type") == "boolean":
            found.update({"false": None, "true": None})
        for word in ("anyOf", "oneOf", "allOf"):
            for one in schema[word] if isinstance(schema.get(word), list) else []:
                look(one, depth + 1)

    look(parameter.json_schema, 0)
    return list(found)


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(start) and _HARMLESS.fullmatch(word)]


def _files(start: str) -> list[str]:
    folder, slash, name = start.rpartition("/")
    place = Path(folder + slash or ".").expanduser()
    found = []
    for path in sorted(place.iterdir()):
        is_shown = path.name.startswith(name) and (not path.name.startswith(".") or name.startswith("."))
        if is_shown and path.name.isprintable():
            found.append(f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}")
    return found[:_MAX_FILES]


def _endpoints(url: str, rest: list[str]) -> dict[str, EndpointDescription]:
    """The live endpoints; none if the service does not answer at once."""
    import argparse

    from .options import UsageError, open_service

    headers = [value for option, value in pairwise(rest) if option == "--header"]
    keys = [value for option, value in pairwise(rest) if option == "--api-key"]
    options = argparse.Namespace(header=headers, api_key=keys[-1] if keys else None, quiet=True)
    try:
        transport = None if url.startswith("ws") else "http"
        service = open_service(options, url, transport=transport, timeout=_DEADLINE)
        service._describe().result(_DEADLINE)
    except (SocaityError, TimeoutError, UsageError):
        return {}
    return {name: endpoint.description for name, endpoint in sorted(service.endpoints.items())}
