"""The HTML of jobs, groups and services: what it says, that all of it is text, and that it stays small and quick."""

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import socaity
from socaity._view import html_of, html_of_group, html_of_service
from socaity._view_style import CLASS, STYLE

from .doubles import endpoint, held, on_loop
from .pipelines import Pipeline, set_times, single

EVIL = "</style></svg></details><script>hacked=1</script><img src=x onerror=hacked=1>\"'&"


class Outline(HTMLParser):
    """The tags, attributes and visible text of a piece of HTML; raises if a tag is not closed."""

    VOID = frozenset({"img", "rect", "path", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "title" not in self.open:
            self.text += f"{data} "


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    pipeline = Pipeline()
    yield pipeline
    pipeline.close()


def text_of(page: str) -> str:
    return " ".join(Outline(page).text.split())


def bars(page: str) -> list[dict[str, str | None]]:
    return [attributes for _, attributes in Outline(page).tags if attributes.get("role") == "progressbar"]


# -- one job -------------------------------------------------------------------------------------------------------------


def test_a_queued_job_says_its_place() -> None:
    job, wire, call = single()
    wire.deliver(call, ("status", {"status": "queued", "queue_position": 3}))
    set_times(job, created=100.0)
    assert text_of(html_of(job, now=102.0)) == f"draw queued, place 3 {job.id} 2.0 s"


def test_a_running_job_has_a_bar_its_message_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    job, wire, call = single()
    wire.deliver(
        call, ("status", {"status": "running"}), ("progress", {"fraction": 0.25, "message": "step 1 of 4"})
    )
    set_times(job, created=100.0, started=101.0)
    monkeypatch.setattr(type(job), "eta", 12.2)
    page = html_of(job, now=105.0)
    assert text_of(page) == f"draw running, 25% {job.id} 5.0 s, about 12 s left step 1 of 4"
    assert bars(page)[0]["aria-valuenow"] == "25"


def test_a_bar_without_a_fraction_claims_no_number() -> None:
    job, wire, call = single()
    wire.deliver(call, ("status", {"status": "running"}))
    (bar,) = bars(html_of(job))
    assert "aria-valuenow" not in bar
    assert bar["class"] == "bar unknown"


def test_a_result_is_shown_with_its_picture() -> None:
    job, wire, call = single()
    wire.succeed(call, {"image": np.zeros((40, 60, 3), np.uint8), "label": "night"})
    page = html_of(job)
    assert 'alt="picture, 60 × 40"' in page
    assert text_of(page).endswith("image label night")
    assert bars(page) == []


def test_a_failure_shows_message_traceback_and_logs() -> None:
    job, wire, call = single()
    wire.deliver(call, *(("log", {"message": f"epoch {number}"}) for number in range(20)))
    wire.fail(call, socaity.JobFailed("ValueError: no prompt", remote_traceback="Traceback: line 12"))
    text = text_of(html_of(job))
    assert "JobFailed: ValueError: no prompt" in text
    assert "Traceback of the server Traceback: line 12" in text
    assert "20 log lines … 8 lines before epoch 8" in text


def test_a_cancelled_job_is_no_failure() -> None:
    job, wire, call = single()
    wire.fail(call, socaity.JobCancelled("cancelled by the caller"))
    page = html_of(job)
    assert 'class="pill" data-state="cancelled"' in page
    assert 'class="why soft"' in page


def test_a_stream_says_how_much_has_come() -> None:
    service, wire = held(endpoint("write", streaming=True))
    job = service["write"]()
    (call,) = wire.wait_for(1)
    wire.deliver(call, ("chunk", "once"), ("chunk", " upon"))
    assert "2 received so far" in text_of(html_of(job))
    wire.succeed(call)
    assert text_of(html_of(job)).endswith("once upon")


class Held:
    """A result that stayed at the service."""

    def __init__(self) -> None:
        self.is_fetched = False

    def fetch(self, call: Any) -> None:
        self.is_fetched = True
        call.succeed("here")


def test_a_result_that_stayed_at_the_service_is_not_asked_for() -> None:
    job, _, call = single()
    result = Held()
    on_loop(lambda: call.hold(result))
    assert text_of(html_of(job)).startswith("draw succeeded")
    assert text_of(html_of(job)).endswith("The result is at the service; result() brings it.")
    assert not result.is_fetched
    assert job.result(20) == "here"
    assert text_of(html_of(job)).endswith("here")


# -- pipelines -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_shows_graph_steps_and_how_far_the_whole_is(pipeline: Pipeline) -> None:
    pipeline.succeed(pipeline.load, value=np.zeros((40, 60, 3), np.uint8))
    pipeline.run(pipeline.detect, 0.5, "tile 1")
    page = html_of(pipeline.save)
    text = text_of(page)
    assert text.startswith(f"save running 1/5 steps {pipeline.save.id}")
    assert "read waiting for detect draw waiting for read save waiting for draw" in text
    assert "detect running, 50% tile 1" in text
    assert page.count('alt="picture, 60 × 40"') == 1
    whole, step = bars(page)
    assert whole["aria-label"] == "1 succeeded, 1 running, 3 waiting"
    assert (whole["aria-valuenow"], whole["aria-valuemax"]) == ("1", "5")
    assert step["aria-label"] == "detect"
    graphs = [attributes for tag, attributes in Outline(page).tags if tag == "svg"]
    assert [graph["class"] for graph in graphs] == ["graph across", "graph down"]
    assert "read: waiting (after detect)" in (graphs[0]["aria-label"] or "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            socaity.JobFailed("out of memory"),
            "read failed (step 3 of 5): out of memory. Not run because of it: draw, save.",
        ),
        (
            socaity.JobLost("it went away"),
            "read was lost (step 3 of 5): it went away. Had not started: draw, save.",
        ),
        (
            socaity.JobCancelled("stop"),
            "read was cancelled (step 3 of 5). Not run because of it: draw, save.",
        ),
    ],
)
def test_what_broke_a_pipeline_is_said_once_at_the_top(
    pipeline: Pipeline, error: socaity.JobError, said: str
) -> None:
    pipeline.succeed(pipeline.load, pipeline.detect)
    pipeline.fail(pipeline.read, error)
    pipeline.end()
    page = html_of(pipeline.save)
    assert text_of(page).count(said) == 1
    assert "draw not run needs read" in text_of(page)
    assert "save not run needs draw" in text_of(page)


