"""`OpenInference`: everything that a client of the protocol can ask, without knowing whether it came over REST or gRPC."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from socaity.exceptions import AuthenticationError, ConfigurationError, NotFoundError, ServerError
from socaity.protocol.openinference.messages import InferRequest, InferResponse

from ..background import on_thread
from ..dataplane import DataPlane
from ..direct import Cancellable, OnDone
from ..repository import ModelRepository
from ..route import Route, suggestion
from .awaiting import awaited
from .batched import BatchedModel
from .functions import FunctionModel
from .model import VERSION, ServedModel, is_reachable

__all__ = ["EXTENSIONS", "OpenInference"]

_logger = logging.getLogger(__name__)

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "generate",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
_STATES = {"ready": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "unloaded": "UNAVAILABLE"}


class OpenInference:
    """The models of a data plane: those of its folder, those added one by one, and functions whose parameters can be tensors.

    What goes wrong is a TensorError (the request does not fit) or an error of `socaity.exceptions`; `failure_of` gives
    the status and text of either. All methods belong to the event loop of the data plane. Without `may_load` clients can
    neither load nor unload models.
    """

    def __init__(self, dataplane: DataPlane, *, may_load: bool = True) -> None:
        self.dataplane = dataplane
        self._may_load = may_load
        self._models: dict[str, tuple[Route, ServedModel | None]] = {}
        self._added: dict[str, ServedModel] = {}

    def add(self, model: ServedModel) -> None:
        """Serve a model that is no route of the data plane. Raises ConfigurationError for a name that is taken, or that no
        client could reach."""
        if not is_reachable(model.name):
            raise ConfigurationError(
                f"No client can reach a model {model.name!r}: /v2/models/{model.name} is, or looks like, something else; give "
                "it another name."
            )
        if model.name in self._added or model.name in self.dataplane.routes:
            raise ConfigurationError(f"There is a model {model.name!r} already; give this one another name.")
        self._added[model.name] = model

    @property
    def added(self) -> Collection[str]:
        """The names of the models that are no routes."""
        return self._added.keys()

    # The server

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and extensions."""
        return {
            "name": self.dataplane.title or "socaity",
            "version": self.dataplane.version or _package_version(),
            "extensions": list(EXTENSIONS),
        }

    @property
    def is_live(self) -> bool:
        """Requests are answered."""
        return not self.dataplane.is_closing

    @property
    def is_ready(self) -> bool:
        """All models are ready, but for those that somebody has unloaded."""
        dataplane = self.dataplane
        if not dataplane.is_ready or dataplane.is_loading:
            return False
        repository = dataplane.repository
        if repository is not None and any(one.state in ("loading", "failed") for one in repository.listing()):
            return False
        return all(model.is_ready for model in map(self._model, self.model_names()))

    # Models

    def model_names(self) -> list[str]:
        """The models that are served now, by name."""
        routes = self.dataplane.routes
        for name in self._models.keys() - routes.keys():  # it would keep all that the model has loaded
            del self._models[name]
        served = [name for name, route in routes.items() if self._of_route(route) is not None]
        return sorted([*served, *(name for name, model in self._added.items() if model.is_loaded)])

    def model(self, name: str, version: str = "") -> ServedModel:
        """Raises NotFoundError for a model or version that is unknown or not loaded, and ServerError 503 for one that is not
        ready."""
        model = self._model(name)
        if not model.is_loaded:
            raise NotFoundError(f"The model {name!r} is not loaded.", code="model_unloaded")
        if version and version not in model.versions:
            raise NotFoundError(
                f"Request for unknown model version: {name!r} version {version!r} is not served; version "
                f"{', '.join(map(repr, model.versions)) or '(none)'} is.",
                code="version_not_found",
            )
        return model

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """Inputs, outputs, platform, versions."""
        return self.model(name, version).metadata()

    def config(self, name: str, version: str = "") -> dict[str, Any]:
        """The JSON form of ModelConfig."""
        return self.model(name, version).config()

    def model_is_ready(self, name: str, version: str = "") -> bool:
        """Raises NotFoundError for a model that nobody knows; False for one that is known and not served."""
        try:
            return self.model(name, version).is_ready
        except ServerError:
            return False
        except NotFoundError as exc:
            if exc.code == "model_unloaded":
                return False
            repository = self.dataplane.repository
            status = None if repository is None else repository.status(name)
            if status is not None and version in status.versions:
                return False
            raise

    def is_decoupled(self, name: str, version: str = "") -> bool:
        """Whether the model gives any number of answers to one request."""
        return self.model(name, version).is_decoupled

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Of one model, or of all."""
        names = [name] if name else self.model_names()
        found = []
        for one in names:
            model = self.model(one, version if name else "")
            found.append({"name": model.name, "version": model.version, **model.statistics()})
        return {"model_stats": found}

    # Inference

    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        """Run a request without a task or future of ours: `on_done(InferResponse, None)` or `on_done(None, error)` comes
        later on the loop, never from here, and not after `cancel`. Raises what is wrong with the request itself."""
        return self.model(request.model_name, request.model_version).submit(request, on_done, owner=owner)

    async def infer(self, request: InferRequest, *, owner: str = "") -> InferResponse:
        """The answer. Cancelling the caller cancels the work. A decoupled model must give exactly one."""
        return await awaited(lambda done: self.submit(request, done, owner=owner))

    async def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        """The answers one by one: any number of a decoupled model, one of any other. Closing it cancels the work."""
        model = self.model(request.model_name, request.model_version)
        async with aclosing(model.stream(request, owner=owner)) as answers:
            async for response in answers:
                yield response

    # The repository

    def index(self, *, ready: bool = False) -> list[dict[str, Any]]:
        """Every version of every model with its state, served or not; with `ready` only those that are."""
        repository = self.dataplane.repository
        entries: dict[str, list[dict[str, Any]]] = {}
        for name in {*self.model_names(), *self._added}:
            model = self._model(name)
            state, reason = ("READY", "") if model.is_loaded else ("UNAVAILABLE", "unloaded")
            entries[name] = [_entry(name, one, state, reason) for one in model.versions]
        for status in () if repository is None else repository.listing():
            if status.name not in entries:
                version = status.versions[0] if status.versions else VERSION
                reason = status.reason or ("unloaded" if status.state == "unloaded" else "")
                entries[status.name] = [_entry(status.name, version, _STATES[status.state], reason)]
            elif status.reason:
                entries[status.name][0]["reason"] = status.reason
        listed = [entry for _, found in sorted(entries.items()) for entry in found]
        return [entry for entry in listed if not ready or entry["state"] == "READY"]

    async def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load a model of the folder, anew if it is loaded. Raises NotFoundError, ServerError 503, and AuthenticationError
        403 for a configuration or files in the request."""
        self._check_may_load()
        given = [key for key in parameters or () if key == "config" or key.startswith("file:")]
        if given:
            raise AuthenticationError(
                f"This server takes no {given[0][:60]!r} with a load, because that could run code here: put it into the "
                "folder of the model, and load the model without it.",
                status=403,
                code="forbidden",
            )
        if name in self._added:
            await on_thread(self._added[name].load)
        else:
            await self._repository(name).reload(name)

    async def unload(self, name: str, *, unload_dependents: bool = False) -> None:
        """Serve a model of the folder no longer; calls that run end first. No model has others that depend on it."""
        self._check_may_load()
        if name in self._added:
            self._added[name].unload()
        else:
            await self._repository(name).unload(name)
            self.model_names()  # forgets it

    # Inside

    def _check_may_load(self) -> None:
        if not self._may_load:
            # the words that clients of Triton know, and the reason here
            raise ServerError(
                "explicit model load / unload is not allowed if polling is enabled, or SOCAITY_MODEL_CONTROL is false as here.",
                status=503,
                code="forbidden",
            )

    def _model(self, name: str) -> ServedModel:
        added = self._added.get(name)
        if added is not None:
            return added
        route = self.dataplane.routes.get(name)
        if route is None:
            route = self._route(name)
        model = self._of_route(route)
        if model is None:
            reason = (
                "it needs something that is no tensor"
                if is_reachable(name)
                else "its name means something else"
            )
            raise NotFoundError(
                f"{name!r} is no model of the Open Inference Protocol: {reason}.", code="model_not_found"
            )
        return model

    def _route(self, name: str) -> Route:
        """Of the data plane, which knows whether a model may come; here it is said which others there are."""
        try:
            return self.dataplane.route(name)
        except NotFoundError as exc:
            if exc.code != "endpoint_not_found":
                raise
        known = self.model_names()
        raise NotFoundError(
            f"There is no model {name!r}{suggestion(name, known)}. Models: {', '.join(known) or 'none'}.",
            code="model_not_found",
        )

    def _of_route(self, route: Route) -> ServedModel | None:
        known = self._models.get(route.name)
        if known is not None and known[0] is route:
            return known[1]
        model: ServedModel | None = None
        if is_reachable(route.name):
            make = BatchedModel.of_route if route.kind == "batched" else FunctionModel.of_route
            model = make(self.dataplane, route)
        else:
            _logger.warning(
                "%r is no model of the Open Inference Protocol: /v2/models/%s means something else",
                *(route.name,) * 2,
            )
        self._models[route.name] = (route, model)
        return model

    def _repository(self, name: str) -> ModelRepository:
        """The folder, which may have a new model of that name."""
        repository = self.dataplane.repository
        if name in self.model_names() and (repository is None or repository.status(name) is None):
            self._model(name).load()  # raises why not
        if repository is None:
            raise NotFoundError(f"There is no model {name!r}.", code="model_not_found")
        return repository


def _entry(name: str, version: str, state: str, reason: str) -> dict[str, Any]:
    return {"name": name, "version": version, "state": state, "reason": reason}


def _package_version() -> str:
    try:
        return version("socaity")
    except PackageNotFoundError:
        return "0"
