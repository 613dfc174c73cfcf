"""The models of a service for people and programs: what `/available_models` and `/health` say, which is the same."""

from __future__ import annotations

from html import escape
from typing import Any

from .dataplane import DataPlane
from .direct import DirectRoute
from .repository import ModelStatus
from .route import Route
from .settings import ModelSettings

__all__ = ["available_models", "health", "listing", "listing_page"]


def listing(dataplane: DataPlane) -> list[dict[str, Any]]:
    """Every model, served or not, by name."""
    known = {} if dataplane.repository is None else {one.name: one for one in dataplane.repository.listing()}
    routes = {name: route for name, route in dataplane.routes.items() if route.model is not None}
    served = dataplane.direct_routes()
    return [
        _entry(name, routes.get(name), known.get(name), served.get(name))
        for name in sorted(known.keys() | routes.keys())
    ]


def available_models(dataplane: DataPlane) -> dict[str, Any]:
    """What `/available_models` answers."""
    models = listing(dataplane)
    return {"status": _status(dataplane, models), "models": models}


def health(dataplane: DataPlane, settings: ModelSettings) -> tuple[dict[str, Any], bool]:
    """What `/health` answers, and whether the service is ready."""
    models = listing(dataplane)
    status = _status(dataplane, models)
    running = sum(direct.batcher.busy_instances for direct in dataplane.direct_routes().values())
    instances = sum(direct.batcher.instance_count for direct in dataplane.direct_routes().values())
    body = {
        "status": status,
        "instance": dataplane.instance,
        "loaded_models": [model["name"] for model in models if model["state"] == "ready"],
        "models": {
            model["name"]: {key: model[key] for key in ("state", "version", "circuit_breaker", "reason")}
            for model in models
        },
        "max_workers": instances,
        "Semaphore_case": instances - running,
        "debug_mode": settings.debug,
        "log_directory": settings.log_directory,
        "queues": dataplane.load() if dataplane.is_ready else {},
    }
    return body, status in ("healthy", "degraded")


def listing_page(models: list[dict[str, Any]]) -> str:
    """The list as a page without scripts."""
    head = ("Name", "State", "Version", "Backend", "Inputs", "Outputs")
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(str(cell))}</td>"
            for cell in (
                model["name"],
                model["state"] + (f": {model['reason']}" if model["reason"] else ""),
                model["version"] or "",
                model["backend"] or "",
                _shapes(model["inputs"]),
                _shapes(model["outputs"]),
            )
        )
        + "</tr>"
        for model in models
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Models</title>"
        '<meta name=viewport content="width=device-width">'
        "<style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;margin:2rem}"
        "table{border-collapse:collapse}td,th{padding:.4rem .8rem;text-align:left;"
        "border-bottom:1px solid #8886}</style><h1>Models</h1><table><thead><tr>"
        + "".join(f"<th>{title}</th>" for title in head)
        + f"</tr></thead><tbody>{rows}</tbody></table></html>"
    )


def _entry(
    name: str, route: Route | None, status: ModelStatus | None, direct: DirectRoute | None
) -> dict[str, Any]:
    model = None if route is None else route.model
    entry: dict[str, Any] = {
        "name": name,
        "state": "ready" if model is not None else "unloaded" if status is None else status.state,
        "version": None if model is None else model.version,
        "versions": [] if status is None else list(status.versions),
        "reason": None if status is None else status.reason,
        "backend": None,
        "path": f"/predict/{name}",
        "inputs": [],
        "outputs": [],
        "circuit_breaker": None if direct is None or direct.breaker is None else direct.breaker.state,
        "stuck": direct is not None and direct.batcher.is_stuck,
        "warnings": [],
    }
    if direct is not None and entry["stuck"]:
        entry["reason"] = f"every instance runs for more than {direct.timeout:g} s"
    if model is None:
        entry["backend"] = None if status is None else status.backend
        return entry
    runtime = model.runtime
    entry |= {
        "backend": runtime.name,
        "description": model.config.description,
        "inputs": [_tensor(spec) for spec in runtime.inputs],
        "outputs": [_tensor(spec) for spec in runtime.outputs],
        "warnings": list(model.warnings),
    }
    return entry


def _tensor(spec: Any) -> dict[str, Any]:
    shape = None if spec.shape is None else [-1 if size is None else size for size in spec.shape]
    return {"name": spec.name, "dtype": spec.dtype, "shape": shape}


def _shapes(tensors: list[dict[str, Any]]) -> str:
    return ", ".join(f"{one['name']} {one['dtype'] or 'any'} {one['shape'] or ''}".strip() for one in tensors)


def _status(dataplane: DataPlane, models: list[dict[str, Any]]) -> str:
    """Loading keeps a service from being called when it starts. Later, a model that is put beside others must not take
    them out of a load balancer."""
    if not dataplane.is_ready:
        return "draining" if dataplane.is_closing else "starting"
    if dataplane.is_loading:
        return "loading"
    wanted = [model for model in models if model["state"] != "unloaded"]
    usable = [model for model in wanted if _is_usable(model)]
    if len(usable) == len(wanted):
        return "healthy"
    if usable or len(dataplane.routes) > sum(model["state"] == "ready" for model in models):
        return "degraded"
    return "loading" if any(model["state"] == "loading" for model in wanted) else "broken"


def _is_usable(model: dict[str, Any]) -> bool:
    """Calls are let in."""
    return model["state"] == "ready" and model["circuit_breaker"] != "open" and not model["stuck"]
