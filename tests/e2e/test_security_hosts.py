"""A page that has its name point to this machine (DNS rebinding) gets nothing out of a service without authentication."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from socaity.exceptions import ConfigurationError
from socaity_server import Auth, SocaityRouter
from socaity_server.settings import read_allowed_hosts
from tests.e2e.browser import Browser
from tests.server.conftest import serve
from tests.server.test_models_http import Scaler

DEADLINE = 20
REFUSED = [
    "evil.example:{port}",
    "evil.example",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example",
    "[evil]:1",
]
TAKEN = [
    "127.0.0.1:{port}",
    "127.0.0.1",
    "[::1]:{port}",
    "LocalHost:{port}",
    "localhost.",
    "app.localhost:1",
    "10.0.0.1",
]


def make_router(**options: object) -> SocaityRouter:
    router = SocaityRouter(grace=1.0, **options)  # type: ignore[arg-type]

    @router.add_route("/add")
    def add(a: int, b: int) -> int:
        return a + b

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    router.add_model(Scaler(), name="scale")
    return router


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(make_router()) as url:
        yield url


def ask(
    url: str, host: str, path: str = "/jobs", *, body: str | None = None, **headers: str
) -> tuple[int, str]:
    port = int(url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    headers |= {"Host": host.format(port=port)} | (
        {} if body is None else {"Content-Type": "application/json"}
    )
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("host", TAKEN)
def test_own_names_are_taken(url: str, host: str) -> None:
    assert ask(url, host) == (200, '{"jobs":[],"next":null}')
    assert ask(url, host, "/add", body='{"a": 1, "b": 2}') == (200, "3")
    assert ask(url, host, "/predict/scale", body='{"x": [1, 2]}')[0] == 200


def test_name_of_the_machine_is_taken(url: str) -> None:
    assert ask(url, socket.gethostname())[0] == 200


@pytest.mark.parametrize("host", REFUSED)
@pytest.mark.parametrize("path", ["/jobs", "/openapi.json", "/dashboard", "/metrics", "/health"])
def test_other_names_are_refused(url: str, host: str, path: str) -> None:
    status, text = ask(url, host, path)
    problem = json.loads(text)
    assert (status, problem["code"]) == (403, "unknown_host")
    assert "SOCAITY_ALLOWED_HOSTS" in problem["detail"]


def test_refusal_of_open_inference_has_its_form(url: str) -> None:
    status, text = ask(url, "evil.example", "/v2/models/double")
    assert status == 403
    assert list(json.loads(text)) == ["error"]


@pytest.mark.parametrize("path", ["/add", "/double", "/predict/scale", "/jobs/1"])
def test_other_names_call_nothing(url: str, path: str) -> None:
    body = '{"x": [1], "a": 1, "b": 2}'
    for _ in range(2):  # the server remembers heads
        assert ask(url, "evil.example", path, body=body)[0] == 403
        assert ask(url, "evil.example", path, body=body, Origin="http://evil.example")[0] == 403


def test_other_names_open_no_socket(caplog: pytest.LogCaptureFixture) -> None:
    def opened(url: str, name: str, protocol: str) -> int:
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as raw:
            try:
                with connect(f"ws://{name}:{port}/ws", sock=raw, subprotocols=[Subprotocol(protocol)]):
                    return 101
            except InvalidStatus as exc:
                return exc.response.status_code

    with serve(make_router()) as url:
        for protocol in ("socaity.v1", "socaity.live.v1"):
            assert opened(url, "localhost", protocol) == 101
            assert opened(url, "evil.example", protocol) == 403
    assert "handshake" not in caplog.text  # uvicorn's error for an application that has not answered


def test_names_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOCAITY_ALLOWED_HOSTS", "Models.Example.com, other")
    with serve(make_router()) as url:
        found = [
            ask(url, host)[0]
            for host in ("models.example.com:443", "OTHER", "x.models.example.com", "example.com")
        ]
    assert found == [200, 200, 403, 403]


@pytest.mark.parametrize("text", ["*", "http://models.example.com", "models.example.com:8000", "a b/c", "-"])
def test_what_is_no_name_is_an_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SOCAITY_ALLOWED_HOSTS"):
        read_allowed_hosts(text)


def test_names_do_not_matter_where_callers_are_identified() -> None:
    with serve(make_router(auth=Auth(api_keys={"p": "a-key-of-the-tests-0001"}))) as url:
        assert ask(url, "models.example.com")[0] == 401
        assert ask(url, "models.example.com", **{"X-API-Key": "a-key-of-the-tests-0001"})[0] == 200


def test_other_names_call_nothing_where_nobody_has_to_say_who_they_are() -> None:
    key = "a-key-of-the-tests-0001"
    with serve(make_router(auth=Auth(api_keys={"p": key}, anonymous=True))) as url:
        for path, body in (
            ("/jobs", None),
            ("/add", '{"a": 1, "b": 2}'),
            ("/predict/scale", '{"x": [1, 2]}'),
        ):
            for headers in ({}, {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}):
                status, text = ask(url, "evil.example", path, body=body, **headers)
                assert (status, json.loads(text)["code"]) == (403, "unknown_host")
                assert "AUTH_ANONYMOUS" in text
            assert ask(url, "localhost", path, body=body)[0] == 200


@pytest.mark.parametrize("host", ["LOCALHOST", "127.1", "127.0.0.1"])
def test_other_names_are_refused_however_the_loopback_is_written(host: str) -> None:
    router = make_router()
    router.server(host, port=0)
    assert router.app.hosts is not None
    assert router.app.hosts.refused([(b"host", b"evil.example")]) == "evil.example"
    assert router.app.hosts.refused([(b"host", host.encode() + b":8000")]) is None


def test_browser_whose_page_has_been_rebound_reads_nothing(url: str) -> None:
    place = url.replace("127.0.0.1", "rebound.example")
    with Browser("--host-resolver-rules=MAP rebound.example 127.0.0.1") as browser, browser.open() as page:
        page.goto(f"{place}/health")
        assert page.run("location.origin") == place
        assert page.run("fetch('/jobs').then(answer => answer.status)") == 403
        call = "fetch('/double', {method: 'POST', body: '{\"x\": [1]}', headers: {'Content-Type': 'application/json'}})"
        assert page.run(f"{call}.then(answer => answer.status)") == 403
        socket_of = """new Promise(resolve => {
          const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws", ["socaity.live.v1"]);
          socket.onopen = () => resolve("open"); socket.onerror = () => resolve("refused"); })"""
        assert page.run(socket_of) == "refused"
        page.goto(f"{url}/health")
        assert page.run(f"{call}.then(answer => answer.json())") == [2]
        assert page.run(socket_of) == "open"
