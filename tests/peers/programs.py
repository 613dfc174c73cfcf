"""The check programs: what they are called, what runs them, and how.

`python -m tests.peers.programs` writes the names of all checks to checks.json. The tests are made of these, so that they can be
collected without the environments of the peers.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tests.docs.environments import python_of

HERE = Path(__file__).parent
NAMES = HERE / "checks.json"
DEADLINE = 600.0
Way = Literal["open", "tokens", "TLS"]
_WAYS: dict[str, Way] = {"triton_auth": "tokens", "triton_tls": "TLS"}


class Program(NamedTuple):
    """A file in checks/, the environment that it runs in, and the way in which the server must be run."""

    name: str
    environment: str
    way: Way = "open"

    def run(
        self,
        host: str,
        http_port: int,
        grpc_port: int,
        only: str = "",
        *,
        env: Mapping[str, str] | None = None,
    ) -> dict[str, bool | str]:
        """What each check, or each whose name has `only` in it, found: True, or why not."""
        found: dict[str, bool | str] = json.loads(
            self._output(host, str(http_port), str(grpc_port), *([only] if only else []), env=env)
        )
        return found

    def names(self) -> list[str]:
        """The names of its checks, as the program has them."""
        names: list[str] = json.loads(self._output("--names"))
        return names

    def _output(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        command = [str(python_of(self.environment)), str(HERE / "checks" / f"{self.name}.py"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, env={**os.environ, **(env or {})}
        )
        if done.returncode:
            raise AssertionError(f"{self.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout


PROGRAMS = tuple(
    Program(name, environment, _WAYS.get(name, "open"))
    for environment, names in {
        "tritonclient": (
            "triton_list",
            "triton_datatypes",
            "triton_more",
            "triton_served",
            "triton_streams",
            "triton_load",
            "triton_aio",
            "grpc_rules",
            "raw",
            "raw_refused",
            "generate",
            "triton_auth",
            "triton_tls",
        ),
        "kserve": ("kserve_list", "kserve_more"),
        "mlserver": ("mlserver_client",),
    }.items()
    for name in names
)


def known_names() -> dict[str, list[str]]:
    """The names of the checks by program."""
    names: dict[str, list[str]] = json.loads(NAMES.read_text())
    return names


if __name__ == "__main__":
    NAMES.write_text(json.dumps({one.name: one.names() for one in PROGRAMS}, indent=1) + "\n")
