"""Python models that take text: in process, over the socket and the Open Inference Protocol, and from the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import socaity
from socaity.exceptions import InvalidInputError
from socaity_server import SocaityRouter

from .servers import DEADLINE, ServerProcess

ONE = """
import numpy as np

def predict(text: str):
    assert type(text) is str
    return {"upper": np.array([text.upper()], dtype=object), "length": np.array(float(len(text)))}
"""
ROWS = """
import numpy as np

def predict(text):
    return np.array([one.upper() for one in text], dtype=object)
"""
MODELS = {
    "one": {"model.py": ONE},
    "thread": {"model.py": ONE, "model_config.yaml": "execution: thread"},
    "bare": {"model.py": "def predict(text: str, times: int):\n    return text * times\n"},
    "rows": {
        "model.py": ROWS,
        "model_config.yaml": "inputs: [{name: text, dtype: str, shape: [-1]}]",
    },
    "undeclared": {"model.py": ROWS},
}
WIRES = ("in process", "socket", "oip+http", "oip+grpc")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, files in MODELS.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    env = {"SOCAITY_CACHE": str(tmp_path_factory.mktemp("cache"))}
    with ServerProcess(str(models), "--grpc-port", "0", env=env) as server:
        yield server


def address(server: ServerProcess, wire: str) -> str:
    if wire != "oip+grpc":
        return server.url if wire == "socket" else f"oip+{server.url}"
    said = re.search(r"gRPC at \S+:(\d+)", server.said)
    assert said is not None, server.said
    return f"oip+grpc://127.0.0.1:{said[1]}"


@pytest.fixture(scope="module", params=WIRES)
def service(request: pytest.FixtureRequest, models: Path) -> Iterator[socaity.Service]:
    target: SocaityRouter | str
    if request.param == "in process":
        target = SocaityRouter()
        target.add_models(models)
    else:
        target = address(request.getfixturevalue("server"), request.param)
    with socaity.connect(target, progress=False) as service:
        yield service


@pytest.mark.parametrize("name", ["one", "thread"])
def test_a_parameter_annotated_str_gets_the_text(service: socaity.Service, name: str) -> None:
    found = service[name]("abc").result(DEADLINE)
    assert np.asarray(found["upper"]).reshape(-1).tolist() == ["ABC"]
    assert float(found["length"]) == 3
    with pytest.raises(InvalidInputError, match="text"):
        service[name](["a", "b"]).result(DEADLINE)


def test_a_text_alone_comes_back_as_a_text(service: socaity.Service) -> None:
    assert np.asarray(service.bare("ab", 2).result(DEADLINE)).item() == "abab"


def test_declared_text_is_one_or_several(service: socaity.Service) -> None:
    assert service.rows("abc").result(DEADLINE) == "ABC"
    for texts in (["a", "b"], np.array(["a", "b"], dtype=object), np.array(["a", "b"])):
        assert list(service.rows(texts).result(DEADLINE)) == ["A", "B"]
    assert list(service.rows.map(["a", "b"]).result(DEADLINE)) == ["A", "B"]


def test_a_model_that_declares_nothing_takes_text(service: socaity.Service) -> None:
    assert np.asarray(service.undeclared("abc").result(DEADLINE)).reshape(-1).tolist() == ["ABC"]


def test_signatures_say_what_is_text(models: Path) -> None:
    router = SocaityRouter()
    router.add_models(models)
    with socaity.connect(router, progress=False) as service:
        assert str(service.one.__signature__).startswith("(text: str) ->")
        assert str(service.rows.__signature__).startswith("(text: str | list[str]) ->")
        with pytest.raises(InvalidInputError, match="expected one text, got lists of text"):
            service.one(["a", "b"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bare", "text=[1]", "times=2"], "[1][1]"),
        (["rows", "text=abc"], "ABC"),
        (["rows", 'text=["a", "b"]', "--json"], '["A", "B"]'),
        (["rows", "text=a", "text=b", "--json"], '["A", "B"]'),
        (["undeclared", "text=abc"], "ABC"),
    ],
)
def test_the_command_line_gives_text(server: ServerProcess, words: list[str], said: str) -> None:
    name, *arguments = words
    ran = subprocess.run(
        [sys.executable, "-m", "socaity.cli", "call", server.url, name, *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{said}\n", "")
