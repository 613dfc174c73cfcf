"""The one file of the server that reads the environment. Argument > environment > default."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from socaity.exceptions import ConfigurationError

from .origins import read_origins
from .profile_cache import default_cache_directory

__all__ = ["ModelSettings", "Settings", "load_env_file", "read_model_settings", "read_settings"]

T = TypeVar("T")

PROVIDERS = ("fastapi",)
ENVIRONMENTS = ("local", "localhost", "serverless", "hosted", "decentralized")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the service runs, and what it has to do with other services: the origins that it fetches results from
    (`fetch_from`), the seconds that one fetch may take, and the address under which they reach it."""

    provider: str
    environment: str
    host: str
    port: int
    fetch_from: tuple[str, ...] = ()
    fetch_timeout: float = 60.0
    public_url: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What holds for all models, and is not in a model's own configuration. Names and defaults of the first model server,
    where it had them; times in seconds.

    `rate_limit` requests per `rate_period` and client address are answered (None: any number); `max_concurrent` requests
    at once. `cache` is where profiles of models are kept.
    """

    directory: str | None
    log_directory: str
    debug: bool
    workers: int | None
    max_batch_size: int | None
    queue_size: int | None
    timeout: float
    max_concurrent: int | None
    rate_limit: int | None
    rate_period: float
    breaker_recovery: float | None
    allow_pickle: bool
    cache: str | None


def read_settings(
    *,
    provider: str | None = None,
    environment: str | None = None,
    host: str | None = None,
    port: int | None = None,
    fetch_from: str | Iterable[str] | None = None,
    public_url: str | None = None,
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
        port=_port(env) if port is None else port,
        fetch_from=read_origins(env.get("SOCAITY_FETCH_FROM", "") if fetch_from is None else fetch_from),
        fetch_timeout=_seconds(env, "SOCAITY_FETCH_TIMEOUT", 60.0),
        public_url=_url(public_url or env.get("SOCAITY_PUBLIC_URL", "").strip()),
    )


def read_model_settings(environ: Mapping[str, str] | None = None) -> ModelSettings:
    """The settings of the model server; raises ConfigurationError that names the variable."""
    env = os.environ if environ is None else environ
    return ModelSettings(
        directory=env.get("MODEL_DIRECTORY") or None,
        log_directory=env.get("LOG_DIRECTORY") or "./logs",
        debug=_flag(env, "DEBUG_MODE"),
        workers=_whole(env, "MAX_ML_WORKERS"),
        max_batch_size=_whole(env, "MAX_BATCH_SIZE"),
        queue_size=_whole(env, "BATCHER_QUEUE_N"),
        timeout=_seconds(env, "PREDICT_TIMEOUT_SECONDS", 15.0),
        max_concurrent=_whole(env, "MAX_CONCURRENT_REQUESTS"),
        rate_limit=_whole(env, "MAX_REQUESTS"),
        rate_period=_seconds(env, "REQUESTS_PERIOD_SECONDS", 60.0),
        breaker_recovery=_seconds(env, "CIRCUIT_BREAKER_RECOVERY_TIMEOUT", None),
        allow_pickle=_flag(env, "SOCAITY_ALLOW_PICKLE"),
        cache=_text_or_none(default_cache_directory(env)),
    )


def trusts_proxy(environ: Mapping[str, str] | None = None) -> bool:
    """Whether X-Forwarded-For says who a client is: only where FORWARDED_ALLOW_IPS, which uvicorn reads, names the proxies."""
    return bool((os.environ if environ is None else environ).get("FORWARDED_ALLOW_IPS"))


def load_env_file(path: str | os.PathLike[str] = ".env") -> bool:
    """Read a file of variables; those that are set already stay. False: there is none."""
    from dotenv import load_dotenv

    return load_dotenv(path, override=False)


def _text_or_none(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _flag(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true", "yes")


def _whole(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{name} is a whole number of 1 or more, not {text!r}.")
    return int(text)


def _seconds(env: Mapping[str, str], name: str, default: T) -> float | T:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{name} is a number of seconds above 0, not {text!r}.")
    return seconds


def _url(text: str) -> str | None:
    if not text:
        return None
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ConfigurationError(
            f"public_url is the http(s) URL under which other services reach this one, not {text!r}."
        )
    return text.rstrip("/")


def _one_of(what: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        near = get_close_matches(value, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"Unknown {what} {value!r}{hint} (valid: {', '.join(known)}).")
    return value


def _port(env: Mapping[str, str]) -> int:
    name = "FASTAPI_PORT" if env.get("FASTAPI_PORT") else "PORT"
    text = env.get(name) or "8000"
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{name} is a number from 0 to 65535, not {text!r}.")
    return port
