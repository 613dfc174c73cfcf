"""Importing socaity is light: no thread, no heavy library, nothing read."""

from __future__ import annotations

import subprocess
import sys

import pytest

from socaity_server import SocaityRouter
from tests.server.conftest import serve

HEAVY = ["numpy", "httpx", "websockets", "pydantic", "asyncio", "msgpack", "tqdm", "IPython", "fastapi"]
NOT_FOR_A_CALL = [
    "PIL",
    "torch",
    "pandas",
    "scipy",
    "soundfile",
    "cv2",
    "boto3",
    "google",
    "azure",
    "IPython",
    "fastapi",
]


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_loads_nothing_and_starts_nothing() -> None:
    code = f"import sys, threading, socaity; print([n for n in {HEAVY} if n in sys.modules], threading.active_count())"
    assert run_python(code) == "[] 1"


def test_import_is_quick_and_brings_only_the_standard_library() -> None:
    code = (
        "import sys, time; before = set(sys.modules); began = time.perf_counter(); import socaity; "
        "took = time.perf_counter() - began; added = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(took, len(set(sys.modules) - before), added - set(sys.stdlib_module_names) - {'typing.io'})"
    )
    runs = [run_python(code).split(" ", 2) for _ in range(5)]
    assert min(float(took) for took, _, _ in runs) < 0.2
    assert {(int(count) < 100, others) for _, count, others in runs} == {(True, "{'socaity'}")}


def test_a_call_brings_no_library_for_media_or_clouds() -> None:
    router = SocaityRouter(provider="fastapi", environment="localhost")

    @router.add_route("/shout", queue_size=10)
    def shout(text: str) -> str:
        return text.upper()

    code = (
        "import sys, socaity; service = socaity.connect({url!r}, progress=False); print(service.shout('hi').result(20), "
        f"[name for name in {NOT_FOR_A_CALL} if name in sys.modules]); service.close()"
    )
    with serve(router) as url:
        assert run_python(code.replace("{url!r}", repr(url))) == "HI []"


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
