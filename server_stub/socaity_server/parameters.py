"""`Parameter`: how one argument of a function is checked and described."""

from __future__ import annotations

import base64
import binascii
import inspect
import reprlib
import types
import typing
from typing import Any

import numpy as np
import orjson
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from socaity.exceptions import ConfigurationError, InvalidInputError, JobFailed
from socaity.protocol.description import ParameterDescription, TensorDescription
from socaity.protocol.media import MARK, is_media, read_media

from .media import Kind, Upload, is_torch_tensor, kind_of, read_npy, with_media
from .values import to_plain

__all__ = ["Parameter"]

_LONGEST_SHOWN = 60
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _LONGEST_SHOWN
_SCALARS = frozenset(np.sctypeDict.values())


class Parameter:
    """One parameter. The value is taken as pydantic takes it (`"2"` is an int where an int is wanted).

    An array also takes nested lists and `.npy` files; bytes also take base64 text, which is how they travel in JSON.
    Pictures, sound, tables and files become Uploads, which are opened when the function runs (`has_media`).
    """

    __slots__ = (
        "_adapter",
        "annotation",
        "default",
        "has_media",
        "is_bytes",
        "is_tensor",
        "is_torch",
        "media",
        "name",
        "required",
        "schema",
        "takes_none",
        "tensor_dtype",
    )

    def __init__(self, name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> None:
        self.name = name
        self.annotation = annotation
        self.required = default is inspect.Parameter.empty
        self.default = None if self.required else default
        core, self.takes_none = _without_none(annotation)
        self.takes_none = self.takes_none or (not self.required and default is None)
        self.is_torch = is_torch_tensor(core)
        self.is_tensor = self.is_torch or _is_array(core)
        self.tensor_dtype = _dtype_of(core) if self.is_tensor else None
        self.is_bytes = core in (bytes, bytearray, memoryview)
        self.media: Kind | None = kind_of(core)
        self.has_media = self.media is not None or self.is_torch
        self._adapter: TypeAdapter[Any] | None = None
        self.schema: dict[str, Any] = {}
        if self.is_tensor:
            self.schema = {"type": "array", "items": {}}
        elif self.is_bytes:
            self.schema = {"type": "string", "contentEncoding": "base64", "x-media": "bytes"}
        elif self.media is not None:
            self.schema = self.media.schema
            if self.takes_none and self.required:
                self.schema = {"anyOf": [self.schema, {"type": "null"}]}
        elif annotation is not Any:
            inner = with_media(annotation)
            self.has_media = inner is not annotation
            self._adapter = _adapter(name, inner)
            self.schema = _schema_of(self._adapter)

    def validate(self, value: Any, name: str | None = None) -> Any:
        """The value for the function; raises InvalidInputError."""
        if value is None and self.takes_none:
            return None
        adapter = self._adapter
        if adapter is not None:
            try:
                return adapter.validator.validate_python(value)
            except ValidationError as exc:
                raise _refusal(name or self.name, exc) from exc
        if self.is_tensor:
            array = self._to_array(value)
            return Upload(None, array) if self.is_torch else array
        if self.is_bytes:
            return self._to_bytes(value)
        if self.media is not None:
            try:
                return Upload(self.media, value)
            except ValueError as exc:
                raise InvalidInputError(
                    f"Parameter {name or self.name!r}: {exc}.", parameter=name or self.name
                ) from exc
        return value

    def parse_text(self, text: str) -> Any:
        """The value that a query or form gives as text: JSON where an object or a list is wanted."""
        if text[:1] in ("{", "[") and (self.is_tensor or self.schema.get("type") not in ("string", None)):
            try:
                return orjson.loads(text)
            except orjson.JSONDecodeError as exc:
                raise InvalidInputError(
                    f"Parameter {self.name!r} is not JSON: {exc}.", parameter=self.name
                ) from exc
        return text

    def describe(self) -> ParameterDescription:
        """What the service says of it."""
        try:
            default = to_plain(self.default)
        except JobFailed:
            default = None
        return ParameterDescription(
            name=self.name,
            required=self.required,
            default=default,
            json_schema=self.schema,
            tensor=TensorDescription(dtype=self.tensor_dtype) if self.is_tensor else None,
            description=self.schema.get("description"),
        )

    def _to_array(self, value: Any) -> Any:
        if isinstance(value, str | bytes | dict) or value is None:
            value = self._array_in_file(value)
        try:
            array = np.asarray(value)
            if array.dtype.kind == "O" and not isinstance(value, np.ndarray):
                raise ValueError("its parts are not all numbers")
            return array if self.tensor_dtype is None else array.astype(self.tensor_dtype, copy=False)
        except (TypeError, ValueError) as exc:
            raise self._wrong("an array or nested lists of numbers of equal length", value) from exc

    def _array_in_file(self, value: Any) -> Any:
        """The array of a `.npy` file."""
        try:
            media = None if value is None else read_media(value)
            data = value if media is None else media.data
            if isinstance(data, bytes) and data.startswith(b"\x93NUMPY"):
                return read_npy(data)
        except (ValueError, TypeError, LookupError, OverflowError) as exc:
            raise InvalidInputError(f"Parameter {self.name!r}: {exc}.", parameter=self.name) from exc
        raise self._wrong("an array or nested lists of numbers", value)

    def _to_bytes(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            media = read_media(value)
        except ValueError as exc:
            raise self._wrong("bytes, which are base64 text in JSON", value) from exc
        if media is not None:
            return media.data
        if isinstance(value, bytearray | memoryview):
            return bytes(value)
        if isinstance(value, np.ndarray) and value.dtype == np.uint8:
            return value.tobytes()
        if isinstance(value, str):
            try:
                return base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as exc:
                raise self._wrong("bytes, which are base64 text in JSON", value) from exc
        raise self._wrong("bytes, which are base64 text in JSON", value)

    def _wrong(self, expected: str, value: Any) -> InvalidInputError:
        return InvalidInputError(
            f"Parameter {self.name!r} must be {expected}; got {shown(value)}.", parameter=self.name
        )


def shown(value: Any) -> str:
    """A value in an error text: its type and a short form of it."""
    if value is None:
        return "null"
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {list(value.shape)}"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict) and is_media(value):
        return f"media of the type {value[MARK][:_LONGEST_SHOWN]}"
    if isinstance(value, str) and value.startswith("data:"):
        return f"a data: URL of {len(value)} characters"
    text = _SHORT.repr(value)  # never the whole of something large
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 1] + "…"
    return f"{type(value).__name__} {text}"


def _adapter(name: str, annotation: Any) -> TypeAdapter[Any]:
    if inspect.ismodule(annotation):
        inside = annotation.__name__.rpartition(".")[2]
        hint = f"; did you mean {inside}.{inside}?" if hasattr(annotation, inside) else ""
        raise ConfigurationError(f"The type of {name!r} is the module {annotation.__name__}{hint}")
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError as exc:
        if exc.code != "type-adapter-config-unused":
            raise ConfigurationError(f"The type of {name!r} cannot be checked: {exc}") from exc
    except PydanticSchemaGenerationError as exc:
        raise ConfigurationError(f"The type of {name!r} cannot be checked: {exc}") from exc
    try:
        return TypeAdapter(annotation)  # models and dataclasses bring a configuration of their own
    except (PydanticUserError, PydanticSchemaGenerationError) as exc:
        raise ConfigurationError(f"The type of {name!r} cannot be checked: {exc}") from exc


def _schema_of(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    try:
        return adapter.json_schema()
    except PydanticUserError:
        return {}


def _refusal(name: str, exc: ValidationError) -> InvalidInputError:
    errors = exc.errors(include_url=False, include_context=False)
    first = errors[0]
    place = "".join(
        f"[{part!r}]" for part in first["loc"] if not isinstance(part, str) or part.isidentifier()
    )
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    message = first["msg"].rstrip(".")
    got = "" if first["type"] == "missing" else f"; got {shown(first['input'])}"
    return InvalidInputError(f"Parameter {name!r}{place}: {message}{got}{more}.", parameter=name)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _without_none(typing.get_args(annotation)[0])
    if origin is typing.Union or origin is types.UnionType:
        rest = [argument for argument in typing.get_args(annotation) if argument is not type(None)]
        if len(rest) == 1 and len(typing.get_args(annotation)) == 2:
            return rest[0], True
    return annotation, False


def _is_array(annotation: Any) -> bool:
    return annotation is np.ndarray or typing.get_origin(annotation) is np.ndarray


def _dtype_of(annotation: Any) -> str | None:
    for argument in typing.get_args(annotation):
        if typing.get_origin(argument) is np.dtype:
            (scalar,) = typing.get_args(argument)
            return np.dtype(scalar).name if scalar in _SCALARS else None
    return None
