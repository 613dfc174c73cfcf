"""What somebody makes is theirs: jobs, what refers to them, sessions of the socket, and results on their way between services."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket
from websockets.typing import Subprotocol

import socaity
from socaity.exceptions import APIError, InvalidInputError, JobError
from socaity_server import Auth, SocaityRouter
from tests.server.auth.issuer import SECRET, make_token
from tests.server.conftest import Gate, serve

DEADLINE = 20
ALICE_KEY = "the-key-of-alice-0001"
BOB = make_token(sub="bob")
ALICE = make_token(sub="alice")
AUTH = Auth(secret=SECRET, api_keys={"alice": ALICE_KEY})


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, Gate]]:
    router = SocaityRouter(auth=AUTH, grace=1.0)
    gate = Gate()

    @router.add_route("/greet", queue_size=10)
    def greet(name: str) -> str:
        return f"hello {name}"

    @router.add_route("/wait", queue_size=10, concurrency=4)
    def wait() -> str:
        gate()
        return "waited"

    @router.add_route("/numbers", queue_size=10)
    def numbers() -> list[float]:
        return [3.0]

    @router.add_route("/large", max_batch_size=4)
    def large(x: np.ndarray) -> np.ndarray:
        return np.repeat(x, 50_000, axis=-1)

    with serve(router) as url:
        yield url, gate
        gate.open()


def client(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE)


def open_socket(url: str, token: str) -> ClientConnection:
    return open_websocket(
        url.replace("http", "ws", 1) + "/ws",
        subprotocols=[Subprotocol("socaity.v1")],
        additional_headers={"Authorization": f"Bearer {token}"},
    )


# a key that has the name of a user is somebody else
OTHERS = {"another user": BOB, "a key of that name": ALICE_KEY}


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest) -> str:
    return OTHERS[request.param]


def test_job_is_its_owners(service: tuple[str, Gate], other: str) -> None:
    url, gate = service
    with client(url, ALICE) as alice, client(url, other) as bob:
        place = alice.post("/wait", json={}).headers["location"]
        job_id = place.rpartition("/")[2]
        gate.wait_entered()
        for answer in (
            bob.get(place),
            bob.get(place, params={"wait": 1}),
            bob.get(f"{place}/events"),
            bob.get("/status", params={"job_id": job_id}),
            bob.get("/wait", params={"job_id": job_id}),
            bob.post("/wait", params={"job_id": job_id}, json={}),
            bob.post(f"{place}/cancel"),
            bob.delete(place),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")
        assert job_id not in bob.get("/jobs").text
        assert job_id in alice.get("/jobs").text
        assert alice.get(place).json()["status"] == "running"  # it was not cancelled
        assert alice.post(f"{place}/cancel").status_code == 200


def test_result_of_a_job_is_its_owners(service: tuple[str, Gate], other: str) -> None:
    url, _ = service
    with client(url, ALICE) as alice, client(url, other) as bob:
        job_id = alice.post("/greet?sync=true", json={"name": "a secret"}).json()["id"]
        answer = bob.post("/greet", json={"name": {"$job": job_id}})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_job")
        own = alice.post("/greet?sync=true", json={"name": {"$job": job_id}})
        assert own.json()["result"] == "hello hello a secret"


def test_key_of_one_owner_is_no_key_of_another(service: tuple[str, Gate], other: str) -> None:
    url, _ = service
    with client(url, ALICE) as alice, client(url, other) as bob:
        key = {"Idempotency-Key": "the same"}
        first = alice.post("/greet?sync=true", json={"name": "one"}, headers=key).json()
        second = bob.post("/greet?sync=true", json={"name": "one"}, headers=key).json()
        assert first["id"] != second["id"]
        # an id that is given is that of one job only
        answer = bob.post("/greet", json={"name": "one"}, headers={"Idempotency-Key": first["id"]})
        assert answer.json()["code"] == "idempotency_key_reused"
        assert "hello" not in answer.text


def test_job_is_its_owners_over_the_socket(service: tuple[str, Gate], other: str) -> None:
    url, gate = service
    with (
        socaity.connect(url, api_key=ALICE, progress=False) as alice,
        socaity.connect(url, api_key=other, progress=False) as bob,
    ):
        job = alice.wait()
        gate.wait_entered()
        taken = bob.job(job.id)
        with pytest.raises((APIError, JobError)):
            taken.result(timeout=DEADLINE)
        bob.job(job.id).cancel()
        again = alice.job(job.id)
        job.cancel()
        with pytest.raises(socaity.JobCancelled):
            again.result(timeout=DEADLINE)


def test_nobody_refers_to_the_job_of_another_over_the_socket(service: tuple[str, Gate], other: str) -> None:
    url, _ = service
    with client(url, ALICE) as alice:
        job_id = alice.post("/greet?sync=true", json={"name": "a secret"}).json()["id"]
    with open_socket(url, other) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        raw.recv(DEADLINE)
        reference = {"$job": job_id}
        messages = [
            [2, 1, "large", {"x": reference}],
            [3, 2, "greet", {"name": reference}, uuid.uuid4().hex],
            [4, 3, job_id, 0],
            [5, 4, job_id],
            [10, 5, job_id, []],
        ]
        raw.send(msgpack.packb([1, 0, messages]))
        codes: dict[int, str] = {}
        while len(codes) < len(messages):
            for message in msgpack.unpackb(raw.recv(DEADLINE))[2]:
                assert message[0] == 18, message
                codes[message[1]] = message[2]["code"]
        assert codes == {
            1: "unknown_job",
            2: "unknown_job",
            3: "job_not_found",
            4: "job_not_found",
            5: "unknown_job",
        }


def test_owner_refers_to_own_jobs_in_direct_calls(service: tuple[str, Gate]) -> None:
    """Frame by frame: a client that is refused would bring the value itself."""
    url, _ = service
    with client(url, ALICE) as alice:
        job_id = alice.post("/numbers?sync=true", json={}).json()["id"]
    with open_socket(url, ALICE) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": None, "received": 0}]]]))
        raw.recv(DEADLINE)
        raw.send(msgpack.packb([1, 0, [[2, 1, "large", {"x": {"$job": job_id}}]]]))
        messages: list[Any] = []
        while not messages or messages[-1][0] == 7:  # large results come in pieces
            messages = msgpack.unpackb(raw.recv(DEADLINE))[2]
        assert messages[-1][:2] == [17, 1]


def test_job_of_the_socket_is_read_over_http_by_its_owner(service: tuple[str, Gate], other: str) -> None:
    url, _ = service
    with socaity.connect(url, api_key=ALICE, progress=False) as connected:
        job = connected.greet("you")
        assert job.result(timeout=DEADLINE) == "hello you"
    with client(url, ALICE) as alice, client(url, other) as bob:
        assert alice.get(f"/jobs/{job.id}").json()["result"] == "hello you"
        assert bob.get(f"/jobs/{job.id}").status_code == 404


def say_hello(url: str, token: str, session: str | None) -> dict[str, Any]:
    """What the server answers to the first message of a connection."""
    with open_socket(url, token) as raw:
        raw.send(msgpack.packb([0, 0, [[1, {"protocol": "socaity.v1", "session": session, "received": 0}]]]))
        # leaves something running, so that the session outlives the connection
        raw.send(msgpack.packb([1, 0, [[3, 1, "wait", {}, uuid.uuid4().hex]]]))
        welcome: dict[str, Any] = msgpack.unpackb(raw.recv(DEADLINE))[2][0][1]
        raw.recv(DEADLINE)
        return welcome


def test_session_of_the_socket_goes_on_for_its_owner_only(service: tuple[str, Gate], other: str) -> None:
    url, gate = service
    first = say_hello(url, ALICE, None)
    gate.wait_entered()
    stolen = say_hello(url, other, first["session"])
    assert stolen["resumed"] is False
    assert stolen["session"] != first["session"]
    assert say_hello(url, ALICE, first["session"])["resumed"] is True
    with client(url, ALICE) as alice, client(url, other) as bob:
        for one in (alice, bob):
            for job in one.get("/jobs", params={"status": "running"}).json()["jobs"]:
                one.delete(f"/jobs/{job['id']}")


def test_session_goes_on_with_a_new_token(service: tuple[str, Gate], monkeypatch: pytest.MonkeyPatch) -> None:
    url, gate = service
    first = say_hello(url, make_token(sub="carol", lasts=60), None)
    gate.wait_entered()
    fresh = make_token(sub="carol", lasts=600)
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    with open_socket(url, fresh) as raw:
        hello = {"protocol": "socaity.v1", "session": first["session"], "received": 0}
        raw.send(msgpack.packb([0, 0, [[1, hello]]]))
        assert msgpack.unpackb(raw.recv(DEADLINE))[2][0][1]["resumed"] is True
        raw.send(msgpack.packb([2, 0, [[2, 9, "large", {"x": [1.0]}]]]))
        answer: list[Any] = []
        while answer[:2] not in ([17, 9], [18, 9]):
            answer = next(one for one in reversed(msgpack.unpackb(raw.recv(DEADLINE))[2] or [[]]))
        assert answer[0] == 17
    with client(url, fresh) as carol:
        for job in carol.get("/jobs", params={"status": "running"}).json()["jobs"]:
            carol.delete(f"/jobs/{job['id']}")


@pytest.mark.parametrize("transport", [None, "http"])
def test_owner_passes_own_jobs_on(transport: str | None) -> None:
    router, gate = SocaityRouter(auth=AUTH, grace=1.0), Gate()

    @router.add_route("/give", queue_size=10)
    def give() -> list[float]:
        gate()
        return [3.0]

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    @router.add_route("/total", queue_size=10)
    def total(x: list[float]) -> float:
        return sum(x)

    with serve(router) as url:
        with socaity.connect(url, api_key=ALICE, transport=transport, progress=False) as connected:
            connected.refresh()
            numbers = connected.give()
            taken, added = connected.double(numbers), connected.total(numbers)
            gate.wait_entered()
            # what was called before has arrived: they refer to a job that has not ended
            assert connected.double([1.0]).result(timeout=DEADLINE) == [2.0]
            gate.open()
            assert taken.result(timeout=DEADLINE) == [6.0]
            assert added.result(timeout=DEADLINE) == 3.0


def test_held_result_is_of_one_session(service: tuple[str, Gate], other: str) -> None:
    """Numbers of direct calls count from 1 in every session."""
    url, _ = service
    with (
        socaity.connect(url, api_key=ALICE, progress=False) as alice,
        socaity.connect(url, api_key=other, progress=False) as bob,
    ):
        mine = alice.large(np.array([1.0]))
        theirs = bob.large(np.array([2.0]))
        assert mine.result(timeout=DEADLINE)[0] == 1.0
        assert theirs.result(timeout=DEADLINE)[0] == 2.0
        with pytest.raises(InvalidInputError):
            bob.large({"$call": 999}).result(timeout=DEADLINE)


# Between services


def test_results_go_from_service_to_service(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    first = SocaityRouter(auth=AUTH, grace=1.0)

    @first.add_route("/ping")
    def ping() -> str:
        return "here"

    @first.add_route("/make", queue_size=10)
    def make(size: int) -> np.ndarray:
        gate()
        return np.ones(size)

    with serve(first) as first_url:
        second = SocaityRouter(auth=AUTH, grace=1.0, fetch_from=[first_url])

        second.add_route("/ping")(ping)

        @second.add_route("/total", queue_size=10)
        def total(values: np.ndarray) -> float:
            return float(values.sum())

        with (
            serve(second) as second_url,
            socaity.connect(first_url, api_key=ALICE, progress=False) as one,
            socaity.connect(second_url, api_key=ALICE, progress=False) as two,
            caplog.at_level(logging.INFO, "socaity_server.fetching"),
        ):
            two.refresh()
            total_of_it = two.total(one.make(200_000))
            gate.wait_entered()
            for service in (one, two):  # what was said before has arrived
                assert service.ping().result(timeout=DEADLINE) == "here"
            gate.open()  # what is ready before the next step has been called is brought by the client
            assert total_of_it.result(timeout=DEADLINE) == 200_000.0
            assert f"bytes was fetched from {first_url}" in caplog.text


def test_token_of_a_result_opens_nothing_else(service: tuple[str, Gate]) -> None:
    url, _ = service
    data = b"what alice has uploaded"
    sha256 = hashlib.sha256(data).hexdigest()
    with client(url, ALICE) as alice:
        assert alice.put(f"/blobs/{sha256}", content=data).status_code == 201
    token = {"socaity-token": "x" * 32}
    assert httpx.get(f"{url}/blobs/{sha256}", headers=token).status_code == 404
    for method, path in (
        ("HEAD", f"/blobs/{sha256}"),
        ("PUT", f"/blobs/{sha256}"),
        ("GET", "/jobs"),
        ("GET", "/metrics"),
    ):
        assert httpx.request(method, url + path, headers=token).status_code == 401


def test_files_go_up_and_down_with_the_key(service: tuple[str, Gate]) -> None:
    url, _ = service
    for transport in (None, "http"):
        with socaity.connect(url, api_key=BOB, transport=transport, progress=False) as connected:
            large = np.arange(300_000, dtype=np.float32)
            result = connected.large(large[:20]).result(timeout=DEADLINE)
            assert len(result) == 20 * 50_000
