"""Files, pictures, sound and tables that a job gave, as arguments of the next call: whether it has ended by then makes no
difference."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import BaseModel

import socaity
from socaity import Audio
from socaity_server import SocaityRouter

from ..server.conftest import serve

DEADLINE = 20
RAMP = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)


class Scene(BaseModel):
    name: str
    size: int = 1


class Steps:
    """A service whose media wait at a gate; the others say what they were given."""

    def __init__(self, folder: Path) -> None:
        self.router = SocaityRouter(grace=1.0)
        self.gate = threading.Event()
        routes = self.router.add_route

        def wait() -> None:
            assert self.gate.wait(DEADLINE)

        @routes("/file")
        def file() -> Path:
            wait()
            made = folder / "made.txt"
            made.write_text("abc")
            return made

        @routes("/picture")
        def picture() -> Image.Image:
            wait()
            return Image.new("RGB", (3, 4), "red")

        @routes("/sound")
        def sound() -> Audio:
            wait()
            return Audio(RAMP, 16_000)

        @routes("/table")
        def table() -> pd.DataFrame:
            wait()
            return pd.DataFrame({"a": [1, 2]})

        @routes("/text")
        def text() -> str:
            wait()
            return "name"

        @routes("/told")
        def told(value: Any) -> Any:
            return _told(value)

        @routes("/told_file")
        def told_file(value: Path) -> Any:
            return value.read_text()

        @routes("/told_picture")
        def told_picture(value: Image.Image) -> Any:
            return [*value.size, value.getpixel((0, 0))]

        @routes("/told_sound")
        def told_sound(value: Audio) -> Any:
            return [value.sample_rate, len(value.samples)]

        @routes("/told_table")
        def told_table(value: pd.DataFrame) -> Any:
            return value["a"].tolist()

        @routes("/told_scene")
        def told_scene(scene: Scene) -> Any:
            return [scene.name, scene.size]


def _told(value: Any) -> Any:
    """Kinds only: bytes of pictures may differ."""
    if isinstance(value, list):
        return [_told(item) for item in value]
    if isinstance(value, dict) and "$media" in value:
        return f"media {value['$media']}"
    return value


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path)


@pytest.fixture(params=["websocket", "http", "inprocess"])
def service(request: pytest.FixtureRequest, steps: Steps) -> Iterator[socaity.Service]:
    if request.param == "inprocess":
        with socaity.connect(steps.router, progress=False) as service:
            yield service
        return
    with serve(steps.router) as url:
        if request.param == "websocket":
            url = url.replace("http:", "ws:") + "/ws"
        with socaity.connect(url, transport=request.param, progress=False) as service:
            yield service


@pytest.fixture(params=["ended", "unfinished"])
def has_ended(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "ended")


def made(service: socaity.Service, steps: Steps, kind: str, has_ended: bool) -> socaity.Job[Any]:
    job = service[kind]()
    if has_ended:
        steps.gate.set()
        job.result(DEADLINE)
    return job


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("file", "abc"),
        ("picture", [3, 4, [255, 0, 0]]),
        ("sound", [16_000, 1600]),
        ("table", [1, 2]),
    ],
)
def test_media_of_a_job_go_into_a_parameter_for_them(
    service: socaity.Service, steps: Steps, has_ended: bool, kind: str, expected: Any
) -> None:
    job = made(service, steps, kind, has_ended)
    told = service[f"told_{kind}"](job)
    steps.gate.set()
    assert told.result(DEADLINE) == expected
    assert service[f"told_{kind}"](job.result(DEADLINE)).result(DEADLINE) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("file", "media text/plain"),
        ("picture", "media image/png"),
        ("sound", "media audio/wav"),
        ("table", "media application/vnd.socaity.table"),
    ],
)
def test_media_of_a_job_go_where_anything_goes(
    service: socaity.Service, steps: Steps, has_ended: bool, kind: str, expected: str
) -> None:
    job = made(service, steps, kind, has_ended)
    alone, among = service.told(job), service.told([1, [job]])
    steps.gate.set()
    assert alone.result(DEADLINE) == expected
    assert among.result(DEADLINE) == [1, [expected]]
    value = job.result(DEADLINE)
    assert service.told([value]).result(DEADLINE) == [expected]


def test_a_model_may_hold_a_job(service: socaity.Service, steps: Steps, has_ended: bool) -> None:
    job = made(service, steps, "text", has_ended)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = service.told_scene(Scene.model_construct(name=job, size=2))
    steps.gate.set()
    assert told.result(DEADLINE) == ["name", 2]