def test_the_traceback_of_the_failed_step_is_there(pipeline: Pipeline) -> None:
    pipeline.fail(pipeline.load, socaity.JobFailed("no", remote_traceback="File ocr.py"))
    pipeline.end()
    assert "Traceback of the server File ocr.py" in text_of(html_of(pipeline.save))


# -- groups and services ---------------------------------------------------------------------------------------------------


def test_a_group_shows_counts_and_what_went_wrong_first() -> None:
    service, wire = held()
    group = socaity.gather(*[service["ask"](number) for number in range(40)])
    calls = wire.wait_for(40)
    for call in calls[:20]:
        wire.succeed(call, "fine")
    wire.fail(calls[30], socaity.JobFailed("row 30 is empty"))
    text = text_of(html_of_group(group))
    assert text.startswith("ask ×40 21 of 40 ended, 1 failed")
    assert "20 succeeded, 1 failed, 19 queued" in text
    assert "ask [30] failed row 30 is empty" in text
    assert text.endswith("and 28 more")


def test_a_group_of_pipelines_is_one_graph() -> None:
    pipelines = [Pipeline() for _ in range(6)]
    group = socaity.gather(*(pipeline.save for pipeline in pipelines))
    pipelines[0].succeed(pipelines[0].load)
    pipelines[1].fail(pipelines[1].load, socaity.JobFailed("no page"))
    pipelines[1].end()
    page = html_of_group(group)
    assert "load ×6: 1 failed, 4 queued, 1 succeeded" in page
    assert "save [0] running 1/5 steps" in text_of(page)
    assert "save [1] failed load failed (step 1 of 5): no page." in text_of(page)
    for pipeline in pipelines:
        pipeline.close()


