"""`socaity serve FOLDER` as people run it: several formats at once, bad models beside good ones, watching, settings, draining."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import socaity

from .servers import DEADLINE, ServerProcess

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits.onnx"
HALF = """
import numpy as np

def predict(x):
    return np.asarray(x) * {factor}
"""
HANDLER = """
from socaity_server import SocaityRouter
from socaity_server.handlers import DefaultModelHandler, ModelMetadataResponse

class Mine(DefaultModelHandler):
    def model_metadata(self, model_name, model_version=None):
        return ModelMetadataResponse(name=model_name, platform="mine")

    def model_load(self, model_name):
        return True

router = SocaityRouter()
router.add_handler(Mine(), models=["h1"])
"""
SLOW = """
import pathlib
import time

def predict(x):
    pathlib.Path(__file__).with_name("ran").touch()
    time.sleep(0.5)
    return x
"""


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def until(look: Callable[[], bool]) -> None:
    """The server is another process and says nothing when it has changed: it has to be asked."""
    stop, pause = time.monotonic() + DEADLINE, threading.Event()
    while not look():
        assert time.monotonic() < stop, "it did not come true"
        pause.wait(0.02)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One model of each kind that needs no large extra."""
    models = tmp_path / "models"
    (models / "digits").mkdir(parents=True)
    shutil.copy(DIGITS, models / "digits" / "model.onnx")
    (models / "half").mkdir()
    (models / "half" / "model.py").write_text(HALF.format(factor=0.5))
    images, labels = load_digits(return_X_y=True)
    (models / "line").mkdir()
    joblib.dump(LogisticRegression(max_iter=20).fit(images / 16, labels), models / "line" / "model.joblib")
    return models


@pytest.fixture
def cache(tmp_path: Path) -> dict[str, str]:
    return {"SOCAITY_CACHE": str(tmp_path / "cache")}


@pytest.fixture
def server(folder: Path, cache: dict[str, str]) -> Iterator[ServerProcess]:
    with ServerProcess(str(folder), "--watch", "--allow-pickle", env=cache) as server:
        yield server


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_folder_of_models_is_a_service(server: ServerProcess) -> None:
    assert "Serving digits, half, line" in server.said
    images, _ = load_digits(return_X_y=True)
    with socaity.connect(server.url) as service:
        jobs = [
            service.digits(images[:2].astype(np.float32)),
            service.half([1.0, 3.0]),
            service.line(images[:2] / 16),
        ]
        digits, half, line = (job.result(DEADLINE) for job in jobs)
    assert digits.shape == (2, 10)
    assert half.tolist() == [0.5, 1.5]
    assert line.tolist() == [0, 1]
    status, body = ask(f"{server.url}/predict_batched/line", {"features": (images[3] / 16).tolist()})
    assert (status, body) == (200, {"model": "line", "predictions": 3})
    health = ask(f"{server.url}/health")
    assert (health[0], health[1]["status"]) == (200, "healthy")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_pickle_needs_consent_and_the_others_are_served(folder: Path, cache: dict[str, str]) -> None:
    with ServerProcess(str(folder), env=cache) as server:
        status, problem = ask(f"{server.url}/predict/line", {"features": [[0] * 64]})
        assert (status, problem["code"]) == (503, "model_failed")
        assert "--allow-pickle" in problem["detail"]
        assert "sha256" in problem["detail"]
        assert ask(f"{server.url}/health")[1]["status"] == "degraded"
        assert ask(f"{server.url}/predict/half", {"features": [[1, 3]]})[1]["predictions"] == [[0.5, 1.5]]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_are_replaced_while_it_serves_and_a_broken_one_changes_nothing(
    server: ServerProcess, folder: Path
) -> None:
    def half() -> Any:
        return ask(f"{server.url}/predict/half", {"features": [[1, 3]]})[1].get("predictions")

    def reason(name: str) -> str | None:
        models = {model["name"]: model for model in ask(f"{server.url}/available_models")[1]["models"]}
        return None if name not in models else models[name]["reason"]

    stop = threading.Event()
    failures: list[Any] = []

    def load() -> None:
        while not stop.is_set():
            status, body = ask(f"{server.url}/predict/half", {"features": [[2, 4]]})
            if status != 200 or body["predictions"] not in ([[1.0, 2.0]], [[20, 40]]):
                failures.append((status, body))

    callers = [threading.Thread(target=load) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        file = folder / "half" / "model.py"
        new = file.with_name("model.py.new")
        new.write_text(HALF.format(factor=10))
        new.replace(file)
        until(lambda: half() == [[10, 30]])
        file.write_text("def predict(x:\n")
        until(lambda: "SyntaxError" in (reason("half") or ""))
        assert half() == [[10, 30]]
    finally:
        stop.set()
        for caller in callers:
            caller.join(DEADLINE)
    assert failures == []
    shutil.copytree(folder / "digits", folder / "more")
    until(lambda: ask(f"{server.url}/predict/more", {"features": [[0] * 64]})[0] == 200)
    shutil.rmtree(folder / "more")
    until(lambda: ask(f"{server.url}/predict/more", {"features": [[0] * 64]})[0] == 404)


def test_environment_of_the_first_model_server_is_understood(tmp_path: Path, cache: dict[str, str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "half.py").write_text(HALF.format(factor=0.5))
    env = {
        **cache,
        "MODEL_DIRECTORY": str(tmp_path / "models"),
        "LOG_DIRECTORY": str(tmp_path / "logs"),
        "DEBUG_MODE": "True",
        "MAX_REQUESTS": "3",
        "REQUESTS_PERIOD_SECONDS": "600",
    }
    with ServerProcess(str(tmp_path / "models"), env=env) as server:
        statuses = [ask(f"{server.url}/predict/half", {"features": [[1, 3]]})[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        assert ask(f"{server.url}/health")[1]["debug_mode"] is True
    lines = (tmp_path / "logs" / "latency.log").read_text().splitlines()
    assert len(lines) == 3
    assert all("predict half queued=" in line for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_drains(tmp_path: Path, cache: dict[str, str]) -> None:
    models = tmp_path / "models"
    (models / "slow").mkdir(parents=True)
    (models / "slow" / "model.py").write_text(SLOW)
    (models / "slow" / "model_config.yaml").write_text("warmup: false\n")
    with ServerProcess(str(models), env=cache) as server, socaity.connect(server.url) as service:
        job = service.slow([1.0])
        until((models / "slow" / "ran").exists)
        assert server.terminate() in (0, -signal.SIGTERM)  # uvicorn passes the signal on when it has ended
        assert job.result(DEADLINE).tolist() == [1.0]


def test_model_of_a_handler_is_named_and_found(tmp_path: Path) -> None:
    (tmp_path / "handler_of_a_test.py").write_text(HANDLER)
    with ServerProcess("handler_of_a_test:router", env={"PYTHONPATH": str(tmp_path)}) as server:
        assert "Serving h1 (Open Inference only) at http://" in server.said
        with (
            socaity.connect(server.url) as service,
            pytest.raises(socaity.NotFoundError, match=rf"no endpoint 'h1'.*at oip\+{server.url}"),
        ):
            service["h1"]
        with socaity.connect(f"oip+{server.url}") as service:
            assert list(service) == ["h1"]
