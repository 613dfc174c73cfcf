"""One of every view: what the tests of the page look at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import socaity
from socaity._timeline import timeline_of
from socaity._view import html_of, html_of_group, html_of_service
from tests.socaity.doubles import held
from tests.socaity.pipelines import Pipeline, set_times, single

EVIL = "</style></svg><script>hacked=1</script><img src=//stolen.example/x onerror=hacked=1>\"'"


class Sound:
    def __init__(self, seconds: float, sample_rate: int) -> None:
        moments = np.arange(int(seconds * sample_rate)) / sample_rate
        loud = np.abs(np.sin(moments * math.pi / seconds * 3))
        self.samples = (np.sin(moments * 2 * math.pi * 440) * loud * 0.7).astype(np.float32)
        self.sample_rate = sample_rate


def picture(width: int = 640, height: int = 420, *, shift: int = 0) -> Any:
    """A landscape of gradients."""
    down, along = np.mgrid[0:height, 0:width]
    hill = down > height * 0.6 + 40 * np.sin((along + shift) / 70)
    sky = np.stack([90 + down * 0.3, 140 + down * 0.2, 230 - down * 0.1], axis=-1)
    land = np.stack([60 + along * 0.05, 130 - (down - height) * 0.2, 70 + along * 0.02], axis=-1)
    return np.where(hill[..., None], land, sky).clip(0, 255).astype(np.uint8)


def _running(pipeline: Pipeline) -> str:
    now = time.monotonic()
    pipeline.succeed(pipeline.load, value=picture())
    pipeline.run(pipeline.detect, 0.4, "tile 4 of 10")
    set_times(pipeline.load, created=now - 14.2, started=now - 14.0, ended=now - 12)
    for job in pipeline.jobs[1:]:
        set_times(job, created=now - 14.2, started=now - 11.8 if job is pipeline.detect else None)
    return html_of(pipeline.save, now=now)


def _failed(pipeline: Pipeline) -> str:
    pipeline.succeed(pipeline.load, value=picture())
    pipeline.succeed(
        pipeline.detect,
        value=[{"box": "3, 4, 90, 21", "score": 0.98}, {"box": "9, 9, 80, 14", "score": 0.61}],
    )
    pipeline.log(pipeline.read, "loading the weights", "out of memory on cuda:0")
    trace = (
        'Traceback (most recent call last):\n  File "ocr.py", line 12, in read\nRuntimeError: out of memory'
    )
    pipeline.fail(
        pipeline.read,
        socaity.JobFailed("RuntimeError: out of memory: tried to allocate 2.1 GB", remote_traceback=trace),
    )
    pipeline.end()
    return html_of(pipeline.save, now=_settle(pipeline))


def _lost(pipeline: Pipeline) -> str:
    pipeline.succeed(pipeline.load, pipeline.detect, value="done")
    pipeline.run(pipeline.read)
    pipeline.fail(pipeline.read, socaity.JobLost("the service went away and did not come back"))
    pipeline.end()
    return html_of(pipeline.save, now=_settle(pipeline))


def _timeline(pipeline: Pipeline) -> str:
    pipeline.succeed(*pipeline.jobs, value="x")
    pipeline.end()
    _settle(pipeline)
    return timeline_of(pipeline.save)._repr_html_()


def _settle(pipeline: Pipeline) -> float:
    """Each step took longer than the one before."""
    at = start = pipeline.load._created
    for number, job in enumerate(pipeline.jobs, 1):
        set_times(
            job, created=start, started=None if job._started is None else at + 0.2, ended=at + 0.4 * number
        )
        at += 0.4 * number
    return at


def _single(status: str) -> str:
    job, wire, call = single("generate_image")
    job._created = time.monotonic() - 75
    if status == "queued":
        wire.deliver(call, ("status", {"status": "queued", "queue_position": 3}))
    elif status == "bar":
        wire.deliver(
            call,
            ("status", {"status": "running"}),
            ("progress", {"fraction": 0.62, "message": "step 31 of 50"}),
        )
    elif status == "unknown":
        wire.deliver(call, ("status", {"status": "running"}), ("progress", {"message": "warming up"}))
    elif status == "evil":
        wire.deliver(call, ("log", {"message": EVIL}), ("progress", {"fraction": 0.1, "message": EVIL}))
        wire.fail(call, socaity.JobFailed(EVIL, remote_traceback=EVIL))
    elif status == "cancelled":
        wire.fail(call, socaity.JobCancelled("cancelled by the caller"))
    elif status == "failed":
        wire.deliver(call, *(("log", {"message": f"epoch {number}"}) for number in range(30)))
        wire.fail(call, socaity.JobFailed("ValueError: the prompt is empty", remote_traceback="Traceback …"))
    if job._started is not None:
        job._started = job._created + 8
    if job.done():
        job._ended_at = job._created + 71
    return html_of(job)


def _result(value: Any) -> str:
    job, wire, call = single("generate")
    wire.succeed(call, value)
    return html_of(job)


def _group(count: int) -> str:
    service, wire = held()
    group = socaity.gather(*[service["ask"](number) for number in range(count)])
    calls = wire.wait_for(count)
    for number, call in enumerate(calls[: count * 2 // 3]):
        if number % 50 == 3:
            wire.fail(call, socaity.JobFailed(f"ValueError: row {number} is empty"))
        else:
            wire.succeed(call, picture(200, 140, shift=number * 60) if number < 6 else number)
    for call in calls[count * 2 // 3 :][:3]:
        wire.deliver(
            call, ("status", {"status": "running"}), ("progress", {"fraction": 0.5, "message": "half"})
        )
    now = time.monotonic()
    for job in group.jobs:
        job._created = now - 31
        if job._started is not None:
            job._started = now - 12
        if job.done():
            job._ended_at = now - 11
    return html_of_group(group, now=now)


def _group_of_pipelines(pipelines: list[Pipeline]) -> str:
    for pipeline in pipelines[:8]:
        pipeline.succeed(pipeline.load, pipeline.detect)
    pipelines[9].fail(pipelines[9].load, socaity.JobFailed("the page is empty"))
    pipelines[9].end()
    group = socaity.gather(*(pipeline.save for pipeline in pipelines))
    return html_of_group(group, now=pipelines[0].load._created + 8)


def _service(pipeline: Pipeline) -> str:
    pipeline.service._interrupted = {pipeline.load.id: pipeline.load}
    return html_of_service(pipeline.service)


def gallery() -> dict[str, str]:
    """All views by name."""
    made: list[Pipeline] = []

    def pipeline() -> Pipeline:
        made.append(Pipeline())
        return made[-1]

    def with_pipeline(view: Callable[[Pipeline], str]) -> str:
        return view(pipeline())

    views = {
        "running pipeline": with_pipeline(_running),
        "failed pipeline": with_pipeline(_failed),
        "lost pipeline": with_pipeline(_lost),
        **{status: _single(status) for status in ("queued", "bar", "unknown", "cancelled", "failed", "evil")},
        "picture": _result(picture()),
        "dict": _result(
            {
                "picture": picture(300, 300),
                "score": 0.9731,
                "label": "a hill at the sea",
                "tags": ["hill", "sea"],
            }
        ),
        "sound": _result(Sound(3.0, 22_050)),
        "table": _result(
            [{"word": f"word {row}", "score": 0.9 - row / 40, "page": row} for row in range(30)]
        ),
        "text": _result("Once upon a time there was a model that liked long sentences. " * 12),
        "array": _result(np.linspace(-1, 1, 384, dtype=np.float32).reshape(1, 384)),
        "group": _group(1000),
        "small group": _group(9),
        "group of pipelines": _group_of_pipelines([pipeline() for _ in range(12)]),
        "service": with_pipeline(_service),
        "timeline": with_pipeline(_timeline),
    }
    for one in made:
        one.close()
    return views
