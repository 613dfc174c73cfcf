"""Ctrl-C stops the waiting, not the job and not the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import socaity

from .doubles import held

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
