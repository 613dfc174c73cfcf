"""What a request wants, told by its path: the router of the application and this must read paths alike."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity_server import SocaityRouter
from socaity_server.auth.actions import Action
from socaity_server.frontends.access import is_let_through, wanted

SHA = "0" * 64


@pytest.fixture(scope="module")
def routes() -> dict[str, Any]:
    router = SocaityRouter()

    @router.add_route("/greet")
    def greet(name: str) -> str:
        return name

    @router.add_route("/look", methods=["GET", "POST"])
    def look(name: str) -> str:
        return name

    found: dict[str, Any] = dict(router.dataplane.routes)
    model = SimpleNamespace(version="7")
    found["m"] = SimpleNamespace(name="m", path="/predict/m", methods=("POST",), model=model)
    return found


def asked(routes: dict[str, Any], method: str, url: str) -> tuple[str, str]:
    path, _, query = url.partition("?")
    endpoints = {route.path: route for route in routes.values()}
    endpoints["/predict_batched/m"] = routes["m"]
    action, resource = wanted(method, path, query.encode(), endpoints, routes)
    return action.value, resource


@pytest.mark.parametrize(
    ("request_line", "action", "resource"),
    [
        ("POST /greet", "infer", "model:greet:1"),
        ("POST /greet?sync=true", "infer", "model:greet:1"),
        ("POST /greet?job_id=7", "job.read", "job:7"),
        ("POST /greet?job_id=", "job.read", "job:*"),
        ("POST /greet?job%5fid=7", "job.read", "job:7"),
        ("GET /greet?job_id=7", "job.read", "job:7"),
        ("GET /greet", "job.read", "job:*"),
        ("GET /look?name=x", "infer", "model:look:1"),
        ("GET /look?name=x&job_id=7", "job.read", "job:7"),
        ("POST /predict/m", "infer", "model:m:7"),
        ("POST /predict/m?job_id=7", "infer", "model:m:7"),
        ("POST /predict_batched/m", "infer", "model:m:7"),
        ("POST /predict/other", "infer", "model:other:1"),
        ("POST /predict/m/", "infer", "model:m:7"),
        ("GET /health", "health", "service"),
        ("GET /health/", "health", "service"),
        ("POST /health", "other", "path:/health"),
        ("GET /metrics", "metrics", "service"),
        ("GET /metrics\n", "metrics", "service"),
        ("GET /dashboard", "dashboard", "service"),
        ("GET /docs", "metadata", "service"),
        ("GET /openapi.json", "metadata", "service"),
        ("GET /socaity", "metadata", "service"),
        ("GET /available_models", "metadata", "service"),
        ("GET /jobs", "job.list", "job:*"),
        ("GET /status?job_id=7", "job.read", "job:7"),
        ("GET /jobs/7", "job.read", "job:7"),
        ("GET /jobs/7/events", "job.read", "job:7"),
        ("POST /jobs/7/cancel", "job.cancel", "job:7"),
        ("DELETE /jobs/7", "job.cancel", "job:7"),
        (f"PUT /blobs/{SHA}", "blob.write", f"blob:{SHA}"),
        (f"GET /blobs/{SHA}", "blob.read", f"blob:{SHA}"),
        (f"HEAD /blobs/{SHA}", "blob.read", f"blob:{SHA}"),
        ("GET /v2", "metadata", "service"),
        ("GET /v2/", "metadata", "service"),
        ("GET /v2/health/live", "health", "service"),
        ("GET /v2/health/ready", "health", "service"),
        ("GET /v2/models", "metadata", "service"),
        ("GET /v2/models/stats", "stats", "service"),
        ("GET /v2/models/m", "metadata", "model:m:7"),
        ("GET /v2/models/m/versions/3", "metadata", "model:m:3"),
        ("GET /v2/models/m/ready", "metadata", "model:m:7"),
        ("GET /v2/models/m/config", "metadata", "model:m:7"),
        ("GET /v2/models/m/versions/3/stats", "stats", "model:m:3"),
        ("POST /v2/models/m/infer", "infer", "model:m:7"),
        ("POST /v2/models/m/infer/", "infer", "model:m:7"),
        ("POST /v2/models/m/versions/3/infer", "infer", "model:m:3"),
        ("POST /v2/models/m/generate_stream", "infer", "model:m:7"),
        ("POST /v2/models/a/b/versions/3/generate", "infer", "model:a/b:3"),
        ("POST /v2/models/m/anything", "metadata", "model:m/anything:1"),  # which takes no POST
        ("GET /v2/models/m/trace/setting", "metadata", "model:m:7"),
        ("GET /v2/nothing", "other", "path:/v2/nothing"),
        ("POST /v2/repository/index", "metadata", "service"),
        ("POST /v2/repository/mine/index", "metadata", "service"),
        ("POST /v2/repository/models/m/load", "load", "model:m:7"),
        ("POST /v2/repository/mine/models/a/b/unload", "unload", "model:a/b:1"),
        ("POST /v2/trace/setting", "metadata", "service"),
        ("GET /", "other", "path:/"),
        ("GET /own", "other", "path:/own"),
        ("GET /jobs/7/own", "other", "path:/jobs/7/own"),
    ],
)
def test_action_and_resource(routes: dict[str, Any], request_line: str, action: str, resource: str) -> None:
    method, _, url = request_line.partition(" ")
    assert asked(routes, method, url) == (action, resource)


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "X"]),
    path=st.text(max_size=300),
    query=st.binary(max_size=80),
)
def test_every_path_is_something_and_of_limited_size(method: str, path: str, query: bytes) -> None:
    for prefix in ("/", "/v2/models/", "/jobs/", "/blobs/", "/v2/repository/"):
        action, resource = wanted(method, prefix + path, query, {}, {})
        assert isinstance(action, Action)
        assert len(resource) < 600
        if action is Action.HEALTH:
            assert (prefix + path).rstrip("/\n") in ("/health", "/v2/health/live", "/v2/health/ready")


def test_only_a_published_result_is_let_through_by_its_token() -> None:
    token = [(b"socaity-token", b"x")]
    assert is_let_through("GET", f"/blobs/{SHA}", token)
    assert not is_let_through("GET", f"/blobs/{SHA}", [])
    assert not is_let_through("PUT", f"/blobs/{SHA}", token)
    assert not is_let_through("GET", f"/blobs/{SHA}/x", token)
    assert not is_let_through("GET", "/jobs", token)
