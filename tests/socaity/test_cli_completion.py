"""Nothing that a service says can do harm in the command line it is completed into."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from socaity.cli import complete
from socaity.cli.complete import candidates
from socaity.cli.completion import SCRIPTS
from socaity.protocol.description import EndpointDescription, ParameterDescription

HOSTILE = [
    "$(reboot)",
    "`reboot`",
    "a;reboot",
    "a b",
    "a\nreboot",
    "a&reboot",
    "\x1b[31m",
    "a'b",
    "~root",
    "a*",
]


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = [ParameterDescription(name=name) for name in (*HOSTILE, "fine")]
    parameters.append(ParameterDescription(name="kind", json_schema={"enum": [*HOSTILE, "good"]}))
    found = {
        name: EndpointDescription(name=name, path="/", parameters=parameters) for name in (*HOSTILE, "ask")
    }
    monkeypatch.setattr(complete, "_endpoints", lambda url, rest: found)


def test_only_harmless_words_are_offered() -> None:
    assert candidates(["call", "url", ""]) == ["ask"]
    assert candidates(["call", "url", "ask", ""]) == ["fine=", "kind="]
    assert candidates(["call", "url", "ask", "kind="]) == ["kind=good"]


def test_every_candidate_begins_with_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file.json").touch()
    (tmp_path / "a\nb").touch()
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder").mkdir()
    assert candidates([""])[-2:] == ["--help", "--version"]
    assert candidates(["call", "url", "ask", "@"]) == ["@a file.json", "@folder/"]
    assert candidates(["call", "url", "ask", "fine=@f"]) == ["fine=@folder/"]
    assert candidates(["stub", "url", "-o", "f"]) == ["folder/"]
    assert candidates(["serve", "fold"]) == ["folder/"]
    assert candidates(["jobs", "--status", "q"]) == ["queued"]
    assert candidates(["completion", "z"]) == ["zsh"]
    assert candidates(["call", "--header", "x: y", "url", "as"]) == ["ask"]
    assert candidates(["jobs", "--he"]) == ["--header", "--help"]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_script_is_one_of_its_shell(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPTS[shell])
    try:
        ran = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        pytest.skip(f"needs {shell}")
    assert (ran.returncode, ran.stderr) == (0, "")
