"""`ModelConfig`: what `model_config.yaml` may say about a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .runtimes.base import TensorSpec

__all__ = ["BreakerConfig", "Execution", "ModelConfig", "PadConfig"]

Execution = Literal["thread", "process"]


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """When a model's circuit breaker opens. `failure_rate` and `slow_rate` are shares (0 to 1) of the last `window` seconds'
    calls, of which there must be `minimum_calls`; a batch is slow above `slow_seconds` (None: ten times its usual time).
    After `recovery_time` seconds one call is let through."""

    enabled: bool = True
    failure_rate: float = 0.5
    slow_rate: float = 0.8
    slow_seconds: float | None = None
    minimum_calls: int = 20
    window: float = 10.0
    recovery_time: float | None = None
    """None: 5, or what CIRCUIT_BREAKER_RECOVERY_TIMEOUT says."""


@dataclass(frozen=True, slots=True)
class PadConfig:
    """Calls whose arrays differ in length along `axis` (of the item, so that 0 is the first after the batch) are put together
    and filled up with `value` to the least size of `to` that fits. `inputs`: which ones (empty: all with a free axis there).
    `outputs`: whose axis is cut to the length of the call again. `waste`: the greatest share of filling in a batch."""

    axis: int = 0
    to: tuple[int, ...] = ()
    value: float = 0.0
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    waste: float = 0.5


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """All keys; None means: measured, or read from the model. Times are in seconds.

    `queue_size` counts rows that wait, `queue_bytes` their bytes. `timeout` bounds a call from its arrival to its answer.
    `max_batch_size` may be exceeded up to `rush_batch_size` while more waits than one batch. `device` and `arguments` go to
    the runtime (`RuntimeOptions`). Inputs with NaN or infinities are refused unless
    `allow_nan`. `file` is the model file, relative to the folder; `sha256` its hash.
    """

    name: str | None = None
    version: str | None = None
    description: str = ""
    backend: str | None = None
    file: str | None = None
    sha256: str | None = None
    device: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    batched: bool | None = None
    max_batch_size: int | None = None
    max_batch_wait: float | None = None
    rush_batch_size: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    pad: PadConfig | None = None
    queue_size: int | None = None
    queue_bytes: int | None = None
    instances: int | None = None
    threads: int | None = None
    execution: Execution | None = None
    timeout: float | None = None
    warmup: bool = True
    idempotent: bool = True
    allow_nan: bool = False
    caching: bool = False
    circuit_breaker: BreakerConfig = BreakerConfig()
