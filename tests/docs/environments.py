"""A virtual environment for each peer, made when it is first needed and again when its requirements change.

They lie beside ours, in .venv-peers, because a peer brings hundreds of megabytes and versions of its own. So they are installed
where CI is set, and by `make peers`; elsewhere their tests are left out and say so. A peer that cannot be installed is an
error: what is to be shown with it would not have been shown.

The requirements of what the pages compare with lie beside this file, those of other makers' clients and servers in tests/peers.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REQUIREMENTS = (HERE / "requirements", HERE.parent / "peers" / "requirements")
CACHE = HERE.parents[1] / ".venv-peers"
INSTALL_SECONDS = 600


def python_of(name: str, *, may_install: bool = "CI" in os.environ) -> Path:
    """The interpreter of the environment for `requirements/{name}.txt`, in one of the folders of requirements."""
    requirements = next(file for file in _requirements() if file.stem == name)
    folder = CACHE / f"{name}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / "bin" / "python"
    stamp = folder / "requirements.sha256"
    wanted = hashlib.sha256(f"{requirements.read_text()}\n{sys.version}\n{folder}".encode()).hexdigest()
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the tests may be making it
        if not stamp.exists() or stamp.read_text() != wanted:
            if not may_install:
                pytest.skip(f"{name} is not installed, which takes hundreds of megabytes: make peers")
            print(f"installing {name}", file=sys.stderr, flush=True)
            venv.create(folder, clear=True, with_pip=True)
            install(python, "--requirement", str(requirements))
            stamp.write_text(wanted)
    return python


def install(python: Path, *arguments: str, cwd: Path | None = None) -> None:
    """`pip install` in the environment of `python`; raises with what pip says."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_SECONDS
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")


def _requirements() -> list[Path]:
    return sorted(file for folder in REQUIREMENTS for file in folder.glob("*.txt"))


if __name__ == "__main__":
    for file in _requirements():
        python_of(file.stem, may_install=True)
