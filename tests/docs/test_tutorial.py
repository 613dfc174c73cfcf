"""The tutorial is done as it stands there, from a clone and an empty virtual environment, and takes less than five minutes."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.docs.served import DEADLINE, running
from tests.docs.snippets import Block, blocks

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
CLONED = ("README.md", "LICENSE", "pyproject.toml", "socaity", "transports", "server_stub", "examples")
ADDRESS = "127.0.0.1:8000"
INSTALL_SECONDS = 280


@pytest.mark.timeout(600)
def test_the_tutorial_takes_less_than_five_minutes(tmp_path: Path) -> None:
    for name in CLONED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    started = time.monotonic()
    snippets: list[Block] = []
    with contextlib.ExitStack() as stack:
        address = ADDRESS
        for block in blocks(PAGE):
            if block.file is not None:
                (tmp_path / f"{block.file}.py").write_text(block.code, encoding="utf-8")
            elif block.language == "python":
                snippets.append(block)
            else:
                address = run_commands(block, tmp_path, stack) or address
        assert address != ADDRESS
        printed = run_python(snippets, address, tmp_path)
    assert printed == [(block.output or "").strip() for block in snippets]
    assert time.monotonic() - started < 300


def run_commands(block: Block, clone: Path, stack: contextlib.ExitStack) -> str | None:
    """Type what follows each `$`. A server stays running until the stack ends; gives its address."""
    assert block.language == "console"
    *_, last = block.code.splitlines()
    if last.startswith("$"):
        for line in block.code.splitlines():
            command = line.removeprefix("$ ")
            if command != "python":  # what is typed into that is in the next blocks
                in_shell(command, clone)
        return None
    command, said = block.code.splitlines()
    ready = re.escape(said).replace(re.escape(ADDRESS), r"(\S+:\d+)", 1).replace(re.escape(ADDRESS), r"\1")
    shell = ["bash", "-c", f". .venv/bin/activate && exec {command.removeprefix('$ ')} --port 0"]
    return stack.enter_context(running(shell, clone, ready=ready, env=environment()))


def in_shell(command: str, clone: Path) -> None:
    """One command, in the clone; where there is a virtual environment, in that."""
    activated = f". .venv/bin/activate; {command}" if (clone / ".venv").exists() else command
    done = subprocess.run(
        ["bash", "-ec", activated],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}"


def run_python(snippets: list[Block], address: str, clone: Path) -> list[str]:
    """Type the snippets into the Python of the clone; gives what each printed."""
    sources = [(str(PAGE), block.padded.replace(ADDRESS, address)) for block in snippets]
    todo, done = clone / "blocks.json", clone / "outputs.json"
    todo.write_text(json.dumps(sources), encoding="utf-8")
    ended = subprocess.run(
        [str(clone / ".venv" / "bin" / "python"), str(HERE / "run_blocks.py"), str(todo), str(done)],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.returncode == 0, ended.stdout
    return [text.strip() for text in json.loads(done.read_text(encoding="utf-8"))]


def environment() -> dict[str, str]:
    """That of a new user, with the Python that runs the tests first in the path."""
    env = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("VIRTUAL_ENV", "PYTHON", "COV"))
    }
    env["PATH"] = f"{sys.base_prefix}/bin{os.pathsep}{os.environ['PATH']}"
    env["SOCAITY_CACHE"] = "cache"
    return env
