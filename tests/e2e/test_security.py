"""The whole server behind one guard: every refusal over HTTP and over the socket, and every path behind it."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

import socaity
from socaity.exceptions import AuthenticationError, ServerError
from socaity_server import Auth, SocaityRouter
from tests.server.auth.issuer import (
    SECRET,
    forge_hs256,
    key_set,
    make_token,
    private_key,
    public_pem,
    unsigned,
)
from tests.server.auth.peers import Peer, closed_port, decision
from tests.server.conftest import serve
from tests.server.test_models_http import Scaler

DEADLINE = 20
KEY = "a-key-of-the-tests-0001"
OTHER_SECRET = "another secret of more than sixty-four bytes, which the server has never seen before"


def make_router(auth: Auth | bool, **settings: Any) -> SocaityRouter:
    router = SocaityRouter(auth=auth, grace=1.0, **settings)

    @router.add_route("/greet", queue_size=10)
    def greet(name: str) -> str:
        return f"hello {name}"

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    router.add_model(Scaler(), name="scale")
    return router


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """A service that knows one key, and the tokens of one issuer for one audience."""
    auth = Auth(api_keys={"program": KEY}, secret=SECRET, audience=["us"], issuer="https://good")
    with serve(make_router(auth)) as url:
        yield url


def good(**claims: Any) -> str:
    return make_token(**{"aud": "us", "iss": "https://good", **claims})


def handshake(url: str, headers: dict[str, str], protocol: str = "socaity.v1") -> ClientConnection:
    return connect(
        url.replace("http", "ws", 1) + "/ws",
        additional_headers=headers,
        subprotocols=[Subprotocol(protocol)],
        compression=None,
        open_timeout=DEADLINE,
    )


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


CLAIMS = {"sub": "alice", "exp": int(time.time()) + 600, "aud": "us", "iss": "https://good"}
REFUSED = {
    "nothing": ({}, "unauthenticated"),
    "basic": ({"Authorization": "Basic YWxpY2U6aHVudGVyMg=="}, "unauthenticated"),
    "basic, good token": ({"Authorization": f"Basic {good()}"}, "unauthenticated"),
    "token alone": ({"Authorization": good()}, "unauthenticated"),
    "empty": ({"Authorization": "Bearer"}, "unauthenticated"),
    "expired": (bearer(good(lasts=-5)), "token_expired"),
    "not yet valid": (bearer(good(nbf=int(time.time()) + 500)), "token_not_yet_valid"),
    "wrong key": (bearer(good(key=OTHER_SECRET)), "invalid_token"),
    "wrong audience": (bearer(good(aud="them")), "invalid_token"),
    "no audience": (bearer(good(without=("aud",))), "invalid_token"),
    "wrong issuer": (bearer(good(iss="https://evil")), "invalid_token"),
    "nobody": (bearer(good(without=("sub",))), "invalid_token"),
    "never ends": (bearer(good(without=("exp",))), "invalid_token"),
    "unsigned": (bearer(unsigned(CLAIMS)), "invalid_token"),
    "public key": (bearer(forge_hs256(CLAIMS, public_pem("RS256").encode())), "invalid_token"),
    "empty secret": (bearer(forge_hs256(CLAIMS, b"")), "invalid_token"),
    "junk": (bearer("x.y.z"), "invalid_token"),
    "wrong API key": (bearer(KEY[:-1]), "invalid_token"),
    "wrong API key in its own header": ({"X-API-Key": KEY[:-1]}, "invalid_api_key"),
    "token as API key": ({"X-API-Key": good()}, "invalid_api_key"),
    "cookie": ({"Cookie": f"socaity_session_default={KEY}"}, "unauthenticated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_over_http(service: str, case: str) -> None:
    headers, code = REFUSED[case]
    for path in ("/greet", "/double", "/predict/scale", "/predict_batched/scale", "/v2/models/scale/infer"):
        answer = httpx.post(service + path, json={"x": [1.0]}, headers=headers)
        if path.startswith("/v2"):
            assert answer.status_code == 401
            assert list(answer.json()) == ["error"]
            assert answer.headers["content-type"] == "application/json"
            assert "www-authenticate" in answer.headers
            continue
        assert (answer.status_code, answer.json()["code"]) == (401, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == (
            "Bearer" if code == "unauthenticated" else 'Bearer error="invalid_token"'
        )
        for value in headers.values():
            assert value.rpartition(" ")[2] not in answer.text or len(value) < 20


@pytest.mark.parametrize("protocol", ["socaity.v1", "socaity.live.v1"])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_over_the_socket(service: str, case: str, protocol: str) -> None:
    headers, code = REFUSED[case]
    with pytest.raises(InvalidStatus) as caught, handshake(service, headers, protocol):
        pass
    response = caught.value.response
    assert response.status_code == 401
    assert json.loads(response.body or b"")["code"] == code
    assert response.headers["www-authenticate"].startswith("Bearer")


GOOD = {
    "token": bearer(good()),
    "lower case": {"authorization": f"bearer {good()}"},
    "API key as token": bearer(KEY),
    "API key": {"X-API-Key": KEY},
}


@pytest.mark.parametrize("case", GOOD)
def test_accepted_over_http_and_the_socket(service: str, case: str) -> None:
    headers = GOOD[case]
    assert httpx.post(f"{service}/double", json={"x": [1.5]}, headers=headers).json() == [3.0]
    for _ in range(2):  # the head of the second request is known already
        assert httpx.post(f"{service}/predict/scale", json={"x": [1.5, 1.0]}, headers=headers).json() == [
            3.0,
            2.0,
        ]
    answer = httpx.post(f"{service}/greet?sync=true", json={"name": "you"}, headers=headers)
    assert answer.json()["result"] == "hello you"
    for protocol in ("socaity.v1", "socaity.live.v1"):
        with handshake(service, headers, protocol) as connection:
            assert connection.subprotocol == protocol


def test_known_head_is_no_way_around(service: str) -> None:
    """Heads of plain calls of models are remembered where nothing has to be asked."""
    port = int(service.rpartition(":")[2])
    body = b'{"x": [1.0, 2.0]}'
    head = b"POST /predict/scale HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    known = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
    for more, status in ((known, b"200"), (b"", b"401"), (known, b"200"), (b"", b"401")):
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as connection:
            connection.sendall(head % len(body) + more + b"\r\n" + body)
            assert connection.recv(12).endswith(status)


def test_two_authorization_headers_are_refused(service: str) -> None:
    answer = httpx.post(
        f"{service}/double", json={"x": [1.5]}, headers=[("Authorization", f"Bearer {KEY}")] * 2
    )
    assert answer.status_code == 401


@pytest.mark.parametrize("transport", [None, "http"])
def test_client_sends_its_key(service: str, transport: str | None) -> None:
    for key in (KEY, good()):
        with socaity.connect(service, api_key=key, transport=transport, progress=False) as connected:
            assert connected.greet("you").result(timeout=DEADLINE) == "hello you"
            assert connected.double(np.array([2.0])).result(timeout=DEADLINE) == [4.0]


@pytest.mark.parametrize("transport", [None, "http", "websocket"])
@pytest.mark.parametrize("key", [None, "wrong"])
def test_client_is_told_that_its_key_is_wrong(service: str, transport: str | None, key: str | None) -> None:
    url = service.replace("http", "ws", 1) if transport == "websocket" else service
    with pytest.raises(AuthenticationError) as caught:
        with socaity.connect(url, api_key=key, transport=transport, progress=False):
            pass
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("key", "code", "message"),
    [
        (None, "unauthenticated", "wants to know who calls"),
        (good(lasts=-5), "token_expired", "expired"),
        (good(aud="them"), "invalid_token", "audience"),
    ],
)
def test_socket_client_is_told_why_it_was_refused(
    service: str, key: str | None, code: str, message: str
) -> None:
    with pytest.raises(AuthenticationError, match=message) as caught:
        with socaity.connect(service.replace("http", "ws", 1), api_key=key, progress=False):
            pass
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["call", "{url}", "greet", "name=you"], "wants to know who calls", "with --api-key or SOCAITY_API_KEY"),
        (["call", "ws{tail}", "greet", "name=you"], "wants to know who calls", "with --api-key or SOCAITY_API_KEY"),
        (["top", "{url}"], "wants to know who you are", "with --api-key or SOCAITY_API_KEY"),
        (["top", "{url}", "--api-key", "wrong"], "refused the API key or token that was given: ", "is not accepted"),
    ],
)  # fmt: skip
def test_commands_say_how_a_key_is_given_and_why_it_was_refused(
    service: str, words: list[str], message: str, hint: str
) -> None:
    words = [one.format(url=service, tail=service.removeprefix("http")) for one in words]
    done = subprocess.run(
        [sys.executable, "-m", "socaity.cli", *words],
        env={name: value for name, value in os.environ.items() if name != "SOCAITY_API_KEY"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert hint in done.stderr


def test_in_process_client_needs_a_key_as_well() -> None:
    router = make_router(Auth(api_keys={"program": KEY}))
    with socaity.connect(router, api_key=KEY, progress=False) as connected:
        assert connected.greet("you").result(timeout=DEADLINE) == "hello you"
    with pytest.raises(AuthenticationError):
        with socaity.connect(router, progress=False):
            pass


def paths_of(router: SocaityRouter) -> list[tuple[str, str]]:
    """Every method and path that the application knows, and some that it does not."""
    found = [
        ("GET", "/nothing/there"),
        ("POST", "/predict/nothing"),
        ("OPTIONS", "/greet"),
        ("GET", "/greet?job_id=1"),
    ]
    found += [
        ("POST", "/health"),
        ("GET", "/v2/models/x/infer"),
        ("POST", "/v2/repository/index"),
        ("PUT", "/metrics"),
    ]
    for route in router.app.routes:
        path = getattr(route, "path", "").replace("{rest:path}", "models/m/infer")
        for name in ("job_id", "sha256", "model"):
            path = path.replace(f"{{{name}}}", "0" * 64)
        found += [(method, path) for method in getattr(route, "methods", None) or ("GET", "POST")]
    return found


def test_no_path_is_open_but_those_that_are_meant() -> None:
    router = make_router(Auth(api_keys={"program": KEY}))
    router.app.add_api_route("/own", lambda: "a route of the operator", methods=["GET"])
    router.app.serve_models()
    asked = paths_of(router)
    assert len({path for _, path in asked}) > 20
    with serve(router) as url, httpx.Client(base_url=url) as client:
        open_paths = {
            (method, path) for method, path in asked if client.request(method, path).status_code != 401
        }
        assert open_paths == {("GET", "/health"), ("GET", "/login"), ("POST", "/logout")} | {
            (method, path) for method, path in open_paths if path.startswith("/v2/health")
        }
        for method, path in asked:
            if path == "/login":
                continue
            status = client.request(method, path, headers=bearer(KEY)).status_code
            assert status not in (401, 403, 500), (method, path)


def test_health_is_open_and_says_no_more_than_it_must(service: str) -> None:
    answer = httpx.get(f"{service}/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})


@pytest.mark.parametrize(
    ("exempt", "health", "metrics"),
    [((), 401, 401), (("health",), 200, 401), (("metrics",), 401, 200), (("health", "metrics"), 200, 200)],
)
def test_what_is_exempt_is_configured(exempt: tuple[str, ...], health: int, metrics: int) -> None:
    with serve(make_router(Auth(api_keys={"program": KEY}, exempt=exempt))) as url:
        assert httpx.get(f"{url}/health").status_code == health
        assert httpx.get(f"{url}/metrics").status_code == metrics
        assert httpx.get(f"{url}/metrics", headers=bearer(KEY)).status_code == 200


def test_anonymous_callers_are_let_in_where_that_is_wanted() -> None:
    with serve(make_router(Auth(secret=SECRET, anonymous=True))) as url:
        assert httpx.post(f"{url}/double", json={"x": [1.0]}).json() == [2.0]
        with socaity.connect(url, progress=False) as connected:
            assert connected.greet("you").result(timeout=DEADLINE) == "hello you"
        for headers in (
            {"Authorization": "Basic eDp5"},
            bearer("x.y.z"),
            bearer(make_token(lasts=-5)),
            {"X-API-Key": "x"},
        ):
            assert httpx.post(f"{url}/double", json={"x": [1.0]}, headers=headers).status_code == 401
            with pytest.raises(InvalidStatus), handshake(url, headers):
                pass


@pytest.mark.parametrize("text", ["²", "9" * 5000, "٣", "-1", "1e3", ""])
def test_what_is_no_number_is_the_callers_mistake(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with serve(make_router(False)) as url:
        job = httpx.post(f"{url}/greet", json={"name": "you"}).json()["id"]
        for path, query, headers in (
            ("/jobs", {"limit": text}, {}),
            (f"/jobs/{job}/events", {"after": text}, {}),
            (f"/jobs/{job}/events", {}, {b"Last-Event-ID": text.encode("latin-1", "replace")}),
        ):
            if not text and path != "/jobs":
                continue  # nothing was said
            answer = httpx.get(url + path, params=query, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
            assert len(answer.text) < 300
    assert "Traceback" not in caplog.text


def test_without_authentication_everything_is_open() -> None:
    with serve(make_router(False)) as url:
        assert httpx.post(f"{url}/double", json={"x": [1.0]}).json() == [2.0]
        assert httpx.get(f"{url}/login").status_code == 404
        assert "loaded_models" in httpx.get(f"{url}/health").json()


def test_token_that_expires_on_the_socket_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(make_router(Auth(secret=SECRET))) as url:
        with socaity.connect(url, api_key=make_token(lasts=60), progress=False) as connected:
            assert connected.double(np.array([1.0])).result(timeout=DEADLINE) == [2.0]
            later = time.time() + 61
            monkeypatch.setattr(time, "time", lambda: later)
            for job in (connected.double(np.array([1.0])), connected.greet("you")):
                with pytest.raises(AuthenticationError) as caught:
                    job.result(timeout=DEADLINE)
                assert caught.value.code == "token_expired"


def test_keys_of_an_issuer_change_while_the_server_serves() -> None:
    with Peer(lambda _: key_set(("ES256", "one"))) as issuer:
        with serve(make_router(Auth(jwks_url=f"{issuer.url}/keys", algorithms=["ES256"]))) as url:

            def call(name: str) -> int:
                token = make_token("ES256", key=private_key("ES256", name), headers={"kid": name})
                return httpx.post(f"{url}/double", json={"x": [1.0]}, headers=bearer(token)).status_code

            assert (call("one"), call("two")) == (200, 401)
            with socaity.connect(
                url, api_key=make_token("ES256", headers={"kid": "one"}), progress=False
            ) as connected:
                assert connected.double(np.array([1.0])).result(timeout=DEADLINE) == [2.0]
        assert issuer.count == 1


# Policies


@pytest.fixture
def point() -> Iterator[Peer]:
    with Peer(lambda _: decision("Permit")) as peer:
        yield peer


def guarded(url: str, **settings: Any) -> SocaityRouter:
    return make_router(
        Auth(secret=SECRET, pdp_url=url, policy_timeout=settings.pop("timeout", DEADLINE), **settings)
    )


def asked(point: Peer) -> list[tuple[str, str]]:
    """Action and resource of every question."""
    found = []
    for body in point.bodies:
        _, resource, action, _ = json.loads(body)["Request"]["Category"]
        found.append((action["Attribute"][0]["Value"], resource["Attribute"][0]["Value"]))
    return found


def test_point_is_asked_about_what_is_really_done(point: Peer) -> None:
    with serve(guarded(point.url)) as url, httpx.Client(base_url=url, headers=bearer(make_token())) as client:
        client.post("/double", json={"x": [1.0]})
        client.post("/double", json={"x": [1.0]})
        location = client.post("/greet", json={"name": "you"}).headers["location"]
        job_id = location.rpartition("/")[2]
        client.get(location)
        client.get(f"{location}/events")
        client.get(f"/greet?job_id={job_id}")
        client.post(f"{location}/cancel")
        client.get("/jobs")
        client.put(f"/blobs/{'0' * 64}", content=b"x")
        client.get(f"/blobs/{'0' * 64}")
        client.get("/socaity")
        client.get("/metrics")
        client.get("/dashboard")
        client.get("/health")
    assert asked(point) == [
        ("infer", "model:double:1"),
        ("infer", "model:greet:1"),
        *[("job.read", f"job:{job_id}")] * 3,
        ("job.cancel", f"job:{job_id}"),
        ("job.list", "job:*"),
        ("blob.write", f"blob:{'0' * 64}"),
        ("blob.read", f"blob:{'0' * 64}"),
        ("metadata", "service"),
        ("metrics", "service"),
        ("dashboard", "service"),
    ]


def test_point_is_asked_about_every_call_on_the_socket(point: Peer) -> None:
    point.answer = lambda asked: decision("Deny" if "model:greet:1" in json.dumps(asked) else "Permit")
    with serve(guarded(point.url)) as url:
        with socaity.connect(url, api_key=make_token(), transport=None, progress=False) as connected:
            many = [connected.double(np.array([float(number)])) for number in range(20)]
            assert [float(job.result(timeout=DEADLINE)[0]) for job in many] == [2.0 * n for n in range(20)]
            with pytest.raises(AuthenticationError) as caught:
                connected.greet("you").result(timeout=DEADLINE)
            assert (caught.value.status, caught.value.code) == (403, "forbidden")
            chained = connected.double(connected.double(np.array([1.0])))
            assert chained.result(timeout=DEADLINE) == [4.0]
    # over the socket each question is asked once; the description is read over HTTP as well
    assert asked(point).count(("infer", "model:double:1")) == 1


def test_calls_that_refer_to_each_other_wait_for_the_decision(point: Peer) -> None:
    with serve(guarded(point.url, policy_ttl=0.0)) as url:
        with socaity.connect(url, api_key=make_token(), progress=False) as connected:
            connected.refresh()
            point.hold()
            first = connected.double(np.array([1.0]))
            second = connected.double(first)
            given_up = connected.double(np.array([5.0]))
            point.wait_asked()
            given_up.cancel()
            point.release()
            assert second.result(timeout=DEADLINE) == [4.0]
            assert first.result(timeout=DEADLINE) == [2.0]
            with pytest.raises(socaity.JobCancelled):
                given_up.result(timeout=DEADLINE)


@pytest.mark.parametrize("word", ["Deny", "NotApplicable", "Indeterminate"])
def test_denied_is_403(point: Peer, word: str) -> None:
    point.answer = lambda _: decision(word)
    with serve(guarded(point.url)) as url:
        answer = httpx.post(f"{url}/double", json={"x": [1.0]}, headers=bearer(make_token()))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "www-authenticate" not in answer.headers
        assert "infer of model:double:1" in answer.json()["detail"]


@pytest.mark.parametrize("fault", ["down", "slow", "junk", "error"])
def test_point_that_cannot_be_asked_is_503(point: Peer, fault: str) -> None:
    pdp = f"http://127.0.0.1:{closed_port()}/pdp" if fault == "down" else point.url
    if fault == "slow":
        point.hold()
    point.answer = lambda _: b"no JSON" if fault == "junk" else (500, {})
    timeout = 0.1 if fault == "slow" else DEADLINE
    with serve(guarded(pdp, timeout=timeout)) as url:
        answer = httpx.post(f"{url}/double", json={"x": [1.0]}, headers=bearer(make_token()))
        assert (answer.status_code, answer.json()["code"]) == (503, "policy_unreachable")
        assert answer.headers["retry-after"] == "1"
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.post(f"{url}/double", json={"x": [1.0]}).status_code == 401


def test_slow_point_does_not_delay_others(point: Peer) -> None:
    with serve(guarded(point.url)) as url, httpx.Client(base_url=url, timeout=DEADLINE) as client:
        known = bearer(make_token())
        assert client.post("/double", json={"x": [1.0]}, headers=known).status_code == 200
        point.hold()
        slow = httpx.Client(base_url=url, timeout=0.3)
        with slow, pytest.raises(httpx.ReadTimeout):
            slow.post("/double", json={"x": [1.0]}, headers=bearer(make_token(sub="bob")))
        assert client.post("/double", json={"x": [1.0]}, headers=known).status_code == 200


def test_all_roles_are_sent(point: Peer) -> None:
    with serve(guarded(point.url)) as url:
        token = make_token(roles=["reader", "admin", "third"])
        httpx.post(f"{url}/double", json={"x": [1.0]}, headers=bearer(token))
    assert b'"Value":["reader","admin","third"]' in point.bodies[0]


def test_open_policy_agent_decides() -> None:
    def rule(question: dict[str, Any]) -> dict[str, bool]:
        asked = question["input"]
        return {"result": asked["action"] != "infer" or asked["resource"] == "model:double:1"}

    with Peer(rule) as agent, serve(make_router(Auth(api_keys={"program": KEY}, opa_url=agent.url))) as url:
        assert httpx.post(f"{url}/double", json={"x": [1.0]}, headers=bearer(KEY)).status_code == 200
        assert httpx.post(f"{url}/greet", json={"name": "x"}, headers=bearer(KEY)).status_code == 403
        assert json.loads(agent.bodies[0])["input"]["user"] == "program"


# Secrets


def test_secrets_are_in_no_log_and_no_error(caplog: pytest.LogCaptureFixture, point: Peer) -> None:
    token = make_token()
    stale = make_token(lasts=-5)
    caplog.set_level(logging.DEBUG)
    with serve(make_router(Auth(api_keys={"p": KEY}, secret=SECRET, pdp_url=point.url))) as url:
        said = []
        for headers in (bearer(token), bearer(stale), bearer(KEY), bearer(KEY + "x"), {"X-API-Key": KEY}):
            said.append(httpx.post(f"{url}/double", json={"x": [1.0]}, headers=headers).text)
        for key in (token, KEY):
            with socaity.connect(url, api_key=key, progress=False) as connected:
                job = connected.greet("you")
                job.result(timeout=DEADLINE)
                said.append(repr(connected) + repr(job))
        with pytest.raises(AuthenticationError) as caught:
            with socaity.connect(url, api_key=stale, progress=False):
                pass
        said.append(str(caught.value) + repr(caught.value))
        said.append(httpx.get(f"{url}/jobs", headers=bearer(KEY)).text)
        said.append(httpx.get(f"{url}/metrics", headers=bearer(KEY)).text)
    # what the client libraries of this test say of themselves is theirs
    said += [
        record.getMessage() for record in caplog.records if record.name.startswith(("socaity", "uvicorn"))
    ]
    for secret in (token, stale, KEY, SECRET):
        assert not [text for text in said if secret in text]


@pytest.mark.parametrize("key", [KEY, "a-wrong-key-of-the-tests"])
def test_key_is_in_no_log_of_a_handshake(
    service: str, key: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--log-level debug` uvicorn and the library of the socket log what comes."""
    logger = logging.getLogger("uvicorn.error")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])  # it passes nothing on
    monkeypatch.setattr(logger, "propagate", False)
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "uvicorn.error"):
        for headers in (bearer(key), {"X-API-Key": key}):
            try:
                with handshake(service, headers):
                    logger.debug("was seen")
            except InvalidStatus:
                logger.debug("was seen")
    assert "was seen" in caplog.text
    # the log of the client, which runs here too, has it
    said = [one.getMessage() for one in caplog.records if not one.name.startswith("websockets")]
    assert key not in "".join(said)


def test_answer_of_a_refusal_is_that_of_503_for_the_client(point: Peer) -> None:
    with serve(guarded(point.url)) as url:
        with socaity.connect(url, api_key=make_token(), progress=False, retry=1) as connected:
            point.answer = lambda _: b"no JSON"
            with pytest.raises(ServerError) as caught:
                connected.double(np.array([1.0])).result(timeout=DEADLINE)
            assert (caught.value.status, caught.value.code) == (503, "policy_unreachable")
