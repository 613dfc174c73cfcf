"""`remote`: a function that is written down here and runs there."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, TypeVar

from ._job import Job
from ._signature import make_signature, plain_signature, wrong_call
from .exceptions import ConfigurationError
from .protocol.media import Media, is_media, read_media

if typing.TYPE_CHECKING:
    from ._endpoint import Endpoint
    from ._group import JobGroup
    from ._service import Service
    from .protocol.description import EndpointDescription

__all__ = ["RemoteFunction", "RemoteService", "remote"]

P = ParamSpec("P")
R = TypeVar("R")

_STREAMS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
_NO_NAMES: Mapping[str, str] = MappingProxyType({})


class RemoteService:
    """The decorator that `remote` gives; the functions of one decorator share one connection."""

    def __init__(
        self, target: Any, options: Mapping[str, Any], *, endpoint: str | None, send_defaults: bool
    ) -> None:
        self._target = target
        self._options = dict(options)
        self._endpoint_name = endpoint
        self._send_defaults = send_defaults
        self._service: Service | None = None

    def __call__(self, function: Callable[P, R]) -> RemoteFunction[P, R]:
        """Make `function` the remote endpoint of the same name, or of the name that `remote` was given."""
        return RemoteFunction(
            function,
            self._open,
            self._endpoint_name or function.__name__,
            send_defaults=self._send_defaults,
        )

    def endpoint(
        self, name: str, *, parameters: Mapping[str, str] = _NO_NAMES
    ) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]:
        """The decorator for an endpoint of another name; `parameters` are the names there of parameters here."""

        def decorate(function: Callable[P, R]) -> RemoteFunction[P, R]:
            return RemoteFunction(
                function, self._open, name, send_defaults=self._send_defaults, parameters=parameters
            )

        return decorate

    def use(self, target: Any, **options: Any) -> None:
        """Send the calls from now on to another service; target and options are those of `connect`.

        The options given before do not go along: a key is for one place. Jobs that run go on.
        """
        self._service, self._target, self._options = None, target, dict(options)

    @property
    def service(self) -> Service:
        """The service that the calls go to."""
        return self._open()

    def _open(self) -> Service:
        if self._service is None:
            from ._connect import connect

            self._service = connect(self._target, **self._options)
        return self._service


class RemoteFunction(Generic[P, R]):
    """A typed remote endpoint; calling it gives a `Job[R]`. Connects on the first call."""

    def __init__(
        self,
        function: Callable[P, R],
        open_service: Callable[[], Service],
        endpoint: str,
        *,
        send_defaults: bool = True,
        parameters: Mapping[str, str] = _NO_NAMES,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__signature__ = inspect.signature(function)
        self._function = function
        self._open_service = open_service
        self._endpoint_name = endpoint
        self._send_defaults = send_defaults
        self._names = parameters
        self._endpoint: Endpoint | None = None
        self._base: RemoteFunction[P, R] | None = None
        self._call_options: dict[str, Any] = {}
        self._refuse_path()

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Check the arguments against the written and the live signature and start the job."""
        return self.endpoint(**self._arguments(args, kwargs))

    def map(self, *inputs: Iterable[Any], concurrency: int = 2048, **constant: Any) -> JobGroup[R]:
        """Like `Endpoint.map`."""
        return self.endpoint.map(*inputs, concurrency=concurrency, **self._renamed(constant))

    def with_options(
        self,
        *,
        timeout: float | None = None,
        priority: int = 0,
        explain: bool = False,
        memoize: bool = False,
    ) -> RemoteFunction[P, R]:
        """This function for calls with the options of `Endpoint.with_options`. Does not connect: what the live endpoint does not
        take is a ConfigurationError of the first call."""
        other: RemoteFunction[P, R] = object.__new__(type(self))
        vars(other).update(vars(self))
        other._endpoint, other._base = None, self._base or self
        other._call_options = {
            "timeout": timeout,
            "priority": priority,
            "explain": explain,
            "memoize": memoize,
        }
        return other

    @property
    def endpoint(self) -> Endpoint:
        """The live endpoint. Raises ConfigurationError if the written function does not fit it."""
        if self._base is not None:
            base = self._base.endpoint
            if self._endpoint is None or self._endpoint.service is not base.service:
                self._endpoint = base.with_options(**self._call_options)
            return self._endpoint
        service = self._open_service()
        if self._endpoint is None or self._endpoint.service is not service:
            from ._endpoint import Endpoint

            endpoint = Endpoint(service, service[self._endpoint_name].description)
            self._check_fit(endpoint.description)
            is_file = _holds(self._returned_type(), Media)
            checked = _after(_files_in if is_file else endpoint.decode, self._decoder())
            if endpoint.may_stream:
                endpoint.decode_chunk = checked
            else:
                endpoint.decode = checked
            self._endpoint = endpoint
        return self._endpoint

    def __reduce__(self) -> str | tuple[Any, ...]:
        """By its name, as functions are: the other process imports the module, and connects itself."""
        if self._base is not None:
            return _with_options, (self._base, self._call_options)
        return str(getattr(self, "__qualname__", self._endpoint_name))

    def __repr__(self) -> str:
        name = getattr(self, "__name__", self._endpoint_name)
        return f"<RemoteFunction {name}{plain_signature(self.__signature__)}>"

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as exc:
            raise wrong_call(self._endpoint_name, self.__signature__, kwargs, exc) from exc
        if self._send_defaults:
            bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.__signature__.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
            elif not self._send_defaults and parameter.default is None and arguments.get(name, 0) is None:
                del arguments[name]  # None where the real default could not be written down
        return self._renamed(arguments)

    def _renamed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if not self._names:
            return arguments
        return {self._names.get(name, name): value for name, value in arguments.items()}

    def _check_fit(self, live: EndpointDescription) -> None:
        """What would fail in every call is said once, and with the reason; types are checked with each value."""
        written = self.__signature__.parameters
        takes_others = any(one.kind is one.VAR_KEYWORD for one in written.values())
        names = {
            self._names.get(name, name) for name, one in written.items() if one.kind is not one.VAR_KEYWORD
        }
        known = {one.name for one in live.parameters if not one.variadic}
        needed = {one.name for one in live.parameters if one.required and not one.variadic}
        wrong = []
        if not any(one.variadic for one in live.parameters) and names - known:
            wrong.append(f"takes no {_listed(names - known)}")
        if not takes_others and needed - names:
            wrong.append(f"needs {_listed(needed - names)}")
        if wrong:
            raise ConfigurationError(
                f"{self._function.__name__}() was written for another version of the service: {live.name} "
                f"{' and '.join(wrong)}; it is {live.name}{make_signature(live)}. "
                "Write it anew; `socaity stub URL -o FILE` does so for all endpoints"
            )

    def _decoder(self) -> Callable[[Any], Any] | None:
        """How a plain result, or chunk of a stream, becomes the annotated type; None where there is nothing to do."""
        annotation = self._returned_type()
        if (typing.get_origin(annotation) or annotation) in _STREAMS:
            annotation = (*typing.get_args(annotation), Any)[0]
        if annotation in (Any, None, type(None)) or getattr(annotation, "__module__", "") == "numpy":
            return None
        from pydantic import ConfigDict, TypeAdapter
        from pydantic.errors import (
            PydanticSchemaGenerationError,
            PydanticUndefinedAnnotation,
            PydanticUserError,
        )

        try:
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
            return None
        except PydanticUserError:  # a model brings its own config
            return TypeAdapter(annotation).validate_python

    def _returned_type(self) -> Any:
        """Only this one: the types of the parameters may be imported for the type checker only."""
        function = inspect.unwrap(self._function)
        annotation = getattr(function, "__annotations__", {}).get("return", Any)
        try:
            hints = typing.get_type_hints(_Returning(annotation), getattr(function, "__globals__", {}))
        except NameError:
            return Any
        return hints["value"]

    def _refuse_path(self) -> None:
        """A path of another machine leads nowhere; this is said where it is written."""
        written = getattr(inspect.unwrap(self._function), "__annotations__", {}).get("return", "")
        if isinstance(written, str) and "Path" not in written:
            return  # saves a module of many functions the time to look at all types
        if _holds(self._returned_type(), Path):
            raise ConfigurationError(
                f"{self._endpoint_name}() gives no path: a file of the service comes as socaity.Media, with `data`, "
                "`media_type`, `name` and `save(path)`; write `-> socaity.Media`"
            )


