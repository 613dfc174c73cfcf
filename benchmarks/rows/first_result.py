"""From a clone and an empty virtual environment to the first result, by the README: install, serve, call."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from measurement import Measurement, Skipped

ROOT = Path(__file__).resolve().parents[2]
CLONED = ("README.md", "LICENSE", "pyproject.toml", "socaity", "transports", "server_stub", "examples")
START_DEADLINE = 60.0
CALL = """
import sys
import socaity
with socaity.connect(sys.argv[1], progress=False) as service:
    print(service.predict("a cat", steps=4).result(timeout=30))
"""


def run() -> Iterator[Measurement]:
    name = "first_result"
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        clone = Path(folder)
        for part in CLONED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, clone / part)
        readme = (clone / "README.md").read_text(encoding="utf-8")
        service = re.search(r"```python\n(# service\.py\n.*?)```", readme, re.S)
        if service is None:
            raise Skipped("the README has no service.py")
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", ".venv"], cwd=clone, check=True)
        bin_ = clone / ".venv" / "bin"
        cold = {**os.environ, "PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        subprocess.run(
            [bin_ / "pip", "install", "--quiet", ".[server,onnx]"],
            cwd=clone,
            check=True,
            env=cold,
            stderr=subprocess.DEVNULL,
        )
        installed = time.perf_counter()
        (clone / "service.py").write_text(service[1], encoding="utf-8")
        server = subprocess.Popen(
            [bin_ / "socaity", "serve", "service:router", "--port", "0"],
            cwd=clone,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        ready, _, _ = select.select([server.stdout], [], [], START_DEADLINE)
        url = re.search(r"http://\S+", server.stdout.readline() if ready else "")
        if url is None:
            raise Skipped("the server did not start")
        said = subprocess.run(
            [bin_ / "python", "-c", CALL, url[0]], cwd=clone, check=True, capture_output=True, text=True
        )
        assert said.stdout == "A CAT\n"
        done = time.perf_counter()
    yield Measurement(name, "a virtual environment and pip install, nothing cached", installed - start, "s")
    yield Measurement(name, "serve, connect and the first result", done - installed, "s")
    yield Measurement(name, "time to first result", done - start, "s", at_most=300)
