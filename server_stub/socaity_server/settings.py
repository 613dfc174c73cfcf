"""The one file of the server that reads the environment. Argument > environment > default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from socaity.exceptions import ConfigurationError

__all__ = ["Settings", "read_settings"]

PROVIDERS = ("fastapi",)
ENVIRONMENTS = ("local", "localhost", "serverless", "hosted", "decentralized")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the service runs."""

    provider: str
    environment: str
    host: str
    port: int


def read_settings(
    *,
    provider: str | None = None,
    environment: str | None = None,
    host: str | None = None,
    port: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings; raises ConfigurationError that names the valid values."""
    env = os.environ if environ is None else environ
    provider = provider or env.get("EXECUTION_PROVIDER") or "fastapi"
    # The second spelling is that of the first published router.
    environment = (
        environment or env.get("EXECUTION_ENVIRONMENT") or env.get("EXECUTION_ENVIORNMENT") or "localhost"
    )
    if provider == "runpod":
        raise ConfigurationError(
            "provider='runpod' (or EXECUTION_PROVIDER=runpod) is not built yet; valid is: 'fastapi'."
        )
    return Settings(
        provider=_one_of("provider", provider, PROVIDERS),
        environment=_one_of("environment", environment, ENVIRONMENTS),
        host=host or env.get("FASTAPI_HOST") or "127.0.0.1",
        port=_port(env.get("FASTAPI_PORT") or "8000") if port is None else port,
    )


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = get_close_matches(value, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"Unknown {what} {value!r}{hint} (valid: {', '.join(known)}).")
    return value


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"FASTAPI_PORT is a number from 0 to 65535, not {text!r}.")
    return port
