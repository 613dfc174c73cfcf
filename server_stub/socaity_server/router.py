"""`SocaityRouter`: register functions and models, then start the service."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import uvicorn

from socaity.exceptions import ConfigurationError, ServerError

from .address import check_address, is_loopback
from .auth.config import Auth
from .auth.guard import Guard
from .dataplane import DataPlane
from .frontends.handshake import SocketProtocol
from .frontends.hosts import AllowedHosts
from .frontends.http import SocaityApp
from .frontends.quick import quick_protocol
from .jobs.memory import MemoryJobBackend
from .listening import ListeningServer
from .loading import LoadedModel, load_model
from .model_config import ModelConfig
from .models import model_route
from .repository import ModelRepository
from .route import Route
from .runtimes.base import Runtime
from .settings import (
    read_auth,
    read_cors_origins,
    read_grpc_settings,
    read_model_settings,
    read_settings,
    trusts_proxy,
)
from .tls import TLSFiles

if TYPE_CHECKING:
    from .frontends.grpc.server import GRPCServer
    from .handlers.model_handler import ModelHandler

__all__ = ["SocaityRouter"]

_logger = logging.getLogger(__name__)

_SWITCH_INTERVAL = 0.0005
"""Seconds after which the event loop gives the interpreter lock to a thread that waits for it. With the usual 5 ms a model that
is ready for its next batch waits for 10 while requests come in, and has nothing to do."""
_MIB = 2**20
_KEEP_ALIVE = 60
"""Seconds for which an idle connection is kept."""
_LAST_WORDS = 0.2
"""Seconds for the answers of gRPC that are on their way when everything has ended."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


