"""Failures and refusals are in the log: enough to find them, and never enough to fill a disk."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.exceptions import AuthenticationError
from socaity_server import Auth, SocaityRouter
from socaity_server.auth.guard import Action, Guard, Principal, RequestContext
from socaity_server.handlers import DefaultModelHandler, InferenceRequest, InferenceResponse
from socaity_server.sparing_log import SparingLog

from .conftest import open_client

pytestmark = pytest.mark.anyio

KEY = "a-key-of-the-tests-0001"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("socaity_server") and record.levelno == logging.WARNING
    ]


def test_a_flood_is_a_few_lines_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = SparingLog(logging.getLogger("socaity_server.test"), clock=lambda: now)
    for _ in range(1000):
        log.warn("a", "again")
    log.warn("b", "another")
    assert warnings(caplog) == ["again"] * 5 + ["another"]
    now = 61.0
    log.warn("a", "again")
    assert warnings(caplog)[6:] == ["995 lines like the next one were left out", "again"]


def test_new_things_do_not_help_a_flood(caplog: pytest.LogCaptureFixture) -> None:
    log = SparingLog(logging.getLogger("socaity_server.test"), clock=lambda: 0.0)
    for number in range(1000):
        log.warn(number, str(number))
    assert len(warnings(caplog)) == 20


def test_a_text_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = SparingLog(logging.getLogger("socaity_server.test"))
    log.failed("f", ValueError("one\n2026 ERROR forged\x1b[2J" + "x" * 10_000))
    (line,) = warnings(caplog)
    assert line.startswith("a call of 'f' failed: ValueError: one 2026 ERROR forged [2J")
    assert line.isprintable()
    assert len(line) <= 500


@pytest.mark.parametrize("queue_size", [None, 5])
async def test_a_function_that_fails_is_in_the_log(
    router: SocaityRouter, caplog: pytest.LogCaptureFixture, queue_size: int | None
) -> None:
    @router.add_route("/half", queue_size=queue_size)
    def half(text: str) -> str:
        raise KeyError("no such word")

    async with open_client(router) as client:
        answer = await client.post("/half", json={"text": "secret argument"})
        job = answer.json().get("id", "")
        if job:
            done = await client.get(f"/jobs/{job}", params={"wait": 20})
            assert done.json()["status"] == "failed"
    (line,) = warnings(caplog)
    expected = f" (job {job})" if job else ""
    assert line == f"a call of 'half' failed{expected}: KeyError: 'no such word'"


async def test_a_batch_that_fails_is_in_the_log(
    router: SocaityRouter, caplog: pytest.LogCaptureFixture
) -> None:
    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise ArithmeticError("cannot double")

    async with open_client(router) as client:
        for _ in range(20):
            assert (await client.post("/double", json={"x": [1.0]})).status_code == 500
        assert (await client.post("/double", json={"y": 1})).status_code == 422
    assert warnings(caplog) == ["a call of 'double' failed: ArithmeticError: cannot double"] * 5


class Broken(DefaultModelHandler):
    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        raise OSError("the disk is gone")

    def model_load(self, model_name: str) -> bool:
        return True


async def test_a_handler_that_fails_is_in_the_log(
    router: SocaityRouter, caplog: pytest.LogCaptureFixture
) -> None:
    router.add_handler(Broken(), models="broken")
    one = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}
    async with open_client(router) as client:
        answer = await client.post("/v2/models/broken/infer", json={"inputs": [one]})
        assert answer.status_code == 500
        await client.post("/v2/models/broken/infer", json={"inputs": [{**one, "shape": [2]}]})
    assert warnings(caplog) == ["a call of 'broken' failed: OSError: the disk is gone"]


async def test_who_is_refused_is_in_the_log_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    router = SocaityRouter(auth=Auth(api_keys={"program": KEY}))

    @router.add_route("/greet")
    def greet(name: str) -> str:
        return f"hello {name}"

    def bearer(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    async with open_client(router) as client:

        async def call(**headers: str) -> httpx.Response:
            return await client.post("/greet", json={"name": "you"}, headers=headers)

        assert (await call(**bearer(KEY))).status_code == 200
        assert warnings(caplog) == []
        assert (await call(**bearer("wrong-key-0001"))).status_code == 401
        assert (await call()).status_code == 401
        assert (await client.post("/login", data={"token": "wrong-key-0002"})).status_code == 401
        for _ in range(100):
            await call(**bearer("wrong-key-0003"))
    assert warnings(caplog)[:3] == [
        "refused 127.0.0.1: invalid_api_key (infer)",
        "refused 127.0.0.1: unauthenticated (infer)",
        "refused 127.0.0.1: invalid_api_key (login)",
    ]
    assert len(warnings(caplog)) == 7
    assert "wrong-key" not in caplog.text
    assert KEY not in caplog.text


async def test_call_on_an_open_socket_that_is_refused_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(Auth(api_keys={"program": KEY}))
    gone = Principal("alice", "user", expires_at=1.0)
    with pytest.raises(AuthenticationError):
        guard.authorize(gone, Action.JOB_READ, "job:1", RequestContext(peer="10.0.0.7"))
    assert warnings(caplog) == ["refused 10.0.0.7: token_expired (job.read)"]
