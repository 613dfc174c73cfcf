"""`load_model`: a model file and its configuration become a `LoadedModel`. Blocks; called on worker threads."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socaity.exceptions import ConfigurationError

from .example_inputs import Arrays, ExampleInputs
from .model_config import ModelConfig
from .profile import Profile, ProfileCache, batch_dependence, tune
from .runtimes.base import Runtime, RuntimeOptions, TensorSpec
from .runtimes.registry import backend_of, engine_of, load_runtime
from .settings import ModelSettings

__all__ = ["LoadedModel", "load_model"]

_CHUNK = 2**20
_MAX_BATCH_SIZE = 64
_WARM_UP_ROWS = 2
_FIRST_RUN_SECONDS = 60.0
"""After so long the first run is ended, where its engine can be."""
_COMPARED_ROWS = 4
_COMPARE_SECONDS = 1.0
_MOST_PROCESSES = 4
"""Each has the model in memory once more; who wants more says so (`instances`)."""
_HINT = "Put a warmup.json with a few rows beside the model."


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
    seen_outputs: tuple[TensorSpec, ...] = ()
    """What the first run gave, where the runtime does not know its outputs before."""

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
        profile = self.profile
        parts = [self.runtime.name, self.runtime.device]
        if profile is not None and profile.threads > 1:
            parts.append(f"{profile.threads} threads")
        if self.instances > 1:
            parts.append(f"{self.instances} {'processes' if self.runs_in_process else 'instances'}")
        parts.append(f"up to {self.max_batch_size} per batch" if self.max_batch_size > 1 else "one by one")
        if profile is not None and profile.seconds:
            parts.append(f"{1e3 * profile.fixed:.3g} ms + {1e3 * profile.per_row:.3g} ms per row")
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
    is_alone: bool = False,
) -> LoadedModel:
    """Check the hash, load, measure and warm up; what was opened is closed again when any of it fails.

    `is_alone`: the model has no folder, and so no configuration.

    Raises ConfigurationError, which says what to do; an engine may raise its own errors as well.
    """
    path = Path(path)
    config = _with_settings(config, settings)
    cores = cores or _cores()
    if settings is not None and settings.workers is not None:
        cores = min(cores, settings.workers)
    file_hash = _checked_hash(path, config.sha256)
    content_hash = _content_hash(file_hash, config)
    backend = backend_of(path, config.backend)
    options = dataclasses.replace(_options(config, backend, allow_pickle=allow_pickle), is_alone=is_alone)

    examples = ExampleInputs(path)
    in_process = (config.execution or ("process" if engine_of(backend).holds_gil else "thread")) == "process"
    instances = config.instances
    if in_process and instances is None:
        instances = max(1, min(cores - 1, _MOST_PROCESSES))
    looks: list[_Look] = []

    def load(threads: int) -> Runtime:
        runtime = load_runtime(
            path,
            backend=backend,
            options=dataclasses.replace(options, threads=threads),
            execution="process" if in_process else "thread",
            instances=instances or 1,
            retry=config.idempotent,
            model=name,
        )
        with _closed_on_error(runtime):
            _apply(runtime, config, name)
            with _interrupted_when_hanging(runtime):
                looks.append(_warm_up(runtime, config, examples))
        return runtime

    def example(runtime: Runtime, rows: int) -> Arrays | None:
        if not looks[-1].can_run or rows > (runtime.max_rows or rows):
            return None
        return examples.of(runtime, rows)

    runtime, profile = tune(
        load,
        cores=cores,
        key=f"{content_hash} {backend} {examples.stamp}",
        example=example,
        threads=config.threads,
        instances=instances,
        max_batch_size=config.max_batch_size or max(config.preferred_batch_sizes, default=None),
        cache=ProfileCache(settings.cache) if settings is not None and settings.cache else None,
    )
    with _closed_on_error(runtime):
        notes = looks[0].notes
        if looks[0].can_run:
            notes += profile.notes + _dependence(runtime, profile, examples)
    return LoadedModel(
        name,
        version,
        config,
        path,
        runtime,
        profile=_within(profile, runtime.max_rows),
        warnings=(*runtime.warnings, *notes),
        content_hash=content_hash,
        seen_outputs=() if runtime.outputs else looks[0].outputs,
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
    if settings.breaker_recovery is not None and breaker.recovery_time is None:
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


@dataclass(frozen=True, slots=True)
class _Look:
    """What the first run of a model has shown. With `can_run` it takes the example inputs."""

    can_run: bool
    notes: tuple[str, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


def _warm_up(runtime: Runtime, config: ModelConfig, examples: ExampleInputs) -> _Look:
    """Run the model for the first time, so that no caller waits for that, and see whether it gives a row for each row.

    A model that refuses rows which somebody has put beside it is broken; one that refuses made up rows may not be.
    """
    if not config.warmup:
        return _Look(False)
    why = examples.why_not(runtime)
    if why is not None:
        return _Look(False, (f"It was not warmed up: {why}. {_HINT}",))
    rows = min(_WARM_UP_ROWS, runtime.max_rows or _WARM_UP_ROWS) if runtime.batched else 1
    inputs = examples.of(runtime, rows)
    try:
        outputs = runtime.run(inputs)
    except Exception as exc:  # the model's own code may raise anything
        text = f"{type(exc).__name__}: {exc}"
        if examples.is_given:
            raise ConfigurationError(f"The model refuses the rows of {examples.file}: {text}") from exc
        return _Look(False, (f"It was not warmed up, as it refuses made up inputs ({text}). {_HINT}",))
    if not runtime.batched or all(array.ndim and len(array) == rows for array in outputs.values()):
        return _Look(True, outputs=_specs_of(outputs, runtime))
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())
    if config.batched:
        raise ConfigurationError(
            f"The model cannot be batched: {rows} rows gave {shapes}. Remove `enabled: true`, or return a row for each row."
        )
    runtime.batched = False
    return _Look(
        True, (f"Its calls are not put together: {rows} rows gave {shapes}.",), _specs_of(outputs, runtime)
    )


def _specs_of(outputs: Arrays, runtime: Runtime) -> tuple[TensorSpec, ...]:
    """What outputs look like, as far as one run shows it: lengths may change with those of the inputs that are free."""
    free = slice(1, None) if runtime.batched else slice(None)
    is_fixed = all(spec.shape is not None and None not in spec.shape[free] for spec in runtime.inputs)
    return tuple(
        TensorSpec(
            name,
            "object" if array.dtype.kind in "OUS" else array.dtype.name,
            tuple(
                size if is_fixed and (axis or not runtime.batched) else None
                for axis, size in enumerate(array.shape)
            ),
        )
        for name, array in outputs.items()
    )


def _dependence(runtime: Runtime, profile: Profile, examples: ExampleInputs) -> tuple[str, ...]:
    """A warning where rows of a batch change each other's answers, unless finding out takes too long."""
    rows = min(_COMPARED_ROWS, profile.max_batch_size)
    slowest = max(profile.seconds.get(1, 0.0), profile.per_row * rows)
    if not runtime.batched or rows < 2 or not profile.seconds or slowest * (rows + 2) > _COMPARE_SECONDS:
        return ()
    warning = batch_dependence(runtime, examples.of(runtime, rows))
    return () if warning is None else (warning,)


def _within(profile: Profile, most: int | None) -> Profile:
    if most is None:
        return profile
    return dataclasses.replace(
        profile,
        max_batch_size=min(profile.max_batch_size, most),
        rush_batch_size=min(profile.rush_batch_size, most),
    )


@contextmanager
def _interrupted_when_hanging(runtime: Runtime) -> Iterator[None]:
    """A first run that does not end, as of a model that waits for a network, must not keep all others from being loaded."""
    timer = threading.Timer(_FIRST_RUN_SECONDS, runtime.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _closed_on_error(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    except BaseException:
        runtime.close()
        raise


def _cores() -> int:
    """The cores that this process may use: those it is bound to, or the quota of its container."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(min(cores, int(quota) // int(period)), 1)
    except (OSError, ValueError):  # no such file, or `max`
        return cores


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
