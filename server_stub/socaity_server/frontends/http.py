"""The HTTP front end: routes, jobs, events and blobs as a FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from socaity.exceptions import APIError, AuthenticationError, InvalidInputError, NotFoundError, SocaityError
from socaity.protocol.description import PROTOCOL, ServiceDescription
from socaity.protocol.events import JobStatus

from ..auth.principal import EXEMPT
from ..dataplane import DataPlane
from ..latency_log import LatencyLog
from ..listing import available_models, health, listing_page
from ..metrics import scrape
from ..openinference.service import OpenInference
from ..route import Route, suggestion
from ..settings import ModelSettings
from ..tracing import CallTracer, RequestTracer
from . import lite, openapi
from .access import path_below_mount
from .blobs import BlobRoutes
from .bodies import read_arguments
from .dashboard import PROTOCOL as LIVE
from .dashboard import LiveFrontend, dashboard_page
from .docs_page import docs_page
from .gate import Gate, refusal_of_socket
from .hosts import AllowedHosts
from .limits import Limits
from .login import Login
from .openinference.rest import PREFIX as OPEN_INFERENCE
from .openinference.rest import RestFrontend, send_error
from .openinference.rest_openapi import open_inference_paths
from .origin import AllowedOrigins, is_cross_origin
from .preferences import Preferences, seconds
from .responses import EventStream, error_of, job_document, job_response, problem_response, value_response
from .websocket import WebSocketFrontend

__all__ = ["SocaityApp"]

_logger = logging.getLogger(__name__)
_MAX_PAGE = 1000
_CLIENT_CLOSED_REQUEST = 499
_MOST_DIGITS = 15


_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def _cross_origin() -> AuthenticationError:
    return AuthenticationError(
        "A page of another origin may not call this service; call it from a program, or serve the page from here.",
        status=403,
        code="cross_origin",
    )


def _unknown_host(name: str) -> AuthenticationError:
    return AuthenticationError(
        f"This service is open to programs of its own machine, and {name!r} may be the name of a page that wants to use it "
        "(DNS rebinding). Call it as localhost or 127.0.0.1, name the host in SOCAITY_ALLOWED_HOSTS, or let nobody in who does "
        "not say who it is (AUTH_ENABLED, without AUTH_ANONYMOUS).",
        status=403,
        code="unknown_host",
    )


class SocaityApp(FastAPI):
    """The ASGI application of one data plane. It starts the data plane by itself where no lifespan is run."""

    def __init__(
        self,
        dataplane: DataPlane,
        settings: ModelSettings,
        *,
        max_body: int,
        max_blob: int,
        grace: float = 10.0,
        cors_origins: Collection[str] = (),
    ) -> None:
        super().__init__(
            title=dataplane.title,
            version=dataplane.version or "0",
            redoc_url=None,
            lifespan=self._live,
            docs_url=None,  # our own page: `docs_page`
        )
        self.dataplane = dataplane
        self.settings = settings
        self.max_body = max_body
        self.max_blob = max_blob
        self.grace = grace
        self.check: Callable[[], None] | None = None
        self.observers: list[lite.Observer] = []
        """Are told of every request to a model."""
        self.limits = Limits.of(settings)
        """What every request has to pass first."""
        self.origins = AllowedOrigins(cors_origins) if cors_origins else None
        """The pages of other origins that may call."""
        self.hosts: AllowedHosts | None = None
        """The names by which it may be called; None: any."""
        self._endpoints: dict[str, Route] = {}
        guard = dataplane.guard
        self.gate = None if guard is None else Gate(guard, self._endpoints, dataplane.routes)
        """What every request has to pass that is not exempt; None where authentication is off."""
        self._serves_models = False
        self._hot: dict[str, lite.ModelHandler] = {}
        self.open_inference = OpenInference(dataplane, may_load=settings.control)
        """What the front ends of the Open Inference Protocol serve."""
        self._open_inference = RestFrontend(self.open_inference, max_body=max_body)
        self._socket = WebSocketFrontend(dataplane, max_body=max_body)
        if self.limits is not None:
            self.limits.count_also(self._socket.running_calls)
        self._live_view = LiveFrontend(dataplane)
        self.add_exception_handler(SocaityError, _on_error)
        self.add_exception_handler(HTTPException, self._on_http_error)
        self.add_exception_handler(ClientDisconnect, _on_disconnect)
        self.add_exception_handler(Exception, _on_bug)
        self._mount()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limits = self.limits
        if self.hosts is not None and scope["type"] != "lifespan":
            name = self.hosts.refused(scope["headers"])
            if name is not None:
                await _refuse(_unknown_host(name), scope, receive, send)
                return
        if self.origins is not None and scope["type"] in ("http", "websocket"):
            scope["socaity.origins"] = self.origins.origins
            if scope["type"] == "http":
                preflight = self.origins.preflight(scope)
                if preflight is not None:
                    await preflight(scope, receive, send)
                    return
                send = self.origins.sender(scope, send)
        if limits is None or scope["type"] != "http":
            await self._answer(scope, receive, send)
            return
        refusal = limits.enter(scope)
        if refusal is not None:
            await _refuse(refusal, scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        finally:
            limits.leave()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            if not self.dataplane.is_ready:
                await self._start(scope)
            if scope["method"] not in _SAFE_METHODS and is_cross_origin(scope):
                await _refuse(_cross_origin(), scope, receive, send)
                return
            if self.gate is not None:
                refusal = await self.gate.enter(scope)
                if refusal is not None:
                    await refusal(scope, receive, send)
                    return
            if not self.user_middleware:
                hot = self._hot.get(path_below_mount(scope))
                if hot is not None and scope["method"] == "POST":
                    await hot(scope, receive, send)
                    return
                if _is_open_inference(scope):
                    await self._open_inference(scope, receive, send)
                    return
        elif kind == "websocket":
            is_ours = scope["path"] == "/ws"
            is_live = is_ours and LIVE in scope.get("subprotocols", ())
            if is_cross_origin(scope):
                await _refuse(_cross_origin(), scope, receive, send)
                return
            if self.gate is not None:
                refusal = await self.gate.enter_socket(scope, is_live=is_live, is_ours=is_ours)
                if refusal is not None:
                    await _refuse_socket(refusal, scope, receive, send)
                    return
            if not is_ours:
                await super().__call__(scope, receive, send)
                return
            await self._start(scope)
            scope["socaity.limits"] = self.limits
            await (self._live_view if is_live else self._socket)(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    @property
    def quick(self) -> Mapping[bytes, lite.ModelHandler]:
        """The handlers that may be called without an ASGI message, by path: none while anything stands before them."""
        return _Quick(self)

    def serve(self, route: Route) -> None:
        """Answer for a route of the data plane."""
        self._endpoints[route.path] = route
        if lite.is_model(route):
            self._hot[route.path] = lite.ModelHandler(
                self.dataplane, route, self.max_body, observers=self.observers
            )
            self._endpoints[f"/predict_batched/{route.name}"] = route
            self._hot[f"/predict_batched/{route.name}"] = lite.ModelHandler(
                self.dataplane, route, self.max_body, single=True, observers=self.observers
            )

        path, name = route.path, route.name

        def served() -> Route:
            # FastAPI keeps the functions that it was given: with the route in them they would keep a model that is gone
            return self._endpoints.get(path) or self.dataplane.route(name)

        async def call(request: Request) -> Response:
            hot = self._hot.get(path)
            # Only below a mount does the path not lead to the handler at once.
            return await self._call(served(), request) if hot is None else _Delegate(hot)

        self.openapi_schema = None
        for method in route.methods:
            self.add_api_route(
                route.path,
                call,
                methods=[method],
                name=route.name,
                operation_id=f"{route.name}_{method.lower()}" if method != route.methods[0] else route.name,
                summary=route.name,
                description=route.doc or "",
                openapi_extra=openapi.operation(route, method),
                response_class=Response,
            )
        if "GET" not in route.methods:

            async def look(request: Request) -> Response:
                return await self._look(served(), request)

            self.add_api_route(path, look, methods=["GET"], include_in_schema=False)

    def withdraw(self, path: str, name: str) -> None:
        """Answer no longer for the model that was served there."""
        for one in (path, f"/predict_batched/{name}"):
            self._hot.pop(one, None)
            self._endpoints.pop(one, None)
        self.router.routes[:] = [one for one in self.router.routes if getattr(one, "path", None) != path]
        self.openapi_schema = None

    def serve_models(self) -> None:
        """Answer for models: which there are, and why one is not there."""
        if self._serves_models:
            return
        self._serves_models = True
        self.add_api_route(
            "/available_models",
            self._models,
            methods=["GET"],
            tags=["models"],
            summary="The models",
            openapi_extra=openapi.plain(),
        )
        for prefix in ("/predict", "/predict_batched"):
            self.router.routes.append(
                StarletteRoute(prefix + "/{model}", self._absent, methods=["POST"], include_in_schema=False)
            )

    async def _absent(self, request: Request) -> Response:
        """A model that is not served (now): why. Below a mount also one that is."""
        name = request.path_params["model"]
        route = self.dataplane.route(name)
        hot = self._hot.get(path_below_mount(request.scope))
        if hot is None:
            raise NotFoundError(f"{route.name!r} is no model.", code="endpoint_not_found")
        return _Delegate(hot)

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema["paths"].update(open_inference_paths())
        schema["info"]["x-socaity"] = {"protocol": PROTOCOL, "socket": "/ws"}
        return schema

    @contextlib.asynccontextmanager
    async def _live(self, app: FastAPI) -> AsyncIterator[None]:
        if self.check is not None:
            self.check()
        log = LatencyLog(self.settings.log_directory) if self.settings.debug else None
        if log is not None:
            self.observers.append(log)
        calls = CallTracer.from_environment()
        tracer = None if calls is None else RequestTracer(calls)
        if tracer is not None:
            self.observers.append(tracer)
        await self.dataplane.start()
        try:
            yield
        finally:
            if tracer is not None:
                self.observers.remove(tracer)
            if log is not None:
                self.observers.remove(log)
                log.close()
            self._socket.close()
            self._live_view.close()
            await self.dataplane.aclose(self.grace)

    async def _start(self, scope: Scope) -> None:
        if self.dataplane.is_ready or self.dataplane.is_closing:
            return
        if self.check is not None:
            self.check()
        await self.dataplane.start()

    def _mount(self) -> None:
        def get(path: str, handler: Any, summary: str, **extra: Any) -> None:
            methods = extra.pop("methods", ["GET"])
            described = openapi.plain(path, extra.pop("query", ()), takes_bytes=methods == ["PUT"])
            self.add_api_route(
                path,
                handler,
                methods=methods,
                summary=summary,
                tags=["service"],
                response_class=Response,
                openapi_extra=described,
                **extra,
            )

        get("/health", self._health, "Whether the service is ready")
        get("/metrics", self._metrics, "Metrics for Prometheus")
        get("/docs", docs_page, "All routes, as a page")
        get("/dashboard", dashboard_page, "What runs now, as a live page")
        get("/socaity", self._describe, "What can be called here")
        get("/status", self._status, "A job, by ?job_id=", query=("job_id", "wait", "sync"))
        get("/jobs", self._jobs, "The jobs, newest first", query=("endpoint", "status", "limit", "after"))
        get("/jobs/{job_id}", self._job, "A job", query=("wait", "sync"))
        get(
            "/jobs/{job_id}/events",
            self._events,
            "The events of a job as Server-Sent Events",
            query=("after", "encoding"),
        )
        get("/jobs/{job_id}/cancel", self._cancel, "Cancel a job", methods=["POST"])
        get("/jobs/{job_id}", self._cancel, "Cancel a job", methods=["DELETE"])
        blobs = BlobRoutes(self.dataplane, max_blob=self.max_blob)
        get("/blobs/{sha256}", blobs.put, "Upload bytes by their SHA-256", methods=["PUT"])
        get("/blobs/{sha256}", blobs.get, "Uploaded bytes", methods=["GET"])
        get("/blobs/{sha256}", blobs.head, "Whether bytes are here", methods=["HEAD"])
        # where something stands before the application, or it below a mount
        for path in (OPEN_INFERENCE, OPEN_INFERENCE + "/{rest:path}"):
            self.router.routes.append(StarletteRoute(path, self._open_inference, include_in_schema=False))
        if self.gate is not None:
            login = Login(self.gate.guard)
            for path, handler, method in (
                ("/login", login.show, "GET"),
                ("/login", login.take, "POST"),
                ("/logout", login.leave, "POST"),
            ):
                self.add_api_route(path, handler, methods=[method], include_in_schema=False)

    # Routes

    async def _call(self, route: Route, request: Request) -> Response:
        job_id = request.query_params.get("job_id")
        if job_id is not None:
            return await self._answer_job(job_id, request)
        if request.method in _SAFE_METHODS and is_cross_origin(request.scope):  # others have been looked at
            raise _cross_origin()
        preferences = Preferences.read(request)
        arguments = await read_arguments(request, route, self.max_body)
        accept = request.headers.get("accept", "")
        if route.direct:
            return value_response(await self._invoke(route, arguments, request), accept)
        if route.queue_size is None and not preferences.respond_async:
            if route.streaming and not preferences.sync:
                return await self._stream(route, arguments, preferences, request)
            if preferences.key is None:
                return value_response(await self._invoke(route, arguments, request), accept)
            record = await self._submit(route, arguments, preferences, request)
            record = await self.dataplane.wait(record.id, None, _owner(request))
            if record.status is not JobStatus.SUCCEEDED:
                raise error_of(record)
            return value_response(record.result, accept)
        record = await self._submit(route, arguments, preferences, request)
        wait = None if preferences.sync else preferences.wait or 0.0
        if wait is None or wait > 0:
            record = await self.dataplane.wait(record.id, wait, _owner(request))
        return job_response(
            record, accept, status=200 if record.status.is_terminal else 202, applied=preferences.applied
        )

    async def _look(self, route: Route, request: Request) -> Response:
        job_id = request.query_params.get("job_id")
        if job_id is None:
            raise HTTPException(405, headers={"Allow": ", ".join(route.methods)})
        return await self._answer_job(job_id, request)

    async def _submit(
        self, route: Route, arguments: dict[str, Any], preferences: Preferences, request: Request
    ) -> Any:
        return await self.dataplane.submit(route, arguments, key=preferences.key, owner=_owner(request))

    async def _stream(
        self, route: Route, arguments: dict[str, Any], preferences: Preferences, request: Request
    ) -> Response:
        record = await self._submit(route, arguments, preferences, request)
        return EventStream(
            self.dataplane,
            record.id,
            after=_after(request),
            msgpack=request.query_params.get("encoding") == "msgpack",
            headers={"Location": f"/jobs/{record.id}"},
        )

    async def _invoke(self, route: Route, arguments: dict[str, Any], request: Request) -> Any:
        """The result; the work is cancelled when the caller goes away."""
        work = asyncio.ensure_future(self.dataplane.invoke(route, arguments, owner=_owner(request)))
        gone = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            for task in (work, gone):
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    # Jobs

    async def _answer_job(self, job_id: str, request: Request) -> Response:
        wait = seconds(request.query_params.get("wait"), "wait")
        if request.query_params.get("sync", "").lower() in ("1", "true"):
            wait = None if wait is None else wait
            record = await self.dataplane.wait(job_id, wait, _owner(request))
        else:
            record = await self.dataplane.wait(job_id, wait or 0.0, _owner(request))
        return job_response(record, request.headers.get("accept", ""))

    async def _job(self, request: Request) -> Response:
        return await self._answer_job(request.path_params["job_id"], request)

    async def _status(self, request: Request) -> Response:
        job_id = request.query_params.get("job_id")
        if job_id is None:
            raise InvalidInputError("Which job? Ask with ?job_id=.", parameter="job_id")
        return await self._answer_job(job_id, request)

    async def _cancel(self, request: Request) -> Response:
        record = await self.dataplane.cancel(request.path_params["job_id"], _owner(request))
        return job_response(record, request.headers.get("accept", ""))

    async def _jobs(self, request: Request) -> Response:
        query = request.query_params
        text = query.get("limit", "100")
        limit = _number(text)
        if limit is None or not 1 <= limit <= _MAX_PAGE:
            raise InvalidInputError(
                f"limit is a number from 1 to {_MAX_PAGE}, not {text[:_MOST_DIGITS]!r}.", parameter="limit"
            )
        status = query.get("status")
        if status is not None and status not in set(JobStatus):
            raise InvalidInputError(
                f"status is one of {', '.join(JobStatus)}, not {status!r}.", parameter="status"
            )
        endpoint = query.get("endpoint")
        if endpoint is not None:
            self.dataplane.route(endpoint)
        records = await self.dataplane.list(
            owner=_owner(request),
            endpoint=endpoint,
            status=None if status is None else JobStatus(status),
            limit=limit,
            after=query.get("after"),
        )
        page = {
            "jobs": [job_document(record) for record in records],
            "next": records[-1].id if len(records) == limit else None,
        }
        return value_response(page, request.headers.get("accept", ""))

    async def _events(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        await self.dataplane.get(job_id, _owner(request))
        msgpack = request.query_params.get("encoding") == "msgpack"
        return EventStream(self.dataplane, job_id, after=_after(request), msgpack=msgpack)

    # The service

    async def _health(self, request: Request) -> Response:
        body, is_ready = health(self.dataplane, self.settings)
        if request.scope.get("socaity.principal") is EXEMPT:  # for those who need not say who they are
            body = {"status": body["status"]}
        return value_response(body, "", status=200 if is_ready else 503)

    async def _describe(self, request: Request) -> Response:
        await self.dataplane.settled()
        description: ServiceDescription = self.dataplane.describe()
        return Response(description.model_dump_json(), media_type="application/json")

    async def _models(self, request: Request) -> Response:
        found = available_models(self.dataplane)
        if "text/html" in request.headers.get("accept", ""):
            return Response(listing_page(found["models"]), media_type="text/html")
        return value_response(found, "")

    async def _metrics(self, request: Request) -> Response:
        body, kind = await scrape(self.dataplane, request.headers.get("accept", ""))
        return Response(body, media_type=kind)

    async def _on_http_error(self, request: Request, error: Exception) -> Response:
        """Starlette's own refusals: no such path, no such method."""
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            paths = [route.path for route in self.dataplane.routes.values()]
            path = request.url.path
            known = f" Endpoints: {', '.join(sorted(paths))}." if paths else ""
            return problem_response(
                NotFoundError(
                    f"There is nothing at {path}{suggestion(path, paths)}.{known}", code="endpoint_not_found"
                )
            )
        codes = {405: "method_not_allowed"}
        detail = (
            f"{request.url.path} does not take {request.method}."
            if error.status_code == 405
            else str(error.detail)
        )
        response = problem_response(
            APIError(detail, status=error.status_code, code=codes.get(error.status_code, "http_error"))
        )
        for name, value in (error.headers or {}).items():
            response.headers[name] = value
        return response


