"""`ModelRepository`: the models of a folder; loads, replaces and unloads them while others are served."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from socaity.exceptions import ConfigurationError, NotFoundError, ServerError

from .loading import LoadedModel, load_model
from .model_config import ModelConfig
from .model_files import ModelFiles, VersionFiles, fingerprint, scan_folder
from .settings import ModelSettings
from .watching import watch_folder

__all__ = ["Load", "ModelRepository", "ModelState", "ModelStatus"]

ModelState = Literal["loading", "ready", "failed", "unloaded"]
OnReady: TypeAlias = Callable[[str, LoadedModel, LoadedModel | None], Awaitable[None]]
OnGone: TypeAlias = Callable[[str, LoadedModel], Awaitable[None]]
T = TypeVar("T")

_logger = logging.getLogger(__name__)
_USUAL_LOAD = 5.0
"""Seconds that a load is said to take before one has been seen."""


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


@dataclass(slots=True, eq=False)
class _Model:
    """What is known of one name. Loads and unloads of it happen one after the other, under `lock`."""

    name: str
    files: ModelFiles
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: LoadedModel | None = None
    source: VersionFiles | None = None
    """What `loaded` was loaded from."""
    tried: dict[str | None, tuple[VersionFiles, str]] = field(default_factory=dict)
    """What could not be loaded and why, by version: it is not tried again before it changes."""
    reason: str | None = None
    is_wanted: bool = True
    """False: somebody has unloaded it, and it stays so until somebody loads it."""
    pinned: str | None = None
    pending: int = 0
    """Loads that wait or run."""
    loads: int = 0
    """Loads that have ended."""
    load_seconds: float | None = None
    load_began: float | None = None


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
        self._models: dict[str, _Model] = {}
        self._slots = asyncio.Semaphore(loads_at_once)
        self._scan_lock = asyncio.Lock()
        self._is_closing = False
        self._operations: dict[asyncio.Task[Any], bool] = {}
        """Every load and unload under way, and whether it may be cancelled now."""
        self._watcher: asyncio.Task[None] | None = None

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
                retry_after=self._retry_after(model),
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
        await self._follow(self._models.values(), retry=True)
        return self.listing()

    async def load(self, name: str, version: str | None = None) -> ModelStatus:
        """Load the newest version that can be loaded, or this one; does nothing where it is served already.

        Raises NotFoundError for an unknown model or version, and ServerError 503 `model_failed`.
        """
        await self._scan()
        model = self._known(name)
        if version is not None and version not in _versions(model.files):
            known = ", ".join(_versions(model.files)) or "none"
            raise NotFoundError(f"The model {name!r} has no version {version!r} (known: {known}).")
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
        await self._scan()
        model = self._known(name)
        model.is_wanted = True
        await self._bring_up(model, retry=True, anew=True)
        return (self._loaded_status(model),)

    async def unload(self, name: str) -> ModelStatus:
        """Serve a model no longer until `load`; calls that run end first. Raises NotFoundError for an unknown one."""
        model = self._known(name)
        model.is_wanted = False
        await asyncio.shield(self._start(self._take_down(model)))
        return self._status(model)

    async def watch(self) -> None:
        """Follow the folder until cancelled: load what changes, unload what is deleted."""
        await watch_folder(self.path, self._sync, debounce=self._debounce)

    async def aclose(self) -> None:
        """Load nothing more, withdraw every model and close it; takes `grace` seconds at most for each of these."""
        self._is_closing = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
        for task, may_cancel in list(self._operations.items()):
            if may_cancel:
                task.cancel()
        if self._operations:
            _, late = await asyncio.wait(list(self._operations), timeout=self._grace)
            for task in late:
                task.cancel()
        served = [model for model in self._models.values() if model.loaded is not None]
        await asyncio.gather(*[self._withdraw(model, timeout=self._grace) for model in served])
        self._models.clear()
        # the next one to use them may be another event loop
        self._slots, self._scan_lock = asyncio.Semaphore(self._loads_at_once), asyncio.Lock()

    # How it is done

    def _known(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            raise NotFoundError(f"There is no model {name!r}.", code="model_not_found")
        return model

    def _status(self, model: _Model) -> ModelStatus:
        state: ModelState
        if model.loaded is not None:
            state = "ready"
        elif model.pending:
            state = "loading"
        elif model.is_wanted and model.reason is not None:
            state = "failed"
        else:
            state = "unloaded"
        versions = model.files.versions
        return ModelStatus(
            name=model.name,
            state=state,
            version=None if model.loaded is None else model.loaded.version,
            versions=_versions(model.files),
            reason=model.reason,
            backend=versions[0].backend if versions else None,
            path=model.files.path,
        )

    def _retry_after(self, model: _Model) -> float:
        usual = model.load_seconds or _USUAL_LOAD
        elapsed = 0.0 if model.load_began is None else self._clock() - model.load_began
        return float(math.ceil(max(1.0, usual - elapsed)))

    async def _scan(self) -> None:
        async with self._scan_lock:
            found = await _on_thread(lambda: scan_folder(self.path))
        for name, files in found.items():
            if name in self._models:
                self._models[name].files = files
            else:
                self._models[name] = _Model(name, files)
        for name, model in self._models.items():
            if name not in found:
                model.files = ModelFiles(name, model.files.path, ())

    async def _sync(self, is_settled: Callable[[Iterable[Path]], bool]) -> None:
        """The folder has changed: follow it where nobody is writing any more."""
        try:
            await self._scan()
        except ConfigurationError as exc:
            _logger.warning("Nothing is loaded or unloaded: %s", exc)
            return
        settled = [model for model in self._models.values() if is_settled(_paths(model))]
        # not awaited: a model that takes long must not keep others from being noticed
        self._start(self._follow(settled, retry=False))

    async def _follow(self, models: Iterable[_Model], *, retry: bool) -> None:
        """Load what has changed and unload what is gone; what goes wrong is kept as a reason."""
        doing: list[Awaitable[object]] = []
        for model in list(models):
            if _is_gone(model.files):
                doing.append(asyncio.shield(self._start(self._forget(model))))
            elif model.is_wanted:
                doing.append(self._bring_up(model, retry=retry))
        await asyncio.gather(*doing)

    async def _watch_on(self) -> None:
        try:
            await self.watch()
        except Exception:
            _logger.exception("Changes of %s are not followed any more", self.path)

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that goes on when the one who asked for it goes away; `aclose` ends it."""
        if self._is_closing:
            work.close()
            raise ServerError("The service is stopping.", status=503, code="shutting_down")
        task = asyncio.get_running_loop().create_task(work, name="model-repository")
        self._operations[task] = True
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._operations.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _logger.error("A model could not be loaded or unloaded", exc_info=task.exception())

    def _bring_up(self, model: _Model, *, retry: bool, anew: bool = False) -> Awaitable[None]:
        """Load the newest version that can be loaded. From now on the model counts as one that is being loaded."""
        task = self._start(self._load_newest(model, loads=model.loads, retry=retry, anew=anew))
        model.pending += 1

        def ended(_: object) -> None:
            model.pending -= 1

        task.add_done_callback(ended)
        return asyncio.shield(task)

    async def _load_newest(self, model: _Model, *, loads: int, retry: bool, anew: bool) -> None:
        async with model.lock:
            if not model.is_wanted or _is_gone(model.files):
                return
            if model.loads != loads:  # somebody else has done it while this waited
                retry = anew = False
            if model.files.error is not None:
                self._failed(model, [(None, model.files.error)])
                return
            failures: list[tuple[str | None, str]] = []
            for files in _wanted(model):
                if model.loaded is not None and model.source == files and not anew:
                    break
                why = await self._load_version(model, files, retry=retry)
                if why is None:
                    break
                failures.append((files.version, why))
                if model.source is not None and model.source.version == files.version:
                    break  # it is served still, as it was before the change: better than an older one
            self._failed(model, failures)

    async def _load_version(self, model: _Model, files: VersionFiles, *, retry: bool) -> str | None:
        """Load one version and put it in the place of what is served; or say why not."""
        tried = model.tried.get(files.version)
        if files.error is not None or files.file is None:
            return files.error or "There is no model file."
        if tried is not None and tried[0] == files and not retry:
            return tried[1]
        why: str | None = None
        try:
            async with self._slots:
                model.load_began = self._clock()
                loaded = await _on_thread(lambda: self._blocking_load(model.name, files), discard=_close)
            model.load_seconds = self._clock() - model.load_began
        except Exception as exc:  # a model's own code may raise anything
            why = self._reason(exc)
            if not isinstance(exc, ConfigurationError):
                _logger.warning("The model %s could not be loaded", model.name, exc_info=exc)
        else:
            why = await self._publish(model, loaded, files)
        finally:
            model.load_began = None
            model.loads += 1
        if why is None:
            model.tried.pop(files.version, None)
        else:
            model.tried[files.version] = (files, why)
        return why

    def _blocking_load(self, name: str, files: VersionFiles) -> LoadedModel:
        assert files.file is not None
        loaded = self._load_file(
            files.file,
            files.config,
            name=name,
            version=files.version,
            allow_pickle=self._allow_pickle,
            cores=self._cores,
            settings=self._settings,
        )
        before = [entry for entry in files.state if entry[0] == str(files.file)]
        if list(fingerprint([files.file])) != before:
            _close(loaded)
            raise ConfigurationError(
                f"{files.file.name} was written while it was loaded; it is loaded again when it has changed or on reload."
            )
        return loaded

    async def _publish(self, model: _Model, loaded: LoadedModel, files: VersionFiles) -> str | None:
        previous = model.loaded
        task = asyncio.current_task()
        if task in self._operations:
            self._operations[task] = False  # half published would be worse than late
        try:
            await self._on_ready(model.name, loaded, previous)
        except Exception as exc:
            _logger.exception("The model %s could not be published", model.name)
            await _on_thread(lambda: _close(loaded))
            return self._reason(exc)
        except asyncio.CancelledError:
            model.loaded, model.source = loaded, files
            if previous is not None:
                _in_background(lambda: _close(previous))
            raise
        finally:
            if task in self._operations:
                self._operations[task] = True
        model.loaded, model.source = loaded, files
        if previous is not None:
            await _on_thread(lambda: _close(previous))
        return None

    async def _take_down(self, model: _Model) -> None:
        async with model.lock:
            if not model.is_wanted:
                await self._withdraw(model)
                model.reason, model.tried = None, {}

    async def _forget(self, model: _Model) -> None:
        async with model.lock:
            if _is_gone(model.files):
                await self._withdraw(model)
                if _is_gone(model.files) and self._models.get(model.name) is model:
                    del self._models[model.name]

    async def _withdraw(self, model: _Model, *, timeout: float | None = None) -> None:
        """Serve a model no longer. It is closed even when calls do not end within `timeout`."""
        loaded, model.loaded, model.source = model.loaded, None, None
        if loaded is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._on_gone(model.name, loaded)
        except TimeoutError:
            _logger.warning("Calls of the model %s have not ended; it is closed all the same", model.name)
        except Exception:
            _logger.exception("The model %s could not be withdrawn", model.name)
        finally:
            closing = _in_background(lambda: _close(loaded))
        await asyncio.wait([asyncio.wrap_future(closing)], timeout=timeout)

    def _failed(self, model: _Model, failures: list[tuple[str | None, str]]) -> None:
        """Keep why the newest versions were not loaded; nothing: all is well."""
        many = len(model.files.versions) > 1
        reason = " ".join(
            f"Version {version}: {why}" if many and version else why for version, why in failures
        )
        model.reason = reason or None
        if reason:
            _logger.warning("The model %s could not be loaded: %s", model.name, reason)

    def _loaded_status(self, model: _Model) -> ModelStatus:
        """The status after a load that somebody asked for; raises ServerError where it has failed."""
        status = self._status(model)
        if status.reason is not None and (model.source is None or model.source not in _wanted(model)):
            still = f" Version {status.version} is served still." if status.version else ""
            raise ServerError(
                f"The model {model.name!r} could not be loaded: {status.reason}{still}",
                status=503,
                code="model_failed",
            )
        return status

    def _reason(self, exc: Exception) -> str:
        """What an error says, for clients: without the place of the folder."""
        text = str(exc) if isinstance(exc, ConfigurationError) else f"{type(exc).__name__}: {exc}"
        for root in {str(self.path), str(self.path.absolute()), os.path.realpath(self.path)}:
            text = text.replace(root + os.sep, "")
        return text


