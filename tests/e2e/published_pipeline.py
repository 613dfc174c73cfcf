"""Pipelines as endpoints; their steps are at the service that `STEPS` names."""

import os
from typing import Any

import socaity
from socaity import Job
from socaity_server import SocaityRouter

router = SocaityRouter()
steps = socaity.connect(os.environ.get("STEPS", "http://127.0.0.1:1"), progress=False)


@router.add_route("/add_two")
@socaity.pipeline
def add_two(x: int) -> Job[int]:
    return steps.add_one(steps.add_one(x))


@router.add_route("/add_two_async")
async def add_two_async(x: int) -> int:
    return add_two(x)  # type: ignore[return-value]  # the server waits for it


@router.add_route("/broken")
@socaity.pipeline
def broken() -> Any:
    return steps.fail(name="published")


@router.add_route("/waiting")
@socaity.pipeline
def waiting(name: str) -> Any:
    last = steps.at_gate(1, name)
    steps.add_one(1).result(30)
    return last
