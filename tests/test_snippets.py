"""The Python of README.md and docs/ runs, page by page, against a real server.

The blocks of a page run in order in one namespace, with `await` at the top level as in a notebook. A block that begins
with `# name.py` is a file: it is written to the page's folder. When a later block names the address 127.0.0.1:8000, that file
(or that of docs/quickstart.md) is served there by `socaity serve`, on another port, which is put in its place. A `text`
block that follows is what the block prints. `<!-- not run: reason -->` before a block leaves it out.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import os
import queue
import re
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import socaity

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "docs" / "quickstart.md"
ADDRESS = "127.0.0.1:8000"
DEADLINE = 30
BLOCK = re.compile(
    r"(?P<skip><!-- not run: \S[^>]*-->\s*\n)?^(?P<indent> *)```python[^\n]*\n(?P<code>.*?)^(?P=indent)```\n"
    r"(?:\s*\n(?P=indent)```text\n(?P<output>.*?)^(?P=indent)```\n)?",
    re.M | re.S,
)
FILE = re.compile(r"# (?P<name>\w+)\.py\n")


class Block(NamedTuple):
    """A piece of Python on a page; `output` is what it prints, if the page says so."""

    code: str
    line: int
    output: str | None
    is_run: bool

    @property
    def file(self) -> str | None:
        """The module that it is, for a block that shows a file."""
        match = FILE.match(self.code)
        return None if match is None else match["name"]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        output = match["output"]
        found.append(
            Block(
                code=textwrap.dedent(match["code"]),
                line=text.count("\n", 0, match.start("code")) + 1,
                output=None if output is None else textwrap.dedent(output),
                is_run=match["skip"] is None,
            )
        )
    return found


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]


class Page:
    """A page while it runs: its folder, its namespace and its server."""

    def __init__(self, path: Path, folder: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        self.folder = folder
        self.module: str | None = None
        self.address: str | None = None
        self.namespace: dict[str, Any] = {"__name__": "page"}
        self._stack = stack
        self._runner = stack.enter_context(asyncio.Runner())

    def run(self, block: Block) -> None:
        if block.file is not None:
            (self.folder / f"{block.file}.py").write_text(block.code, encoding="utf-8")
            self.module, self.address = block.file, None
        code = block.code
        if ADDRESS in code:
            code = code.replace(ADDRESS, self._served())
        # Empty lines before it make the line numbers of a traceback those of the page.
        source = "\n" * (block.line - 1) + code
        compiled = compile(source, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = eval(compiled, self.namespace)
            if inspect.iscoroutine(value):
                self._runner.run(value)
        if block.output is not None:
            assert printed.getvalue().strip() == block.output.strip()

    def _served(self) -> str:
        if self.address is None:
            if self.module is None:
                first = next(block for block in blocks(QUICKSTART) if block.file is not None)
                self.module = first.file
                (self.folder / f"{self.module}.py").write_text(first.code, encoding="utf-8")
            self.address = self._stack.enter_context(served(f"{self.module}:router", self.folder))
        return self.address


@contextlib.contextmanager
def served(target: str, folder: Path) -> Iterator[str]:
    """`socaity serve target` in a folder; gives host and port."""
    command = [sys.executable, "-m", "socaity.cli", "serve", target, "--port", "0"]
    server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read(stream: Any) -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, args=(server.stderr,), name="reader of the server")
    reader.start()
    try:
        said = ""
        while (address := re.search(r"at http://(\S+)", said)) is None:
            line = lines.get(timeout=DEADLINE)
            assert line, f"the server did not start:\n{said}"
            said += line
        yield address[1]
    finally:
        server.terminate()
        server.wait(DEADLINE)
        reader.join(DEADLINE)
        server.stderr.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "SOCAITY_PROGRESS", "0")
    with contextlib.ExitStack() as stack:
        running = Page(page, tmp_path, stack)
        try:
            for block in blocks(page):
                if block.is_run:
                    running.run(block)
        finally:
            for value in list(running.namespace.values()):
                if isinstance(value, socaity.Service):
                    value.close()


def test_few_blocks_are_left_out() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    left_out = [block for block in found if not block.is_run]
    assert len(left_out) <= len(found) // 10
