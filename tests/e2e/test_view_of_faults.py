"""Five steps on a real server, one of which fails, is cancelled, is slow or loses its server: what is said of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import socaity
from socaity._steps import explain, read_steps
from socaity._timeline import timeline_of
from socaity._view import html_of
from tests.e2e.servers import DEADLINE, ServerProcess
from tests.e2e.test_faults import wait_for_progress

NAMES = ["load", "detect", "read", "draw", "save"]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("steps_service:router") as process:
        yield process


def pipeline(service: socaity.Service, page: str) -> list[socaity.Job[Any]]:
    jobs = [service["load"](page)]
    for name in NAMES[1:]:
        jobs.append(service[name](jobs[-1]))
    return jobs


def states(job: socaity.Job[Any]) -> list[str]:
    steps = read_steps([job])
    assert [step.name for step in steps] == NAMES
    return [str(step.state) for step in steps]


def text_of(job: socaity.Job[Any]) -> str:
    page = html_of(job)
    return " ".join(re.sub("<[^>]*>", " ", page[page.index("</style>") :]).split())


def test_a_failed_step_is_named_and_so_is_what_never_ran(server: ServerProcess) -> None:
    with socaity.connect(server.url, progress=False) as service:
        save = pipeline(service, "broken")[-1]
        assert save.exception(DEADLINE) is not None
        assert states(save) == ["succeeded", "succeeded", "failed", "not run", "not run"]
        said = explain(read_steps([save]))
        assert said.startswith("read failed (step 3 of 5): ")
        assert "the page cannot be read" in said
        assert said.endswith("Not run because of it: draw, save.")
        assert "draw not run needs read" in text_of(save)


def test_a_slow_step_shows_that_the_others_wait_for_it(server: ServerProcess) -> None:
    with socaity.connect(server.url, progress=False) as service:
        jobs = pipeline(service, "slow")
        wait_for_progress(jobs[2])
        assert states(jobs[-1])[:3] == ["succeeded", "succeeded", "running"]
        text = text_of(jobs[-1])
        assert text.startswith(f"save running 2/5 steps {jobs[-1].id}")
        assert "half of the words" in text
        timeline = timeline_of(jobs[-1])
        assert not timeline.is_finished
        assert [row.name for row in timeline.rows] == NAMES
        jobs[2].cancel()
        jobs[-1].exception(DEADLINE)


def test_a_cancelled_step_is_not_called_a_failure(server: ServerProcess) -> None:
    with socaity.connect(server.url, progress=False) as service:
        jobs = pipeline(service, "slow")
        wait_for_progress(jobs[2])
        jobs[2].cancel()
        assert jobs[-1].exception(DEADLINE) is not None
        assert states(jobs[-1])[:3] == ["succeeded", "succeeded", "cancelled"]
        assert "read was cancelled (step 3 of 5)" in text_of(jobs[-1])


def test_a_lost_server_leaves_one_lost_step_and_two_that_had_not_started() -> None:
    with ServerProcess("steps_service:router") as server:
        with socaity.connect(server.url.replace("http", "ws"), progress=False) as service:
            jobs = pipeline(service, "slow")
            wait_for_progress(jobs[2])
            server.kill()
            server.start()
            assert jobs[-1].exception(DEADLINE) is not None
            assert states(jobs[-1]) == ["succeeded", "succeeded", "lost", "not run", "not run"]
            said = explain(read_steps([jobs[-1]]))
            assert said.startswith("read was lost (step 3 of 5): ")
            assert said.endswith("Had not started: draw, save.")
            assert said in text_of(jobs[-1]).replace("&#x27;", "'")
