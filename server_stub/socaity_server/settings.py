"""The one file of the server that reads the environment. Argument > environment > default."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from socaity.exceptions import ConfigurationError

from .auth.api_keys import read_api_keys
from .auth.config import Auth
from .origins import read_origins
from .profile_cache import default_cache_directory

__all__ = [
    "GRPCSettings",
    "ModelSettings",
    "Settings",
    "load_env_file",
    "read_allowed_hosts",
    "read_auth",
    "read_cors_origins",
    "read_grpc_settings",
    "read_model_settings",
    "read_settings",
]

_logger = logging.getLogger(__name__)

T = TypeVar("T")

PROVIDERS = ("fastapi",)
ENVIRONMENTS = ("local", "localhost", "serverless", "hosted", "decentralized")
MAX_CONNECTIONS = 16_384
MAX_GRPC_STREAMS = 1024
MAX_GRPC_CALLS = 8192
_YES, _NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_ORIGIN = re.compile(r"https?://[^\s/?#@*]+")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_IDENTIFIES = (
    "SOCAITY_API_KEYS",
    "SOCAITY_API_KEYS_FILE",
    "AUTH_SECRET",
    "AUTH_PUBLIC_KEY",
    "AUTH_JWKS_URL",
    "OIP_PDP_URL",
    "OPA_URL",
)
"""What nobody sets who wants an open service."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the service runs, and what it has to do with other services: the origins that it fetches results from
    (`fetch_from`), the seconds that one fetch may take, and the address under which they reach it. `tls_cert` and `tls_key` are
    files in PEM form; `cors_origins` are the origins whose pages may call, `allowed_hosts` the names by which a service may be
    called that only its own machine reaches; more than `max_connections` are not taken."""

    provider: str
    environment: str
    host: str
    port: int
    fetch_from: tuple[str, ...] = ()
    fetch_timeout: float = 60.0
    public_url: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_connections: int = MAX_CONNECTIONS


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What holds for all models, and is not in a model's own configuration. Names and defaults of the first model server,
    where it had them; times in seconds.

    `rate_limit` requests per `rate_period` and client address are answered (None: any number); `max_concurrent` requests
    at once. `cache` is where profiles of models are kept. With `control` clients may load and unload models.
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
    control: bool = True


@dataclass(frozen=True, slots=True)
class GRPCSettings:
    """Where gRPC is served, and its limits: bytes of a message (None: any number), calls at once on one connection
    (`max_streams`), and those that infer on all of them (`max_calls`). `compression` of answers: none, gzip or deflate."""

    host: str
    port: int
    max_message: int | None
    max_streams: int
    max_calls: int
    compression: str


def read_settings(
    *,
    provider: str | None = None,
    environment: str | None = None,
    host: str | None = None,
    port: int | None = None,
    fetch_from: str | Iterable[str] | None = None,
    public_url: str | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
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
        tls_cert=os.fspath(tls_cert or "") or env.get("SOCAITY_TLS_CERT") or None,
        tls_key=os.fspath(tls_key or "") or env.get("SOCAITY_TLS_KEY") or None,
        cors_origins=read_cors_origins(env.get("SOCAITY_CORS_ORIGINS", "")),
        allowed_hosts=read_allowed_hosts(env.get("SOCAITY_ALLOWED_HOSTS", "")),
        max_connections=_whole(env, "SOCAITY_MAX_CONNECTIONS") or MAX_CONNECTIONS,
    )


def read_grpc_settings(
    *,
    port: int | None = None,
    host: str = "127.0.0.1",
    max_body: int | None = None,
    environ: Mapping[str, str] | None = None,
) -> GRPCSettings | None:
    """The settings of gRPC, or None where no port says that it is wanted. `host` and `max_body` are those of HTTP, which hold
    where nothing else is said. Raises ConfigurationError that names the variable."""
    env = os.environ if environ is None else environ
    if port is None and not env.get("GRPC_PORT", "").strip():
        return None
    limit = env.get("SOCAITY_GRPC_MAX_MESSAGE", "").strip()
    return GRPCSettings(
        host=env.get("GRPC_HOST") or host,
        port=_port_of(env, "GRPC_PORT") if port is None else port,
        max_message=None if limit == "-1" else _whole(env, "SOCAITY_GRPC_MAX_MESSAGE") or max_body,
        max_streams=_whole(env, "SOCAITY_GRPC_MAX_STREAMS") or MAX_GRPC_STREAMS,
        max_calls=_whole(env, "SOCAITY_GRPC_MAX_CALLS") or MAX_GRPC_CALLS,
        compression=_one_of(
            "SOCAITY_GRPC_COMPRESSION",
            env.get("SOCAITY_GRPC_COMPRESSION", "").strip().lower() or "none",
            ("none", "gzip", "deflate"),
        ),
    )


def read_auth(given: Auth | bool | None = None, environ: Mapping[str, str] | None = None) -> Auth | None:
    """How callers are identified, or None where nobody is: what a program says, else what the environment says.

    Raises ConfigurationError that names the variable, and never a secret. What is set and not used, because nothing turns it on,
    is a warning in the log.
    """
    if given is False or isinstance(given, Auth):
        return given or None
    env = os.environ if environ is None else environ
    if not (given or _strict_flag(env, "AUTH_ENABLED")):
        unused = [name for name in _IDENTIFIES if env.get(name, "").strip()]
        if unused and not env.get("AUTH_ENABLED", "").strip():  # who says false means it
            _logger.warning(
                "authentication is off, and everybody can use this service, although %s is set: AUTH_ENABLED=true turns it "
                "on; AUTH_ENABLED=false says that it is meant to be off",
                ", ".join(unused),
            )
        return None
    keys = read_api_keys(env.get("SOCAITY_API_KEYS", ""), source="SOCAITY_API_KEYS")
    file = env.get("SOCAITY_API_KEYS_FILE")
    if file:
        keys += read_api_keys(_read_file(file, "SOCAITY_API_KEYS_FILE"), source="SOCAITY_API_KEYS_FILE")
    public_key = env.get("AUTH_PUBLIC_KEY", "").strip()
    if public_key and not public_key.startswith("-----BEGIN"):
        public_key = _read_file(public_key, "AUTH_PUBLIC_KEY")
    exempt = _words(env, "AUTH_EXEMPT") or ("health",)
    required = _words(env, "AUTH_REQUIRED_CLAIMS") or ("exp",)
    return Auth(
        api_keys=keys,
        secret=env.get("AUTH_SECRET", ""),
        algorithms=_words(env, "AUTH_ALGORITHM"),
        public_key=public_key,
        jwks_url=env.get("AUTH_JWKS_URL", "").strip() or None,
        audience=_words(env, "AUTH_AUDIENCE"),
        issuer=env.get("AUTH_ISSUER", "").strip() or None,
        leeway=_seconds(env, "AUTH_LEEWAY", 0.0, least=0.0),
        required=() if required == ("none",) else required,
        anonymous=_strict_flag(env, "AUTH_ANONYMOUS"),
        exempt=() if exempt == ("none",) else exempt,
        pdp_url=env.get("OIP_PDP_URL", "").strip() or None,
        pdp_compat=_compat(env),
        opa_url=env.get("OPA_URL", "").strip() or None,
        policy_timeout=_seconds(env, "AUTH_POLICY_TIMEOUT", 0.5),
        policy_ttl=_seconds(env, "AUTH_POLICY_TTL", 10.0, least=0.0),
    )


def read_cors_origins(texts: str | Iterable[str]) -> tuple[str, ...]:
    """The origins in a text (separated by commas or spaces) or in several, as browsers say them. Raises ConfigurationError."""
    if isinstance(texts, str):
        texts = texts.replace(",", " ").split()
    origins = []
    for text in texts:
        origin = text.strip().rstrip("/").lower()
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"SOCAITY_CORS_ORIGINS has {text!r}, which is no origin: write scheme, host and port as a browser shows them "
                "(https://app.example.com); '*' is not taken."
            )
        origins.append(origin)
    return tuple(dict.fromkeys(origins))


def read_allowed_hosts(text: str) -> tuple[str, ...]:
    """The names in a text, separated by commas or spaces; without ports. Raises ConfigurationError."""
    names = text.replace(",", " ").lower().split()
    for name in names:
        if not _HOST.fullmatch(name):
            raise ConfigurationError(
                f"SOCAITY_ALLOWED_HOSTS has {name!r}, which is no name of a host: write it without scheme and port "
                "(models.example.com); '*' is not taken."
            )
    return tuple(dict.fromkeys(names))


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
        control=not env.get("SOCAITY_MODEL_CONTROL", "").strip()
        or _strict_flag(env, "SOCAITY_MODEL_CONTROL"),
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


def _strict_flag(env: Mapping[str, str], name: str) -> bool:
    """For what must not be off because of a word that nobody knows."""
    text = env.get(name, "").strip().lower()
    if text and text not in _YES + _NO:
        raise ConfigurationError(
            f"{name} is on ({', '.join(_YES)}) or off ({', '.join(_NO)}), not {text[:20]!r}."
        )
    return text in _YES


def _words(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(env.get(name, "").replace(",", " ").split())


def _compat(env: Mapping[str, str]) -> bool:
    text = env.get("OIP_PDP_COMPAT", "").strip().lower()
    if text not in ("", "aissemble"):
        raise ConfigurationError(f"OIP_PDP_COMPAT is 'aissemble' or not set, not {text[:40]!r}.")
    return bool(text)


def _read_file(path: str, name: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigurationError(f"{name} names the file {path!r}, which cannot be read: {why}.") from exc


def _flag(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in ("1", "true", "yes")


def _whole(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{name} is a whole number of 1 or more, not {text!r}.")
    return int(text)


def _seconds(env: Mapping[str, str], name: str, default: T, *, least: float | None = None) -> float | T:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf") and seconds != least:
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
    return _port_of(env, "FASTAPI_PORT" if env.get("FASTAPI_PORT") else "PORT", default="8000")


def _port_of(env: Mapping[str, str], name: str, *, default: str = "") -> int:
    text = (env.get(name) or default).strip()
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{name} is a number from 0 to 65535, not {text!r}.")
    return port
