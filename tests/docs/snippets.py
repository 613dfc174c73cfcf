"""The code blocks of a page of the documentation: what they say, and what is said of them."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(
    r"(?P<skip><!-- not run: \S[^>]*-->\s*\n)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]*)\")?[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
FILE = re.compile(r"# (?P<name>\w[\w/]*)\.py\n")


class Block(NamedTuple):
    """A fenced block; `output` is what it prints, if the `text` block right after it says so."""

    language: str
    code: str
    line: int
    title: str = ""
    output: str | None = None
    is_run: bool = True

    @property
    def file(self) -> str | None:
        """The module that it is, for a block of Python that shows a file."""
        match = FILE.match(self.code)
        return match["name"] if match is not None and self.language == "python" else None

    @property
    def padded(self) -> str:
        """Its code, after so many empty lines that a traceback has the line numbers of the page."""
        return "\n" * (self.line - 1) + self.code


def blocks(page: Path) -> list[Block]:
    """All blocks that are not outputs, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in BLOCK.finditer(text):
        code = textwrap.dedent(match["code"])
        if match["language"] == "text":
            # What two snippets side by side print stands once, after both.
            between = text[end : match.start()].replace("</div>", "")
            if found and not between.strip():
                found[-1] = found[-1]._replace(output=code)
                end = match.end()
            continue
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], code, line, match["title"] or "", None, match["skip"] is None))
        end = match.end()
    return found


def python_blocks(page: Path) -> list[Block]:
    """The blocks of Python."""
    return [block for block in blocks(page) if block.language == "python"]
