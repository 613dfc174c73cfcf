"""A virtual environment for each peer, made when it is first needed and again when its requirements change."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

from measurement import Skipped

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache"
ENGINES = ("joblib", "numpy", "onnxruntime", "scikit-learn", "tokenizers")
"""What runs the models: in every environment in the version that we have ourselves."""


def python_of(name: str) -> Path:
    """The interpreter of the environment for `peers/{name}/requirements.txt`."""
    requirements = HERE / name / "requirements.txt"
    engines = [f"{engine}=={version(engine)}" for engine in ENGINES]
    folder = CACHE / "environments" / name
    python = folder / "bin" / "python"
    wanted = hashlib.sha256("\n".join([requirements.read_text(), sys.version, *engines]).encode()).hexdigest()
    stamp = folder / "requirements.sha256"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {name}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--requirement", str(requirements), *engines]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900
        )
        if done.returncode:
            raise Skipped(f"{name} could not be installed:\n{done.stdout[-2000:]}")
        stamp.write_text(wanted)
    return python


def version_of(name: str) -> str:
    """The version of the package `name` in its environment."""
    code = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
    done = subprocess.run([str(python_of(name)), "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()
