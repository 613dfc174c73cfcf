"""`ModelRepository`: the models of a folder; loads, replaces and unloads them while others are served."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from socaity.exceptions import ConfigurationError, NotFoundError, ServerError

from .background import on_thread
from .loading import LoadedModel, load_model
from .model_config import ModelConfig
from .model_files import ModelFiles, VersionFiles, scan_folder
from .model_slot import ModelSlot, ModelState, OnGone, OnReady, SlotServices
from .settings import ModelSettings
from .watching import IsSettled, watch_folder

__all__ = ["Load", "ModelRepository", "ModelState", "ModelStatus"]

T = TypeVar("T")

_LAST_SECONDS = 0.5
_logger = logging.getLogger(__name__)


class Load(Protocol):
    """What loads a model; blocks, and is called on a thread of its own."""

    def __call__(
        self,
        path: Path,
        config: ModelConfig,
        *,
        name: str,
        version: str | None,
        allow_pickle: bool,
        cores: int | None,
        settings: ModelSettings | None,
        is_alone: bool,
    ) -> LoadedModel: ...


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where a model stands. `version` is the one that is served; `reason` says why the last load failed, also while an
    older one is served still."""

    name: str
    state: ModelState
    version: str | None
    versions: tuple[str, ...]
    reason: str | None
    backend: str | None
    path: Path


