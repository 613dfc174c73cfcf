"""Ctrl-C stops the waiting, not the job and not the process."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import socaity

from .doubles import endpoint, held

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process")

CODE = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
sys.path.insert(0, {root!r})
import socaity
from tests.socaity.doubles import held, endpoint
service, wire = held(endpoint("ask"), endpoint("write", streaming=True))
{make}

main, is_interrupted = threading.get_ident(), threading.Event()

def interrupt():
    while sys._current_frames()[main].f_code.co_name != "_acquire":  # until the main thread waits
        pass
    # A signal in the moment before the thread falls asleep does not wake it: that is so for every lock of Python.
    while not is_interrupted.wait(0.5):
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    {wait}
except KeyboardInterrupt:
    is_interrupted.set()
    print("interrupted")
assert service.job(job.id) is job and not wire.cancelled
wire.succeed(wire.wait_for(1)[0], "the value")
print(job.result(20))
service.close()
"""


@pytest.mark.parametrize(
    ("make", "wait", "result"),
    [
        ("job = service.ask()", "job.result()", "the value"),
        ("job = service.ask()", "job.exception(timeout=60)", "the value"),
        ("job = service.write()", "list(job)", "the value"),
        ("job = service.ask(); group = socaity.gather(job)", "list(group)", "the value"),
        ("job = service.ask(); group = socaity.gather(job)", "group.result()", "the value"),
        (
            "job = service.ask(); group = socaity.gather(job)",
            "list(socaity.as_completed([job]))",
            "the value",
        ),
    ],
)
def test_the_process_lives_on_and_says_how_to_wait_again(make: str, wait: str, result: str) -> None:
    code = CODE.format(root=str(Path(__file__).parents[2]), make=make, wait=wait)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.returncode) == (f"interrupted\n{result}\n", 0), done.stderr
    assert "Stopped waiting; " in done.stderr
    assert "service.job(" in done.stderr


def test_a_group_names_its_first_unfinished_members_and_counts_the_rest(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, wire = held()
    jobs = [service.ask(i) for i in range(6)]
    wire.succeed(wire.wait_for(6)[0])
    group = socaity.gather(*jobs)

    def interrupted(timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(socaity.JobGroup, "_wait", lambda self, timeout: interrupted(timeout))
    with pytest.raises(KeyboardInterrupt):
        group.result()
    told = capsys.readouterr().err
    assert "5 of 6 jobs run on" in told
    assert [job.id in told for job in jobs] == [False, True, True, True, False, False]
    assert service.job(jobs[1].id) is jobs[1]
    service.close()


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait ends with Ctrl-C."""

    def interrupt(self: object, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(socaity.JobGroup, "_wait", interrupt)
    monkeypatch.setattr(socaity.Job, "_wait", interrupt)


@pytest.mark.usefixtures("interrupted")
def test_the_job_of_a_pipeline_is_not_said_to_be_known_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    service, wire = held()

    @socaity.pipeline
    def inner() -> socaity.Job[Any]:
        asked = service.ask()
        is_inner.set()
        return asked

    @socaity.pipeline
    def both() -> list[socaity.Job[Any]]:
        steps = [inner()]
        assert is_inner.wait(20)
        steps += [service.ask(number) for number in range(3)]
        is_made.set()
        return steps

    is_inner, is_made = threading.Event(), threading.Event()
    job: Any = both()
    assert is_made.wait(20)
    first = wire.wait_for(4)[0]
    wire.succeed(first)
    for wait in (job.result, socaity.gather(job).result):
        with pytest.raises(KeyboardInterrupt):
            wait()
        told = capsys.readouterr().err
        assert job.id not in told
        assert "To wait again: " in told
    assert "To wait again: group.result(); to stop them: group.cancel()" in told
    with pytest.raises(KeyboardInterrupt):
        job.result()
    told = capsys.readouterr().err
    assert "the pipeline both runs on, as long as this process does" in told
    assert "To wait again: job.result(), to stop it: job.cancel()" in told
    under_way = [call.id for call in wire.calls if call.id != first.id]
    assert told.count("service.job(") == 3
    for job_id in under_way:
        assert service.job(job_id) in job._calls()
    with pytest.raises(TypeError) as refused:
        pickle.dumps(job)
    assert f"service.job({job.id!r})" not in str(refused.value)
    assert "its function runs nowhere else; its steps have ids: service.job(" in str(refused.value)
    job.cancel()
    service.close()


def test_a_call_without_an_id_at_the_service_is_not_said_to_have_one() -> None:
    service, _ = held(endpoint("ask", direct=True))
    with pytest.raises(TypeError, match=r"no other can attach to it"):
        pickle.dumps(service.ask())
    service.close()
