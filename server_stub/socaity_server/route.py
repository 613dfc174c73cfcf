"""`Route`: one function of the service with its parameters, compiled once from the signature."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import keyword
import re
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
    Sequence,
)
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError

from socaity.exceptions import ConfigurationError, InvalidInputError
from socaity.protocol.description import EndpointDescription, ParameterDescription

from .loading import LoadedModel
from .media import says_file, with_media
from .parameters import Parameter
from .progress import JobProgress
from .tensors import TensorInput, TensorInputs

__all__ = ["Kind", "Route", "suggestion"]

Kind = Literal["plain", "async", "generator", "async_generator", "batched"]

_ITERATORS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)
_MANY_AT_ONCE = 64


@dataclasses.dataclass(slots=True, eq=False)
class Route:
    """One endpoint. `function` takes the validated arguments; a batched one takes a dict of stacked arrays.

    `direct` routes are called without a job; `tensors` holds the compiled inputs of a batched route, `outputs` the names
    of what a model gives (empty: not known), and `model` the model where the route is one.
    """

    name: str
    path: str
    function: Callable[..., Any]
    kind: Kind
    parameters: tuple[Parameter, ...] = ()
    queue_size: int | None = None
    concurrency: int = 1
    timeout: float | None = 3600.0
    methods: tuple[str, ...] = ("POST",)
    idempotent: bool = False
    doc: str | None = None
    returns: dict[str, Any] = dataclasses.field(default_factory=dict)
    progress_name: str | None = None
    variadic: Parameter | None = None
    max_batch_size: int = 1
    max_batch_wait: float = 0.0
    batch_threads: int = 1
    tensors: TensorInputs | None = None
    outputs: tuple[str, ...] = ()
    model: LoadedModel | None = None
    by_name: dict[str, Parameter] = dataclasses.field(init=False, repr=False)
    takes_media: bool = dataclasses.field(init=False, repr=False)
    """Values have to be opened before the function runs."""
    returns_files: bool = dataclasses.field(init=False, repr=False)
    """A returned `Path` stands for the file there."""

    def __post_init__(self) -> None:
        self.by_name = {parameter.name: parameter for parameter in self.parameters}
        every = (*self.parameters, *([] if self.variadic is None else [self.variadic]))
        self.returns_files = says_file(self.returns)
        self.takes_media = any(parameter.has_media for parameter in every)

    @classmethod
    def from_function(
        cls,
        path: str,
        function: Callable[..., Any],
        *,
        queue_size: int | None = None,
        methods: Sequence[str] = ("POST",),
        max_batch_size: int | None = None,
        max_batch_wait: float = 0.0,
        concurrency: int | None = None,
        timeout: float | None = 3600.0,
        idempotent: bool = False,
    ) -> Route:
        """The route of a function; raises ConfigurationError for what cannot be served."""
        _check_options(path, queue_size, concurrency, timeout, max_batch_size, max_batch_wait)
        kind = _kind_of(function)
        if max_batch_size is not None and kind != "plain":
            raise ConfigurationError(
                f"{_name(function)} cannot be batched: max_batch_size needs a plain function of stacked arrays, "
                f"not {'an async one' if kind == 'async' else 'a generator'}."
            )
        parameters, variadic, progress_name = _parameters(function)
        route = cls(
            name=endpoint_name(path),
            path="/" + path.strip("/"),
            function=function,
            kind=kind,
            parameters=parameters,
            queue_size=queue_size,
            concurrency=concurrency or (1 if queue_size is not None else _MANY_AT_ONCE),
            timeout=timeout,
            methods=_methods(methods),
            idempotent=idempotent,
            doc=inspect.getdoc(function),
            returns=_return_schema(function, kind),
            progress_name=progress_name,
            variadic=variadic,
        )
        if max_batch_size is not None:
            _make_batched(route, max_batch_size, max_batch_wait, concurrency or 1)
        return route

    @property
    def direct(self) -> bool:
        """Called without a job."""
        return self.kind == "batched" and self.queue_size is None

    @property
    def streaming(self) -> bool:
        """Gives chunks instead of a result."""
        return self.kind in ("generator", "async_generator")

    def validate(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function wants them; raises InvalidInputError naming the parameter."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            name = parameter.name
            if name in arguments:
                values[name] = parameter.validate(arguments[name])
            elif parameter.required:
                raise self._missing(name)
        if len(values) != len(arguments):
            self._take_rest(arguments, values)
        return values

    def check_names(self, arguments: Mapping[str, Any]) -> None:
        """Only that nothing is missing or unknown, where the values are not there yet."""
        for parameter in self.parameters:
            if parameter.required and parameter.name not in arguments:
                raise self._missing(parameter.name)
        if self.variadic is None:
            self._take_rest(arguments, {name: None for name in arguments if name in self.by_name})

    def describe(self) -> EndpointDescription:
        """What the service says of this route."""
        parameters = [parameter.describe() for parameter in self.parameters]
        if self.variadic is not None:
            rest = self.variadic.describe()
            parameters.append(rest.model_copy(update={"variadic": True, "required": False}))
        batched = self.kind == "batched"
        if batched and self.tensors is not None:
            parameters = [_with_tensor(parameter, self.tensors) for parameter in parameters]
            batched = self.tensors.has_batch_axis
        return EndpointDescription(
            name=self.name,
            path=self.path,
            method=self.methods[0],
            doc=self.doc,
            parameters=parameters,
            returns=self.returns,
            streaming=self.streaming,
            batched=batched,
            direct=self.direct,
            idempotent=self.idempotent,
            queue_size=self.queue_size,
        )

    def _take_rest(self, arguments: Mapping[str, Any], values: dict[str, Any]) -> None:
        for name, value in arguments.items():
            if name in self.by_name:
                continue
            if self.variadic is None:
                known = [parameter.name for parameter in self.parameters]
                takes = f"It takes {', '.join(known)}." if known else "It takes no parameters."
                raise InvalidInputError(
                    f"{self.name}() has no parameter {name!r}{suggestion(name, known)}. {takes}",
                    parameter=name,
                )
            values[name] = self.variadic.validate(value, name)

    def _missing(self, name: str) -> InvalidInputError:
        return InvalidInputError(f"{self.name}() needs the parameter {name!r}.", parameter=name)


def endpoint_name(path: str) -> str:
    """`/image/caption` -> `image_caption`."""
    name = re.sub(r"\W", "_", path.strip("/"))
    if not name:
        raise ConfigurationError(
            f"The path {path!r} gives no name to an endpoint; use something like '/predict'."
        )
    return f"_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'text'?` where something is near, else nothing."""
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _check_options(
    path: str,
    queue_size: int | None,
    concurrency: int | None,
    timeout: float | None,
    max_batch_size: int | None,
    max_batch_wait: float,
) -> None:
    if not path.startswith("/") or "{" in path or "?" in path:
        raise ConfigurationError(f"A path starts with '/' and has no variables: '/predict', not {path!r}.")
    if queue_size is not None and queue_size < 0:
        raise ConfigurationError(f"queue_size is 0 or more, not {queue_size}.")
    if concurrency is not None and concurrency < 1:
        raise ConfigurationError(f"concurrency is 1 or more, not {concurrency}.")
    if timeout is not None and timeout <= 0:
        raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout}.")
    if max_batch_size is not None and max_batch_size < 1:
        raise ConfigurationError(f"max_batch_size is 1 or more, not {max_batch_size}.")
    if max_batch_wait < 0:
        raise ConfigurationError(f"max_batch_wait is a number of seconds, not {max_batch_wait}.")
    if max_batch_wait and max_batch_size is None:
        raise ConfigurationError("max_batch_wait needs max_batch_size.")