class _Returning:
    def __init__(self, annotation: Any) -> None:
        self.__annotations__ = {"value": annotation}


def _holds(annotation: Any, kind: type) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, kind):
        return True
    return any(_holds(one, kind) for one in typing.get_args(annotation))


def _files_in(value: Any) -> Any:
    """`value` with the media in it as they came: a picture that is declared as a file stays one."""
    if isinstance(value, list):
        return [_files_in(item) for item in value]
    if not isinstance(value, dict):
        return value
    if is_media(value):
        with contextlib.suppress(ValueError):  # a map of somebody else that only looks like ours
            return read_media(value)
    return {key: _files_in(item) for key, item in value.items()}


def _with_options(function: RemoteFunction[P, R], options: dict[str, Any]) -> RemoteFunction[P, R]:
    return function.with_options(**options)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def remote(
    url: Any, *, endpoint: str | None = None, send_defaults: bool = True, **options: Any
) -> RemoteService:
    """Make the annotated function the typed remote endpoint of the same name (or `endpoint`) at `url`.

    The body never runs: `...` will do, or `raise NotImplementedError` where mypy checks it. Results, and the chunks of a
    stream, are checked and turned into the annotated return type; a file comes as `socaity.Media`. With
    `send_defaults=False` arguments that are not given are not sent, so that the service fills in its own. `options` are
    those of `connect`.

        @socaity.remote("http://127.0.0.1:8000")
        def predict(text: str, steps: int = 4) -> str: ...

        predict("a cat").result()

    What it gives can be kept, so that several functions share one connection, and be pointed elsewhere:

        service = socaity.remote("http://127.0.0.1:8000")

        @service
        def predict(text: str) -> str: ...

        service.use("http://staging:8000")
    """
    return RemoteService(url, options, endpoint=endpoint, send_defaults=send_defaults)


def _after(
    first: Callable[[Any], Any] | None, then: Callable[[Any], Any] | None
) -> Callable[[Any], Any] | None:
    """Both, one after the other: media become pictures and the like before their type is checked."""
    if first is None or then is None:
        return first or then
    return lambda value: then(first(value))
