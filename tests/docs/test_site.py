"""The site of the documentation builds without a warning, loads nothing from elsewhere, and has every public name."""

import os
import re
import subprocess
import sys
from html import unescape
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)[^>]*\ssrc=\"([^\"]*)\"|<link[^>]*\shref=\"([^\"]*)\""
)
LINK = re.compile(r"<a[^>]*\shref=\"([^\"]*)\"")
ANCHOR = re.compile(r"\s(?:id|name)=\"([^\"]*)\"")
REFERENCE = {
    "socaity": "socaity",
    "socaity.exceptions": "exceptions",
    "socaity.testing": "testing",
    "socaity.transport": "transport",
    "socaity_server": "server",
}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = [
        (page.name, address)
        for page in site.rglob("*.html")
        for found in LOADED.findall(page.read_text(encoding="utf-8"))
        for address in found
        if re.match(r"(?:https?:)?//", address)
    ]
    loaded += [
        (sheet.name, address)
        for sheet in site.rglob("*.css")
        for address in re.findall(r"url\(['\"]?(https?:[^)]*)\)", sheet.read_text(encoding="utf-8"))
    ]
    assert loaded == []


def test_links_lead_to_something(site: Path) -> None:
    texts = {
        page: page.read_text(encoding="utf-8") for page in site.rglob("*.html") if page.name != "404.html"
    }
    anchors = {page: set(map(unescape, ANCHOR.findall(text))) for page, text in texts.items()}
    broken = []
    for page, text in texts.items():
        for link in map(unescape, LINK.findall(text)):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append((page.relative_to(site).as_posix(), link))
    assert broken == []


@pytest.mark.parametrize("module", REFERENCE)
def test_every_public_name_is_in_the_reference(site: Path, module: str) -> None:
    pages = (
        (site / "reference").glob("*.html")
        if module == "socaity"
        else [site / "reference" / f"{REFERENCE[module]}.html"]
    )
    texts = [page.read_text(encoding="utf-8") for page in pages]
    names = import_module(module).__all__
    missing = [
        name
        for name in names
        if not any(f'id="{home}.{name}"' in text for text in texts for home in homes(module))
    ]
    assert missing == []


def homes(module: str) -> list[str]:
    """Where its names may be documented: `socaity` also hands on those of other public modules."""
    return [module] if module != "socaity" else list(REFERENCE)
