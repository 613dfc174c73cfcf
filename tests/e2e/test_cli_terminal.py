"""The command line in a real terminal, that of tmux: bars, Ctrl-C, bytes, and completion in three shells."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import socaity

from .servers import DEADLINE, ServerProcess

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None and "CI" not in os.environ, reason="needs tmux")

SCREEN_WIDTH = 160
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}


class Terminal:
    """A shell in a terminal of tmux; `type` presses keys, `wait` looks until the screen shows something."""

    def __init__(self, folder: Path, shell: str = "bash") -> None:
        self._name = f"socaity-{uuid.uuid4().hex}"
        command = folder / "socaity"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m socaity.cli "$@"\n')
        command.chmod(0o755)
        env = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PS1": "> ",
            "PROMPT": "> ",
            "HOME": str(folder),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }
        told = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        size = ["-x", str(SCREEN_WIDTH), "-y", "50"]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, *told, "-c", str(folder), *SHELLS[shell])
        # what a shell reads when it starts may set the path anew
        path = f"set -gx PATH {folder} $PATH" if shell == "fish" else f'export PATH="{folder}:$PATH"'
        self.line(f"{path}; clear")

    def type(self, *keys: str) -> None:
        """Text, or the names of keys: `Enter`, `Tab`, `C-c`."""
        self._tmux("send-keys", *keys)

    def line(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        self.type("Enter")

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p", "-J")

    def wait(self, is_there: Callable[[str], bool]) -> str:
        end = time.monotonic() + DEADLINE
        while not is_there(screen := self.screen):
            assert time.monotonic() < end, f"the terminal shows:\n{screen}"
        return screen

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self._name, *words], capture_output=True, text=True, timeout=DEADLINE, check=True
        )
        return done.stdout


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerProcess("cli_service:router") as server:
        yield server.url


@pytest.fixture
def service(url: str) -> Iterator[socaity.Service]:
    with socaity.connect(url, progress=False) as service:
        service.shut().result(DEADLINE)
        yield service
        service.open().result(DEADLINE)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    try:
        yield terminal
    finally:
        terminal.close()


def test_bar_is_shown_and_leaves_the_result(terminal: Terminal, service: socaity.Service, url: str) -> None:
    terminal.line(f"socaity call {url} hold text=held; echo rc=$?")
    terminal.wait(lambda screen: "50%" in screen and "halfway" in screen)
    service.open().result(DEADLINE)
    screen = terminal.wait(lambda screen: "\nrc=0" in screen)
    assert "\nheld\n" in screen


def test_ctrl_c_says_how_to_wait_again(terminal: Terminal, service: socaity.Service, url: str) -> None:
    terminal.line(f"socaity call {url} hold text=kept; echo rc=$?")
    terminal.wait(lambda screen: "halfway" in screen)
    terminal.type("C-c")
    screen = terminal.wait(lambda screen: "\nrc=130" in screen)
    assert "Stopped waiting; the job runs on." in screen
    assert "Traceback" not in screen
    assert "hold: failed" not in screen
    assert "service.job(" not in screen
    (again,) = [line.split(":", 1)[1] for line in screen.splitlines() if "to wait again:" in line]
    assert service.job(again.split()[2]).done() is False
    service.open().result(DEADLINE)
    terminal.line(f"{again}; echo again=$?")
    assert "\nkept\n" in terminal.wait(lambda screen: "\nagain=0" in screen)


def test_ctrl_c_while_a_stream_comes(terminal: Terminal, service: socaity.Service, url: str) -> None:
    terminal.line(f"socaity call {url} drip; echo rc=$?")
    terminal.wait(lambda screen: "\nfirst\n" in screen)
    terminal.type("C-c")
    assert "--cancel" in terminal.wait(lambda screen: "\nrc=130" in screen)


def test_bytes_are_refused_in_a_terminal_and_not_lost(terminal: Terminal, url: str) -> None:
    terminal.line(f"socaity call {url} raw size=200; echo rc=$?")
    screen = terminal.wait(lambda screen: "\nrc=2" in screen)
    assert "200 bytes, which are not for a terminal" in screen
    (kept,) = [
        line.split(":", 1)[1] for line in screen.splitlines() if line.startswith("The result is kept:")
    ]
    terminal.line(f"{kept.replace('FILE', 'raw.bin')}; wc -c < raw.bin; echo again=$?")
    assert "\n200\n" in terminal.wait(lambda screen: "\nagain=0" in screen)


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_shell_completes_what_the_service_has(shell: str, tmp_path: Path, url: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    (tmp_path / "picture.png").write_bytes(b"png")
    terminal = Terminal(tmp_path, shell)
    try:
        match shell:
            case "bash":
                terminal.line('eval "$(socaity completion bash)"; echo ready')
            case "zsh":
                terminal.line(
                    'autoload -U compinit; compinit -D; eval "$(socaity completion zsh)"; echo ready'
                )
            case _:
                terminal.line("socaity completion fish | source; echo read''y")
        terminal.wait(lambda screen: "\nready" in screen)
        for typed, completed in [
            ("socaity cal", "socaity call "),
            (f"{url} pain", f"{url} paint "),
            ("te", "text="),
            ("cat siz", "size="),
            ("sm", "size=small"),
        ]:
            terminal.type("-l", typed)
            terminal.type("Tab")
            terminal.wait(lambda screen, wanted=completed: wanted in screen.replace("\n", " "))
        terminal.type("Enter")
        terminal.wait(lambda screen: "cat 4 small None" in screen)
        terminal.type("-l", f"socaity call {url} predict image=@pic")
        terminal.type("Tab")
        terminal.wait(lambda screen: "image=@picture.png" in screen)
        terminal.type("Enter")
        terminal.wait(lambda screen: '"bytes": 3' in screen)
    finally:
        terminal.close()
