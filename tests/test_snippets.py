"""The Python of README.md and docs/ runs, page by page, against a real server.

The blocks of a page run in order in one namespace, with `await` at the top level as in a notebook. A block that begins
with `# name.py` is a file: it is written to the page's folder. When a later block names the address 127.0.0.1:8000, that file
(or that of docs/quickstart.md) is served there by `socaity serve`, on another port, which is put in its place. A `text`
block that follows is what the block prints. `<!-- not run: reason -->` before a block leaves it out.

The pages about coming from elsewhere have two sides; tests/docs runs both. It also types the commands of the tutorial.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import socaity
from socaity_server.runtimes import registry
from tests.docs.served import served
from tests.docs.snippets import Block, python_blocks

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
QUICKSTART = DOCS / "quickstart.md"
ADDRESS = "127.0.0.1:8000"
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if python_blocks(page) and page.parent != DOCS / "coming-from" and page != DOCS / "tutorial.md"
]


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
        source = block.padded
        if ADDRESS in source:
            source = source.replace(ADDRESS, self._served())
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
                first = next(block for block in python_blocks(QUICKSTART) if block.file is not None)
                self.module = first.file
                (self.folder / f"{self.module}.py").write_text(first.code, encoding="utf-8")
            self.address = self._stack.enter_context(served(f"{self.module}:router", self.folder))
        return self.address


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "SOCAITY_PROGRESS", "0")
    monkeypatch.setattr(registry, "_added", registry._own_table())  # what a page adds ends with it
    with contextlib.ExitStack() as stack:
        running = Page(page, tmp_path, stack)
        try:
            for block in python_blocks(page):
                if block.is_run:
                    running.run(block)
        finally:
            for value in list(running.namespace.values()):
                if isinstance(value, socaity.Service):
                    value.close()


def test_few_blocks_are_left_out() -> None:
    found = [block for page in PAGES for block in python_blocks(page)]
    left_out = [block for block in found if not block.is_run]
    assert len(left_out) <= len(found) // 10
