"""What is shown while jobs are waited for: when, how much, and where."""

import asyncio
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Self

import pytest

import socaity
from socaity import _display, _lines, _live_view
from socaity._display import Display
from socaity._live_view import LiveView
from socaity._portal import portal
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.events import JobEvent, JobStatus
from socaity.transport import Target, Transport

from .doubles import HeldTransport, endpoint, held, on_loop
from .pipelines import Pipeline

DEADLINE = 20.0
CANCELLED = {"code": "cancelled", "title": "cancelled", "status": 409}


class Scripted(Transport):
    """A service whose jobs do what the test says."""

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls()

    async def describe(self) -> ServiceDescription:
        prompt = ParameterDescription(name="prompt")
        return ServiceDescription(
            endpoints=[EndpointDescription(name="draw", path="/draw", parameters=[prompt])]
        )

    def start(self, calls: Any) -> None:
        for call in calls:
            call.accept()

    async def cancel(self, job_id: str) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


class Clock:
    """It stands until the test moves it; started far from the time of jobs, so that no test mixes the two."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ManualDisplay(Display):
    """Turned by the test and not by a timer."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(self.clock)

    def _wake(self) -> None:
        self._awake = True

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self._turn()

    def wait(self, waited: Any) -> None:
        """Somebody waits for the value."""
        if isinstance(waited, socaity.JobGroup):
            waited._look()
        waited._waiters = [*(waited._waiters or ()), _somebody()]
        self.begin(waited)


def _somebody() -> Any:
    def wake() -> None:
        pass

    return wake


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class Log(Terminal):
    def isatty(self) -> bool:
        return False

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


def use(monkeypatch: pytest.MonkeyPatch, stream: Any) -> Any:
    """Have the display write to `stream`; pytest sets sys.stderr itself after the fixtures."""
    for module in (_display, _lines):
        monkeypatch.setattr(module, "sys", SimpleNamespace(stderr=stream, modules=sys.modules))
    return stream


@pytest.fixture
def service() -> Iterator[socaity.Service]:
    with socaity.connect("scripted://", transport=Scripted()) as service:
        yield service


@pytest.fixture
def display() -> Iterator[ManualDisplay]:
    display = ManualDisplay()
    yield display
    for line in display._open_lines():
        line.abandon()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "100")
    return use(monkeypatch, Terminal())


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return use(monkeypatch, Log())


def start(service: socaity.Service, display: ManualDisplay) -> socaity.Job[Any]:
    job = service.draw("a cat")
    job._created = display.clock.now
    return job


def say(job: socaity.Job[Any], kind: Any, data: Any) -> None:
    """The service reports; returns when the job has taken it."""

    async def deliver() -> None:
        job.deliver(JobEvent(0, kind, data))

    portal.spawn(deliver()).result(DEADLINE)


def run(job: socaity.Job[Any]) -> None:
    say(job, "status", {"status": "running", "queue_position": None})


# -- when ---------------------------------------------------------------------------------------------------------------


