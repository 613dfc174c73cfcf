"""Every try of a job carries its id: our server runs it once, whatever became of the answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import socaity
from socaity import JobLost, RetryPolicy
from socaity_server import SocaityRouter
from tests.e2e.servers import DEADLINE
from tests.transports.doubles import served

AT_ONCE = RetryPolicy(attempts=8, base_delay=0, max_delay=0)


class Unlucky:
    """An app in front of another: the answers to the first posts are refusals, or get lost after the app has worked."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.keys: list[str] = []
        self.refused = self.lost = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        self.keys.append(dict(scope["headers"])[b"idempotency-key"].decode())
        if self.refused > 0:
            self.refused -= 1
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif self.lost > 0:
            self.lost -= 1

            async def nowhere(message: Any) -> None: ...

            await self.app(scope, receive, nowhere)
            headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"[", "more_body": True})
            raise ConnectionResetError
        else:
            await self.app(scope, receive, send)


runs: Counter[str] = Counter()
lock = threading.Lock()


def make_router() -> SocaityRouter:
    router = SocaityRouter(provider="fastapi", environment="localhost")

    @router.add_route("/pay", queue_size=10)
    def pay(name: str) -> str:
        with lock:
            runs[name] += 1
        return f"paid {name}"

    @router.add_route("/charge", max_batch_size=1)
    def charge(x: np.ndarray) -> np.ndarray:
        with lock:
            runs["charge"] += 1
        return x

    @router.add_route("/look", max_batch_size=1, idempotent=True)
    def look(x: np.ndarray) -> np.ndarray:
        return x

    return router


@pytest.fixture
def unlucky() -> Iterator[tuple[Unlucky, socaity.Service]]:
    runs.clear()
    app = Unlucky(make_router().app)
    with (
        served(app, lifespan="on") as url,
        socaity.connect(url, transport="http", progress=False, retry=AT_ONCE) as service,
    ):
        yield app, service


def test_refusals_and_lost_answers_make_a_job_once(unlucky: tuple[Unlucky, socaity.Service]) -> None:
    app, service = unlucky
    app.refused, app.lost = 2, 1
    job = service.pay("rent")
    assert job.result(DEADLINE) == "paid rent"
    assert app.keys == [job.id] * 3  # the service has got the third, and is asked for it
    assert runs["rent"] == 1


def test_a_direct_call_that_may_have_run_is_lost_and_not_repeated(
    unlucky: tuple[Unlucky, socaity.Service],
) -> None:
    app, service = unlucky
    app.lost = 1
    job = service.charge(np.ones(2))
    assert isinstance(job.exception(DEADLINE), JobLost)
    assert app.keys == [job.id]
    assert runs["charge"] == 1


def test_a_direct_call_that_may_be_repeated_is(unlucky: tuple[Unlucky, socaity.Service]) -> None:
    app, service = unlucky
    app.lost = 2
    job = service.look(np.ones(2))
    assert job.result(DEADLINE).tolist() == [1, 1]
    assert app.keys == [job.id] * 3