class _Quick(Mapping[bytes, lite.ModelHandler]):
    """The models of an application, while neither a middleware nor a limit has to see their requests."""

    def __init__(self, app: SocaityApp) -> None:
        self._app = app

    def get(self, path: bytes, default: Any = None) -> Any:
        return self._app._hot.get(path.decode("latin-1"), default) if self._is_open else default

    def __getitem__(self, path: bytes) -> lite.ModelHandler:
        if not self._is_open:
            raise KeyError(path)
        return self._app._hot[path.decode("latin-1")]

    def __iter__(self) -> Iterator[bytes]:
        return iter([path.encode() for path in self._app._hot] if self._is_open else [])

    def __len__(self) -> int:
        return len(self._app._hot) if self._is_open else 0

    @property
    def _is_open(self) -> bool:
        app = self._app
        return app.limits is None and app.gate is None and not app.user_middleware


class _Delegate(Response):
    """Lets a plain ASGI handler answer."""

    def __init__(self, handler: ASGIApp) -> None:
        self.handler = handler
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handler(scope, receive, send)


def _is_open_inference(scope: Scope) -> bool:
    path = path_below_mount(scope)
    return path.startswith(OPEN_INFERENCE) and path[len(OPEN_INFERENCE) :][:1] in ("", "/")


async def _refuse(error: SocaityError, scope: Scope, receive: Receive, send: Send) -> None:
    """An error in the form of the protocol that is spoken there."""
    if scope["type"] == "websocket":
        await _refuse_socket(problem_response(error), scope, receive, send)
    elif _is_open_inference(scope):
        await send_error(send, error)
    else:
        await problem_response(error)(scope, receive, send)


async def _refuse_socket(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    for message in refusal_of_socket(scope, response):
        await send(message)


async def _on_error(request: Request, error: Exception) -> Response:
    return problem_response(error)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads it; without it the server would log an error."""
    return Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _on_bug(request: Request, error: Exception) -> Response:
    return problem_response(error)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _owner(request: Request) -> str:
    return str(request.scope.get("socaity.owner", ""))


def _after(request: Request) -> int:
    text = request.query_params.get("after") or request.headers.get("last-event-id") or "0"
    number = _number(text)
    if number is None:
        raise InvalidInputError(
            f"The number of the last event is a whole number, not {text[:_MOST_DIGITS]!r}.", parameter="after"
        )
    return number


def _number(text: str) -> int | None:
    """None for what is no number of a few digits: `int` takes others than those of ASCII, and refuses thousands of them."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None
