"""Where a service cannot be served, it says why and what to do, before it loads anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from socaity.exceptions import ConfigurationError
from socaity_server import SocaityRouter
from socaity_server.address import check_address

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits.onnx"
DEADLINE = 50


@pytest.fixture
def taken() -> Iterator[int]:
    """A port where another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_free_address_can_be_had_and_is_left_free(taken: int) -> None:
    check_address("127.0.0.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for _ in range(2):
        check_address("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 65536, r"from 0 \(any free one\) to 65535, not 65536"),
        ("127.0.0.1", -1, "not -1"),
        ("no such host", 0, r"'no such host' is no address of this machine .*Use --host 127\.0\.0\.1"),
        ("203.0.113.1", 0, r"Cannot serve at 203\.0\.113\.1:0: this machine has no such address"),
    ],
)
def test_wrong_address_is_refused(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_address(host, port)


def test_router_says_that_its_port_is_in_use(taken: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"at 127\.0\.0\.1:{taken}: the address is in use.*--port"):
        SocaityRouter().start("127.0.0.1", taken)


@pytest.mark.parametrize("target", ["folder", "file", "module"])
def test_command_says_that_the_port_is_in_use_in_one_line(taken: int, target: str, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "from socaity_server import SocaityRouter\nrouter = SocaityRouter()\n"
    )
    (tmp_path / "models").mkdir()
    what = {"folder": "models", "file": str(DIGITS), "module": "service:router"}[target]
    ended = subprocess.run(
        [sys.executable, "-m", "socaity.cli", "serve", what, "--port", str(taken)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert ended.returncode == 2
    assert ended.stderr == (
        f"socaity serve: Cannot serve at 127.0.0.1:{taken}: the address is in use, as another program serves there. "
        "Stop that, or take another port (--port, or FASTAPI_PORT; 0: any free one).\n"
    )
