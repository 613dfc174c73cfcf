"""`load_model`: a model file and its configuration become a `LoadedModel`. Blocks; called on worker threads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from socaity.exceptions import ConfigurationError

from .model_config import ModelConfig
from .runtimes.base import Runtime, RuntimeOptions
from .settings import ModelSettings

if TYPE_CHECKING:
    from .profile import Profile

__all__ = ["LoadedModel", "load_model"]

_CHUNK = 2**20
_MAX_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that can be served. `profile` is None where it was not measured; `content_hash` changes with the file and
    with its configuration."""

    name: str
    version: str | None
    config: ModelConfig
    path: Path | None
    runtime: Runtime
    profile: Profile | None = None
    warnings: tuple[str, ...] = ()
    content_hash: str = ""

    @classmethod
    def of_runtime(cls, runtime: Runtime, name: str, config: ModelConfig | None = None) -> LoadedModel:
        """A runtime that somebody else has loaded, and closes."""
        return cls(name=name, version=None, config=config or ModelConfig(), path=None, runtime=runtime)

    @property
    def max_batch_size(self) -> int:
        """What is configured, else what was measured; 1 where calls cannot be put together."""
        if not self.runtime.batched:
            return 1
        if self.config.max_batch_size is not None:
            return self.config.max_batch_size
        return _MAX_BATCH_SIZE if self.profile is None else self.profile.max_batch_size

    @property
    def instances(self) -> int:
        """How many batches may run at once."""
        if self.config.instances is not None:
            return self.config.instances
        return 1 if self.profile is None else self.profile.instances

    @property
    def runs_in_process(self) -> bool:
        """The model is computed by worker processes, so that `run` only waits."""
        return bool(getattr(self.runtime, "in_process", False))

    @property
    def summary(self) -> str:
        """How it runs, in one line."""
        parts = [self.runtime.name, self.runtime.device]
        if self.instances > 1:
            parts.append(f"{self.instances} instances")
        parts.append(f"up to {self.max_batch_size} per batch" if self.max_batch_size > 1 else "one by one")
        return ", ".join(parts)


def load_model(
    path: Path,
    config: ModelConfig,
    *,
    name: str,
    version: str | None = None,
    allow_pickle: bool = False,
    cores: int | None = None,
    settings: ModelSettings | None = None,
) -> LoadedModel:
    """Check the hash, load, measure and warm up; what was opened is closed again when any of it fails.

    Raises ConfigurationError, which says what to do; an engine may raise its own errors as well.
    """
    # engines are imported when a model needs them
    from .runtimes.registry import backend_of, load_runtime

    path = Path(path)
    cores = cores or _cores()
    file_hash = _checked_hash(path, config.sha256)
    backend = backend_of(path, config.backend)
    options = RuntimeOptions(
        threads=config.threads or 1,
        device=config.device,
        inputs=config.inputs,
        outputs=config.outputs,
        arguments=config.arguments,
        sha256=config.sha256,
        allow_pickle=allow_pickle,
    )

    def load(threads: int) -> Runtime:
        runtime = load_runtime(
            path,
            backend=backend,
            options=dataclasses.replace(options, threads=threads),
            execution=config.execution,
            instances=config.instances or 1,
        )
        with _closed_on_error(runtime):
            _apply(runtime, config, name)
        return runtime

    runtime = load(options.threads)
    return LoadedModel(name, version, config, path, runtime, content_hash=_content_hash(file_hash, config))


def _apply(runtime: Runtime, config: ModelConfig, name: str) -> None:
    """What the configuration says instead of the file."""
    if config.batched is None:
        return
    if config.batched:
        for spec in runtime.inputs:
            if spec.shape is not None and spec.shape[:1] != (None,):
                raise ConfigurationError(
                    f"The model {name!r} cannot be batched: the first axis of its input {spec.name!r} has no free length "
                    f"(shape {list(spec.shape)}); export it with a free batch axis, or set `batching: false`."
                )
    runtime.batched = config.batched


@contextmanager
def _closed_on_error(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    except BaseException:
        runtime.close()
        raise


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _checked_hash(path: Path, expected: str | None) -> str:
    """The hash of the file; every engine's files are held to the configured one, not only pickles."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except OSError as exc:
        raise ConfigurationError(f"The model file {str(path)!r} cannot be read: {exc.strerror}.") from exc
    found = digest.hexdigest()
    if expected is not None and found != expected.lower():
        raise ConfigurationError(
            f"The model file {str(path)!r} is not the one that was configured: its sha256 is {found}, not {expected}. "
            "Restore the file, or write its hash into the configuration if you trust it."
        )
    return found


def _content_hash(file_hash: str, config: ModelConfig) -> str:
    text = json.dumps(config, sort_keys=True, default=_plain)
    return hashlib.sha256(f"{file_hash}\n{text}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if isinstance(value, Mapping) else repr(value)
