"""Importing socaity is light: no thread, no heavy library, nothing read."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["numpy", "httpx", "websockets", "pydantic", "asyncio", "msgpack", "tqdm", "IPython", "fastapi"]


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_and_starts_nothing() -> None:
    code = f"import sys, threading, socaity; print([n for n in {HEAVY} if n in sys.modules], threading.active_count())"
    assert run_python(code) == "[] 1"


def test_connecting_starts_no_thread() -> None:
    code = (
        "import sys, threading, socaity; socaity.connect('ws://127.0.0.1:1'); "
        "print('httpx' in sys.modules, 'numpy' in sys.modules, threading.active_count())"
    )
    assert run_python(code) == "False False 1"


@pytest.mark.parametrize("name", ["connect", "Job", "gather", "testing"])
def test_names_are_loaded_when_they_are_used(name: str) -> None:
    code = f"import socaity; import socaity.testing; print(socaity.{name}.__name__.rpartition('.')[2])"
    assert run_python(code) == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'conect'"):
        import socaity

        _ = socaity.conect  # type: ignore[attr-defined]
