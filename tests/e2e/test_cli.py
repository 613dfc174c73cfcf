"""The command line without a terminal: pipes, files, exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import socaity

from .servers import DEADLINE, ServerProcess

SOCAITY = [sys.executable, "-m", "socaity.cli"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ServerProcess("cli_service:router") as server:
        yield server.url


def run(*words: str, stdin: bytes = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*SOCAITY, *words], input=stdin, capture_output=True, timeout=DEADLINE, env={**os.environ, **env}
    )


def shell(line: str, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """A line for bash, in which `socaity` is the command."""
    line = f'set -o pipefail; socaity() {{ {shlex.join(SOCAITY)} "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=DEADLINE, cwd=folder)


def said(ran: subprocess.CompletedProcess[bytes]) -> tuple[int, str]:
    return ran.returncode, ran.stdout.decode()


def test_call_prints_text_as_text(url: str) -> None:
    assert said(run("call", url, "paint", "text=a=b", "steps=2")) == (0, "a=b 2 small None\n")
    ran = run("call", url, "paint", "text=7", 'style={"name": "ink"}', "size=large", "--json")
    assert said(ran) == (0, '"7 4 large ink"\n')
    assert ran.stderr == b""


def test_url_may_be_a_bare_host(url: str) -> None:
    assert said(run("call", url.removeprefix("http://"), "total", "values=[1, 2]"))[0] == 0


def test_options_may_stand_between_arguments(url: str) -> None:
    assert said(run("call", url, "paint", "text=a", "--json", "steps=1")) == (0, '"a 1 small None"\n')


def test_picture_goes_in_through_a_pipe_and_json_comes_out(url: str, tmp_path: Path) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 1000
    (tmp_path / "img.png").write_bytes(picture)
    ran = shell(f"cat img.png | socaity call {url} predict image=@- > out.json", tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
    expected = {"bytes": len(picture), "head": "89504e47", "top": 1}
    assert json.loads((tmp_path / "out.json").read_text()) == expected
    assert json.loads(run("call", url, "predict", f"image=@{tmp_path / 'img.png'}").stdout) == expected


def test_all_arguments_in_one_file(url: str, tmp_path: Path) -> None:
    arguments = tmp_path / "arguments.json"
    arguments.write_text('{"text": "filed", "steps": 9}')
    assert said(run("call", url, "paint", f"@{arguments}", "steps=1")) == (0, "filed 1 small None\n")
    assert said(run("call", url, "paint", "@-", stdin=b'{"text": "piped"}')) == (0, "piped 4 small None\n")


def test_arrays_are_read_and_saved_as_npy(url: str, tmp_path: Path) -> None:
    given, doubled = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(given, np.array([[3.0, 4.0], [6.0, np.nan]]))
    assert said(run("call", url, "double", f"x=@{given}", "-o", str(doubled))) == (0, "")
    np.testing.assert_array_equal(np.load(doubled), [[6.0, 8.0], [12.0, np.nan]])
    assert said(run("call", url, "double", f"x=@{given}")) == (0, "[[6.0, 8.0], [12.0, null]]\n")
    assert said(run("call", url, "double", "x=[3, 4]")) == (0, "[6, 8]\n")


def test_bytes_come_as_they_are(url: str, tmp_path: Path) -> None:
    assert run("call", url, "raw", "size=256").stdout == bytes(range(256))
    assert said(run("call", url, "raw", "size=3", "--json")) == (0, '"AAEC"\n')
    saved = tmp_path / "raw.bin"
    assert said(run("call", url, "raw", "size=5", "-o", str(saved))) == (0, "")
    assert saved.read_bytes() == bytes(range(5))


def test_stream_is_text_or_json_lines(url: str) -> None:
    assert said(run("call", url, "write", "prompt=Once")) == (0, "Once upon a time\n")
    assert said(run("call", url, "write", "prompt=Once", "--json")) == (0, '"Once"\n" upon"\n" a time"\n')


def test_stream_that_breaks_says_only_why(url: str) -> None:
    for _ in range(4):
        ran = run("call", url.replace("http", "oip+http", 1), "crumble", "word=first")
        assert (ran.returncode, ran.stdout) == (1, b"first\n")
        assert "it broke" in ran.stderr.decode()
        assert b"Task was destroyed" not in ran.stderr


def test_chunk_is_printed_before_the_next_one_is_made(url: str) -> None:
    assert run("call", url, "shut").returncode == 0
    with subprocess.Popen([*SOCAITY, "call", url, "drip"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        assert run("call", url, "open").returncode == 0
        assert process.stdout.read() == b"second\n"
        assert process.wait(DEADLINE) == 0


def test_reader_that_has_enough_ends_it_quietly_and_stops_the_stream(url: str) -> None:
    # -q: on a busy machine the first number may come so late that a line says what is waited for
    ran = shell(f"socaity call {url} endless -q | head -n 2; echo ${{PIPESTATUS[0]}}")
    assert (ran.stdout, ran.stderr) == (b"0\n1\n0\n", b"")
    (job,) = json.loads(run("jobs", "--url", url, "--endpoint", "endless", "--json").stdout)
    with socaity.connect(
        url, progress=False
    ) as service:  # the command does not wait for long until it has ended
        assert isinstance(service.job(job["id"]).exception(DEADLINE), socaity.JobCancelled)


def test_reader_that_has_enough_of_a_list_is_no_error(url: str) -> None:
    ran = shell(f"socaity stub {url} | head -n 1; echo ${{PIPESTATUS[0]}}")
    assert ran.stdout.endswith(b"\n0\n")
    assert ran.stderr == b""


def test_failed_job_is_exit_code_1(url: str) -> None:
    ran = run("call", url, "boom")
    assert said(ran) == (1, "")
    assert ran.stderr.startswith(b"socaity call: RuntimeError: it broke\n")


def test_service_that_is_not_there_is_exit_code_1() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ran = run("call", f"http://127.0.0.1:{free.getsockname()[1]}", "paint")
    assert ran.returncode == 1
    assert b"socaity call: " in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paint", "txt=a"], "did you mean 'text'?"),
        (["paint"], "needs the argument 'text'"),
        (["paint", "text=a", "steps=many"], "steps='many': expected a whole number"),
        (["paint", "text=a", "steps=2.5"], "expected an integer"),
        (["paint", "a cat"], "did you mean text='a cat'?"),
        (["paint", "text=a", "text=b"], "text is given 2 times"),
        (["paint", "text=a", "size=huge"], "expected one of 'small', 'large'"),
        (["pain", "text=a"], "did you mean 'paint'?"),
        (["paint", "text=@missing.txt"], "missing.txt cannot be read"),
        (["predict", "image=@-", "top=@-"], "can be given to one argument only"),
        (["paint", "text=a", "-o", "/no/such/folder/x"], "no such folder"),
        (["total", "values=[1"], "a list as JSON"),
        (["total", "values=[1]", "exact=True"], "did you mean exact=true?"),
        (["double", "x=@/dev/null"], "is not JSON"),
        (["total", "values=many"], "values='many': expected a number"),
        (["list", "a=many"], "Parameter 'a'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_to_write(url: str, words: list[str], message: str) -> None:
    ran = run("call", url, *words)
    assert said(ran) == (2, "")
    assert message in ran.stderr.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cal"], "did you mean 'call'?"),
        (["jobs"], "--url URL"),
        (["call", "http://127.0.0.1:8000"], "ENDPOINT"),
        (["endpoints", "http://"], "is no URL"),
        (["endpoints", "gopher://there"], "gopher"),
        (["endpoints", "http://h", "--header", "x"], "NAME: VALUE"),
        (["completion", "tcsh"], "tcsh"),
        (["call", "http://127.0.0.1:99999", "paint"], "is no URL"),
        (
            ["jobs", "--url", "oip+http://me:secret@h:1"],
            "oip+http://h:1: a server of the Open Inference Protocol keeps no",
        ),
        (["jobs", "x", "--cancel", "--url", "oip+grpc://h:1"], "keeps no jobs"),
        (
            ["top", "oip+http://me:secret@h:1"],
            "has no live view, only our own has one: give its address as http://h:1",
        ),
    ],
)
def test_wrong_commands_are_exit_code_2(words: list[str], message: str) -> None:
    ran = run(*words, SOCAITY_URL="")
    assert said(ran) == (2, "")
    assert message in ran.stderr.decode()


def test_endpoints_lists_signatures_and_tells_all_about_one(url: str) -> None:
    listed = run("endpoints", url).stdout.decode()
    assert "total(values: list[float], names: Optional[list[str]] = None, exact: bool = False)" in listed
    assert "write(prompt: str) -> str (stream)" in listed
    about = run("endpoints", url, "paint").stdout.decode()
    assert "text: str\n      what to paint\n" in about
    assert "Slowly." in about
    described = json.loads(run("endpoints", url, "paint", "--json").stdout)
    assert [one["name"] for one in described["parameters"]] == ["text", "steps", "style", "size"]
    assert "paint" in {one["name"] for one in json.loads(run("endpoints", url, "--json").stdout)}


def test_endpoints_tells_limits_and_the_keys_of_objects(url: str) -> None:
    paint = run("endpoints", url, "paint").stdout.decode()
    assert "\n  style: Optional[dict] = None\n" in paint
    assert "\n      name: Literal['oil', 'ink'] = 'oil'\n      tags: list[str] = []\n" in paint
    tree = run("endpoints", url, "tree").stdout.decode()
    assert tree.endswith("\n  node: dict\n      value: int\n      children: list[dict] = []\n")  # once
    odd = run("endpoints", url, "odd").stdout.decode()
    assert "\n      class: str\n      how-many: int\n" in odd


def test_help_says_what_the_commands_do() -> None:
    ran = run("--help")
    assert ran.returncode == 0
    for name, what in (("call", "call an endpoint"), ("serve", "serve a folder of models"), ("top", "live")):
        assert re.search(rf"^  {name} +.*{what}", ran.stdout.decode(), re.MULTILINE)
    assert said(run()) == (2, ran.stdout.decode())


def test_jobs_of_an_endpoint_that_is_not_there_are_wrong_usage(url: str) -> None:
    ran = run("jobs", "--url", url, "--endpoint", "pain")
    assert said(ran) == (2, "")
    assert b"paint" in ran.stderr


def test_jobs_are_listed_waited_for_and_stopped(url: str) -> None:
    with socaity.connect(url, progress=False) as service:
        service.shut().result(DEADLINE)
        first, second = service.hold("held"), service.hold("stopped")
        while (first.status, second.status) != ("running", "queued"):
            service.refresh()
        table = run("jobs", "--url", url, "--endpoint", "hold").stdout.decode()
        assert table.splitlines()[0].split() == ["ID", "ENDPOINT", "STATUS", "PROGRESS", "CREATED"]
        assert f"{first.id}  hold      running" in table
        queued = json.loads(run("jobs", "--status", "queued", "--json", SOCAITY_URL=url).stdout)
        assert [(job["id"], job["status"]) for job in queued] == [(second.id, "queued")]
        socket_url = url.replace("http", "ws") + "/ws"
        assert json.loads(run("jobs", socket_url, "--limit", "1", "--json").stdout)[0]["id"] == second.id

        assert run("jobs", second.id, "--url", url, "--cancel").returncode == 0
        assert second.exception(DEADLINE) is not None
        service.open().result(DEADLINE)
    assert said(run("jobs", first.id, "--url", url)) == (0, "held\n")
    assert said(run("jobs", first.id, "--url", url, "--json")) == (0, '"held"\n')
    stopped = run("jobs", second.id, "--url", url)
    assert said(stopped) == (1, "")
    assert b"cancel" in stopped.stderr


def test_stream_that_has_ended_is_read_again(url: str) -> None:
    assert run("call", url, "write", "prompt=Twice").returncode == 0
    job = json.loads(run("jobs", "--url", url, "--endpoint", "write", "--limit", "1", "--json").stdout)[0]
    assert said(run("jobs", job["id"], "--url", url)) == (0, "Twice upon a time\n")


def test_unknown_job_is_exit_code_1(url: str) -> None:
    for words in (["0" * 32], ["0" * 32, "--cancel"]):
        ran = run("jobs", *words, "--url", url)
        assert said(ran) == (1, "")
        assert ran.stderr.startswith(b"socaity jobs: ")


def test_completion_is_silent_when_nobody_answers(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()  # takes the connection and never says a word
        ran = run("__complete", "zsh", "call", f"http://127.0.0.1:{deaf.getsockname()[1]}", "pa")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")


def test_completion_knows_the_live_service(url: str) -> None:
    def complete(*words: str) -> list[str]:
        ran = run("__complete", "fish", *words)
        assert ran.stderr == b""
        return ran.stdout.decode().splitlines()

    assert complete("ca") == ["call"]
    assert complete("call", url, "pa") == ["paint"]
    assert complete("call", url, "paint", "") == ["text=", "steps=", "style=", "size="]
    assert complete("call", url, "paint", "text=a", "s") == ["steps=", "style=", "size="]
    assert complete("call", url, "paint", "size=") == ["size=small", "size=large"]
    assert complete("call", url, "total", "exact=t") == ["exact=true"]
    assert complete("endpoints", url, "tr") == ["tree"]
    assert complete("jobs", "--url", url, "--endpoint", "ho") == ["hold"]
    assert complete("jobs", "--status", "r") == ["running"]
    assert complete("call", "--js") == ["--json"]


@pytest.mark.parametrize("command", [["call", "{url}", "paint", "text=a"], ["top", "{url}", "--once"]])
def test_key_that_cannot_be_sent_is_refused_without_being_told(url: str, command: list[str]) -> None:
    words = [one.format(url=url) for one in command]
    ran = run(*words, SOCAITY_API_KEY="k3y-€")
    assert said(ran) == (2, "")
    assert "characters that no header can carry" in ran.stderr.decode()
    assert b"k3y" not in ran.stderr
    assert run(*words, SOCAITY_API_KEY="k3y\n").returncode == 0
