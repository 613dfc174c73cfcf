"""Every command that the documentation shows exists, with the options that it is shown with."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from socaity.cli.commands import command_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.M | re.S)
SPAN = re.compile(r"`(socaity [^`\n]+)`")
COMMAND = re.compile(r"(?:^|[|$;(] *)socaity +(?P<name>[a-z]\w*|[A-Z]+)(?P<rest>[^|\n;)]*)", re.M)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
VERB = re.compile(r"(?:`|\$ )make ([a-z][a-z-]*)")


def commands() -> Iterator[tuple[str, str, list[str]]]:
    """The page, the command and its options, of every command line in a console block and in the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [
            line for kind, body in FENCED.findall(text) if kind == "console" for line in body.splitlines()
        ]
        shown = [line for line in lines if line.startswith("$ ")] + SPAN.findall(FENCED.sub("", text))
        for one in shown:
            for found in COMMAND.finditer(one):
                yield page.relative_to(ROOT).as_posix(), found["name"], OPTION.findall(found["rest"])


@cache
def help_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "socaity.cli", name, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_documented_command_exists_with_its_options() -> None:
    found = [one for one in commands() if not one[1].isupper()]  # COMMAND stands for any
    assert {name for _, name, _ in found} >= {
        "serve",
        "call",
        "endpoints",
        "stub",
        "jobs",
        "top",
        "completion",
    }
    wrong = [
        f"{page}: socaity {name} {option}"
        for page, name, options in found
        for option in options or [""]
        if name not in command_names() or option not in help_of(name)
    ]
    assert wrong == []


def test_every_command_is_documented() -> None:
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in command_names() if f"| `socaity {name}" not in table] == []


def test_every_documented_verb_of_make_exists() -> None:
    verbs = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    shown = {(page.name, verb) for page in PAGES for verb in VERB.findall(page.read_text(encoding="utf-8"))}
    assert shown
    assert {one for one in shown if one[1] not in verbs} == set()


@pytest.mark.parametrize("name", ["generate", "serv"])
def test_a_command_that_is_not_there_is_an_error(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "socaity.cli", name], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert f"no command '{name}'" in done.stderr
