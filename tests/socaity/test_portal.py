"""The background loop: wake-ups, fork and the end of the interpreter."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from socaity import TransportTimeout
from socaity._portal import Outbox, Signal, portal

from .doubles import DEADLINE, held, on_loop

ROOT = str(Path(__file__).parents[2])


def run_script(body: str, *, is_measured: bool = True) -> subprocess.CompletedProcess[str]:
    paths = f"import sys; sys.path.insert(0, {ROOT!r})"
    code = f"{paths}\nfrom tests.socaity.doubles import held, on_loop, portal\n{body}"
    env = {key: value for key, value in os.environ.items() if is_measured or not key.startswith("COVERAGE")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=40, env=env
    )


class Blocked:
    """Holds the portal's loop up until `release`, so that a burst becomes one turn."""

    def __enter__(self) -> Blocked:
        self._go, held_up = threading.Event(), threading.Event()

        def block() -> None:
            held_up.set()
            self._go.wait(DEADLINE)

        portal.call_soon(block)
        assert held_up.wait(DEADLINE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._go.set()


def test_a_burst_of_calls_is_handed_over_with_one_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    service, wire = held()
    ask = service.ask
    wakes: list[Any] = []
    original = portal.loop.call_soon_threadsafe
    with Blocked():
        monkeypatch.setattr(
            portal.loop,
            "call_soon_threadsafe",
            lambda *args, **kw: (wakes.append(args), original(*args, **kw))[1],
        )
        for i in range(1000):
            ask(i)
        monkeypatch.undo()
    wire.wait_for(1000)
    assert len(wakes) == 1
    assert wire.bursts == [1000]
    service.close()


def test_what_one_turn_ends_wakes_another_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    service, wire = held()
    ask = service.ask

    async def wait() -> int:
        loop = asyncio.get_running_loop()
        jobs = [ask(i) for i in range(200)]
        calls = await asyncio.to_thread(wire.wait_for, 200)
        waiting = asyncio.gather(*(wait_for(job) for job in jobs))
        await asyncio.sleep(0)
        wakes = []
        original = loop.call_soon_threadsafe
        monkeypatch.setattr(
            loop, "call_soon_threadsafe", lambda *args, **kw: (wakes.append(args), original(*args, **kw))[1]
        )
        portal.call_soon(lambda: [call.succeed(None) for call in calls])
        await waiting
        return len(wakes)

    async def wait_for(job: Any) -> Any:
        return await job

    assert asyncio.run(asyncio.wait_for(wait(), DEADLINE)) == 1
    service.close()


def test_an_outbox_loses_nothing_that_many_threads_put_in() -> None:
    taken: list[int] = []
    outbox: Outbox[int] = Outbox(taken.extend)

    def put(start: int) -> None:
        for i in range(2000):
            outbox.put(start + i)

    threads = [threading.Thread(target=put, args=(n * 10_000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    on_loop(lambda: None)
    assert sorted(taken) == sorted(n * 10_000 + i for n in range(8) for i in range(2000))


def test_no_waiter_is_forgotten_whatever_the_order() -> None:
    def wait(signal: Signal, woken: list[bool]) -> None:
        woken.append(signal.wait(DEADLINE))

    for _ in range(300):
        signal = Signal()
        woken: list[bool] = []
        threads = [threading.Thread(target=wait, args=(signal, woken)) for _ in range(3)]
        threads.append(threading.Thread(target=signal.set))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert woken == [True] * 3


def test_an_outcome_that_does_not_come_is_a_timeout() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    outcome = portal.spawn(never())
    with pytest.raises(TransportTimeout):
        outcome.result(0.001)
    on_loop(lambda: outcome._task and outcome._task.cancel())
    with pytest.raises(asyncio.CancelledError):
        outcome.result(DEADLINE)


# -- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_a_fork_both_sides_go_on() -> None:
    done = run_script("""
import os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork() in a process with threads
import socaity
service, wire = held()
ask = service.ask
before = ask("before")
wire.wait_for(1)
pid = os.fork()
if pid == 0:
    assert threading.active_count() == 1 and portal._loop is None
    wire.calls.clear()
    try:
        before.result(20)
    except socaity.JobLost as exc:
        assert before.id in str(exc)
    job = ask("child")
    [call] = wire.wait_for(1)
    assert job.id[:24] != before.id[:24]
    wire.succeed(call, "child result")
    assert job.result(20) == "child result"
    service.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
wire.succeed(wire.wait_for(1)[0], "parent result")
assert before.result(20) == "parent result"
assert ask("after").id[:24] == before.id[:24]
service.close()
print("both")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("both\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_neither_waits_for_nor_touches_what_is_the_parents() -> None:
    done = run_script("""
import asyncio, os, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import socaity
from tests.socaity.doubles import HeldTransport, endpoint
wires = []
def open_wire(target):
    wires.append(HeldTransport(endpoint("ask"), endpoint("write", streaming=True)))
    return wires[-1]
service = socaity.connect("held://x", transport=open_wire, progress=False, retry=1)
ask = service.ask
jobs = [ask(i) for i in range(4)]
write = service.write()
called = []
jobs[3].add_done_callback(called.append)
group, ended = socaity.gather(*jobs[:3]), socaity.as_completed(jobs)
forever = ask.map(iter(lambda: 1, 2), concurrency=2)
wires[0].wait_for(7)
pipeline = socaity.pipeline(lambda: jobs[0].result())()
service._interrupted[jobs[0].id] = jobs[0]

def loss(function):
    try:
        function()
    except socaity.JobLost as exc:
        return str(exc)
    raise AssertionError(function)

pid = os.fork()
if pid == 0:
    assert not jobs[0].cancel() and not group.cancel()
    assert "belongs to the parent process; service.job(" in loss(jobs[0].result)
    async def wait(): return await jobs[1]
    loss(lambda: asyncio.run(wait()))
    loss(lambda: list(write))
    loss(pipeline.result)
    loss(group.result)
    loss(lambda: list(group))
    loss(forever.result)
    loss(lambda: list(forever))
    loss(socaity.gather(jobs[0]).result)
    assert sorted(map(id, ended)) == sorted(map(id, jobs))
    assert len(list(socaity.as_completed(jobs))) == 4
    assert "belongs to the parent" in str(ask(jobs[0]).exception(20))
    assert not wires[0].cancelled and not called and len(wires) == 1
    again = service.job(jobs[0].id)
    assert again is not jobs[0]
    while len(wires) < 2: service.refresh()
    [call] = wires[1].wait_for(1)
    wires[1].succeed(call, "attached")
    assert again.result(20) == "attached"
    assert len(wires[0].calls) == 7
    service.close()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
for call in wires[0].wait_for(7)[:4]:
    wires[0].succeed(call, "parent")
assert group.result(20) == ["parent"] * 3 and len(called) == 1
assert pipeline.result(20) == "parent"
forever.cancel()
service.close()
print("both")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("both\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_transport_object_of_the_parent_is_refused_in_the_child() -> None:
    done = run_script("""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import socaity
from tests.socaity.doubles import HeldTransport
service = socaity.connect("held://x", transport=HeldTransport(), progress=False, retry=1)
ask = service.ask
pid = os.fork()
if pid == 0:
    error = ask().exception(20)
    os._exit(7 if "belongs to the parent" in str(error) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
service.close()
""")
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_others_wait_never_deadlocks_the_child() -> None:
    # not measured: coverage has a lock of its own that a fork may find taken
    script = """
import os, threading, warnings
import socaity
warnings.simplefilter("ignore", DeprecationWarning)
service, wire = held()
ask = service.ask
stop = threading.Event()
def churn():
    while not stop.is_set():
        try: ask().result(0)
        except TimeoutError: pass
threads = [threading.Thread(target=churn) for _ in range(3)]
for t in threads: t.start()
codes = []
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        job = socaity.gather(ask())
        try: job.result(0.001)
        except TimeoutError: os._exit(3)
        os._exit(4)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
for t in threads: t.join()
print(set(codes))
"""
    done = run_script(script, is_measured=False)
    assert (done.stdout, done.returncode) == ("{3}\n", 0), done.stderr


def test_the_interpreter_ends_promptly_with_an_unfinished_job() -> None:
    done = run_script("""
import socaity
from tests.socaity.doubles import HeldTransport
class Telling(HeldTransport):
    async def aclose(self):
        print("closed")
wire = Telling()
job = socaity.connect("any://x", transport=wire, progress=False).ask()
wire.wait_for(1)
print("end")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("end\nclosed\n", "", 0)


def test_a_wire_that_does_not_close_does_not_hold_the_exit_up() -> None:
    done = run_script("""
import asyncio, socaity
from tests.socaity.doubles import HeldTransport
class Stuck(HeldTransport):
    async def aclose(self):
        await asyncio.Event().wait()
service = socaity.connect("any://x", transport=Stuck(), progress=False)
portal.spawn(asyncio.Event().wait())
service.ask()
print("end")
""")
    assert (done.stdout, done.stderr, done.returncode) == ("end\n", "", 0)


def test_a_thread_that_still_waits_does_not_hold_the_exit_up() -> None:
    done = run_script("""
import threading
service, wire = held()
job = service.ask()
threading.Thread(target=job.result, daemon=True).start()
service.ask.map(iter(lambda: 1, 2), concurrency=2)
wire.wait_for(3)
print("end")
""")
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


def test_the_loop_does_not_run_in_the_context_of_a_caller() -> None:
    variable: ContextVar[str] = ContextVar("variable")

    async def look() -> str | None:
        return variable.get(None)

    variable.set("of the caller")
    assert portal.spawn(look()).result(DEADLINE) is None
    seen: list[str | None] = []
    has_come = threading.Event()
    outbox: Outbox[int] = Outbox(lambda items: (seen.append(variable.get(None)), has_come.set()))
    outbox.put(1)
    assert has_come.wait(DEADLINE)
    assert seen == [None]