class ModelRepository:
    """The models below `path`, by name; each has one version that is served, or a reason why it has none.

    `await on_ready(name, loaded, previous)` publishes a model and returns when no call is left on `previous`, which is
    closed then; `await on_gone(name, loaded)` likewise. At most `loads_at_once` models are loaded at once, on threads.
    With `watch` files that change are loaded once they have been left alone for `debounce` seconds. A load that fails
    leaves what is served as it is. All methods are called on one event loop; after `aclose` it may be used again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        on_ready: OnReady,
        on_gone: OnGone,
        load: Load = load_model,
        allow_pickle: bool = False,
        cores: int | None = None,
        settings: ModelSettings | None = None,
        watch: bool = False,
        debounce: float = 1.0,
        loads_at_once: int = 1,
        grace: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._load_file = load
        self._allow_pickle = allow_pickle
        self._cores = cores
        self._settings = settings
        self._watches = watch
        self._debounce = debounce
        self._loads_at_once = loads_at_once
        self._grace = grace
        self._clock = clock
        self._models: dict[str, ModelSlot] = {}
        self._is_closing = False
        self._operations: dict[asyncio.Task[Any], bool] = {}
        """Every load and unload under way, and whether it may be cancelled now."""
        self._watcher: asyncio.Task[None] | None = None
        self._open()

    # What there is

    def listing(self) -> tuple[ModelStatus, ...]:
        """Every model that the last scan found or that is served still, by name."""
        return tuple(self._status(self._models[name]) for name in sorted(self._models))

    def status(self, name: str) -> ModelStatus | None:
        """Where one model stands; None: there is none of that name."""
        model = self._models.get(name)
        return None if model is None else self._status(model)

    def why_absent(self, name: str) -> Exception | None:
        """The answer to a call of a model that is not served; None: there is no such model, or it is served."""
        model = self._models.get(name)
        if model is None or model.loaded is not None:
            return None
        status = self._status(model)
        if status.state == "loading":
            return ServerError(
                f"The model {name!r} is being loaded.",
                status=503,
                code="model_loading",
                retry_after=model.retry_after,
            )
        if status.state == "failed":
            return ServerError(
                f"The model {name!r} could not be loaded: {status.reason}", status=503, code="model_failed"
            )
        return NotFoundError(f"The model {name!r} is not loaded.", code="model_unloaded")

    # What can be done

    async def scan(self) -> tuple[ModelStatus, ...]:
        """Look at the folder and load nothing. Raises ConfigurationError where there is no such folder."""
        await self._scan()
        return self.listing()

    async def load_all(self) -> tuple[ModelStatus, ...]:
        """Load every model that is new or has changed, and unload those whose files are gone; then watch, if that is wanted.

        A model that fails is listed with its reason. Raises ConfigurationError only where there is no folder.
        """
        self._is_closing = False
        await self._scan()
        if self._watches and self._watcher is None:
            self._watcher = asyncio.create_task(self._watch_on(), name="model-watch")
        await asyncio.gather(*self._follow(self._models.values(), retry=True))
        return self.listing()

    async def load(self, name: str, version: str | None = None) -> ModelStatus:
        """Load the newest version that can be loaded, or this one, which then stays; nothing where it is served already.

        Raises NotFoundError for an unknown model or version, and ServerError 503 `model_failed`.
        """
        model = await self._found(name)
        if version is not None and version not in _versions(model.files):
            known = ", ".join(_versions(model.files)) or "none"
            raise NotFoundError(
                f"The model {name!r} has no version {version!r} (known: {known}).", code="version_not_found"
            )
        before, model.pinned, model.is_wanted = model.pinned, version, True
        await self._bring_up(model, retry=True)
        try:
            return self._loaded_status(model)
        except ServerError:
            model.pinned = before  # what is served goes on following its own versions
            raise

    async def reload(self, name: str | None = None) -> tuple[ModelStatus, ...]:
        """Load one model anew, changed or not; without a name `load_all`. Raises as `load` does."""
        if name is None:
            return await self.load_all()
        model = await self._found(name)
        model.is_wanted = True
        await self._bring_up(model, retry=True, anew=True)
        return (self._loaded_status(model),)

    async def unload(self, name: str) -> ModelStatus:
        """Serve a model no longer until `load`; calls that run end first. Raises NotFoundError for an unknown one."""
        model = self._known(name)
        model.is_wanted = False
        await self._start(model.take_down())
        return self._status(model)

    async def watch(self) -> None:
        """Follow the folder until cancelled: load what changes, unload what is deleted."""
        await watch_folder(self.path, self._sync, debounce=self._debounce)

    async def aclose(self, timeout: float | None = None) -> None:
        """Load nothing more, withdraw every model and close it; takes about `timeout` seconds at most (default: `grace`)."""
        deadline = time.monotonic() + (self._grace if timeout is None else timeout)

        def left() -> float:
            return max(deadline - time.monotonic(), _LAST_SECONDS)

        self._is_closing = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        for task, may_cancel in list(self._operations.items()):
            if may_cancel:
                task.cancel()
        if self._operations:
            _, late = await asyncio.wait(list(self._operations), timeout=left())
            for task in late:
                task.cancel()
        served = [model for model in self._models.values() if model.loaded is not None]
        await asyncio.gather(*[model.withdraw(timeout=left()) for model in served])
        self._models.clear()
        self._open()

    # How it is done

    def _open(self) -> None:
        """What belongs to one event loop."""
        self._scan_lock = asyncio.Lock()
        self._services = SlotServices(
            on_ready=self._on_ready,
            on_gone=self._on_gone,
            load=self._load_blocking,
            limit=asyncio.Semaphore(self._loads_at_once),
            uninterrupted=self._uninterrupted,
            reason=self._reason,
            clock=self._clock,
        )

    async def _found(self, name: str) -> ModelSlot:
        """The model as it is in the folder now."""
        await self._scan()
        model = self._known(name)
        if model.is_gone:
            await self._start(self._forget(model))
        return self._known(name)

    def _known(self, name: str) -> ModelSlot:
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(f"There is no model {name!r}.", code="model_not_found")
        return model

    def _status(self, model: ModelSlot) -> ModelStatus:
        versions = model.files.versions
        return ModelStatus(
            name=model.name,
            state=model.state,
            version=None if model.loaded is None else model.loaded.version,
            versions=_versions(model.files),
            reason=model.reason,
            backend=versions[0].backend if versions else None,
            path=model.files.path,
        )

    def _loaded_status(self, model: ModelSlot) -> ModelStatus:
        """The status after a load that somebody asked for; raises ServerError where it has failed."""
        status = self._status(model)
        if status.reason is not None and not model.is_current:
            still = f" Version {status.version} is served still." if status.version else ""
            raise ServerError(
                f"The model {model.name!r} could not be loaded: {status.reason}{still}",
                status=503,
                code="model_failed",
            )
        return status

    async def _scan(self) -> None:
        async with self._scan_lock:
            found = await on_thread(lambda: scan_folder(self.path))
            if self._is_closing:
                return
            for name, files in found.items():
                if name in self._models:
                    self._models[name].files = files
                else:
                    self._models[name] = ModelSlot(name, files, self._services)
            for name, model in self._models.items():
                if name not in found:
                    model.files = ModelFiles(name, model.files.path, ())

    async def _sync(self, is_settled: IsSettled) -> None:
        """The folder has changed: follow it where nobody is writing any more."""
        try:
            await self._scan()
        except ConfigurationError as exc:
            _logger.warning("Nothing is loaded or unloaded: %s", exc)
            return
        settled = [model for model in self._models.values() if is_settled(model.places)]
        # not awaited: a model that takes long must not keep others from being noticed
        self._follow(settled, retry=False)

    def _follow(self, models: Iterable[ModelSlot], *, retry: bool) -> list[Awaitable[None]]:
        """Load what has changed and unload what is gone; what goes wrong is kept as a reason."""
        doing: list[Awaitable[None]] = []
        for model in list(models):
            if model.is_gone:
                doing.append(self._start(self._forget(model)))
            elif model.is_wanted:
                doing.append(self._bring_up(model, retry=retry))
        return doing

    async def _watch_on(self) -> None:
        try:
            await self.watch()
        except Exception:
            _logger.exception("Changes of %s are not followed any more", self.path)

    async def _forget(self, model: ModelSlot) -> None:
        if await model.forget() and self._models.get(model.name) is model:
            del self._models[model.name]

    def _bring_up(self, model: ModelSlot, *, retry: bool, anew: bool = False) -> Awaitable[None]:
        """Load the newest version that can be loaded. From now on the model counts as one that is being loaded."""

        def ended(_: object) -> None:
            model.pending -= 1

        model.pending += 1
        return self._start(model.load_newest(loads=model.loads, retry=retry, anew=anew), ended)

    def _start(
        self, work: Coroutine[Any, Any, T], *on_end: Callable[[asyncio.Task[T]], object]
    ) -> asyncio.Future[T]:
        """Work that goes on when the one who asked for it goes away; `aclose` ends it."""
        task = asyncio.get_running_loop().create_task(work, name="model-repository")
        self._operations[task] = True
        for callback in (*on_end, self._ended):
            task.add_done_callback(callback)
        if self._is_closing:
            task.cancel()
        return asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._operations.pop(task, None)
        if not task.cancelled() and (exc := task.exception()) is not None:
            _logger.error("A model could not be loaded or unloaded", exc_info=exc)

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        task = asyncio.current_task()
        if task is None or task not in self._operations:
            yield
            return
        self._operations[task] = False
        try:
            yield
        finally:
            self._operations[task] = True

    def _load_blocking(self, name: str, files: VersionFiles) -> LoadedModel:
        assert files.file is not None
        return self._load_file(
            files.file,
            files.config,
            name=name,
            version=files.version,
            allow_pickle=self._allow_pickle,
            cores=self._cores,
            settings=self._settings,
            is_alone=name in self._models and self._models[name].files.path == files.file,
        )

    def _reason(self, exc: Exception) -> str:
        """What an error says, for clients: without the place of the folder."""
        text = str(exc) if isinstance(exc, ConfigurationError) else f"{type(exc).__name__}: {exc}"
        for root in {str(self.path), str(self.path.absolute()), os.path.realpath(self.path)}:
            text = text.replace(root + os.sep, "")
        return text


def _versions(files: ModelFiles) -> tuple[str, ...]:
    return tuple(version.version for version in files.versions if version.version is not None)
