"""From the description of an endpoint to a real Python signature, and from a call to its arguments."""

from __future__ import annotations

import difflib
import inspect
import keyword
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, Union

from ._schema import UnfinishedError, compile_check, plain
from .exceptions import InvalidInputError
from .protocol.description import EndpointDescription, ParameterDescription
from .protocol.schemas import SchemaWalk

Bind = Callable[[tuple[Any, ...], dict[str, Any]], dict[str, Any]]

_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": None,
    "array": list,
    "object": dict,
}

_MEDIA_TYPES: dict[str, Any] = {
    # as text, because Pillow and pandas may not be installed
    "image": "PIL.Image.Image",
    "audio": "socaity.Audio",
    "table": "pandas.DataFrame",
    "file": "pathlib.Path",
    "bytes": bytes,
}
"""What is natural to give for media; other forms are taken as well."""
_FILE_RESULT = "socaity.Media"
"""What a file of another machine comes as."""


def make_signature(endpoint: EndpointDescription) -> inspect.Signature:
    """The signature that a person sees; parameters that are no Python names can only be given as `**{"a-b": 1}`."""
    parameters = []
    seen: set[str] = set()
    optional_seen = False
    for one in endpoint.parameters:
        if not one.name.isidentifier() or keyword.iskeyword(one.name) or one.variadic or one.name in seen:
            continue
        seen.add(one.name)
        after_optional = one.required and optional_seen
        kind = inspect.Parameter.KEYWORD_ONLY if after_optional else inspect.Parameter.POSITIONAL_OR_KEYWORD
        optional_seen = optional_seen or not one.required
        default = inspect.Parameter.empty if one.required else one.default
        parameters.append(
            inspect.Parameter(one.name, kind, default=default, annotation=annotation_of(one, endpoint))
        )
    parameters.sort(key=lambda parameter: parameter.kind)
    variadic = [one.name for one in endpoint.parameters if one.variadic]
    if variadic:
        parameters.append(inspect.Parameter(_free_name(variadic[0], seen), inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters, return_annotation=_returned(endpoint))


def _free_name(name: str, taken: set[str]) -> str:
    """`name` as an identifier that is not among `taken`."""
    if not name.isidentifier() or keyword.iskeyword(name):
        name = "others"
    while name in taken:
        name += "_"
    return name


def annotation_of(parameter: ParameterDescription, endpoint: EndpointDescription) -> Any:
    """The Python type of a parameter; arrays as text, because numpy may not be installed."""
    if parameter.tensor is not None:
        shape, dtype = parameter.tensor.shape, parameter.tensor.dtype or "any"
        if dtype == "object":
            if shape == []:
                return str | list[str] if endpoint.batched else str
            dtype = "str"
        sizes = [] if shape is None else ["×".join("?" if n is None else str(n) for n in shape) or "scalar"]
        return f"Array[{', '.join([dtype, *sizes])}]"
    if parameter.location == "file":
        return bytes
    return python_type(parameter.json_schema)


def gives_arrays(endpoint: EndpointDescription) -> bool:
    """Whether its results are arrays, by name or not, for which the description has lists: those of a batched endpoint, and of
    a model whose calls are not put together."""
    if endpoint.batched:
        return True
    if not endpoint.direct or all(one.tensor is None for one in endpoint.parameters):
        return False
    options = endpoint.returns.get("anyOf")
    forms = options if isinstance(options, list) and options else [endpoint.returns]
    return all(_is_array(one) or _are_arrays(one) for one in forms)


def _is_array(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "array"


def _are_arrays(schema: Any) -> bool:
    """By name."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return False
    parts = schema.get("properties") or {"": schema.get("additionalProperties")}
    return isinstance(parts, Mapping) and all(map(_is_array, parts.values()))


def _returned(endpoint: EndpointDescription) -> Any:
    """The Python type of a result; arrays as text, because numpy may not be installed."""
    schema = endpoint.returns
    if not gives_arrays(endpoint):
        return python_type(schema, is_result=True)
    if not schema or "anyOf" in schema:  # the service does not know
        return Any
    return "dict[str, Array]" if schema.get("type") == "object" else "Array"


def python_type(schema: Any, *, root: Any = None, is_result: bool = False) -> Any:
    """The nearest Python type of a JSON schema, which may be a part of `root`; `Any` where there is none."""
    return _type_within(schema, _Walk(schema if root is None else root, is_result), 0)


class _Walk(SchemaWalk):
    def __init__(self, schema: Any, is_result: bool) -> None:
        super().__init__(schema)
        self.is_result = is_result


def _type_within(schema: Any, walk: _Walk, depth: int) -> Any:
    try:
        return _python_type(walk.enter(schema, depth), walk, depth)
    except TypeError:  # an enum of lists, an empty anyOf: typing cannot say it
        return Any


def _python_type(schema: Mapping[str, Any] | None, walk: _Walk, depth: int) -> Any:
    if schema is None:
        return Any
    if "$ref" in schema:
        return _type_within(walk.follow(schema["$ref"]), walk, depth + 1)
    if "x-media" in schema:
        if schema["x-media"] == "file" and walk.is_result:
            return _FILE_RESULT
        return _MEDIA_TYPES.get(schema["x-media"], Any)
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    if "const" in schema:
        return Literal[schema["const"]]
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _union(_type_within(option, walk, depth + 1) for option in schema[word])
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union(_TYPES.get(one, Any) for one in kind)
    if kind == "string" and schema.get("format") in ("binary", "base64", "byte"):
        return bytes
    if kind == "array" and schema.get("items"):
        return list[_type_within(schema["items"], walk, depth + 1)]  # type: ignore[misc]
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return dict[str, _type_within(schema["additionalProperties"], walk, depth + 1)]  # type: ignore[misc]
    return _TYPES.get(str(kind), Any)


def _union(options: Iterable[Any]) -> Any:
    return Union[tuple(dict.fromkeys(options))]  # noqa: UP007 - built at run time


def make_bind(endpoint: EndpointDescription) -> Bind:
    """The function that turns `(args, kwargs)` into the arguments that are sent, compiled once per endpoint.

    Arguments that were not given are not sent: the server has the defaults. Raises InvalidInputError with the parameter
    named, or UnfinishedError, which has the arguments, if nothing is wrong except that some are unfinished jobs.
    """
    names = [one.name for one in endpoint.parameters if not one.variadic]
    signature = make_signature(endpoint)
    positional = [
        name
        for name, one in signature.parameters.items()
        if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    checks = {one.name: compile_check(one, endpoint) for one in endpoint.parameters if not one.variadic}
    required = [one.name for one in endpoint.parameters if one.required and not one.variadic]
    other = plain if any(one.variadic for one in endpoint.parameters) else None
    in_order = [(name, checks[name]) for name in positional]

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        unfinished = False
        name = ""
        try:
            if args:
                if len(args) > len(in_order):
                    raise _too_many(endpoint, len(args), names)
                for (name, check), value in zip(in_order, args, strict=False):
                    try:
                        arguments[name] = check(value)
                    except UnfinishedError:
                        arguments[name], unfinished = value, True
            for name, value in kwargs.items():
                if name in arguments:
                    raise InvalidInputError(f"{endpoint.name}() got {name!r} twice", parameter=name)
                known = checks.get(name, other)
                if known is None:
                    raise _unknown(endpoint.name, name, names)
                try:
                    arguments[name] = known(value)
                except UnfinishedError:
                    arguments[name], unfinished = value, True
        except RecursionError as exc:
            raise InvalidInputError(
                f"{endpoint.name}({name}=…): it contains itself, or is nested too deep to be sent",
                parameter=name,
            ) from exc
        except (ValueError, TypeError, OverflowError) as exc:
            raise InvalidInputError(f"{endpoint.name}({name}=…): {exc}", parameter=name) from exc
        for name in required:
            if name not in arguments:
                raise InvalidInputError(
                    f"{endpoint.name}() needs the argument {name!r}: {endpoint.name}{make_signature(endpoint)}",
                    parameter=name,
                )
        if unfinished:
            raise UnfinishedError(arguments)
        return arguments

    return bind


def wrong_call(
    name: str, signature: inspect.Signature, kwargs: Mapping[str, Any], error: TypeError
) -> InvalidInputError:
    """What to say instead of the error of `Signature.bind`, which names neither the function nor what is near a wrong name."""
    kinds = [one.kind for one in signature.parameters.values()]
    unknown = [] if inspect.Parameter.VAR_KEYWORD in kinds else [*kwargs.keys() - signature.parameters.keys()]
    if unknown:
        first = next(one for one in kwargs if one in unknown)
        return _unknown(name, first, list(signature.parameters))
    return InvalidInputError(f"{name}{plain_signature(signature)}: {error}")


def plain_signature(signature: inspect.Signature) -> str:
    """The signature without quotes around types that are known by name only."""
    parameters = [one.replace(annotation=_named(one.annotation)) for one in signature.parameters.values()]
    return str(
        signature.replace(parameters=parameters, return_annotation=_named(signature.return_annotation))
    )


def _named(annotation: Any) -> Any:
    return _Name(annotation) if isinstance(annotation, str) else annotation


class _Name:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _too_many(endpoint: EndpointDescription, given: int, names: list[str]) -> InvalidInputError:
    return InvalidInputError(
        f"{endpoint.name}() takes {len(names)} arguments ({', '.join(names) or 'none'}), got {given}: "
        f"{endpoint.name}{make_signature(endpoint)}"
    )


def _unknown(function: str, name: str, names: list[str]) -> InvalidInputError:
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f" (known: {', '.join(names) or 'none'})"
    return InvalidInputError(f"{function}() has no argument {name!r}{hint}", parameter=name)
