"""Jobs over HTTP as the contract has them: submit, wait, read, watch, cancel, list, blobs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.messagepack import packb, unpackb
from socaity_server import JobProgress, SocaityRouter

from .conftest import SOON, Gate

pytestmark = pytest.mark.anyio

MSGPACK = "application/vnd.socaity+msgpack"


@pytest.fixture
def router(router: SocaityRouter, gate: Gate) -> SocaityRouter:
    @router.add_route("/predict", queue_size=2)
    def predict(job_progress: JobProgress, text: str, steps: int = 4) -> dict[str, Any]:
        job_progress.message, job_progress.progress = "working", 0.5
        return {"text": text, "steps": steps}

    @router.add_route("/held", queue_size=2)
    def held(job_progress: JobProgress, x: int = 0) -> int:
        gate()
        job_progress.raise_if_cancelled()
        return x

    @router.add_route("/echo", methods=("GET", "POST"))
    async def echo(value: Any = None, number: int = 0) -> Any:
        return [value, number]

    @router.add_route("/fail", queue_size=2)
    def fail() -> None:
        secret = "local variable"  # noqa: F841
        raise KeyError("colour")

    @router.add_route("/count")
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @router.add_route("/later")
    async def later(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @router.add_route("/size")
    def size(data: bytes) -> int:
        return len(data)

    return router


def events_in(text: str) -> list[tuple[int, str, Any]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":")
        )
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


async def test_queued_route_answers_with_a_job(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json={"text": "a"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{job['id']}" == job["links"]["self"]
    assert (job["status"], job["endpoint"], job["result"], job["queue_position"]) == (
        "queued",
        "predict",
        None,
        1,
    )
    done = (await client.get(answer.headers["location"], params={"wait": 5})).json()
    assert done["status"] == "succeeded"
    assert done["progress"] == {"fraction": 1.0, "message": "working"}
    assert done["result"] == {"text": "a", "steps": 4}
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]


async def test_seed_calls_with_query_parameters_and_finds_the_job_everywhere(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/predict?text=a&steps=2&sync=true")
    assert (answer.status_code, answer.json()["result"]) == (200, {"text": "a", "steps": 2})
    job_id = answer.json()["id"]
    for method, url in (("GET", "/predict"), ("POST", "/predict"), ("GET", "/status")):
        again = await client.request(method, url, params={"job_id": job_id})
        assert (again.status_code, again.json()) == (200, answer.json())


async def test_prefer_wait_holds_until_done_or_time(client: httpx.AsyncClient, gate: Gate) -> None:
    quick = await client.post("/predict", json={"text": "a"}, headers={"Prefer": "wait=5"})
    assert (quick.status_code, quick.json()["status"]) == (200, "succeeded")
    assert quick.headers["preference-applied"] == "wait=5"
    slow = await client.post("/held", json={}, headers={"Prefer": "wait=0.01"})
    assert (slow.status_code, slow.json()["result"]) == (202, None)


async def test_respond_async_makes_a_job_of_any_function(client: httpx.AsyncClient) -> None:
    plain = await client.post("/echo", json={"value": 1})
    assert (plain.status_code, plain.json()) == (200, [1, 0])
    asked = await client.post("/echo", json={"value": 1}, headers={"Prefer": "respond-async, wait=1"})
    assert (asked.status_code, asked.json()["status"], asked.json()["result"]) == (200, "succeeded", [1, 0])
    assert (await client.post("/echo", headers={"Prefer": "respond-async"})).status_code == 202


async def test_get_works_for_routes_declared_so(client: httpx.AsyncClient) -> None:
    assert (await client.get("/echo", params={"value": "a", "number": "3"})).json() == ["a", 3]
    refused = await client.get("/predict", params={"text": "a"})
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


async def test_same_key_is_the_same_job(client: httpx.AsyncClient) -> None:
    first = await client.post("/predict", json={"text": "a"}, headers={"Idempotency-Key": "k1"})
    again = await client.post("/predict", json={"text": "a"}, headers={"Idempotency-Key": "k1"})
    assert first.json()["id"] == again.json()["id"]
    other = await client.post("/predict", json={"text": "b"}, headers={"Idempotency-Key": "k1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    mine = "0123456789abcdef" * 2
    taken = await client.post("/predict", json={"text": "a"}, headers={"Idempotency-Key": mine})
    assert taken.json()["id"] == mine


async def test_key_on_a_plain_route_runs_it_once(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    calls = []

    @router.add_route("/once")
    def once(x: int) -> int:
        calls.append(x)
        return len(calls)

    for _ in range(2):
        answer = await client.post("/once", json={"x": 1}, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()) == (200, 1)


async def test_failure_tells_type_text_and_the_users_frames_only(client: httpx.AsyncClient) -> None:
    job = (await client.post("/fail?sync=true")).json()
    assert job["status"] == "failed"
    error = job["error"]
    assert (error["code"], error["error_type"], error["detail"]) == (
        "job_failed",
        "KeyError",
        "KeyError: 'colour'",
    )
    assert "in fail" in error["traceback"]
    assert "socaity_server" not in error["traceback"]


async def test_cancelled_running_job_ends_and_queue_goes_on(client: httpx.AsyncClient, gate: Gate) -> None:
    first = (await client.post("/held", json={"x": 1})).json()["id"]
    second = (await client.post("/held", json={"x": 2})).json()["id"]
    await asyncio.to_thread(gate.wait_entered)
    cancelled = await client.post(f"/jobs/{first}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    gate.open()
    done = (await client.get(f"/jobs/{second}?wait=5")).json()
    assert (done["status"], done["result"]) == ("succeeded", 2)
    assert (await client.delete(f"/jobs/{second}")).json()["status"] == "succeeded"


async def test_full_queue_refuses_with_retry_after(client: httpx.AsyncClient, gate: Gate) -> None:
    await client.post("/held")
    await asyncio.to_thread(gate.wait_entered)
    for _ in range(2):
        assert (await client.post("/held")).status_code == 202
    refused = await client.post("/held")
    assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["content-type"] == "application/problem+json"
    assert (await client.post("/predict", json={"text": "a"})).status_code == 202


async def test_events_are_numbered_and_resume(client: httpx.AsyncClient) -> None:
    job = (await client.post("/count", json={"n": 3}, headers={"Prefer": "respond-async"})).json()
    whole = await client.get(job["links"]["events"])
    assert whole.headers["content-type"].startswith("text/event-stream")
    events = events_in(whole.text)
    assert [number for number, _, _ in events] == [1, 2, 3, 4, 5, 6]
    assert [data for _, kind, data in events if kind == "chunk"] == [0, 1, 2]
    assert events[-1] == (6, "result", None)
    rest = await client.get(job["links"]["events"], headers={"Last-Event-ID": "4"})
    assert events_in(rest.text) == events[4:]
    assert events_in((await client.get(job["links"]["events"] + "?after=6")).text) == []


@pytest.mark.parametrize("path", ["/count", "/later"])
async def test_generator_streams_its_events(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"n": 2})
    assert answer.headers["location"].startswith("/jobs/")
    assert [data for _, kind, data in events_in(answer.text) if kind == "chunk"] == [0, 1]
    assert (await client.post(f"{path}?sync=true", json={"n": 2})).json() == [0, 1]


async def test_msgpack_carries_arrays_both_ways(client: httpx.AsyncClient) -> None:
    body = packb({"value": np.arange(3, dtype=np.float32)})
    answer = await client.post("/echo", content=body, headers={"Content-Type": MSGPACK, "Accept": MSGPACK})
    assert answer.headers["content-type"] == MSGPACK
    value, number = unpackb(answer.content)
    assert (value.dtype, value.tolist(), number) == (np.float32, [0, 1, 2], 0)
    as_json = await client.post("/echo", content=body, headers={"Content-Type": MSGPACK})
    assert as_json.json() == [[0, 1, 2], 0]


async def test_multipart_carries_files_and_fields(client: httpx.AsyncClient) -> None:
    assert (await client.post("/size", files={"data": b"12345"})).json() == 5
    assert (await client.post("/size", json={"data": "MTIz"})).json() == 3
    answer = await client.post("/predict?sync=true", data={"text": "a", "steps": "7"})
    assert answer.json()["result"] == {"text": "a", "steps": 7}


async def test_jobs_are_listed_filtered_and_paged(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/predict?sync=true", json={"text": "a"})).json()["id"] for _ in range(3)]
    await client.post("/fail?sync=true")
    page = (await client.get("/jobs", params={"endpoint": "predict", "limit": 2})).json()
    assert [job["id"] for job in page["jobs"]] == [ids[2], ids[1]]
    rest = (
        await client.get("/jobs", params={"endpoint": "predict", "limit": 2, "after": page["next"]})
    ).json()
    assert ([job["id"] for job in rest["jobs"]], rest["next"]) == ([ids[0]], None)
    failed = (await client.get("/jobs", params={"status": "failed"})).json()["jobs"]
    assert [job["endpoint"] for job in failed] == ["fail"]


async def test_blob_travels_once_and_stands_in_arguments(client: httpx.AsyncClient) -> None:
    data = b"x" * 100_000
    sha256 = hashlib.sha256(data).hexdigest()
    assert (await client.head(f"/blobs/{sha256}")).status_code == 404
    assert (await client.put(f"/blobs/{sha256}", content=data)).status_code == 201
    assert (await client.put(f"/blobs/{sha256}", content=data)).status_code == 200
    assert (await client.head(f"/blobs/{sha256}")).headers["content-length"] == "100000"
    assert (await client.get(f"/blobs/{sha256}")).content == data
    assert (await client.post("/size", json={"data": {"$blob": sha256}})).json() == 100_000
    wrong = await client.put(f"/blobs/{'0' * 64}", content=data)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "hash_mismatch")


async def test_reference_to_a_job_is_resolved(client: httpx.AsyncClient, gate: Gate) -> None:
    upstream = (await client.post("/held", json={"x": 5})).json()["id"]
    reference = {"value": {"$job": upstream}}
    job = (await client.post("/echo", json=reference, headers={"Prefer": "respond-async"})).json()
    gate.open()
    assert (await client.get(f"/jobs/{job['id']}?wait=5")).json()["result"] == [5, 0]
    failed = (await client.post("/fail?sync=true")).json()["id"]
    job = (
        await client.post(
            "/echo", json={"value": {"$job": failed}}, headers={"Prefer": "wait=5, respond-async"}
        )
    ).json()
    assert (job["status"], failed in job["error"]["detail"]) == ("failed", True)


async def test_health_names_instance_and_queues(client: httpx.AsyncClient, router: SocaityRouter) -> None:
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "healthy")
    assert health.json()["queues"]["predict"] == {"waiting": 0, "running": 0}
    await router.dataplane.aclose()
    assert (await client.get("/health")).status_code == 503
    refused = await client.post("/predict", json={"text": "a"})
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")


def test_events_arrive_live_and_disconnect_stops_the_watch(
    router: SocaityRouter, live_server: Callable[[SocaityRouter], str], gate: Gate
) -> None:
    url = live_server(router)
    with httpx.Client(base_url=url, timeout=SOON) as client:
        job = client.post("/held", json={"x": 3}).json()
        with client.stream("GET", job["links"]["events"]) as stream:
            lines = stream.iter_lines()
            seen = [line for line in (next(lines) for _ in range(8)) if line.startswith("event")]
            assert seen == ["event: status", "event: status"]
        with client.stream("GET", job["links"]["events"], headers={"Last-Event-ID": "2"}) as stream:
            gate.open()
            rest = "".join(stream.iter_text())
        assert events_in(rest)[-1] == (3, "result", 3)


def test_caller_who_goes_away_cancels_a_plain_call(live_server: Callable[[SocaityRouter], str]) -> None:
    router = SocaityRouter(grace=1.0)
    entered, left = threading.Event(), threading.Event()

    @router.add_route("/wait")
    async def wait() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    url = live_server(router)
    with httpx.Client(base_url=url) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/wait", timeout=httpx.Timeout(SOON, read=0.2))
    assert entered.wait(SOON)
    assert left.wait(SOON)
