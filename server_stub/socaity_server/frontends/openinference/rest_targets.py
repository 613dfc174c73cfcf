"""Which thing a path below `/v2` names."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Target", "target_of"]

_GET = ("GET", "HEAD")
_POST = ("POST",)


@dataclass(frozen=True, slots=True)
class Target:
    """`kind` is what is asked, `methods` are those that it takes; `extension` names a part that this server does not have."""

    kind: str
    methods: tuple[str, ...]
    model: str = ""
    version: str = ""
    repository: str = ""
    region: str = ""
    extension: str = ""


_FIXED = {
    "": Target("metadata", _GET),
    "/health/live": Target("live", _GET),
    "/health/ready": Target("ready", _GET),
    "/models": Target("models", _GET),
    "/models/stats": Target("statistics", _GET),
    "/logging": Target("logs", (*_GET, *_POST)),
    "/trace/setting": Target("traces", (*_GET, *_POST)),
}
_REPOSITORY = re.compile(
    r"/repository(?:/(?P<repository>[^/]+))?/(?:index|models/(?P<model>.+)/(?P<verb>load|unload))", re.S
)
_SHARED = re.compile(
    r"/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<region>[^/]+))?/(?P<verb>status|register|unregister)"
)
_MODEL = re.compile(
    r"/models/(?P<model>.+?)(?:/versions/(?P<version>[^/]+))?"
    r"(?P<verb>/infer|/infer_stream|/generate|/generate_stream|/ready|/config|/stats|/trace/setting)?",
    re.S,
)
_VERBS = {
    None: ("model", _GET),
    "/ready": ("model_ready", _GET),
    "/config": ("config", _GET),
    "/stats": ("statistics", _GET),
    "/infer": ("infer", _POST),
    "/infer_stream": ("infer_stream", _POST),
    "/generate": ("generate", _POST),
    "/generate_stream": ("generate_stream", _POST),
}


def target_of(path: str) -> Target | None:
    """`path` is decoded and begins behind `/v2`; None: there is nothing. The name of a model may have slashes in it."""
    path = path.rstrip("/")
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    if path.startswith("/models/"):
        found = _MODEL.fullmatch(path)
        if found is None:
            return None
        if found["verb"] == "/trace/setting":
            return Target("traces", (*_GET, *_POST), found["model"])
        kind, methods = _VERBS[found["verb"]]
        return Target(kind, methods, found["model"], found["version"] or "")
    if found := _REPOSITORY.fullmatch(path):
        return Target(
            found["verb"] or "index", _POST, found["model"] or "", repository=found["repository"] or ""
        )
    if found := _SHARED.fullmatch(path):
        if found["verb"] == "register":
            return Target("absent", _POST, extension=f"{found['kind']} shared memory")
        methods = _GET if found["verb"] == "status" else _POST
        return Target(f"regions_{found['verb']}", methods, region=found["region"] or "")
    return None