def _kind_of(function: Callable[..., Any]) -> Kind:
    target = inspect.unwrap(function)
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target) and not inspect.isclass(target) and callable(target):
        target = target.__call__
    if inspect.isasyncgenfunction(target):
        return "async_generator"
    if inspect.isgeneratorfunction(target):
        return "generator"
    return "async" if inspect.iscoroutinefunction(target) else "plain"


def _methods(methods: Sequence[str]) -> tuple[str, ...]:
    if isinstance(methods, str):
        methods = (methods,)
    upper = tuple(dict.fromkeys(method.upper() for method in methods))
    unknown = [method for method in upper if method not in ("GET", "POST", "PUT", "PATCH")]
    if unknown or not upper:
        raise ConfigurationError(
            f"methods are GET, POST, PUT or PATCH, not {', '.join(unknown) or 'nothing'}."
        )
    return tuple(sorted(upper, key=lambda method: method != "POST"))


def _parameters(function: Callable[..., Any]) -> tuple[tuple[Parameter, ...], Parameter | None, str | None]:
    found: list[Parameter] = []
    variadic: Parameter | None = None
    progress_name: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise ConfigurationError(
                f"{_name(function)} cannot be served: its parameter {parameter.name!r} cannot be given by name."
            )
        if parameter.name == "job_progress":
            progress_name = parameter.name
            continue
        annotation = _resolve(parameter.annotation, function, parameter.name)
        if _is_progress(annotation):
            progress_name = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            variadic = Parameter(parameter.name, annotation)
        else:
            found.append(Parameter(parameter.name, annotation, parameter.default))
    return tuple(found), variadic, progress_name


