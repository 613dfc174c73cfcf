"""What the HTTP front end says when something is wrong: problem documents with a stable code."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from socaity_server import SocaityRouter

from .conftest import open_client

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/vnd.socaity+msgpack"}


@pytest.fixture
def router(router: SocaityRouter) -> SocaityRouter:
    @router.add_route("/predict", queue_size=5)
    def predict(text: str, steps: int = 4) -> str:
        return text

    @router.add_route("/strange")
    def strange() -> Any:
        return {"a": [object()]}

    @router.add_route("/raise")
    def fail() -> None:
        raise RuntimeError("no memory")

    return router


def check(answer: httpx.Response, status: int, code: str, *texts: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    for text in texts:
        assert text in problem["detail"]
    return problem


async def test_unknown_endpoint_suggests_a_near_one(client: httpx.AsyncClient) -> None:
    check(await client.post("/predit", json={}), 404, "endpoint_not_found", "/predict")


@pytest.mark.parametrize(
    "url", ["/jobs/none", "/status?job_id=none", "/predict?job_id=none", "/jobs/none/events"]
)
async def test_unknown_job_is_404(client: httpx.AsyncClient, url: str) -> None:
    check(await client.get(url), 404, "job_not_found", "none")


async def test_wrong_argument_is_named(client: httpx.AsyncClient) -> None:
    problem = check(
        await client.post("/predict", json={"text": "a", "steps": "x"}), 422, "invalid_input", "steps", "'x'"
    )
    assert problem["parameter"] == "steps"
    check(await client.post("/predict", json={}), 422, "invalid_input", "text")
    check(
        await client.post("/predict", json={"text": "a", "stepz": 1}),
        422,
        "invalid_input",
        "did you mean 'steps'",
    )


async def test_malformed_bodies_are_400(client: httpx.AsyncClient) -> None:
    check(
        await client.post("/predict", content=b'{"text": ', headers=JSON),
        400,
        "malformed_body",
        "line 1 column",
    )
    check(await client.post("/predict", content=b"[1]", headers=JSON), 400, "malformed_body", "list")
    check(await client.post("/predict", content=b"\xc1", headers=MSGPACK), 400, "malformed_body")
    multipart = {"Content-Type": "multipart/form-data"}
    check(await client.post("/predict", content=b"x", headers=multipart), 400, "malformed_body")


async def test_other_content_types_are_415(client: httpx.AsyncClient) -> None:
    text = {"Content-Type": "text/plain"}
    check(
        await client.post("/predict", content=b"x", headers=text), 415, "unsupported_media_type", "text/plain"
    )
    check(await client.post("/predict", content=b"x"), 415, "unsupported_media_type")


async def test_large_bodies_are_413_with_the_limit() -> None:
    router = SocaityRouter(max_body=1000, max_blob=2000, grace=0.1)
    router.add_route("/size")(len_of)
    async with open_client(router) as client:
        check(await client.post("/size", json={"text": "x" * 1000}), 413, "too_large", "1000")

        async def chunks() -> Any:
            for _ in range(20):
                yield b"x" * 100

        check(await client.post("/size", content=chunks(), headers=JSON), 413, "too_large", "1000")
        files = {"text": b"x" * 2000}
        check(await client.post("/size", files=files), 413, "too_large", "1000")
        check(await client.put(f"/blobs/{'0' * 64}", content=b"x" * 2001), 413, "too_large")


def len_of(text: str) -> int:
    return len(text)


async def test_unserialisable_result_names_type_and_place(client: httpx.AsyncClient) -> None:
    check(await client.post("/strange"), 500, "result_not_serialisable", "result['a'][0]", "object")


async def test_function_that_raises_is_job_failed(client: httpx.AsyncClient) -> None:
    problem = check(await client.post("/raise"), 500, "job_failed", "RuntimeError: no memory")
    assert problem["error_type"] == "RuntimeError"


async def test_unknown_references_are_refused_at_once(client: httpx.AsyncClient) -> None:
    check(await client.post("/predict", json={"text": {"$job": "x"}}), 422, "unknown_job", "text", "x")
    check(await client.post("/predict", json={"text": {"$blob": "x"}}), 422, "unknown_blob", "text", "x")


async def test_wrong_waits_and_numbers_are_refused(client: httpx.AsyncClient) -> None:
    check(
        await client.post("/predict", json={"text": "a"}, headers={"Prefer": "wait=soon"}),
        400,
        "invalid_wait",
    )
    check(await client.get("/jobs?limit=0"), 422, "invalid_input", "limit")
    check(await client.get("/jobs?status=lost"), 422, "invalid_input", "queued")
    job = (await client.post("/predict", json={"text": "a"})).json()
    check(await client.get(job["links"]["events"] + "?after=x"), 422, "invalid_input")


async def test_timed_out_job_fails_and_the_queue_goes_on() -> None:
    router = SocaityRouter(grace=0.1)

    @router.add_route("/slow", queue_size=5, timeout=0.05)
    async def slow(wait: bool) -> str:
        if wait:
            await asyncio.Event().wait()
        return "done"

    async with open_client(router) as client:
        stuck = (await client.post("/slow", json={"wait": True})).json()["id"]
        job = (await client.post("/slow?sync=true", json={"wait": False})).json()
        assert job["result"] == "done"
        error = (await client.get(f"/jobs/{stuck}")).json()["error"]
        assert error["code"] == "timeout"
