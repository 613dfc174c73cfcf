"""What an HTTP request wants to do, in the words of policies. No path is left out: what is not known here is `other`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs

from ..auth.actions import SERVICE, Action, blob_resource, job_resource, model_resource
from ..fetching import TOKEN_HEADER
from ..route import Route
from .openinference.rest_targets import target_of

__all__ = ["OPEN_INFERENCE", "is_let_through", "path_below_mount", "resource_of_endpoint", "wanted"]

OPEN_INFERENCE = "/v2"
_SERVICE_PATHS = {
    "/health": Action.HEALTH,
    "/metrics": Action.METRICS,
    "/dashboard": Action.DASHBOARD,
    "/docs": Action.METADATA,
    "/docs/oauth2-redirect": Action.METADATA,
    "/openapi.json": Action.METADATA,
    "/socaity": Action.METADATA,
    "/available_models": Action.METADATA,
}
_READS = frozenset({"GET", "HEAD"})
_JOB = re.compile(r"/jobs/(?P<id>[^/]+)(?P<cancel>/cancel)?(?:/events)?", re.S)
_BLOB = re.compile(r"/blobs/(?P<id>[^/]+)", re.S)
_PREDICT = re.compile(r"/predict(?:_batched)?/(?P<name>[^/]+)", re.S)
_OF_TARGET = {
    "live": Action.HEALTH,
    "ready": Action.HEALTH,
    "statistics": Action.STATS,
    "infer": Action.INFER,
    "infer_stream": Action.INFER,
    "generate": Action.INFER,
    "generate_stream": Action.INFER,
    "load": Action.LOAD,
    "unload": Action.UNLOAD,
    "absent": Action.OTHER,
}
"""What stands for reading something is left out."""
_TOKEN = TOKEN_HEADER.encode()
_OPEN = frozenset({"/login", "/logout"})


def path_below_mount(scope: Mapping[str, Any]) -> str:
    """The path without that of the application in which this one is mounted; by nothing else may a request be judged."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_let_through(method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request shows its right in another way: a result that was published with a token, and logging in."""
    if path in _OPEN:
        return True
    if method != "GET" or _BLOB.fullmatch(path) is None:
        return False
    return any(name == _TOKEN for name, _ in headers)


def wanted(
    method: str, path: str, query: bytes, endpoints: Mapping[str, Route], names: Mapping[str, Route]
) -> tuple[Action, str]:
    """Action and resource. `endpoints` are the routes by path, `names` the same by name."""
    route = endpoints.get(path)
    if route is not None and route.model is not None and method == "POST":
        return Action.INFER, resource_of_endpoint(route.name, names)
    if path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/"):
        return _of_open_inference(path, names)
    # the router forgives a line feed at the end, and a slash is led to where there is none
    path = path.rstrip("/\n") or "/"
    action = _SERVICE_PATHS.get(path)
    if action is not None:
        return (action, SERVICE) if method in _READS else (Action.OTHER, _path_resource(path))
    if path == "/jobs":
        return Action.JOB_LIST, job_resource()
    job_id = _job_id(query)
    if path == "/status":
        return Action.JOB_READ, job_resource(job_id or "*")
    route = endpoints.get(path)
    if route is not None:
        if job_id is not None or method not in route.methods:
            return Action.JOB_READ, job_resource(job_id or "*")
        return Action.INFER, resource_of_endpoint(route.name, names)
    if found := _JOB.fullmatch(path):
        cancels = found["cancel"] is not None or method not in _READS
        return Action.JOB_CANCEL if cancels else Action.JOB_READ, job_resource(found["id"])
    if found := _BLOB.fullmatch(path):
        return Action.BLOB_READ if method in _READS else Action.BLOB_WRITE, blob_resource(found["id"])
    if found := _PREDICT.fullmatch(path):
        return Action.INFER, resource_of_endpoint(found["name"], names)
    return Action.OTHER, _path_resource(path)


def resource_of_endpoint(name: str, names: Mapping[str, Route], version: str | None = None) -> str:
    """The resource of an endpoint, with the version that answers where none was asked for."""
    route = names.get(name)
    if not version and route is not None and route.model is not None:
        version = route.model.version
    return model_resource(name, version)


def _of_open_inference(path: str, names: Mapping[str, Route]) -> tuple[Action, str]:
    """Read by what serves it, so that the two cannot differ."""
    target = target_of(path.removeprefix(OPEN_INFERENCE))
    if target is None or target.extension:
        return Action.OTHER, _path_resource(path)
    resource = resource_of_endpoint(target.model, names, target.version) if target.model else SERVICE
    return _OF_TARGET.get(target.kind, Action.METADATA), resource


def _job_id(query: bytes) -> str | None:
    if b"job_id" not in query and b"%" not in query:
        return None
    found = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("job_id")
    return found[-1] if found else None


def _path_resource(path: str) -> str:
    return f"path:{path[:128]}"
