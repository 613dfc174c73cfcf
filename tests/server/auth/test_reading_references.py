"""Who may not read an upload or a job may not read it by referring to it either; and what was held ends with its token."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from socaity.protocol.frames import CALL, ERROR, EVENT, FETCH, HELD, PUBLISH, RESULT, SUBMIT
from socaity.protocol.messagepack import packb
from socaity_server import Auth, SocaityRouter
from tests.server.auth.issuer import SECRET, make_token
from tests.server.auth.peers import Peer
from tests.server.conftest import serve
from tests.server.test_models_http import Scaler

DEADLINE = 20
KEY = "a-key-of-the-tests-0001"
HEADERS = {"Authorization": f"Bearer {KEY}"}
DATA = b"[1.0, 2.0]"
SHA = hashlib.sha256(DATA).hexdigest()


def make_router(auth: Auth | bool) -> SocaityRouter:
    router = SocaityRouter(auth=auth, grace=1.0)

    @router.add_route("/echo")
    def echo(x: Any) -> Any:
        return x

    @router.add_route("/keep", queue_size=10)
    def keep(x: Any) -> Any:
        return x

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    @router.add_route("/large", max_batch_size=4)
    def large(x: np.ndarray) -> np.ndarray:
        return np.repeat(x, 50_000, axis=-1)

    router.add_model(Scaler(), name="scale")
    return router


class Rule:
    """What the decision point says; `denied` are actions."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.asked: list[tuple[str, str]] = []

    def __call__(self, question: dict[str, Any]) -> dict[str, bool]:
        asked = question["input"]
        self.asked.append((asked["action"], asked["resource"]))
        return {"result": asked["action"] not in self.denied}


@pytest.fixture
def guarded() -> Iterator[tuple[httpx.Client, Rule]]:
    rule = Rule()
    with Peer(rule) as agent:
        auth = Auth(api_keys={"p": KEY}, opa_url=agent.url, policy_ttl=0, policy_timeout=DEADLINE)
        with serve(make_router(auth)) as url:
            with httpx.Client(base_url=url, headers=HEADERS, timeout=DEADLINE) as client:
                yield client, rule


class Socket:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._seq = 0
        self._came: list[list[Any]] = []
        hello = {"protocol": "socaity.v1", "session": None, "received": 0, "holds": True}
        socket.send(msgpack.packb([0, 0, [[1, hello]]]))
        socket.recv(DEADLINE)

    def send(self, *messages: list[Any]) -> None:
        self._seq += 1
        self._socket.send(packb([self._seq, 0, list(messages)]))

    def end_of(self, n: int) -> list[Any]:
        """The last message of a call or job."""
        while True:
            for message in self._came:
                is_end = message[0] in (RESULT, ERROR, HELD) or message[3:4] in (["result"], ["error"])
                if message[1] == n and is_end:
                    return message
            data = self._socket.recv(DEADLINE)
            assert isinstance(data, bytes)
            seq, _, messages = msgpack.unpackb(data, strict_map_key=False)
            if seq:
                self._socket.send(msgpack.packb([0, seq, []]))
            self._came.extend(messages)


@contextmanager
def open_socket(url: Any, token: str = KEY) -> Iterator[Socket]:
    with connect(
        str(url).rstrip("/").replace("http", "ws", 1) + "/ws",
        subprotocols=[Subprotocol("socaity.v1")],
        additional_headers={"Authorization": f"Bearer {token}"},
        compression=None,
    ) as socket:
        yield Socket(socket)


def references(client: httpx.Client) -> dict[str, dict[str, Any]]:
    assert client.put(f"/blobs/{SHA}", content=DATA).status_code in (200, 201)
    packed = packb([[1.0, 2.0]])
    sha256 = hashlib.sha256(packed).hexdigest()
    assert client.put(f"/blobs/{sha256}", content=packed).status_code in (200, 201)
    job = client.post("/keep", params={"sync": "true"}, json={"x": [[1.0, 2.0]]}).json()["id"]
    return {
        "blob": {"$blob": SHA},
        "packed": {"$packed": sha256, "size": len(packed)},
        "job": {"$job": job},
    }


ACTIONS = {"blob": "blob.read", "packed": "blob.read", "job": "job.read"}