def _versions(files: ModelFiles) -> tuple[str, ...]:
    return tuple(version.version for version in files.versions if version.version is not None)


def _is_gone(files: ModelFiles) -> bool:
    return not files.versions and files.error is None


def _wanted(model: _Model) -> list[VersionFiles]:
    """The versions to try, the best first."""
    versions = list(model.files.versions)
    pinned = [files for files in versions if files.version == model.pinned]
    return pinned if model.pinned is not None and pinned else versions


def _paths(model: _Model) -> list[Path]:
    return [model.files.path, *[path for version in model.files.versions for path in version.watched]]


def _close(loaded: LoadedModel) -> None:
    try:
        loaded.runtime.close()
    except Exception:
        _logger.exception("The model %s could not be closed", loaded.name)


def _in_background(function: Callable[[], T]) -> Future[T]:
    """Run on a thread of its own that keeps nobody from ending: loading may take minutes and cannot be interrupted."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            result = function()
        except BaseException as exc:  # for the one who waits
            future.set_exception(exc)
        else:
            future.set_result(result)

    Thread(target=work, name="model-repository", daemon=True).start()
    return future


async def _on_thread(function: Callable[[], T], *, discard: Callable[[T], object] | None = None) -> T:
    """The result of `function`; when nobody waits for it any more, `discard` gets it."""
    future = _in_background(function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if discard is not None:

            def drop(done: Future[T]) -> None:
                if done.exception() is None:
                    _in_background(lambda: discard(done.result()))

            future.add_done_callback(drop)
        raise
