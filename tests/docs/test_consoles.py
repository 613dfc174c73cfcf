"""The curl commands of the how-to pages print what the page says, asked of the service of the quickstart."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.docs.served import DEADLINE, served
from tests.docs.snippets import blocks, python_blocks

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    page
    for page in sorted((DOCS / "how-to").glob("*.md"))
    if any(block.language == "console" for block in blocks(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_says(page: Path, tmp_path: Path) -> None:
    [service] = [block for block in python_blocks(DOCS / "quickstart.md") if block.file is not None]
    (tmp_path / "service.py").write_text(service.code, encoding="utf-8")
    with served("service:router", tmp_path) as address:
        for block in blocks(page):
            if block.language != "console":
                continue
            command, _, said = block.code.partition("\n")
            assert command.startswith("$ ")
            done = subprocess.run(
                ["bash", "-c", command.removeprefix("$ ").replace("127.0.0.1:8000", address)],
                cwd=tmp_path,
                env={**os.environ, "no_proxy": "127.0.0.1"},
                stdout=subprocess.PIPE,
                text=True,
                timeout=DEADLINE,
            )
            assert done.stdout.strip() == said.strip(), f"line {block.line}"


def test_there_are_commands() -> None:
    assert PAGES