@pytest.mark.parametrize("kind", ACTIONS)
def test_what_may_not_be_read_may_not_be_referred_to(guarded: tuple[httpx.Client, Rule], kind: str) -> None:
    client, rule = guarded
    reference = references(client)[kind]
    for denied in (False, True):
        if denied:
            rule.denied.add(ACTIONS[kind])
        for path in ("/echo", "/keep", "/double", "/predict/scale", "/predict_batched/scale"):
            if kind == "blob" and path not in ("/echo", "/keep"):
                continue
            rule.asked.clear()
            answer = client.post(path, json={"x": reference})
            assert (answer.status_code == 403) == denied, (path, answer.text)
            if denied:
                assert answer.json()["code"] == "forbidden"
            (resource,) = [resource for action, resource in rule.asked if action == ACTIONS[kind]]
            assert str(next(iter(reference.values()))) in resource
    rule.asked.clear()
    assert client.post("/echo", json={"x": [1.0]}).status_code == 200  # refers to nothing
    assert [action for action, _ in rule.asked] == ["infer"]


@pytest.mark.parametrize("kind", ACTIONS)
def test_nor_on_the_socket(guarded: tuple[httpx.Client, Rule], kind: str) -> None:
    client, rule = guarded
    reference = references(client)[kind]
    with open_socket(client.base_url) as socket:
        for denied in (False, True):
            if denied:
                rule.denied.add(ACTIONS[kind])
            socket.send(
                [SUBMIT, 10 + denied, "keep", {"x": [reference]}, f"{10 + denied:032x}"],
                [CALL, 20 + denied, "double", {"x": reference}],
            )
            job = socket.end_of(10 + denied)
            assert job[0] == (ERROR if denied else EVENT)
            called = socket.end_of(20 + denied)
            if denied:
                assert called[0] == ERROR
                assert job[2]["code"] == called[2]["code"] == "forbidden"
            elif kind != "blob":
                assert called[0] == RESULT


def test_calls_of_the_same_session_are_nobodys_question(guarded: tuple[httpx.Client, Rule]) -> None:
    client, rule = guarded
    rule.denied |= {"blob.read", "job.read"}
    with open_socket(client.base_url) as socket:
        socket.send(
            [CALL, 1, "double", {"x": np.ones(2)}],
            [CALL, 2, "double", {"x": {"$call": 1}}],
            [SUBMIT, 3, "keep", {"x": {"$call": 2}}, "0" * 32],
        )
        assert socket.end_of(2)[0] == RESULT
        assert socket.end_of(3)[3] == "result"
    assert {action for action, _ in rule.asked} == {"infer"}


def test_equal_references_are_asked_for_once(guarded: tuple[httpx.Client, Rule]) -> None:
    client, rule = guarded
    reference = references(client)["blob"]
    rule.asked.clear()
    assert client.post("/echo", json={"x": [reference] * 20}).status_code == 200
    assert sorted(action for action, _ in rule.asked) == ["blob.read", "infer"]


def test_without_a_policy_nobody_is_asked() -> None:
    for auth in (False, Auth(api_keys={"p": KEY})):
        with serve(make_router(auth)) as url, httpx.Client(base_url=url, headers=HEADERS) as client:
            for kind, reference in references(client).items():
                assert client.post("/echo", json={"x": reference}).status_code == 200
                if kind != "blob":
                    assert client.post("/predict/scale", json={"x": reference}).json() == [[2.0, 4.0]]


def test_held_results_are_not_fetched_with_a_token_that_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(make_router(Auth(secret=SECRET))) as url, open_socket(url, make_token(lasts=600)) as socket:
        socket.send(
            [CALL, 1, "large", {"x": np.ones(2)}], [CALL, 2, "double", {"x": {"$call": 1, "path": [0]}}]
        )
        assert socket.end_of(1)[0] == HELD
        with monkeypatch.context() as patch:
            later = time.time() + 601
            patch.setattr(time, "time", lambda: later)
            socket.send([FETCH, 3, 1], [PUBLISH, 4, 1, []])
            for n in (3, 4):
                assert socket.end_of(n)[2]["code"] == "token_expired"
        socket.send([PUBLISH, 5, 1, []])
        assert socket.end_of(5)[0] == RESULT
