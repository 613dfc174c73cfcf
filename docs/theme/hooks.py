"""Brings the files outside docs/ that pages link to into the site: CONTRIBUTING.md, the examples, a dashboard.

On GitHub such a link, `../examples`, leads into the repository. The site has no repository beside it, so it gets what is
linked: Markdown as a page, a folder as a page that shows its Python files, and any other file as it is.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Pages of the site that lie in the root of the repository."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the root, and what the pages in docs/ link to outside of it."""
    root = Path(config.config_file_path).parent
    for name in PAGES:
        text = _from_root((root / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text, inclusion=InclusionLevel.INCLUDED))
    for page in list(files.documentation_pages()):
        for match in LINK.finditer(page.content_string):
            path = _outside(match["path"], page.src_uri)
            if path is not None:
                _add(root, path, files=files, config=config)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead the links out of docs/ to what was added for them."""

    def replace(match: re.Match[str]) -> str:
        path = _outside(match["path"], page.file.src_uri)
        if path is None:
            return match[0]
        target = posixpath.relpath(
            _place(Path(config.config_file_path).parent, path), posixpath.dirname(page.file.src_uri)
        )
        return f"[{match['text']}]({target}{match['anchor'] or ''})"

    return LINK.sub(replace, markdown)


def _outside(link: str, page: str) -> str | None:
    """The path in the repository of a link that leads out of docs/."""
    if page in PAGES:
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if path.startswith("docs/") or path == "docs" else path


def _place(root: Path, path: str) -> str:
    """Where the site has it."""
    return f"{path}/index.md" if (root / path).is_dir() else path


def _add(root: Path, path: str, *, files: Files, config: Any) -> None:
    place = _place(root, path)
    if files.get_file_from_path(place) is not None or not (root / path).exists():
        return  # a link to nothing stays as it is, and the strict build reports it
    if (root / path).is_dir():
        content = _listing(root / path)
        files.append(File.generated(config, place, content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    else:
        abs_src_path = str(root / path)
        files.append(
            File.generated(config, place, abs_src_path=abs_src_path, inclusion=InclusionLevel.NOT_IN_NAV)
        )


def _listing(folder: Path) -> str:
    """A page with the Python files of a folder."""
    parts = [f"# {folder.name.capitalize()}\n"]
    for file in sorted(folder.glob("*.py")):
        parts.append(f"## {file.name}\n\n```python\n{file.read_text(encoding='utf-8').rstrip()}\n```\n")
    return "\n".join(parts)


def _from_root(text: str) -> str:
    """A page of the root: its links into docs/ lead beside it now."""
    return re.sub(r"\]\(docs/", "](", text)