def _is_progress(annotation: Any) -> bool:
    return annotation is JobProgress or JobProgress in typing.get_args(annotation)


def _resolve(annotation: Any, function: Callable[..., Any], name: str) -> Any:
    """An annotation that is still text (postponed evaluation) as the type it names."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    target = inspect.unwrap(function)
    target = getattr(target, "__func__", target)
    names: dict[str, Any] = {}
    if inspect.isfunction(target):
        names = {**target.__globals__, **_closure(target)}
    try:
        return typing.get_type_hints(_Holder(annotation), names, names, include_extras=True)["value"]
    except Exception as exc:  # the text is a program of the user's: it may raise anything
        raise ConfigurationError(
            f"The annotation {annotation!r} of {name!r} in {_name(function)} cannot be resolved: {exc}. "
            "Its names must be defined in the module, outside of functions and `if TYPE_CHECKING`."
        ) from exc


class _Holder:
    def __init__(self, annotation: str) -> None:
        self.__annotations__ = {"value": annotation}


def _closure(function: Any) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises for an empty cell
    except ValueError:
        return False
    return True


def _return_schema(function: Callable[..., Any], kind: Kind) -> dict[str, Any]:
    annotation = inspect.signature(function).return_annotation
    if annotation is inspect.Signature.empty:
        return {}
    try:
        annotation = _resolve(annotation, function, "return")
        if kind in ("generator", "async_generator") and typing.get_origin(annotation) in _ITERATORS:
            annotation = typing.get_args(annotation)[0]
        return TypeAdapter(with_media(annotation)).json_schema(mode="serialization")
    except (ConfigurationError, PydanticUserError, PydanticSchemaGenerationError, IndexError):
        return {}  # it only describes: a result of any type may be sendable


def _make_batched(route: Route, max_batch_size: int, max_batch_wait: float, batch_threads: int) -> None:
    if not route.parameters or route.variadic is not None or route.progress_name is not None:
        raise ConfigurationError(
            f"{_name(route.function)} cannot be batched: every parameter must be an array of stacked items, "
            "without **kwargs and job_progress."
        )
    route.kind = "batched"
    route.max_batch_size = max_batch_size
    route.max_batch_wait = max_batch_wait
    route.batch_threads = batch_threads
    media = [parameter.name for parameter in route.parameters if parameter.media is not None]
    if media:
        raise ConfigurationError(
            f"{_name(route.function)} cannot be batched: {media[0]!r} is a file or picture, which cannot be stacked; "
            "take arrays, or open it in a function that calls the batched one."
        )
    optional = [parameter.name for parameter in route.parameters if not parameter.required]
    if optional:
        raise ConfigurationError(f"{_name(route.function)} cannot be batched: {optional[0]!r} has a default.")
    route.tensors = TensorInputs(
        route.name, [TensorInput(item.name, item.tensor_dtype, None) for item in route.parameters]
    )


def _with_tensor(parameter: ParameterDescription, tensors: TensorInputs) -> ParameterDescription:
    return parameter.model_copy(update={"tensor": tensors.describe(parameter.name)})


def _name(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', repr(function))}()"
