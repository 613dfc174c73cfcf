"""A module that `socaity stub` writes type-checks strictly, runs against the service, and is found out when it is old."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .servers import ServerProcess

DEADLINE = 50.0
SOCAITY = [sys.executable, "-m", "socaity.cli"]
USE = """
from typing import assert_type

from socaity import Job, JobGroup, gather

import models
from models import Box, Node, Odd, Style

assert_type(models.paint("cat", steps=2), Job[str])
print(models.paint("cat", steps=2, style=Style(name="ink")).result())
print(models.paint("cat", 1, None, "large").result())
tree = models.tree(Node(value=1, children=[Node(value=2)])).result()
assert_type(tree, Node)
print(tree.children[0].value)
boxes = models.boxes(2, at=(5, 6)).result()
assert_type(boxes, list[Box])
print(boxes[1])
odd: Odd = {"class": "a", "how-many": 3}
print(models.odd(odd).result())
words = models.write("Once").result()
print([word.upper() for word in words], list(models.write("Once")))
print(models.raw(size=2).result(), models.predict(b"abc").result())
print(models.double([3.0, 4.0]).result().tolist())
print(models.paint(models.paint("a pipeline")).result())
print(models.list_(a=1, b=models.odd(odd)).result())
counts = models.odd.map([odd, odd])
assert_type(counts, JobGroup[int])
print(models.total(counts).result()["total"], models.total(gather(models.odd(odd), counts)).result()["total"])
print(models.total([1, models.odd(odd)]).result()["total"])
print(gather(*(models.odd(odd) for _ in range(2))).result(), models.paint.map(["a", "b"], steps=1).result())
"""
SAID = """\
cat 2 small ink
cat 1 large None
2
Box(x=6, y=6, label=None)
3
['ONCE', ' UPON', ' A TIME'] ['Once', ' upon', ' a time']
b'\\x00\\x01' {'bytes': 3, 'head': '616263', 'top': 1}
[6.0, 8.0]
a pipeline 4 small None 4 small None
{'a': 1, 'b': 3}
6.0 9.0
4.0
[3, 3] ['a 1 small None', 'b 1 small None']
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerProcess("cli_service:router") as server:
        yield server.url


def run(*words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def stub(*words: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    return run("-m", "socaity.cli", "stub", *words, folder=folder, code=code)


@pytest.fixture(scope="module")
def folder(url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stub")
    written = stub(url, "-o", "models.py", folder=folder)
    assert written.stdout == ""
    assert f"models.py: 18 endpoints of {url}" in written.stderr
    (folder / "use.py").write_text(USE)
    return folder


def test_module_runs(folder: Path) -> None:
    assert run("-W", "error", "use.py", folder=folder).stdout == SAID


def test_module_passes_mypy_strict(folder: Path) -> None:
    said = run("-m", "mypy", "--strict", "--config-file=", "models.py", "use.py", folder=folder).stdout
    assert "no issues found in 2 source files" in said


def test_module_passes_pyright_strict(folder: Path) -> None:
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "include": ["."]}')
    ran = run("-m", "pyright", "--pythonpath", sys.executable, "--outputjson", folder=folder)
    summary = json.loads(ran.stdout)["summary"]
    assert (summary["filesAnalyzed"], summary["errorCount"], summary["warningCount"]) == (2, 0, 0)


def test_wrong_call_is_found_by_mypy(folder: Path) -> None:
    (folder / "wrong.py").write_text(
        "import models\nmodels.paint(5, step=1)\nmodels.paint('a', size='huge')\n"
        "models.total(models.paint.map(['a']))\n"
    )
    said = run("-m", "mypy", "--config-file=", "wrong.py", folder=folder, code=1).stdout
    (folder / "wrong.py").unlink()
    assert 'Unexpected keyword argument "step"' in said
    assert 'incompatible type "int"' in said
    assert 'incompatible type "JobGroup[str]"' in said
    assert "incompatible type \"Literal['huge']\"" in said or 'incompatible type "str"' in said


def test_import_connects_to_nothing_and_loads_no_http_library(folder: Path) -> None:
    code = "import models, sys; print('httpx' in sys.modules, 'numpy' in sys.modules)"
    assert run("-c", code, folder=folder).stdout == "False False\n"


def test_module_fits_until_the_service_changes(folder: Path, url: str, tmp_path: Path) -> None:
    assert stub(url, "--check", "models.py", folder=folder).stdout == ""
    source = (folder / "models.py").read_text()
    # another layout and another address are no difference
    other = tmp_path / "other.py"
    other.write_text(
        source.replace(url, "http://elsewhere:1").replace("\n\n\n", "\n\n").replace('"ink"', "'ink'")
    )
    assert stub(url, "--check", "other.py", folder=tmp_path).stdout == ""

    assert "steps: Input[int] = 4" in source
    other.write_text(source.replace("steps: Input[int] = 4", "step: Input[int] = 4"))
    old = stub(url, "--check", "other.py", folder=tmp_path, code=1)
    assert "\n-def paint(text: Input[str], step: Input[int]=4" in old.stdout
    assert "\n+def paint(text: Input[str], steps: Input[int]=4" in old.stdout
    assert "other.py does not fit" in old.stderr
    report = json.loads(stub(url, "--check", "other.py", "--json", folder=tmp_path, code=1).stdout)
    assert report["fits"] is False
    assert "+def paint" in report["diff"]

    used = run(
        "-c", "import other; other.service.use(" + repr(url) + "); other.paint('a')", folder=tmp_path, code=1
    )
    assert "paint() was written for another version of the service: paint takes no 'step'" in used.stderr


def test_other_files_are_neither_overwritten_nor_compared(url: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("precious = 1\n")
    assert "was not written by" in stub(url, "-o", "mine.py", folder=tmp_path, code=2).stderr
    assert "was not written by" in stub(url, "--check", "mine.py", folder=tmp_path, code=2).stderr
    assert mine.read_text() == "precious = 1\n"
    mine.write_text("def (\n")
    assert "is not a Python module" in stub(url, "--check", "mine.py", folder=tmp_path, code=2).stderr
    assert "cannot be read" in stub(url, "--check", "missing.py", folder=tmp_path, code=2).stderr


def test_module_is_printed_and_written_anew(url: str, folder: Path, tmp_path: Path) -> None:
    printed = stub(url, folder=tmp_path).stdout
    assert printed == (folder / "models.py").read_text()
    assert json.loads(stub(url, "--json", folder=tmp_path).stdout)["module"] == printed
    for _ in range(2):
        assert json.loads(stub(url, "-o", "m.py", "--json", folder=tmp_path).stdout)["file"] == "m.py"
    assert [path.name for path in tmp_path.iterdir()] == ["m.py"]
