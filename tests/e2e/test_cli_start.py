"""The command line before a command runs: Ctrl-C while it is loaded, and modules that cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .servers import DEADLINE, HERE

START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
from socaity.cli import main
sys.argv[1:] = {words!r}
sys.exit(main())
"""
AT_USAGE = """
import argparse, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
argparse.ArgumentParser.format_usage = lambda self: signal.raise_signal(signal.SIGINT)
from socaity.cli import main
sys.argv[1:] = ["call", "http://127.0.0.1:1", "ask"]
sys.exit(main())
"""
SERVE = ["serve", "small_service:router", "--port", "0"]
CALL = ["call", "http://127.0.0.1:1", "ask"]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("socaity.cli.commands", SERVE),
        ("socaity.exceptions", SERVE),
        ("socaity_server.router", SERVE),
        ("small_service", SERVE),
        ("socaity.cli.terminal", CALL),
        ("socaity._connect", CALL),
    ],
)
def test_ctrl_c_while_something_is_imported_is_exit_code_130(module: str, words: list[str]) -> None:
    ran = python(START.format(module=module, words=words), HERE)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_ctrl_c_while_the_words_are_read_is_exit_code_130() -> None:
    ran = python(AT_USAGE, HERE)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("from json import not_there", "ImportError: cannot import name 'not_there' from 'json'"),
        ("import inner", "ModuleNotFoundError: No module named 'not_there'"),
        ("def (:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_module_that_cannot_be_imported_shows_where_it_ended(source: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "inner.py").write_text("import not_there\n")
    (tmp_path / "broken.py").write_text(f"{source}\n")
    ran = serve("broken:router", tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert told in ran.stderr
    assert f'File "{tmp_path / "broken.py"}", line 1' in ran.stderr
    assert "socaity serve: The module 'broken' could not be imported" in ran.stderr
    assert "socaity[server]" not in ran.stderr
    assert "importlib" not in ran.stderr


def test_module_that_is_not_there_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("")
    for target, hint in (("nowhere:router", ""), ("there.py:router", "Did you mean there:router?")):
        ran = serve(target, tmp_path)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("socaity serve: There is no module ")
        assert hint in ran.stderr


def test_extra_that_is_missing_is_named() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from socaity.cli import main; sys.exit(main(['serve', 'x:y']))"
    ran = python(code, HERE)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "uvicorn" in ran.stderr
    assert "pip install 'socaity[server]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def serve(target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run(["-m", "socaity.cli", "serve", target, "--port", "0"], folder)


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run(["-c", code], folder)


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, capture_output=True, text=True, timeout=DEADLINE
    )