def test_a_job_that_ends_in_under_half_a_second_shows_nothing(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(0.49)
    say(job, "result", "done")
    display.turn(1.0)
    assert terminal.take() == ""
    assert not display._waits
    assert not display._fresh


def test_the_half_second_counts_from_the_wait_and_the_duration_from_the_submit(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.clock.now += 60.0
    display.wait(job)
    display.turn()
    display.turn(0.4)
    assert terminal.take() == ""
    display.turn(0.2)
    assert "01:00, queued" in terminal.take()


def test_a_job_that_has_ended_is_not_kept(service: socaity.Service, display: ManualDisplay) -> None:
    early, late = start(service, display), start(service, display)
    display.wait(late)
    display.turn()
    display.wait(early)
    for job in (early, late):
        say(job, "result", b"large")
    assert not display._fresh
    assert not display._waits


def test_the_timer_stops_when_nothing_is_waited_for_and_starts_again(service: socaity.Service) -> None:
    stopped = threading.Event()

    class Watched(Display):
        tick = 0.0

        def _on_timer(self) -> None:
            super()._on_timer()
            if not self._awake:
                stopped.set()

    display = Watched()
    for _ in range(2):
        stopped.clear()
        job = service.draw("a cat")
        display.begin(job)
        assert display._awake
        say(job, "result", None)
        assert stopped.wait(DEADLINE)
        assert display._timer is None


def test_a_line_that_nobody_waits_for_is_taken_away_and_the_next_wait_begins_again(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    assert "draw" in terminal.take()
    job._waiters = [job.cancel]  # a callback does not wait
    display.turn(1.0)
    assert job._display is display  # between two waits of somebody who polls, perhaps
    display.turn(1.0)
    assert job._display is None
    assert not display._open_lines()
    display.wait(job)
    display.turn()
    terminal.take()
    display.turn(0.6)
    assert "draw" in terminal.take()


# -- what ---------------------------------------------------------------------------------------------------------------


def test_waiting_for_the_error_alone_keeps_its_line(
    service: socaity.Service, display: ManualDisplay, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(service, display)
    begun = threading.Event()

    def begin(waited: Any) -> None:
        display.begin(waited)
        begun.set()

    monkeypatch.setattr(_display, "begin", begin)
    thread = threading.Thread(target=lambda: job.exception(DEADLINE))
    thread.start()
    assert begun.wait(DEADLINE)
    next(_until(lambda: job._waiters))
    display.turn()
    for _ in range(5):
        display.turn(1.0)
    assert len(display._open_lines()) == 1
    say(job, "result", 1)
    thread.join(DEADLINE)
    assert log.lines()[-1] == "draw: succeeded after 00:05"


def test_a_known_fraction_is_a_bar_with_message_and_eta(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(service, display)
    display.wait(job)
    run(job)
    say(job, "progress", {"fraction": 0.25, "message": "step 1"})
    monkeypatch.setattr(type(job), "eta", 30.0)
    display.turn()
    display.turn(10.0)
    shown = terminal.take()
    assert "draw:  25%|" in shown
    assert "| 00:10<00:30, step 1" in shown
    say(job, "progress", {"fraction": 0.5, "message": None})
    display.turn(1.0)
    shown = terminal.take()
    assert "50%|" in shown
    assert "step" not in shown


def test_an_unknown_fraction_shows_the_state_and_the_place_in_the_queue(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.wait(job)
    say(job, "status", {"status": "queued", "queue_position": 3})
    display.turn()
    display.turn(1.0)
    assert "draw: 00:01, queued, place 3" in terminal.take()
    run(job)
    say(job, "progress", {"fraction": None, "message": "warming up"})
    display.turn(1.0)
    assert "draw: 00:02, running, warming up" in terminal.take()
    display.turn(0.01)
    assert terminal.take() == ""  # nothing new, nothing drawn


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("result", 1, "succeeded"),
        ("error", {"code": "job_failed", "title": "no"}, "failed"),
        ("error", CANCELLED, "cancelled"),
    ],
)
def test_the_end_leaves_a_line(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal, kind: str, data: Any, status: str
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(72.0)
    terminal.take()
    say(job, kind, data)
    assert job.status == status
    assert terminal.take().endswith(f"\rdraw: {status} after 01:12\n")
    assert not display._open_lines()


def test_a_job_that_is_lost_is_not_said_to_have_failed(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(72.0)
    terminal.take()
    on_loop(lambda: job.fail(socaity.JobLost("the service went away")))
    assert job.status == "failed"
    assert terminal.take().endswith("\rdraw: lost after 01:12\n")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_job_that_is_left_by_closing_its_service_is_said_to_run_on(
    display: ManualDisplay, terminal: Terminal, is_known: bool
) -> None:
    service, wire = held()
    job = service.ask()
    job._created = display.clock.now
    [call] = wire.wait_for(1)
    if is_known:
        wire.deliver(call, ("status", {"status": "running", "queue_position": None}))
    display.wait(job)
    display.turn()
    display.turn(72.0)
    terminal.take()
    service.close()
    hint = f"; it runs on: socaity.connect('held://test').job('{job.id}')" if is_known else ""
    assert terminal.take().endswith(f"\rask: left after 01:12{hint}\n")


def test_a_job_of_this_process_that_is_left_is_not_said_to_run_on(
    display: ManualDisplay, terminal: Terminal
) -> None:
    wire = HeldTransport()

    async def app(*_: object) -> None: ...

    service = socaity.connect(app, transport=lambda target: wire, progress=False)
    job = service.ask()
    wire.deliver(wire.wait_for(1)[0], ("status", {"status": "running", "queue_position": None}))
    display.wait(job)
    display.turn()
    display.turn(1.0)
    service.close()
    assert re.search(r"ask: left after [\d:]+\n$", terminal.take())


def test_an_attached_job_shows_what_is_known_of_it(display: ManualDisplay, log: Log) -> None:
    service, wire = held()
    job = service.job("a" * 32)
    job._created = display.clock.now
    [call] = wire.wait_for(1)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    wire.deliver(call, ("status", {"status": "running", "queue_position": None}))
    display.turn(10.0)
    wire.succeed(call)
    # when it was called is not known, and so not how long it took
    assert log.lines() == ["job: 00:01, no answer yet", "job: 00:11, running", "job: succeeded"]
    service.close()


def test_a_lost_connection_is_shown(display: ManualDisplay, log: Log) -> None:
    service, wire = held()
    job = service.ask()
    job._created = display.clock.now
    wire.wait_for(1)
    wire.trouble = "the connection is lost"  # type: ignore[attr-defined]
    display.wait(job)
    display.turn()
    display.turn(1.0)
    assert log.lines() == ["ask: 00:01, queued, connecting again"]
    service.close()


def test_the_line_is_closed_before_the_waiting_code_goes_on(
    service: socaity.Service, display: ManualDisplay, log: Log
) -> None:
    job = start(service, display)
    seen: list[list[str]] = []
    job.add_done_callback(lambda _: seen.append(log.lines()))
    display.wait(job)
    display.turn()
    display.turn(1.0)
    say(job, "result", 1)
    assert seen == [["draw: 00:01, queued", "draw: succeeded after 00:01"]]


def test_two_jobs_get_two_lines_of_the_terminal(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    jobs = [start(service, display) for _ in range(2)]
    for job in jobs:
        display.wait(job)
    display.turn()
    display.turn(1.0)
    positions = [abs(line._bar.pos) for line in display._open_lines()]  # type: ignore[attr-defined]
    assert len(set(positions)) == 2
    for job in jobs:
        say(job, "result", 1)
    assert terminal.take().count("succeeded") == 2


def test_more_than_eight_jobs_are_one_line(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    jobs = [start(service, display) for _ in range(12)]
    for job in jobs:
        display.wait(job)
    display.turn()
    say(jobs[0], "result", 1)  # too quick for a line, but one of the twelve
    display.turn(1.0)
    assert len(display._open_lines()) == 1
    assert "jobs:   8%|" in (shown := terminal.take())
    assert "1/12, " in shown
    say(jobs[1], "error", CANCELLED)
    for job in jobs[2:8]:
        say(job, "result", 1)
    display.turn(1.0)
    assert "8/12, 1 failed, 00:02<00:01" in terminal.take()
    for job in jobs[8:]:
        say(job, "result", 1)
    assert terminal.take().endswith("\rjobs: 11 of 12 succeeded after 00:02\n")
    assert not display._open_lines()


def test_single_lines_give_way_to_the_common_one(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    display.wait(start(service, display))
    display.turn()
    display.turn(1.0)
    assert "draw" in terminal.take()
    for _ in range(8):
        display.wait(start(service, display))
    display.turn()
    display.turn(0.6)
    assert "jobs:   0%|" in terminal.take()
    assert len(display._open_lines()) == 1


def test_a_group_has_one_line_and_its_members_none(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    jobs = [start(service, display) for _ in range(4)]
    display.wait(jobs[0])
    display.turn()
    display.turn(1.0)
    assert "draw" in terminal.take()
    group = socaity.gather(*jobs)
    display.wait(group)
    display.wait(jobs[1])
    display.turn()
    display.turn(1.0)
    assert len(display._open_lines()) == 1
    assert "jobs:   0%|" in terminal.take()
    say(jobs[0], "result", 1)
    say(jobs[1], "error", {"code": "job_failed", "title": "no"})
    display.turn(1.0)
    assert "2/4, 1 failed, 00:03<00:03" in terminal.take()
    say(jobs[2], "result", 1)
    say(jobs[3], "result", 1)
    assert group.done()
    assert terminal.take().endswith("\rjobs: 3 of 4 succeeded after 00:03\n")


def test_a_map_that_still_reads_its_inputs_has_no_total(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    more = threading.Event()

    def prompts() -> Iterator[str]:
        yield "a cat"
        more.wait(DEADLINE)
        yield "a dog"

    group = service.draw.map(prompts())
    display.wait(group)
    first = next(_until(lambda: group.jobs))[0]
    first._created = display.clock.now
    display.turn()
    display.turn(1.0)
    assert "draw: 0 ended, 00:01" in terminal.take()
    more.set()
    next(_until(lambda: group._is_fed))
    display.turn(1.0)
    assert "0/2" in terminal.take()
    for job in group.jobs:
        say(job, "result", 1)
    assert "draw: 2 of 2 succeeded" in terminal.take()


def _until(condition: Any) -> Iterator[Any]:
    give_up = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < give_up
    yield found


def test_the_map_of_a_silent_service_is_silent(display: ManualDisplay, terminal: Terminal) -> None:
    with socaity.connect("scripted://", transport=Scripted(), progress=False) as service:
        group = service.draw.map(["a cat"])
        display.wait(group)  # begun before its first member came
        next(_until(lambda: group._is_fed))
        display.turn()
        display.turn(1.0)
        assert terminal.take() == ""
        say(group.jobs[0], "result", 1)
        assert group.result(DEADLINE) == [1]
    assert terminal.take() == ""


# -- pipelines ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pipeline(display: ManualDisplay) -> Iterator[Pipeline]:
    pipeline = Pipeline()
    for job in pipeline.jobs:
        job._created = display.clock.now
    yield pipeline
    pipeline.close()


def test_a_pipeline_has_a_line_and_one_for_each_step_that_runs(
    pipeline: Pipeline, display: ManualDisplay, terminal: Terminal
) -> None:
    other = pipeline.service["save"](pipeline.load, other=pipeline.save)
    other._created = display.clock.now
    display.wait(other)
    pipeline.succeed(pipeline.load)
    pipeline.run(pipeline.detect, 0.5, "tile 1")
    pipeline.detect._started = display.clock.now
    display.turn()
    display.turn(1.0)
    shown = terminal.take()
    assert "save:  25%|" in shown
    assert "| 1/6, 00:01" in shown
    assert "  detect:  50%|" in shown
    assert "tile 1" in shown
    assert len(display._open_lines()) == 2
    pipeline.succeed(pipeline.detect)
    pipeline.queue(pipeline.read, 2)
    display.turn(1.0)
    assert "  read: 00:02, queued, place 2" in terminal.take()
    assert len(display._open_lines()) == 2
    pipeline.succeed(pipeline.read, pipeline.draw, pipeline.save, other)
    assert terminal.take().endswith("\rsave: succeeded after 00:02, 6 steps\n")
    assert not display._open_lines()


def test_a_log_names_the_steps_that_run_in_the_line_of_the_pipeline(
    pipeline: Pipeline, display: ManualDisplay, log: Log
) -> None:
    display.wait(pipeline.save)
    pipeline.succeed(pipeline.load)
    pipeline.run(pipeline.detect, None, "tile 1")
    display.turn()
    display.turn(1.0)
    for _ in range(100):
        display.turn(0.1)
    pipeline.fail(pipeline.detect, socaity.JobFailed("out of memory"))
    pipeline.end()
    assert log.lines() == [
        "save: 20%, 1/5, 00:01, detect, tile 1",
        "save: failed after 00:11 – detect failed (step 2 of 5): out of memory. Not run because of it: read, draw, save.",
    ]


def test_the_lines_of_steps_are_few_and_leave_room(display: ManualDisplay, terminal: Terminal) -> None:
    service, _ = held(endpoint("page"), endpoint("join"))
    jobs = [service["join"]([service["page"](number) for number in range(20)]) for _ in range(6)]
    for job in jobs:
        job._created = display.clock.now
        display.wait(job)
    display.turn()
    display.turn(1.0)
    assert len(display._open_lines()) == display.max_lines
    display.wait(service["page"]())
    display.wait(service["page"]())
    display.turn()
    display.turn(1.0)
    assert len(display._open_lines()) == display.max_lines
    service.close()
    for job in jobs:
        assert job.exception(DEADLINE) is not None
    assert not display._open_lines()


def test_a_pipeline_that_is_interrupted_leaves_no_line(
    pipeline: Pipeline, display: ManualDisplay, terminal: Terminal
) -> None:
    display.wait(pipeline.save)
    display.turn()
    display.turn(1.0)
    assert len(display._open_lines()) == 2
    pipeline.save._waiters = None
    display.tell("stopped")
    assert not display._open_lines()


# -- live views ---------------------------------------------------------------------------------------------------------


class Cell:
    """What a notebook shows, as a list of bundles."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []
        self.is_broken = False

    def publish(self, bundle: dict[str, str], is_update: bool) -> None:
        if self.is_broken:
            raise RuntimeError("the notebook is gone")
        assert is_update is bool(self.shown)
        self.shown.append(bundle)


def view_of(shown: Any, display: ManualDisplay) -> tuple[Cell, LiveView]:
    cell = Cell()
    view = LiveView(shown, cell.publish)
    view.open()
    display.watch(view)
    return cell, view


def test_a_view_is_drawn_five_times_a_second_at_most_and_ends_with_the_end(
    service: socaity.Service, display: ManualDisplay
) -> None:
    job = service.draw("a cat")
    cell, _ = view_of(job, display)
    assert "queued" in cell.shown[0]["text/html"]
    for step in range(100):
        say(job, "progress", {"fraction": step / 1000, "message": f"step {step}"})
        display.turn(0.05)
    assert 2 < len(cell.shown) <= 26
    say(job, "result", "a picture")
    display.turn(1.0)
    assert ">succeeded<" in cell.shown[-1]["text/html"]
    assert cell.shown[-1]["text/plain"].endswith("succeeded>")
    assert not display._views
    before = len(cell.shown)
    display.turn(1.0)
    assert len(cell.shown) == before


def test_displaying_a_job_brings_the_result_that_stayed_at_the_service(
    display: ManualDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Held:
        def fetch(self, call: Any) -> None:
            call.succeed("it is here")

    cell = Cell()
    monkeypatch.setattr(_live_view, "is_notebook", lambda: True)
    monkeypatch.setattr(_live_view, "_publisher", lambda: cell.publish)
    monkeypatch.setattr(_display, "watch", display.watch)
    service, wire = held()
    job = service["ask"]()
    (call,) = wire.wait_for(1)
    _live_view.show(job)
    on_loop(lambda: call.hold(Held()))
    display.turn()
    display.turn(1.0)
    assert ">succeeded<" in cell.shown[-1]["text/html"]
    assert job._value == "it is here"
    assert not display._views
    with pytest.raises(NotImplementedError):  # IPython takes _repr_html_ then
        _live_view.show(job)
    service.close()


def test_a_view_that_takes_long_is_drawn_less_often(
    service: socaity.Service, display: ManualDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, view = view_of(service.draw("a cat"), display)
    drawn: list[float] = []
    monkeypatch.setattr("socaity._live_view.time", SimpleNamespace(perf_counter=lambda: 0.02 * len(drawn)))

    def draw_slowly(*args: Any, **kwargs: Any) -> str:
        drawn.append(display.clock.now)
        return f"{len(drawn)}"

    view._draw_html = draw_slowly
    for _ in range(20):
        display.turn(0.1)
    assert 2 <= len(drawn) <= 5  # each has earned at least 0.4 s of rest


def test_results_are_not_drawn_on_the_loop_of_the_wire(
    service: socaity.Service, display: ManualDisplay
) -> None:
    class Picture:
        def __repr__(self) -> str:
            threads.append(threading.get_ident())
            return "a picture"

    async def main() -> str:
        job = service.draw("a cat")
        cell, _ = view_of(job, display)
        job._endpoint.decode = lambda value: Picture()
        await asyncio.to_thread(say, job, "result", 1)
        await asyncio.to_thread(display.turn)
        await asyncio.to_thread(display.turn, 1.0)
        return cell.shown[-1]["text/html"]

    threads: list[int] = []
    assert "a picture" in asyncio.run(main())
    assert set(threads) == {threading.get_ident()}


def test_a_view_that_cannot_be_drawn_is_let_go(service: socaity.Service, display: ManualDisplay) -> None:
    job = service.draw("a cat")
    cell, _ = view_of(job, display)
    other, _ = view_of(job, display)
    cell.is_broken = True
    run(job)
    say(job, "progress", {"fraction": 0.5, "message": None})
    display.turn()
    display.turn(1.0)
    assert len(display._views) == 1
    assert "running, 50%" in other.shown[-1]["text/html"]


def test_many_views_take_turns(service: socaity.Service, display: ManualDisplay) -> None:
    display.max_drawing = 0.0  # one in each turn
    job = service.draw("a cat")
    cells = [view_of(job, display)[0] for _ in range(10)]
    display.turn()
    for _ in range(10):
        display.turn()
    run(job)
    say(job, "progress", {"fraction": 0.5, "message": None})
    display.turn(1.0)
    assert sum(len(cell.shown) > 1 for cell in cells) == 1
    for _ in range(9):
        display.turn()
    assert all("running, 50%" in cell.shown[-1]["text/html"] for cell in cells)


def test_the_timer_runs_while_something_is_displayed(service: socaity.Service) -> None:
    class Quick(Display):
        tick = 0.0

        def _on_timer(self) -> None:
            super()._on_timer()
            if not self._awake:
                stopped.set()

    stopped = threading.Event()
    display = Quick()
    job = service.draw("a cat")
    seen: list[str] = []
    view = LiveView(job, lambda bundle, is_update: seen.append(bundle["text/plain"]))
    view.interval = 0.0
    view.open()
    display.watch(view)
    say(job, "result", 1)
    assert stopped.wait(DEADLINE)
    assert seen[-1].endswith("succeeded>")
    assert not display._views


def test_begin_reads_nothing_of_the_job(display: ManualDisplay) -> None:
    """It is called for every job that is waited for."""

    class Opaque:
        __slots__ = ("_display",)

    waited = Opaque()
    display.begin(waited)
    assert list(display._fresh) == [waited]
    display._fresh.clear()


# -- where --------------------------------------------------------------------------------------------------------------


def test_a_log_gets_a_line_when_ten_seconds_and_ten_percent_have_passed(
    service: socaity.Service, display: ManualDisplay, log: Log
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    for step in range(1000):  # 100 s
        say(job, "progress", {"fraction": step / 1000, "message": f"step {step}"})
        display.turn(0.1)
    say(job, "result", 1)
    assert log.lines()[0] == "draw: 00:01, queued"
    assert log.lines()[-1].startswith("draw: succeeded after 01:4")
    assert 9 <= len(log.lines()) <= 12
    assert not set(log.getvalue()) & {"\r", "\x1b"}


def test_a_slow_job_writes_little_into_a_log(
    service: socaity.Service, display: ManualDisplay, log: Log
) -> None:
    job = start(service, display)
    display.wait(job)
    say(job, "progress", {"fraction": 0.01, "message": "step"})
    display.turn()
    for _ in range(1000):
        display.turn(1.0)
    assert log.lines() == ["draw: 1%, 00:01, step"]


@pytest.mark.parametrize("stream", [Terminal(), Log()])
def test_a_message_cannot_move_the_cursor(
    service: socaity.Service, display: ManualDisplay, monkeypatch: pytest.MonkeyPatch, stream: Terminal
) -> None:
    use(monkeypatch, stream)
    job = start(service, display)
    display.wait(job)
    say(job, "progress", {"fraction": None, "message": "one\r\ntwo \x1b[2J{percentage}"})
    display.turn()
    display.turn(1.0)
    assert "one  two  [2J{percentage}" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
    say(job, "result", 1)


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("no space left")


@pytest.mark.parametrize("stream", [None, Broken()])
def test_a_broken_stderr_does_not_reach_the_job(
    service: socaity.Service, display: ManualDisplay, monkeypatch: pytest.MonkeyPatch, stream: Any
) -> None:
    use(monkeypatch, stream)
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    display.tell("hello")
    say(job, "result", 1)
    assert job.result(DEADLINE) == 1


def test_a_closed_stderr_does_not_reach_the_job(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    terminal.close()
    display.turn(1.0)
    say(job, "result", 1)
    assert job.result(DEADLINE) == 1


def test_tell_writes_past_the_open_bars(
    service: socaity.Service, display: ManualDisplay, terminal: Terminal
) -> None:
    display.tell("hello")
    assert terminal.take() == "\nhello\n"  # after the ^C that a terminal echoes
    job = start(service, display)
    display.wait(job)
    display.turn()
    display.turn(1.0)
    terminal.take()
    display.tell("hello")
    cleared, _, redrawn = terminal.take().partition("hello\n")
    assert cleared.endswith("\r")
    assert "draw: 00:01" in redrawn
    job._waiters = None
    display.tell("stopped")
    assert terminal.take().endswith("\rstopped\n")
    assert job._display is None


def test_an_interrupted_wait_takes_its_line_away_at_once(
    service: socaity.Service, display: ManualDisplay, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(service, display)
    monkeypatch.setattr(_display, "begin", display.begin)
    monkeypatch.setattr(_display, "tell", display.tell)

    def interrupted(timeout: float | None) -> bool:
        job._waiters = [_somebody()]
        display.turn()
        display.turn(1.0)
        job._waiters = None
        raise KeyboardInterrupt

    monkeypatch.setattr(type(job), "_wait", lambda self, timeout: interrupted(timeout))
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.id in log.lines()[1]
    assert job._display is None
    assert not display._waits


def test_statuses_are_those_the_display_knows() -> None:
    assert {status for status in JobStatus if not status.is_terminal} == {
        _display._QUEUED,
        _display._RUNNING,
    }


# -- real processes ------------------------------------------------------------------------------------------------------

PROGRAM = '''
"""A job that reports and then waits for a line of stdin."""
import asyncio, os, sys, threading
import socaity
from socaity._display import Display
from socaity._live_view import LiveView
from socaity.protocol.description import EndpointDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Transport

class Scripted(Transport):
    @classmethod
    def open(cls, target):
        return cls()
    async def describe(self):
        return ServiceDescription(endpoints=[EndpointDescription(name="draw", path="/draw")])
    async def run(self, call):
        call.accept()
        yield JobEvent(1, "status", {"status": "running", "queue_position": None})
        yield JobEvent(2, "progress", {"fraction": 0.25, "message": "painting"})
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        yield JobEvent(3, "result", "a picture")
    async def cancel(self, job_id):
        pass
    async def aclose(self):
        await self._cancel_tasks()

mode = sys.argv[1]
Display.show_after = Display.tick = 0.0
service = socaity.connect("scripted://", transport=Scripted())
if mode == "leave":  # the program ends while somebody waits
    threading.Thread(target=lambda: service.draw().exception(), daemon=True).start()
    sys.stdin.readline()
elif mode == "fork":
    job = service.draw()
    threading.Thread(target=job.result, daemon=True).start()
    sys.stdin.readline()
    child = os.fork()
    if child == 0:
        from socaity import _display, _lines, _live_view
        assert not _display._display._open_lines() and not _display._display._awake
        _display.tell("from the child")
        os._exit(0)
    print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    print(service.draw().result(20), flush=True)
    names = sorted(t.name for t in threading.enumerate() if "tqdm" in repr(t).lower() or "Monitor" in repr(t))
    multiprocessing = sys.modules.get("multiprocessing")  # coverage may have imported it
    fixed = multiprocessing is not None and multiprocessing.get_start_method(allow_none=True) is not None
    print("tqdm threads:", names, "start method fixed:", fixed, flush=True)
'''


def start_program(mode: str, stderr: int, **environment: str) -> subprocess.Popen[bytes]:
    pythons = {key: value for key, value in os.environ.items() if not key.startswith("SOCAITY_")}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**pythons, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "ignore", **environment},
    )


class PseudoTerminal:
    """A terminal of 80 columns; `program` is its other end."""

    def __init__(self, columns: int = 80) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._end, self.program = pty.openpty()
        fcntl.ioctl(
            self.program, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0)
        )
        self.text = ""

    def read_until(self, wanted: str | None) -> str:
        """All the output so far, as soon as `wanted` is in it, or at its end."""
        import select

        give_up = time.monotonic() + DEADLINE
        while wanted is None or wanted not in self.text:
            readable, _, _ = select.select([self._end], [], [], max(0.0, give_up - time.monotonic()))
            assert readable, f"{wanted!r} did not come: {self.text!r}"
            try:
                read = os.read(self._end, 4096)
            except OSError:  # the last program has closed it
                read = b""
            if not read:
                assert wanted is None, f"{wanted!r} did not come: {self.text!r}"
                break
            self.text += read.decode(errors="replace")
        return self.text

    def close(self) -> None:
        os.close(self._end)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("columns", [80, 0])
def test_a_terminal_shows_a_live_bar(columns: int) -> None:
    terminal = PseudoTerminal(columns)
    with start_program("show", terminal.program) as program:
        os.close(terminal.program)
        shown = terminal.read_until("painting")
        assert "\rdraw:  25%|" in shown
        assert "█" in shown
        out, _ = program.communicate(b"\n", timeout=DEADLINE)
    shown = terminal.read_until(None)
    terminal.close()
    assert re.search(r"\rdraw: succeeded after \d\d:\d\d\r\n$", shown)
    assert max(len(line) for line in shown.replace("\n", "\r").split("\r")) <= 80
    assert out.decode().splitlines() == ["a picture", "tqdm threads: [] start method fixed: False"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_an_open_bar_does_not_hold_up_the_exit() -> None:
    terminal = PseudoTerminal()
    with start_program("leave", terminal.program) as program:
        os.close(terminal.program)
        terminal.read_until("painting")
        program.communicate(b"\n", timeout=DEADLINE)
        assert program.returncode == 0
    assert "Traceback" not in terminal.read_until(None)
    terminal.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_child_of_a_fork_starts_with_an_empty_display() -> None:
    terminal = PseudoTerminal()
    with start_program("fork", terminal.program) as program:
        os.close(terminal.program)
        terminal.read_until("painting")
        out, _ = program.communicate(b"\n", timeout=DEADLINE)
    assert out.decode().strip() == "child: 0"
    assert "from the child\r\n" in terminal.read_until(None)
    terminal.close()


def test_a_log_has_no_escapes_and_no_carriage_returns() -> None:
    with start_program("show", subprocess.PIPE) as program:
        assert program.stderr is not None
        first = program.stderr.readline()
        _, rest = program.communicate(b"\n", timeout=DEADLINE)
    text = (first + rest).decode().replace(os.linesep, "\n")
    assert not set(text) & {"\r", "\x1b"}
    lines = text.splitlines()
    assert lines[0].startswith("draw: ")
    assert lines[-1].startswith("draw: succeeded after ")
    assert len(lines) == 2


def test_the_environment_silences_it() -> None:
    with start_program("show", subprocess.PIPE, SOCAITY_PROGRESS="0") as program:
        out, err = program.communicate(b"\n", timeout=DEADLINE)
    assert out.decode().startswith("a picture")
    assert err == b""


def test_real_waits_are_shown(service: socaity.Service, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = threading.Event()
    monkeypatch.setattr(Display, "show_after", 0.0)
    monkeypatch.setattr(Display, "tick", 0.0)
    open_line = _lines.open_line

    def opened(*args: Any) -> Any:
        line = open_line(*args)
        shown.set()
        return line

    monkeypatch.setattr(_lines, "open_line", opened)
    job = service.draw("a cat")
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(job.result(DEADLINE)))
    thread.start()
    assert shown.wait(DEADLINE)
    say(job, "result", 1)
    thread.join(DEADLINE)
    assert got == [1]
    assert [line.rstrip("0123456789:") for line in log.lines()] == [
        "draw: 00:00, queued",
        "draw: succeeded after ",
    ]
