"""The programs of the first router's README run as they are written (with an instance, and the provider that is built)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from socaity_server import JobProgress, SocaityRouter

from .conftest import open_client

pytestmark = pytest.mark.anyio

FIRST = """
from socaity_server import SocaityRouter

router = SocaityRouter(provider="fastapi", environment="localhost")

@router.add_route("/predict")
def predict(my_param1: str, my_param2: int = 0):
    return "my_awesome_prediction"
"""

QUEUE = """
from socaity_server import SocaityRouter

router = SocaityRouter()

@router.add_route("/predict", queue_size=100)
def predict(my_param1: str, my_param2: int = 0):
    return "my_awesome_prediction"
"""

PROGRESS = """
from socaity_server import JobProgress, SocaityRouter

router = SocaityRouter()

@router.add_route("/predict", queue_size=10)
def predict(job_progress: JobProgress, my_param1: str, my_param2: int = 0):
    job_progress._message = "I am working on it"
    job_progress._progress = 0.5
    job_progress._message = "Still working on it. Almost done"
    job_progress._progress = 0.8
    return "my_awesome_prediction"
"""


def run(program: str) -> SocaityRouter:
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(program, "snippet", "exec"), names)
    router = names["router"]
    assert isinstance(router, SocaityRouter)
    return router


async def test_first_program() -> None:
    async with open_client(run(FIRST)) as client:
        answer = await client.post("/predict?my_param1=a&my_param2=2")
        assert (answer.status_code, answer.json()) == (200, "my_awesome_prediction")


async def test_queue_answers_with_a_job_and_sync_waits() -> None:
    async with open_client(run(QUEUE)) as client:
        job = (await client.post("/predict?my_param1=a")).json()
        for url in (f"/predict?job_id={job['id']}&wait=5", f"/status?job_id={job['id']}"):
            assert (await client.get(url)).json()["result"] == "my_awesome_prediction"
        done = await client.post("/predict?my_param1=a&sync=true")
        assert (done.status_code, done.json()["result"]) == (200, "my_awesome_prediction")


async def test_progress_reaches_one_at_the_end() -> None:
    async with open_client(run(PROGRESS)) as client:
        job = (await client.post("/predict?my_param1=a&sync=true")).json()
        assert job["progress"] == {"fraction": 1.0, "message": "Still working on it. Almost done"}


async def test_environment_variables_choose_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXECUTION_PROVIDER", "fastapi")
    monkeypatch.setenv("EXECUTION_ENVIORNMENT", "serverless")
    assert SocaityRouter().environment == "serverless"


async def test_routers_share_nothing_and_leave_argv_alone() -> None:
    argv = list(sys.argv)
    one, two = run(QUEUE), run(QUEUE)
    async with open_client(one) as first, open_client(two) as second:
        job = (await first.post("/predict?my_param1=a&sync=true")).json()
        assert (await second.get(f"/jobs/{job['id']}")).status_code == 404
    assert sys.argv == argv


def test_exported_progress_is_the_class() -> None:
    assert isinstance(JobProgress, type)
    progress = JobProgress()
    progress.progress = 0.5
    assert progress._progress == 0.5
