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

from .example_inputs import ExampleInputs
from .model_config import BreakerConfig, ModelConfig
from .runtimes.base import Runtime, RuntimeOptions
from .runtimes.registry import backend_of, load_runtime
from .settings import ModelSettings

if TYPE_CHECKING:
    from .profile import Profile

__all__ = ["LoadedModel", "load_model"]

_CHUNK = 2**20
_MAX_BATCH_SIZE = 64
_WARM_UP_ROWS = 2


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
        size = self.config.max_batch_size
        if size is None:
            size = _MAX_BATCH_SIZE if self.profile is None else self.profile.max_batch_size
        return min(size, self.runtime.max_rows or size)

    @property
    def instances(self) -> int:
        """How many batches may run at once."""
        if self.config.instances is not None:
            return self.config.instances
        return 1 if self.profile is None else self.profile.instances

    @property
    def runs_in_process(self) -> bool:
        """The model is computed by worker processes, so that `run` only waits."""
        return self.runtime.in_process

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
    path = Path(path)
    config = _with_settings(config, settings)
    cores = min(cores or _cores(), (settings and settings.workers) or _cores())
    file_hash = _checked_hash(path, config.sha256)
    content_hash = _content_hash(file_hash, config)
    backend = backend_of(path, config.backend)
    options = _options(config, backend, allow_pickle=allow_pickle)

    def load(threads: int) -> Runtime:
        runtime = load_runtime(
            path,
            backend=backend,
            options=dataclasses.replace(options, threads=threads),
            execution=config.execution,
            instances=config.instances or 1,
            retry=config.idempotent,
        )
        with _closed_on_error(runtime):
            _apply(runtime, config, name)
        return runtime

    runtime = load(options.threads)
    with _closed_on_error(runtime):
        notes = _warm_up(runtime, config, path) if config.warmup else ()
    return LoadedModel(
        name,
        version,
        config,
        path,
        runtime,
        warnings=(*runtime.warnings, *notes),
        content_hash=content_hash,
    )


def _with_settings(config: ModelConfig, settings: ModelSettings | None) -> ModelConfig:
    """What holds for all models, where this one says nothing."""
    if settings is None:
        return config
    changes: dict[str, Any] = {}
    if config.max_batch_size is None and settings.max_batch_size is not None:
        most = max(settings.max_batch_size, *config.preferred_batch_sizes, 1)
        changes["max_batch_size"] = min(most, config.rush_batch_size or most)
    if config.queue_size is None:
        changes["queue_size"] = settings.queue_size
    breaker = config.circuit_breaker
    if settings.breaker_recovery is not None and breaker.recovery_time == BreakerConfig().recovery_time:
        changes["circuit_breaker"] = dataclasses.replace(breaker, recovery_time=settings.breaker_recovery)
    return dataclasses.replace(config, **changes)


def _options(config: ModelConfig, backend: str, *, allow_pickle: bool) -> RuntimeOptions:
    outputs = config.outputs
    if backend == "onnx":
        # the first model server knew one output without a name; the file knows all of them
        outputs = tuple(spec for spec in outputs if spec.name)
    # and it made [n, 1] of [n]
    outputs = tuple(
        dataclasses.replace(spec, shape=None) if not spec.name and spec.shape == (None, 1) else spec
        for spec in outputs
    )
    return RuntimeOptions(
        threads=config.threads or 1,
        device=config.device,
        inputs=config.inputs,
        outputs=outputs,
        arguments=config.arguments,
        sha256=config.sha256,
        allow_pickle=allow_pickle,
    )


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


def _warm_up(runtime: Runtime, config: ModelConfig, path: Path) -> tuple[str, ...]:
    """Run the model for the first time, so that no caller waits for that; what should be known about it.

    A model that refuses rows which somebody has put beside it is broken; one that refuses made up rows may not be.
    """
    examples = ExampleInputs(path)
    why = examples.why_not(runtime)
    if why is not None:
        return (f"It was not warmed up: {why}. Put a warmup.json with a few rows beside the model.",)
    rows = _WARM_UP_ROWS if runtime.batched else 1
    inputs = examples.of(runtime, rows)
    try:
        outputs = runtime.run(inputs)
    except Exception as exc:  # the model's own code may raise anything
        text = f"{type(exc).__name__}: {exc}"
        if examples.is_given:
            raise ConfigurationError(f"The model refuses the rows of {examples.file}: {text}") from exc
        return (
            f"It was not warmed up, as it refuses made up inputs ({text}). Put a warmup.json beside the model.",
        )
    if not runtime.batched or all(array.ndim and len(array) == rows for array in outputs.values()):
        return ()
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    if config.batched:
        raise ConfigurationError(
            f"The model cannot be batched: {rows} rows gave {shapes}. Remove `batching: true`, or return a row for each row."
        )
    runtime.batched = False
    return (f"Its calls are not put together: {rows} rows gave {shapes}.",)


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
