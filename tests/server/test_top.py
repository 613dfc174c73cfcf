"""`socaity top`: what it draws in terminals of every width, what it prints elsewhere, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from socaity.protocol.events import JobStatus
from socaity_server.live import LiveView
from socaity_server.top import top
from socaity_server.top_screen import History, clean, draw, fit, paint, width_of
from tests.e2e.live_service import LiveService
from tests.server.live_doubles import FakeDataPlane, FakeDirect, FakeStatus

from .conftest import SOON

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
# Ctrl-C is ignored in what a shell starts in the background, and by all that is started there.
PROGRAM = """
import signal, sys
from socaity_server.top import top
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(top(sys.argv[1:]))
"""
BEGIN, END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@pytest.fixture
def dataplane() -> FakeDataPlane:
    mlp, yolo = FakeDirect("mlp_10", version="3"), FakeDirect("yolo")
    mlp.work(calls=40, rows=3, seconds=0.02)
    mlp.statistics.failures.update(model=3, cancelled=9)
    assert yolo.breaker is not None
    yolo.breaker.state, yolo.breaker.reason = "open", "60 % of 40 calls failed"
    dataplane = FakeDataPlane(mlp, yolo)
    dataplane.statuses = [FakeStatus("broken", "failed", None, (), "there is no file model.onnx")]
    dataplane.queues = {"draw": {"waiting": 2, "running": 1}}
    dataplane.add_job(JobStatus.QUEUED)
    dataplane.add_job(fraction=0.4, message="step 2 of 5")
    return dataplane


@pytest.fixture
def service(dataplane: FakeDataPlane) -> Iterator[LiveService]:
    with LiveService(dataplane, interval=0.02) as service:
        yield service


def look(dataplane: FakeDataPlane) -> dict[str, Any]:
    records = [
        {
            "id": record.id,
            "endpoint": record.queue,
            "status": record.status.value,
            "fraction": record.fraction,
            "message": record.message,
            "position": None,
            "age": 75.0,
            "seconds": 70.0,
        }
        for record in dataplane.records
    ]
    return {**LiveView(dataplane.as_dataplane).look(), "jobs": records}


def text_of(snapshot: dict[str, Any], width: int = 160, **more: Any) -> list[str]:
    return [paint(line, width=width, colour=False) for line in draw(snapshot, width=width, **more)]


# Drawing


def test_screen_shows_models_queues_and_jobs(dataplane: FakeDataPlane) -> None:
    lines = text_of(look(dataplane))
    assert lines[0].startswith("shop 1.2  ready  up 0 s  mem ")
    [mlp] = [line for line in lines if line.startswith("mlp_10")]
    assert re.fullmatch(r"mlp_10 +ready +– +– +0 +0/2 +120.0 +\d+ ms +\d+ ms +\d+ ms +3", mlp)
    assert any(re.fullmatch(r"yolo +circuit open .*", line) for line in lines)
    assert "  the circuit opened: 60 % of 40 calls failed" in lines
    assert any(re.fullmatch(r"broken +failed +there is no file model.onnx", line) for line in lines)
    assert "QUEUES  draw 1 running, 2 waiting" in lines
    assert any(
        re.fullmatch(r"0{8}  draw  running    ████░░░░░░   40%  1 min 10 s +step 2 of 5", one)
        for one in lines
    )
    assert any(re.fullmatch(r"0{8}  draw  queued +1 min 15 s", line) for line in lines)


@pytest.mark.parametrize("width", [1, 5, 12, 20, 36, 60, 80, 120, 250])
def test_no_line_is_wider_than_the_terminal(dataplane: FakeDataPlane, width: int) -> None:
    dataplane.models.append(FakeDirect("日本語のとても長い名前のモデル" * 3))
    lines = text_of(look(dataplane), width, height=24, note=("reconnecting", "bad"))
    assert len(lines) <= 24
    assert max(map(width_of, lines)) <= width
    if width >= 36:
        assert "reconnecting" in lines[0]
        assert any("mlp_10" in line and "ready" in line for line in lines)


def test_low_terminal_says_how_much_is_hidden(dataplane: FakeDataPlane) -> None:
    everything = text_of(look(dataplane))
    lines = text_of(look(dataplane), height=5)
    assert lines[:4] == everything[:4]
    assert lines[4] == f"… {len(everything) - 4} more lines"


def test_names_cannot_command_the_terminal(dataplane: FakeDataPlane) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202egnp.exe"
    dataplane.title = evil
    dataplane.models = [FakeDirect(evil, version=evil, backend=evil)]
    dataplane.statuses = [FakeStatus(f"{evil}2", evil, evil, (), evil, evil), FakeStatus(evil, reason=evil)]
    dataplane.queues = {evil: {"waiting": 0, "running": 0}}
    dataplane.add_job(message=evil).queue = evil
    snapshot = look(dataplane)
    for line in text_of(snapshot, 400):
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e]", line)
    coloured = "".join(paint(line, width=400, colour=True) for line in draw(snapshot, width=400))
    assert set(re.findall(r"\x1b[^m]*m", coloured)) <= {f"\x1b[{code}m" for code in (0, 1, 2, 31, 32, 33, 36)}


def test_texts_are_measured_in_columns() -> None:
    assert width_of("日本") == 4
    assert width_of("e\u0301") == 1
    assert fit("日本語", 5) == "日本…"
    assert fit("日本語", 4) == "日… "
    assert fit("ab", 4) == "ab  "
    assert clean("a\tb\nc\u2028") == "a b c\ufffd"


def test_curves_grow_with_the_rates(dataplane: FakeDataPlane) -> None:
    history = History()
    for calls in (0.0, 5.0, 10.0):
        history.take({"models": [{"name": "mlp_10", "rates": {"calls": calls}}]})
    lines = text_of(look(dataplane), rates=history.rates)
    assert next(line for line in lines if line.startswith("mlp_10")).endswith("▁▅█")
    history.take({"models": []})
    assert not history.rates


def test_empty_service_is_drawn() -> None:
    lines = text_of(look(FakeDataPlane()))
    assert "No models are served." in lines
    assert "No jobs." in lines


# Printing


def test_json_once_is_one_snapshot_with_rates(
    service: LiveService, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top([service.url, "--json", "--once"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    snapshot = json.loads(line)
    assert snapshot["protocol"] == "socaity.live.v1"
    assert all(model["rates"] for model in snapshot["models"] if model["served"])


@pytest.mark.parametrize("arguments", [[], ["--once"]])
def test_text_is_printed_once_where_there_is_no_terminal(
    service: LiveService, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert top([service.url.removeprefix("http://"), *arguments]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "mlp_10" in out
    assert "step 2 of 5" in out


@pytest.mark.parametrize("url", ["ftp://here", "http://", "http://here:port", "http://here:99999"])
def test_wrong_url_is_wrong_usage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert top([url]) == 2
    assert capsys.readouterr().err == "socaity top: a service has a URL like http://127.0.0.1:8000\n"


def test_wrong_arguments_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert top([]) == 2
    assert top(["http://here", "--often"]) == 2
    assert top(["--help"]) == 0


def test_nobody_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert top([f"http://me:secret@127.0.0.1:{port}"]) == 1
    error = capsys.readouterr().err
    assert error == f"socaity top: 127.0.0.1:{port} cannot be reached: connection refused\n"


def test_full_service_says_why(dataplane: FakeDataPlane, capsys: pytest.CaptureFixture[str]) -> None:
    with LiveService(dataplane, max_watchers=0) as service:
        assert top([service.url, "--json"]) == 1
    assert "0 watch already; try again later" in capsys.readouterr().err


def test_other_server_says_that_it_has_no_live_view(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )

        thread = threading.Thread(target=answer)
        thread.start()
        assert top([f"127.0.0.1:{listener.getsockname()[1]}"]) == 1
        thread.join(SOON)
    assert "has no live view (HTTP 404)" in capsys.readouterr().err


# In a terminal

pty = pytest.importorskip("pty", reason="there are no pseudo terminals here")


class Terminal:
    """`socaity top` in a pseudo terminal of a size."""

    def __init__(self, *arguments: str, columns: int = 100, rows: int = 30, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self._slave = slave
        self.resize(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={
                **{k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")},
                "TERM": "xterm",
                **environment,
            },
        )
        self.output = ""

    def resize(self, columns: int, rows: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def attributes(self) -> list[Any]:
        import termios

        return termios.tcgetattr(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, pattern: str, *, after: int = 0) -> None:
        """Read until what came after the character `after` matches."""
        deadline = time.monotonic() + 2 * SOON
        while not re.search(pattern, self.output[after:], re.DOTALL):
            ready, _, _ = select.select([self._master], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"never came: {pattern}\n{self.output[-2000:]!r}"
            self.output += os.read(self._master, 65536).decode(errors="replace")

    def end(self) -> int:
        """The exit code, when everything has been read."""
        code = self.process.wait(SOON)
        while select.select([self._master], [], [], 0)[0]:
            self.output += os.read(self._master, 65536).decode(errors="replace")
        return code

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(SOON)
        assert self.process.stderr is not None
        self.process.stderr.close()
        os.close(self._master)
        os.close(self._slave)


def test_terminal_is_live_and_restored_after_q(service: LiveService, dataplane: FakeDataPlane) -> None:
    with Terminal(service.url) as terminal:
        before = terminal.attributes()
        terminal.read_until("mlp_10")
        assert terminal.output.startswith(BEGIN)
        dataplane.models[0].batcher.depth = 4321
        terminal.read_until("4,321")
        seen = len(terminal.output)
        terminal.resize(30, 10)
        terminal.read_until(r"\x1b\[H.*\x1b\[H", after=seen)
        seen = len(terminal.output)
        terminal.read_until(r"\x1b\[H[^H]*more lines.*\x1b\[J", after=seen)
        frame = terminal.output[seen:].split("\x1b[H")[1].split("\x1b[J")[0]
        lines = ESCAPES.sub("", frame).replace("\r", "").split("\n")
        assert len(lines) == 10
        assert max(map(width_of, lines)) <= 30
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.output.endswith(END)
        assert terminal.attributes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_terminal_is_restored_after_a_signal(service: LiveService, number: int, code: int) -> None:
    with Terminal(service.url) as terminal:
        before = terminal.attributes()
        terminal.read_until("mlp_10")
        terminal.process.send_signal(number)
        assert terminal.end() == code
        assert terminal.output.endswith(END)
        assert terminal.attributes() == before


def test_colour_can_be_turned_off(service: LiveService) -> None:
    with Terminal(service.url, NO_COLOR="1") as terminal:
        terminal.read_until("mlp_10.*\x1b\\[J")
        assert not re.search(r"\x1b\[[0-9;]*m", terminal.output)
    with Terminal(service.url) as terminal:
        terminal.read_until("\x1b\\[32mready")


def test_terminal_comes_back_after_the_server_was_restarted(
    service: LiveService, dataplane: FakeDataPlane
) -> None:
    with Terminal(service.url) as terminal:
        terminal.read_until("mlp_10.*live")
        service.stop()
        terminal.read_until(r"reconnecting, last update \d+ s ago")
        dataplane.models = [FakeDirect("fresh")]
        service.start()
        terminal.read_until("fresh")
        terminal.press("q")
        assert terminal.end() == 0


def test_stream_of_json_ends_quietly_with_its_reader(service: LiveService, dataplane: FakeDataPlane) -> None:
    command = [sys.executable, "-c", PROGRAM, service.url, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            dataplane.models[0].work()
            assert json.loads(process.stdout.readline())["service"]["title"] == "shop"
        process.stdout.close()
        while process.poll() is None:
            dataplane.models[0].work()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        assert process.returncode == 0
        assert process.stderr.read() == ""
