"""The reference server of socaity: typed Python functions and models as a service with jobs, progress and streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socaity.protocol.audio import Audio
    from socaity.protocol.media import Media

    from .auth.config import Auth
    from .progress import JobProgress
    from .router import SocaityRouter
    from .runtimes.base import Runtime, RuntimeOptions, TensorSpec
    from .runtimes.registry import add_runtime

__all__ = [
    "Audio",
    "Auth",
    "JobProgress",
    "Media",
    "Runtime",
    "RuntimeOptions",
    "SocaityRouter",
    "TensorSpec",
    "add_runtime",
]

_HOMES = {
    "Audio": "socaity.protocol.audio",
    "Auth": ".auth.config",
    "JobProgress": ".progress",
    "Media": "socaity.protocol.media",
    "Runtime": ".runtimes.base",
    "RuntimeOptions": ".runtimes.base",
    "SocaityRouter": ".router",
    "TensorSpec": ".runtimes.base",
    "add_runtime": ".runtimes.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
