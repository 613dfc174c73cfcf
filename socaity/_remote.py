"""`remote`: a function that is written down here and runs there."""

from __future__ import annotations

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
)
from typing import Any, Generic, ParamSpec, TypeVar

from ._job import Job
from .exceptions import InvalidInputError

if typing.TYPE_CHECKING:
    from ._pipeline import JobGroup
    from ._service import Endpoint, Service

__all__ = ["RemoteFunction", "remote"]

P = ParamSpec("P")
R = TypeVar("R")

_STREAMS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)


class RemoteFunction(Generic[P, R]):
    """A typed remote endpoint; calling it gives a `Job[R]`. Connects on the first call."""

    def __init__(self, function: Callable[P, R], open_service: Callable[[], Service], endpoint: str) -> None:
        functools.update_wrapper(self, function)
        self.__signature__ = inspect.signature(function)
        self._function = function
        self._open_service = open_service
        self._endpoint_name = endpoint
        self._endpoint: Endpoint | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Check the arguments against the written and the live signature and start the job."""
        return self.endpoint(**self._arguments(args, kwargs))

    def map(self, *inputs: Iterable[Any], concurrency: int = 2048, **constant: Any) -> JobGroup[R]:
        """Like `Endpoint.map`."""
        return self.endpoint.map(*inputs, concurrency=concurrency, **constant)

    @property
    def endpoint(self) -> Endpoint:
        """The live endpoint."""
        if self._endpoint is None:
            from ._service import Endpoint

            service = self._open_service()
            endpoint = Endpoint(service, service[self._endpoint_name].description)
            if endpoint.may_stream:
                endpoint.decode_chunk = self._decoder()
            else:
                endpoint.decode = self._decoder()
            self._endpoint = endpoint
        return self._endpoint

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as exc:
            raise InvalidInputError(f"{self._endpoint_name}{self.__signature__}: {exc}") from exc
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        for name, parameter in self.__signature__.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        return arguments

    def _decoder(self) -> Callable[[Any], Any] | None:
        """How a plain result, or chunk of a stream, becomes the annotated type; None where there is nothing to do."""
        try:
            annotation = typing.get_type_hints(self._function).get("return", Any)
        except NameError:  # imported for the type checker only
            return None
        if (typing.get_origin(annotation) or annotation) in _STREAMS:
            annotation = (*typing.get_args(annotation), Any)[0]
        if annotation in (Any, None, type(None)) or getattr(annotation, "__module__", "") == "numpy":
            return None
        from pydantic import ConfigDict, TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

        try:
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True)).validate_python
        except PydanticSchemaGenerationError:
            return None
        except PydanticUserError:  # a model brings its own config
            return TypeAdapter(annotation).validate_python


def remote(
    url: Any, *, endpoint: str | None = None, **options: Any
) -> Callable[[Callable[P, R]], RemoteFunction[P, R]]:
    """Make the annotated function the typed remote endpoint of the same name (or `endpoint`) at `url`.

    The body never runs: `...` will do, or `raise NotImplementedError` where mypy checks it. Results, and the chunks of a
    stream, are checked and turned into the annotated return type. `options` are those of `connect`.

        @socaity.remote("http://127.0.0.1:8000")
        def predict(text: str, steps: int = 4) -> str: ...

        predict("a cat").result()
    """

    def decorate(function: Callable[P, R]) -> RemoteFunction[P, R]:
        @functools.cache
        def open_service() -> Service:
            from ._connect import connect

            return connect(url, **options)

        return RemoteFunction(function, open_service, endpoint or function.__name__)

    return decorate
