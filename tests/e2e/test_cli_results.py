"""What the command line writes into files, what it says when it cannot, and what a terminal is not told."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import socaity

from .result_service import ESCAPES
from .servers import DEADLINE, ServerProcess
from .test_cli import run, said, shell
from .test_cli_terminal import Terminal

NEEDS_TMUX = pytest.mark.skipif(shutil.which("tmux") is None and "CI" not in os.environ, reason="needs tmux")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerProcess("result_service:router") as server:
        yield server.url


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("picture", "a.png"),
        ("picture", "a.webp"),
        ("pixels", "a.png"),
        ("pixels", "a.npy"),
        ("say", "a.txt"),
        ("say", "a.json"),
        ("number", "a.json"),
    ],
)
def test_file_is_the_one_that_save_makes(url: str, tmp_path: Path, endpoint: str, name: str) -> None:
    with socaity.connect(url, progress=False) as service:
        service[endpoint]().save(tmp_path / name, timeout=DEADLINE)
    saved = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    ran = run("call", url, endpoint, "-o", str(tmp_path / name))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    assert (tmp_path / name).read_bytes() == saved
    assert os.listdir(tmp_path) == [name]


def test_name_is_taken_as_it_is(url: str, tmp_path: Path) -> None:
    assert said(run("call", url, "picture", "-o", str(tmp_path / "picture"))) == (0, "")
    with Image.open(tmp_path / "picture") as picture:
        assert picture.format == "PNG"
    assert said(run("call", url, "say", "-o", str(tmp_path / "text"), "--json")) == (0, "")
    assert (tmp_path / "text").read_text() == '"hello"\n'


def test_many_pictures_are_a_folder_also_the_second_time(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        assert said(run("call", url, "album", "-o", str(tmp_path / "album"))) == (0, "")
        assert sorted(os.listdir(tmp_path / "album")) == ["0.png", "1.png"]
    refused = run("call", url, "say", "-o", str(tmp_path / "album"))
    assert said(refused) == (2, "")
    assert b"album is a folder; the result is one file\nThe result is kept: socaity jobs " in refused.stderr


def test_file_that_is_there_is_written_over_whole(url: str, tmp_path: Path) -> None:
    target, link = tmp_path / "a.txt", tmp_path / "link.txt"
    target.write_text("old and long")
    target.chmod(0o600)
    link.symlink_to(target)
    reader = target.open()
    assert said(run("call", url, "say", "-o", str(link))) == (0, "")
    assert target.read_text() == "hello"
    assert reader.read() == "old and long"  # who had opened it sees no part of the new one
    reader.close()
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_stream_is_a_file_when_it_has_ended(url: str, tmp_path: Path) -> None:
    target = tmp_path / "words.txt"
    target.write_text("old")
    ran = run("call", url, "broken", "-o", str(target))
    assert ran.returncode == 1
    assert b"it broke in the middle" in ran.stderr
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["words.txt"]
    assert said(run("call", url, "words", "-o", str(target))) == (0, "")
    assert target.read_text() == "one two three"
    assert os.listdir(tmp_path) == ["words.txt"]


def test_devices_and_pipes_stay_what_they_are(url: str, tmp_path: Path) -> None:
    """Those of the machine are reached by links of our own, which is all that a mistake could harm."""
    nothing, pipe = tmp_path / "nothing", tmp_path / "pipe"
    nothing.symlink_to("/dev/null")
    os.mkfifo(pipe)
    assert said(run("call", url, "say", "-o", str(nothing))) == (0, "")
    assert said(run("stub", url, "-o", str(nothing))) == (0, "")
    assert nothing.is_symlink()
    assert nothing.is_char_device()
    assert said(run("call", url, "words", "-o", "/proc/self/fd/1")) == (0, "one two three")
    for command, expected in [
        (f"call {url} words", b"one two three"),
        (f"stub {url}", run("stub", url).stdout),
    ]:
        ran = shell(f"cat pipe & socaity {command} -o pipe; wait", tmp_path)
        assert (ran.returncode, ran.stdout) == (0, expected)
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == ["nothing", "pipe"]


# -- what cannot be written -----------------------------------------------------------------------------------------------


def assert_says(stderr: bytes, message: str, url: str) -> None:
    """One line, and how to get the result; the command in it works."""
    first, second = stderr.decode().splitlines()
    assert message in first
    start, _, command = second.partition(": ")
    assert start == "The result is kept"
    words = command.split()
    assert words[0] == "socaity"
    assert said(run(*words[1:-2])) == (0, "hello\n")
    assert words[-2:] == ["-o", "FILE"]


def test_full_disk_is_one_line_and_the_result_is_kept(url: str, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    message = f"socaity call: the result cannot be written to {full}: No space left on device"
    ran = run("call", url, "say", "-o", str(full))
    assert said(ran) == (1, "")
    assert_says(ran.stderr, message, url)
    ran = shell(f"socaity call {url} say > /dev/full")
    assert ran.returncode == 1
    assert_says(ran.stderr, message.replace(str(full), "the standard output"), url)
    ran = shell(f"socaity call {url} words > /dev/full")
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 2


def test_closed_stdout_is_one_line_and_the_result_is_kept(url: str, tmp_path: Path) -> None:
    ran = shell(f"socaity call {url} say >&-")
    assert ran.returncode == 1
    assert_says(ran.stderr, "cannot be written to the standard output: Bad file descriptor", url)
    assert shell(f"socaity call {url} say -o a.txt >&- 2>&-", tmp_path).returncode == 0
    assert (tmp_path / "a.txt").read_text() == "hello"
    assert shell(f"socaity call {url} refuse 2>&-").returncode == 1


@pytest.mark.parametrize("command", ["endpoints", "stub", "jobs --url"])
def test_list_that_cannot_be_printed_is_one_line(url: str, command: str) -> None:
    assert run("call", url, "say").returncode == 0
    for place in ("> /dev/full", ">&-"):
        ran = shell(f"socaity {command} {url} {place}")
        assert ran.returncode == 1
        assert ran.stderr.startswith(f"socaity {command.split()[0]}: ".encode())
        assert len(ran.stderr.splitlines()) == 1


def test_name_that_is_none_is_refused_before_anything_is_sent(url: str, tmp_path: Path) -> None:
    for name, message in [("n" * 300, "File name too long"), ("none/a.txt", "no such folder")]:
        ran = run("call", url, "refuse", "-o", str(tmp_path / name))
        assert said(ran) == (2, "")
        assert message in ran.stderr.decode()
        assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("endpoint", "name", "message"),
    [
        ("picture", "a.jpg", "a picture of the mode RGBA cannot be saved as .jpg"),
        ("pixels", "a.xyz", "an array cannot be saved as .xyz"),
        ("number", "a.png", "a float cannot be saved as .png; use .json"),
    ],
)
def test_form_that_does_not_fit_is_usage_and_the_result_is_kept(
    url: str, tmp_path: Path, endpoint: str, name: str, message: str
) -> None:
    ran = run("call", url, endpoint, "-o", str(tmp_path / name))
    assert said(ran) == (2, "")
    first, second = ran.stderr.decode().splitlines()
    assert message in first
    assert second.startswith("The result is kept: socaity jobs ")
    assert not os.listdir(tmp_path)


# -- what a terminal is not told ------------------------------------------------------------------------------------------


def test_errors_hold_nothing_that_a_terminal_obeys(url: str) -> None:
    for words in (["call", url, "refuse"], ["call", url, "refuse", "--json"]):
        ran = run(*words)
        assert said(ran) == (1, "")
        text = ran.stderr.decode()
        assert text.startswith(
            r"socaity call: RuntimeError: \u001b[31mred\u001b]0;title\u0007\u009b1mbold\u202egnp"
        )
        assert "\nsecond line\n" in text
        assert not set(text) & set("\x1b\x07\x9b\u202e")


def test_results_in_a_pipe_are_as_they_are(url: str) -> None:
    assert run("call", url, "coloured").stdout.decode() == f"{ESCAPES}\n\tcafé 日本 👩‍🚀\n"
    assert run("call", url, "coloured_words").stdout.decode() == f"one {ESCAPES}\n"
    assert json.loads(run("call", url, "coloured_map").stdout) == {"text": ESCAPES}


@NEEDS_TMUX
def test_results_on_a_terminal_are_harmless(url: str, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    shown = r"\u001b[31mred\u001b]0;title\u0007\u009b1mbold\u202egnp\u001b[0m"
    try:
        for endpoint, expected in [
            ("coloured", f"{shown}\n        café 日本"),
            ("coloured_words", f"one {shown}\n"),
            ("coloured_map", f'{{"text": "{shown}"}}\n'),
            ("coloured | cat", "red1mbold"),  # the terminal has obeyed
        ]:
            # a word of its own: the screen may still show what was before
            word = f"rc_{endpoint.replace(' | ', '_')}"
            terminal.line(f"clear; socaity call {url} {endpoint}; echo {word}=$?")
            assert expected in terminal.wait(lambda screen, end=f"\n{word}=0": end in screen)
    finally:
        terminal.close()


# -- lists of jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["-1", "0", "1001", "many", "²"])
def test_limit_that_is_none_is_usage(url: str, limit: str) -> None:
    ran = run("jobs", "--url", url, f"--limit={limit}")
    assert said(ran) == (2, "")
    assert b"is not a number from 1 to 1000" in ran.stderr


def test_stopping_a_job_says_so_in_json(url: str) -> None:
    assert run("call", url, "say").returncode == 0
    (job,) = json.loads(run("jobs", "--url", url, "--limit", "1", "--json").stdout)
    ran = run("jobs", job["id"], "--url", url, "--cancel", "--json")
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout) == {"id": job["id"], "asked_to_stop": True}