class SocaityRouter:
    """A service of typed Python functions and models.

    `provider` and `environment` come from EXECUTION_PROVIDER and EXECUTION_ENVIRONMENT where they are not given.
    `app` is the ASGI application, `dataplane` the core below it. Bodies above `max_body` bytes are refused (uploads of
    blobs above `max_blob`); a result can be read again for `result_ttl` seconds. Routers share nothing.

    Results of other services are fetched from the origins in `fetch_from` (SOCAITY_FETCH_FROM; none), where a caller refers to
    them. `public_url` (SOCAITY_PUBLIC_URL) is where other services reach this one, if its clients reach it elsewhere.

    `auth` says who may call: an `Auth`, True for what the environment says, False for everybody; not given, AUTH_ENABLED decides.
    Pages of the origins in `cors_origins` (SOCAITY_CORS_ORIGINS; none) may call from a browser.
    """

    def __init__(
        self,
        provider: str | None = None,
        environment: str | None = None,
        *,
        title: str = "socaity",
        version: str = "",
        max_body: int = 64 * _MIB,
        max_blob: int = 2**30,
        result_ttl: float = 3600.0,
        grace: float = 10.0,
        fetch_from: Sequence[str] | None = None,
        public_url: str | None = None,
        auth: Auth | bool | None = None,
        cors_origins: Sequence[str] | None = None,
    ) -> None:
        settings = read_settings(
            provider=provider, environment=environment, fetch_from=fetch_from, public_url=public_url
        )
        self.model_settings = read_model_settings()
        self.provider = settings.provider
        self.environment = settings.environment
        self.grace = grace
        self._max_connections = settings.max_connections
        self._allowed_hosts = settings.allowed_hosts
        self.grpc_address: str | None = None
        """Host and port of gRPC, once it is served."""
        self.dataplane = DataPlane(
            title=title,
            version=version,
            max_body=max_body,
            model_timeout=self.model_settings.timeout,
            backend=lambda: MemoryJobBackend(result_ttl=result_ttl),
        )
        self.dataplane.fetch_from = settings.fetch_from
        self.dataplane.fetch_timeout = settings.fetch_timeout
        self.dataplane.max_fetch = max_blob
        self.dataplane.public_url = settings.public_url
        identification = read_auth(auth)
        self.dataplane.guard = None if identification is None else Guard(identification)
        self.app = SocaityApp(
            self.dataplane,
            self.model_settings,
            max_body=max_body,
            max_blob=max_blob,
            grace=grace,
            cors_origins=settings.cors_origins if cors_origins is None else read_cors_origins(cors_origins),
        )
        self._mounted = _mounted_paths(self.app)
        self._conflicts: list[str] = []
        self.app.check = self._check

    def add_route(
        self,
        path: str,
        *,
        queue_size: int | None = None,
        methods: Sequence[str] = ("POST",),
        max_batch_size: int | None = None,
        max_batch_wait: float = 0.0,
        concurrency: int | None = None,
        timeout: float | None = 3600.0,
        idempotent: bool = False,
    ) -> Callable[[_Function], _Function]:
        """Serve the decorated function, which stays as it is, at `path`.

        With `queue_size` a call answers with a job, and at most that many wait; `concurrency` run at once (default: 1 with
        a queue, else 64). With `max_batch_size` the function gets stacked arrays of so many rows at most; the oldest call
        waits `max_batch_wait` seconds at most for a fuller batch. A job ends after `timeout` seconds. `idempotent` says
        that a call may be sent again when it is unknown whether it ran.
        """

        if not isinstance(path, str):
            raise ConfigurationError(
                f"add_route takes the path first: @router.add_route('/{getattr(path, '__name__', 'path')}')"
            )

        def register(function: _Function) -> _Function:
            route = Route.from_function(
                path,
                function,
                queue_size=queue_size,
                methods=methods,
                max_batch_size=max_batch_size,
                max_batch_wait=max_batch_wait,
                concurrency=concurrency,
                timeout=timeout,
                idempotent=idempotent,
            )
            self._add(route)
            return function

        return register

    def add_model(
        self,
        model: str | os.PathLike[str] | Runtime,
        *,
        name: str | None = None,
        allow_pickle: bool | None = None,
        max_batch_size: int | None = None,
        max_batch_wait: float | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        """Serve one model file, or a runtime that is loaded already, at `/predict/{name}` (default: the file's stem).

        What is not given is measured while the file is loaded, which this waits for. `config` holds everything that
        `model_config.yaml` may say.
        """
        config = config or ModelConfig()
        if max_batch_size is not None:
            config = replace(config, max_batch_size=max_batch_size)
        if max_batch_wait is not None:
            config = replace(config, max_batch_wait=max_batch_wait)
        if isinstance(model, Runtime):
            if name is None:
                raise ConfigurationError("A runtime needs a name: add_model(runtime, name=…).")
            loaded = LoadedModel.of_runtime(model, name, config)
        else:
            path = Path(model)
            loaded = load_model(
                path,
                config,
                name=name or path.stem,
                version="1",
                allow_pickle=self.model_settings.allow_pickle if allow_pickle is None else allow_pickle,
                settings=self.model_settings,
                is_alone=config.sha256 is None,
            )
        self._add(model_route(loaded))
        self.app.serve_models()

    def add_handler(
        self,
        handler: ModelHandler,
        *,
        models: str | Sequence[str],
        concurrency: int = 4,
        queue_size: int = 1000,
        timeout: float = 3600.0,
    ) -> None:
        """Serve `models`, the names of models that a handler has, by the Open Inference Protocol.

        They are loaded now (`model_load`), which this waits for. At most `concurrency` calls of each run at once on threads,
        for `timeout` seconds at most, and at most `queue_size` wait; more are refused with 503.
        """
        if concurrency < 1 or queue_size < 0 or timeout <= 0:
            raise ConfigurationError(
                "concurrency is 1 or more, queue_size 0 or more and timeout above 0, "
                f"not {concurrency}, {queue_size} and {timeout}."
            )
        from .handlers.served_handler import HandlerModel, check_handler

        for name in check_handler(handler, models):
            model = HandlerModel(
                handler, name, concurrency=concurrency, timeout=timeout, queue_size=queue_size
            )
            try:
                model.load()
            except ServerError as exc:
                raise ConfigurationError(str(exc)) from exc
            self.app.open_inference.add(model)

    def add_models(
        self, folder: str | os.PathLike[str], *, allow_pickle: bool | None = None, watch: bool = False
    ) -> ModelRepository:
        """Serve every model of a folder. They are loaded when the service starts; with `watch` also when files change.

        Pickled models (.joblib, .pt2) run code while they are loaded: that needs their hash in the configuration, or
        `allow_pickle`. A model that cannot be loaded is listed with the reason, and the others are served.
        """
        if self.dataplane.repository is not None:
            raise ConfigurationError("A service has one folder of models.")
        repository = ModelRepository(
            folder,
            on_ready=self._publish,
            on_gone=self._withdraw,
            allow_pickle=self.model_settings.allow_pickle if allow_pickle is None else allow_pickle,
            watch=watch,
            settings=self.model_settings,
            grace=self.grace,
        )
        self.dataplane.repository = repository
        self.app.serve_models()
        return repository

    async def _publish(self, name: str, loaded: LoadedModel, previous: LoadedModel | None) -> None:
        """Called by the repository: from now on `loaded` is the model of that name."""
        route = model_route(loaded)
        known = self.dataplane.routes.get(name)
        if known is not None and (known.model is None or previous is None):
            what = "endpoint" if known.model is None else "model"
            raise ConfigurationError(f"The model {name!r} has the name of the {what} {known.path}.")
        self.app.withdraw(route.path, name)
        self.dataplane.replace(route)
        self.app.serve(route)
        await self.dataplane.retired(name)

    async def _withdraw(self, name: str, loaded: LoadedModel) -> None:
        """Called by the repository: the model is served no longer."""
        self.app.withdraw(f"/predict/{name}", name)
        self.dataplane.remove(name)
        await self.dataplane.retired(name)

    def start(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        log_level: str = "info",
        on_ready: Callable[[str], None] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        grpc_port: int | None = None,
    ) -> bool:
        """Serve until interrupted; on `FASTAPI_HOST` and `FASTAPI_PORT` (127.0.0.1:8000) where nothing is given.

        With `tls_cert` and `tls_key` (SOCAITY_TLS_CERT, SOCAITY_TLS_KEY; files in PEM form) at https. `on_ready` gets the
        address as soon as requests are answered. With `grpc_port` (GRPC_PORT) Open Inference is served over gRPC as well, at
        `grpc_address`. True: it was ended by Ctrl-C.
        """
        self._check()
        settings = read_settings(
            provider=self.provider,
            environment=self.environment,
            host=host,
            port=port,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError(
                "start() blocks, and an event loop runs here already: serve `router.app` instead."
            )

        def ready(url: str) -> None:
            _calm_garbage_collector()
            sys.setswitchinterval(_SWITCH_INTERVAL)
            if on_ready is not None:
                on_ready(url)

        check_address(settings.host, settings.port)
        grpc = read_grpc_settings(port=grpc_port, host=settings.host)
        for place in dict.fromkeys([settings.host, settings.host if grpc is None else grpc.host]):
            if self.dataplane.guard is None and not is_loopback(place):
                _logger.warning(
                    "everybody who reaches %s can use this service: authentication is off (AUTH_ENABLED, docs/security.md)",
                    place,
                )
            elif settings.tls_cert is None and not is_loopback(place):
                _logger.warning(
                    "keys and tokens travel in the clear to %s: there is no TLS; give --tls-cert and --tls-key, or let a proxy "
                    "in front have it (docs/security.md)",
                    place,
                )
        server = self.server(
            settings.host,
            settings.port,
            log_level=log_level,
            on_ready=ready,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            grpc_port=None if grpc is None else grpc.port,
        )
        try:
            server.run()
        except KeyboardInterrupt:
            return True
        except SystemExit as exc:  # uvicorn's way to say that it cannot start; it has logged why
            raise ConfigurationError(
                f"Cannot serve at {settings.host}:{settings.port}; the log says why."
            ) from exc
        return False

    def server(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        log_level: str = "warning",
        on_ready: Callable[[str], None] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        grpc_port: int | None = None,
    ) -> uvicorn.Server:
        """The uvicorn server that `start` runs, for those who run it themselves; with `grpc_port` also the one of gRPC, which
        lives as long."""
        tls = TLSFiles.of(tls_cert, tls_key)
        guard = self.dataplane.guard
        if (guard is None or guard.lets_anonymous_in) and is_loopback(host):
            self.app.hosts = AllowedHosts([host, socket.gethostname(), *self._allowed_hosts])
        protocol = quick_protocol(
            # an application that somebody has wrapped must see every request
            self.app.quick if type(self.app) is SocaityApp else {},
            hosts=self.app.hosts,
            max_connections=self._max_connections,
        )
        config = uvicorn.Config(
            self.app,
            host=host,
            port=port,
            log_level=log_level,
            access_log=False,
            server_header=False,
            proxy_headers=trusts_proxy(),
            http=protocol,
            limit_concurrency=self._max_connections if protocol == "auto" else None,
            ssl_context_factory=None if tls is None else tls.context,
            ws=SocketProtocol,
            ws_per_message_deflate=False,
            ws_max_size=(self.dataplane.max_body or 0) + _MIB,
            lifespan="on",
            # long enough that no client sends a request while an idle connection is being closed
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=max(int(self.grace), 1),
        )
        if grpc_port is None:
            return _Server(config, self.dataplane, self.grace, on_ready)
        return _Server(config, self.dataplane, self.grace, on_ready, self._grpc_maker(host, grpc_port, tls))

    def _grpc_maker(self, host: str, port: int, tls: TLSFiles | None) -> Callable[[], GRPCServer]:
        try:
            from .frontends.grpc.server import GRPCServer
        except ImportError as exc:
            if (exc.name or "").partition(".")[0] not in ("grpc", "google"):
                raise
            raise ConfigurationError(
                f"gRPC needs grpcio and protobuf: pip install 'socaity[grpc]' ({exc})."
            ) from exc
        settings = read_grpc_settings(port=port, host=host, max_body=self.dataplane.max_body)
        assert settings is not None

        def make() -> GRPCServer:
            server = GRPCServer(
                self.dataplane, self.app.open_inference, settings, tls=tls, limits=self.app.limits
            )
            self.grpc_address = server.address
            return server

        return make

    def _add(self, route: Route) -> None:
        """Conflicts are kept for the start, where they are an error that names both sides."""
        for path, owner in self._mounted:
            if path.fullmatch(route.path):
                self._conflicts.append(
                    f"{route.path} ({route.name}) collides with {owner}, which the service itself serves"
                )
                return
        for other in self.dataplane.routes.values():
            if other.path == route.path or other.name == route.name:
                self._conflicts.append(
                    f"{route.path} ({_origin(route)}) collides with {other.path} ({_origin(other)})"
                )
                return
        self.dataplane.add(route)
        self.app.serve(route)

    def _check(self) -> None:
        for name in self.app.open_inference.added:
            if name in self.dataplane.routes:
                path = self.dataplane.routes[name].path
                raise ConfigurationError(
                    f"Two models of one name: {name!r} is that of a handler and of {path}."
                )
        if self._conflicts:
            raise ConfigurationError(f"Two routes at one place: {'; '.join(self._conflicts)}.")


def _calm_garbage_collector() -> None:
    """What is there at the start stays there; looking at it again and again costs a tenth of the requests per second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _Server(ListeningServer):
    def __init__(
        self,
        config: uvicorn.Config,
        dataplane: DataPlane,
        grace: float,
        on_ready: Callable[[str], None] | None,
        make_grpc: Callable[[], GRPCServer] | None = None,
    ) -> None:
        super().__init__(config)
        self._make_grpc = make_grpc
        self._grpc: GRPCServer | None = None
        self._dataplane = dataplane
        self._grace = grace
        self._on_ready = on_ready
        self._announcement: asyncio.Task[None] | None = None

    async def startup(self, sockets: Any = None) -> None:
        # before anything else: a port that somebody has is found out while nothing has begun
        self._grpc = None if self._make_grpc is None else self._make_grpc()
        await super().startup(sockets=sockets)
        if self.started and self._grpc is not None:
            await self._grpc.start()
        if self.started and self._on_ready is not None:
            self._announcement = asyncio.get_running_loop().create_task(self._announce(self._on_ready))

    async def shutdown(self, sockets: Any = None) -> None:
        if self._grpc is not None:
            self._grpc.retire()
        # before the connections are closed: calls on a socket must be able to answer
        await self._dataplane.drain(self._grace)
        if self._grpc is not None:
            await self._grpc.stop(_LAST_WORDS)
        self.config.timeout_graceful_shutdown = 1  # the grace is over: what is left now is cut off
        await super().shutdown(sockets=sockets)

    async def _announce(self, on_ready: Callable[[str], None]) -> None:
        await self._dataplane.settled()
        on_ready(self.url)

    @property
    def url(self) -> str:
        """The address, with the port that the system chose for port 0."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _mounted_paths(app: SocaityApp) -> list[tuple[re.Pattern[str], str]]:
    paths = {str(getattr(route, "path", "")) for route in app.routes} | {"/ws", "/available_models"}
    # models have paths of their own below these
    paths -= {"/predict/{model}", "/predict_batched/{model}"}
    return [(re.compile(_pattern(path)), path) for path in sorted(paths) if path]


def _pattern(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "[^/]+", re.sub(r"\{[^}]*:path\}", ".*", path))


def _origin(route: Route) -> str:
    module = getattr(route.function, "__module__", None)
    name = getattr(route.function, "__qualname__", route.name)
    return f"{module}.{name}" if module else name