def test_a_group_of_few_pipelines_is_one_graph_too() -> None:
    pipelines = [Pipeline() for _ in range(2)]
    page = html_of_group(socaity.gather(*(pipeline.save for pipeline in pipelines)))
    assert "detect ×2" in page
    for pipeline in pipelines:
        pipeline.close()


def test_a_map_that_still_reads_has_no_total() -> None:
    group: socaity.JobGroup[Any] = socaity.JobGroup(is_fed=False)
    assert text_of(html_of_group(group)) == "jobs 0 of 0 so far ended"


def test_a_thousand_jobs_are_small_and_quick() -> None:
    service, wire = held()
    group = socaity.gather(*[service["ask"](number) for number in range(1000)])
    wire.wait_for(1000)
    html_of_group(group)
    times = []
    for _ in range(5):
        began = time.thread_time()
        page = html_of_group(group)
        times.append(time.thread_time() - began)
    assert (
        min(times) < 0.1
    )  # 7 ms, and several times that under coverage on a machine with other things to do
    assert len(page) < 200_000
    group.jobs[0].cancel()


def test_a_step_that_needs_a_thousand_jobs_is_folded() -> None:
    service, _ = held(endpoint("page"), endpoint("join"))
    with service:
        job = service["join"]([service["page"](number) for number in range(1000)])
        page = html_of(job)
    assert len(page) < 200_000
    assert "page ×1000: 1000 queued" in page
    assert "more steps" in text_of(page)


def test_a_service_shows_its_endpoints_without_asking() -> None:
    service, _ = held(endpoint("draw", doc="Draw a picture.\n\nSlowly."))
    assert (
        text_of(html_of_service(service))
        == "held://test not asked yet what it has; first use asks, or .refresh()"
    )
    with service:
        service._interrupted["x"] = job = service["draw"]()
        text = text_of(html_of_service(service))
        assert "held://test 1 endpoint" in text
        assert "draw(value: Any = None) -> Any Draw a picture." in text
        assert f"draw {job.id} queued" in text
    assert "closed" in text_of(html_of_service(service))


# -- all of them ---------------------------------------------------------------------------------------------------------


def test_nothing_that_a_service_says_is_markup() -> None:
    service, wire = held(endpoint(EVIL, doc=EVIL))
    job = service[EVIL](EVIL)
    last = service[EVIL](job)
    (call,) = wire.wait_for(1)
    group = socaity.gather(job, last)
    pages = [html_of_service(service)]
    wire.deliver(
        call,
        ("status", {"status": "running"}),
        ("progress", {"fraction": 0.5, "message": EVIL}),
        ("log", {"message": EVIL}),
    )
    pages += [html_of(last), html_of_group(group)]
    wire.fail(call, socaity.JobFailed(EVIL, remote_traceback=EVIL))
    last.exception(20)
    pages += [html_of(job), html_of(last), html_of_group(group)]
    for page in pages:
        outline = Outline(page)
        tags = {tag for tag, _ in outline.tags}
        assert not tags & {"script", "img", "iframe", "object", "a", "link"}
        assert not any(name.startswith("on") or name == "src" for _, one in outline.tags for name in one)
        assert "<script>hacked=1</script>" in outline.text
        assert page.count("<style>") == page.count("</style>") == 1


def test_the_style_touches_nothing_else_and_loads_nothing() -> None:
    rules = re.findall(r"([^{}@;]+)\{", STYLE.removeprefix("<style>"))
    selectors = [
        one for rule in rules for one in rule.split(",") if not rule.startswith(("media", "container", " ("))
    ]
    assert selectors
    assert all(f".{CLASS}" in one for one in selectors if "width" not in one and "prefers" not in one), (
        selectors
    )
    assert not re.search(r"url\(|@import|@font-face|https?:", STYLE)
    assert len(STYLE) < 9000


def test_a_view_reads_and_never_changes(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.load, 0.5)
    set_times(pipeline.load, created=100.0, started=101.0)
    now = 200.0
    # the time left is that of the real clock
    first, second = (re.sub("about .* left", "", html_of(pipeline.save, now=now)) for _ in range(2))
    assert first == second
    assert pipeline.save._waiters in (None, [])
