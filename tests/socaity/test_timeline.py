"""Where the time went: phases that add up, whatever was told, and their drawings."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import socaity
from socaity._progress import Progress
from socaity._timeline import Phase, Timeline, timeline_of
from socaity.exceptions import JobFailed, SocaityError
from socaity.protocol.events import JobStatus

from .doubles import held
from .pipelines import Pipeline, set_times


@dataclass(eq=False)
class RecordedJob:
    """A job as it was: only what a timeline reads."""

    name: str = "ask"
    _created: float = 100.0
    _started: float | None = None
    _ended_at: float | None = 101.0
    timing: dict[str, float] | None = None
    upstream: tuple["RecordedJob", ...] = ()
    _status: JobStatus = JobStatus.SUCCEEDED
    _error: SocaityError | None = None
    _sent: float | None = None
    queue_position: int | None = None
    eta: float | None = None
    _progress: Progress = field(default_factory=Progress)

    @property
    def _endpoint(self) -> Any:
        return SimpleNamespace(name=self.name)

    def done(self) -> bool:
        return self._ended_at is not None


TOLD = {"queued": 0.1, "batched": 0.05, "computed": 0.6, "encoded": 0.05, "rows": 12}


def phases(timeline: Timeline, row: int = 0) -> dict[str, float]:
    return {str(span.phase): pytest.approx(span.seconds) for span in timeline.rows[row].spans}


def test_what_the_server_tells_is_drawn_between_the_two_ways_of_the_network() -> None:
    timeline = timeline_of(RecordedJob(timing=TOLD, _sent=100.04))
    assert [str(span.phase) for span in timeline.rows[0].spans] == [
        "client",
        "network",
        "queued",
        "batched",
        "computed",
        "encoded",
        "network",
    ]
    assert {str(phase): round(seconds, 6) for phase, seconds in timeline.totals().items()} == {
        "client": 0.04,
        "network": 0.16,
        "queued": 0.1,
        "batched": 0.05,
        "computed": 0.6,
        "encoded": 0.05,
    }
    assert timeline.rows[0].rows == 12
    assert "computed together: ask 12 rows" in str(timeline)


def test_without_it_the_start_and_the_end_are_known() -> None:
    assert phases(timeline_of(RecordedJob(_started=100.3))) == {"queued": 0.3, "computed": 0.7}
    assert phases(timeline_of(RecordedJob())) == {"unknown": 1.0}


def test_a_server_whose_clock_runs_faster_cannot_say_more_than_there_was() -> None:
    timeline = timeline_of(RecordedJob(_ended_at=100.4, timing=TOLD))
    assert sum(timeline.totals().values()) == pytest.approx(0.4)
    assert Phase.NETWORK not in timeline.totals()


def test_a_step_waits_for_the_last_that_it_needs() -> None:
    first, second = RecordedJob("a", _ended_at=100.5), RecordedJob("b", _ended_at=102.0)
    last = RecordedJob("c", _ended_at=102.7, upstream=(first, second), _started=102.1)
    timeline = timeline_of(last)
    assert [row.name for row in timeline.rows] == ["a", "b", "c"]
    assert phases(timeline, 2) == {"waiting": 2.0, "queued": 0.1, "computed": 0.6}
    assert timeline.seconds == pytest.approx(2.7)
    assert timeline.slowest is timeline.rows[1]
    assert "slowest: b, 2.0 s of 2.7 s" in timeline.text()


def test_a_step_that_was_never_run_only_waited() -> None:
    failed = RecordedJob("a", _status=JobStatus.FAILED, _error=JobFailed("no"))
    never = RecordedJob("b", upstream=(failed,), _status=JobStatus.FAILED, _error=JobFailed("no"))
    timeline = timeline_of(never)
    assert timeline.rows[1].status == "not run"
    assert phases(timeline, 1) == {"waiting": 1.0}


def test_what_runs_is_drawn_until_now() -> None:
    job = RecordedJob(_ended_at=None, _started=100.2, _status=JobStatus.RUNNING)
    timeline = timeline_of(job, now=105.2)
    assert not timeline.is_finished
    assert phases(timeline) == {"queued": 0.2, "computed": 5.0}
    assert "not finished" in timeline.text()


times = st.floats(0, 10, allow_nan=False)


@given(
    st.lists(
        st.tuples(
            times,
            times,
            st.none() | times,
            st.none() | st.dictionaries(st.sampled_from(list(TOLD)[:4]), times),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(10, 200),
)
def test_phases_always_add_up_and_drawings_keep_their_width(rows: list[Any], width: int) -> None:
    jobs: list[RecordedJob] = []
    for created, length, started, timing in rows:
        jobs.append(
            RecordedJob(f"step {len(jobs)}", created, started, created + length, timing, tuple(jobs[-2:]))
        )
    timeline = timeline_of(jobs[-1])
    for row in timeline.rows:
        assert sum(span.seconds for span in row.spans) == pytest.approx(row.seconds)
        assert all(span.seconds > 0 for span in row.spans)
        at = row.start
        for span in row.spans:
            assert span.start == pytest.approx(at)
            at += span.seconds
    assert max(map(len, timeline.text(width).splitlines())) <= max(width, 40)
    assert timeline._repr_html_()


def test_the_drawing_for_terminals() -> None:
    first = RecordedJob("load", _started=100.0, _ended_at=101.0)
    last = RecordedJob("a_name_that_is_too_long", _started=101.5, _ended_at=104.0, upstream=(first,))
    assert timeline_of(last).text(60).splitlines() == [
        "load               |████████                      |    1.0 s",
        "a_name_that_is_to… |········qqq███████████████████|    4.0 s",
        "· waiting for other steps   q queued 500 ms (12%)",
        "█ computed 3.5 s (88%)",
        "slowest: a_name_that_is_too_long, 3.0 s of 4.0 s",
    ]


def test_names_are_text_in_the_drawing_for_notebooks() -> None:
    page = timeline_of(RecordedJob("<script>x</script>"))._repr_html_()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_real_pipeline_has_a_row_for_each_step() -> None:
    pipeline = Pipeline()
    pipeline.succeed(*pipeline.jobs, value="x")
    pipeline.end()
    set_times(pipeline.load, created=pipeline.load._created, ended=pipeline.load._created + 2)
    timeline = timeline_of(pipeline.save)
    assert [row.name for row in timeline.rows] == ["load", "detect", "read", "draw", "save"]
    assert timeline.is_finished
    assert timeline.rows[0].seconds == pytest.approx(2)
    pipeline.close()


def test_the_job_of_a_pipeline_which_is_never_sent_has_one_too() -> None:
    @socaity.pipeline
    def three() -> int:
        return 3

    job = three()
    assert job.result(timeout=30) == 3
    assert [row.name for row in job.timeline().rows] == ["three"]


def test_an_attached_job_has_only_the_time_since_then() -> None:
    service, wire = held()
    job = service.job("a" * 32)
    [call] = wire.wait_for(1)
    wire.deliver(call, ("status", {"status": "running", "queue_position": None}))
    wire.succeed(call)
    timeline = timeline_of(job)
    assert [(span.phase, span.seconds) for span in timeline.rows[0].spans] == [
        (Phase.UNKNOWN, timeline.seconds)
    ]
    assert not timeline.rows[0].is_whole
    assert "only since it was attached to: job" in timeline.text(120)
    assert service.ask().timeline().rows[0].is_whole
    service.close()
