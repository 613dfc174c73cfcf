"""`ModelSlot`: the place of one model name, where one version after the other is loaded, published and withdrawn."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from socaity.exceptions import ConfigurationError

from .background import in_background, on_thread
from .loading import LoadedModel
from .model_files import ModelFiles, VersionFiles, fingerprint

__all__ = ["ABSENT_CODES", "ModelSlot", "ModelState", "OnGone", "OnReady", "SlotServices"]

ModelState: TypeAlias = Literal["loading", "ready", "failed", "unloaded"]
OnReady: TypeAlias = Callable[[str, LoadedModel, LoadedModel | None], Awaitable[None]]
OnGone: TypeAlias = Callable[[str, LoadedModel], Awaitable[None]]

ABSENT_CODES = frozenset(
    {"model_failed", "model_loading", "model_not_found", "model_unloaded", "version_not_found"}
)
"""The codes of errors that say why a model is not there."""

_logger = logging.getLogger(__name__)
_LONGEST_LOAD = 900.0
"""Seconds after which a load is given up, so that others get their turn."""
_USUAL_LOAD = 5.0
"""Seconds that a load is said to take before one has been seen."""


@dataclass(frozen=True, slots=True)
class SlotServices:
    """What a slot needs of its repository. `load` blocks; `limit` bounds how many of them run at once; within
    `uninterrupted` the task is not cancelled; `reason` is what an error says to clients."""

    on_ready: OnReady
    on_gone: OnGone
    load: Callable[[str, VersionFiles], LoadedModel]
    limit: asyncio.Semaphore
    uninterrupted: Callable[[], AbstractContextManager[None]]
    reason: Callable[[Exception], str]
    clock: Callable[[], float]


class ModelSlot:
    """What is known of one name. Its loads and unloads happen one after the other; what is served stays until something
    better has taken its place."""

    def __init__(self, name: str, files: ModelFiles, services: SlotServices) -> None:
        self.name = name
        self.files = files
        self.loaded: LoadedModel | None = None
        self.reason: str | None = None
        self.is_wanted = True
        """False: somebody has unloaded it, and it stays so until somebody loads it."""
        self.pinned: str | None = None
        """The version that somebody has asked for."""
        self.pending = 0
        """Loads that wait or run."""
        self.loads = 0
        """Loads that have ended."""
        self._services = services
        self._lock = asyncio.Lock()
        self._source: VersionFiles | None = None
        # why a version could not be loaded: it is not tried again before it changes
        self._failures: dict[str | None, tuple[VersionFiles, str]] = {}
        # files that the model itself writes while it is loaded, which would make it load again without end
        self._written: frozenset[str] = frozenset()
        self._own_files: frozenset[str] = frozenset()
        self._load_began: float | None = None
        self._load_seconds = _USUAL_LOAD

    @property
    def state(self) -> ModelState:
        if self.loaded is not None:
            return "ready"
        if self.pending:
            return "loading"
        return "failed" if self.is_wanted and self.reason is not None else "unloaded"

    @property
    def is_gone(self) -> bool:
        """Its files are."""
        return not self.files.versions and self.files.error is None

    @property
    def is_current(self) -> bool:
        """What is served is one of the versions that are wanted, as it is in the folder."""
        return any(self._is_served(files) for files in self._candidates())

    @property
    def places(self) -> list[Path]:
        """All files that it is made of."""
        return [self.files.path, *[path for version in self.files.versions for path in version.watched]]

    @property
    def retry_after(self) -> float:
        """Seconds until it may have been loaded."""
        elapsed = 0.0 if self._load_began is None else self._services.clock() - self._load_began
        return float(math.ceil(max(1.0, self._load_seconds - elapsed)))

    async def load_newest(self, *, loads: int, retry: bool, anew: bool) -> None:
        """Serve the newest version that can be loaded. `retry`: also what has failed and not changed since; `anew`: also
        what is served already. `loads` is how many there were when this was asked for."""
        async with self._lock:
            if not self.is_wanted or self.is_gone:
                return
            if self.loads != loads:  # somebody else has done it while this waited
                retry = anew = False
            if self.files.error is not None:
                self._keep_reason([(None, self.files.error)])
                return
            failures: list[tuple[str | None, str]] = []
            for files in self._candidates():
                if self._is_served(files) and not anew:
                    break
                why = await self._load(files, retry=retry)
                if why is None:
                    break
                failures.append((files.version, why))
                if self._source is not None and self._source.version == files.version:
                    break  # it is served as it was before the change: better than an older version
            self._keep_reason(failures)

    async def take_down(self) -> None:
        """Serve nothing, unless somebody has asked for it again."""
        async with self._lock:
            if not self.is_wanted:
                await self.withdraw()
                self.reason, self._failures = None, {}

    async def forget(self) -> bool:
        """Serve nothing if the files are gone still; whether that is so."""
        async with self._lock:
            if self.is_gone:
                await self.withdraw()
            return self.is_gone

    async def withdraw(self, *, timeout: float | None = None) -> None:
        """Serve nothing. The model is closed even when its calls do not end within `timeout`."""
        loaded, self.loaded, self._source = self.loaded, None, None
        if loaded is None:
            return
        try:
            with self._services.uninterrupted():
                async with asyncio.timeout(timeout):
                    await self._services.on_gone(self.name, loaded)
        except TimeoutError:
            _logger.warning("Calls of the model %s have not ended; it is closed all the same", self.name)
        except Exception:
            _logger.exception("The model %s could not be withdrawn", self.name)
        else:
            _logger.info("The model %s is unloaded", self.name)
        finally:
            closing = in_background(lambda: _close(loaded))
        await asyncio.wait([asyncio.wrap_future(closing)], timeout=timeout)

    def _candidates(self) -> tuple[VersionFiles, ...]:
        """The versions to try, the best first."""
        versions = self.files.versions
        pinned = tuple(files for files in versions if files.version == self.pinned)
        return pinned if self.pinned is not None and pinned else versions

    def _is_served(self, files: VersionFiles) -> bool:
        return self.loaded is not None and self._source is not None and self._is_same(files, self._source)

    def _is_same(self, one: VersionFiles, other: VersionFiles) -> bool:
        return self._without_own_files(one) == self._without_own_files(other)

    def _without_own_files(self, files: VersionFiles) -> VersionFiles:
        if not self._own_files:
            return files
        state = tuple(entry for entry in files.state if entry[0] not in self._own_files)
        return replace(files, state=state, watched=())

    async def _load(self, files: VersionFiles, *, retry: bool) -> str | None:
        """Load one version and put it in the place of what is served; or say why not."""
        if files.error is not None or files.file is None:
            return files.error or "There is no model file."
        known = self._failures.get(files.version)
        if known is not None and self._is_same(known[0], files) and not retry:
            return known[1]
        services = self._services
        why: str | None = None
        try:
            async with services.limit, asyncio.timeout(_LONGEST_LOAD):
                self._load_began = services.clock()
                loaded, changed = await on_thread(
                    lambda: self._blocking_load(files), discard=lambda found: _close(found[0])
                )
            self._load_seconds = services.clock() - self._load_began
            self._own_files |= changed & self._written
            self._written = changed
        except TimeoutError:
            why = f"It was not loaded within {_LONGEST_LOAD:.0f} s; it hangs, or needs a faster disk."
            _logger.warning("The model %s could not be loaded: %s", self.name, why)
        except Exception as exc:  # a model's own code may raise anything
            why = services.reason(exc)
            if not isinstance(exc, ConfigurationError):
                _logger.warning("The model %s could not be loaded", self.name, exc_info=exc)
        else:
            if self.is_wanted:
                why = await self._publish(loaded, files)
            else:  # unloaded meanwhile
                in_background(lambda: _close(loaded))
        finally:
            self._load_began = None
            self.loads += 1
        if why is None:
            self._failures.pop(files.version, None)
        else:
            self._failures[files.version] = (files, why)
        return why

    def _blocking_load(self, files: VersionFiles) -> tuple[LoadedModel, frozenset[str]]:
        """The model, and which files beside it have changed meanwhile."""
        loaded = self._services.load(self.name, files)
        changed = {path for path, *_ in set(fingerprint(files.watched)) ^ set(files.state)}
        if str(files.file) in changed:
            _close(loaded)
            raise ConfigurationError(
                f"'{files.file}' was written while it was loaded; it is loaded on the next change or reload."
            )
        return loaded, frozenset(path for path in changed if not path.endswith((".py", ".yaml", ".yml")))

    async def _publish(self, loaded: LoadedModel, files: VersionFiles) -> str | None:
        previous = self.loaded
        try:
            with self._services.uninterrupted():  # half published would be worse than late
                await self._services.on_ready(self.name, loaded, previous)
        except Exception as exc:
            _logger.exception("The model %s could not be published", self.name)
            await on_thread(lambda: _close(loaded))
            return self._services.reason(exc)
        except asyncio.CancelledError:
            # nobody knows which of them is served now: the new one is withdrawn by the one who cancels
            self.loaded, self._source = loaded, files
            if previous is not None:
                in_background(lambda: _close(previous))
            raise
        self.loaded, self._source = loaded, files
        version = "" if loaded.version is None else f", version {loaded.version}"
        _logger.info(
            "The model %s is %s%s (%s)",
            self.name,
            "loaded" if previous is None else "reloaded",
            version,
            loaded.summary,
        )
        if previous is not None:
            await on_thread(lambda: _close(previous))
        return None

    def _keep_reason(self, failures: list[tuple[str | None, str]]) -> None:
        """Why the newest versions were not loaded; nothing: all is well."""
        many = len(self.files.versions) > 1
        reason = " ".join(
            f"Version {version}: {why}" if many and version else why for version, why in failures
        )
        if reason and reason != self.reason:
            _logger.warning("The model %s could not be loaded: %s", self.name, reason)
        self.reason = reason or None


def _close(loaded: LoadedModel) -> None:
    try:
        loaded.runtime.close()
    except Exception:
        _logger.exception("The model %s could not be closed", loaded.name)
