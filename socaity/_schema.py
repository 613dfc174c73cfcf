"""Checks of arguments, compiled once per endpoint from its description. A check gives what is sent, or raises ValueError.

The part of JSON Schema 2020-12 that signatures are made of: type, enum, const, bounds, lengths, pattern, items,
prefixItems, properties, required, additionalProperties, anyOf, oneOf, allOf and $ref within the schema. What is not
known is let through: the server checks again.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache, partial
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

from ._checked_references import CheckedReferences
from ._group import JobGroup
from ._job import Job, JobReference
from ._media import as_media, size_of
from .protocol.description import EndpointDescription, ParameterDescription, TensorDescription
from .protocol.media import Media

Check = Callable[[Any], Any]

_MAX_REASON = 2_000
_ARRAY_PROTOCOLS = ("__array__", "__array_interface__", "__dlpack__")
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})


class UnfinishedError(Exception):
    """A value is a Job or holds one, so that it can be checked only when that has ended. (No ValueError: no option of
    an `anyOf` may swallow it.)"""

    def __init__(self, arguments: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.arguments = arguments or {}
        """Of a whole call: those that are finished are checked, the others are as they were given."""


def compile_check(parameter: ParameterDescription, endpoint: EndpointDescription) -> Check:
    """The check of one parameter."""
    if parameter.tensor is not None:
        tensor_check = _array_check(parameter.tensor, endpoint)
        if parameter.required or parameter.default is not None:
            return tensor_check
        return lambda value: None if value is None else tensor_check(value)
    if parameter.location == "file":
        return _upload_check
    schema = parameter.json_schema
    references = CheckedReferences(schema, _compile)
    check = references.whole(_compile(schema, references))
    if parameter.required or parameter.default is not None:
        return check
    return lambda value: None if value is None else check(value)


def plain(value: Any) -> Any:
    """Models, dataclasses, enums and media as plain values, also inside of lists and mappings; everything else as it is.

    Raises UnfinishedError for a Job, and ValueError for a key that has no form on the wire.
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list or kind is tuple:
        return value if _ATOMS.issuperset(map(type, value)) else [plain(item) for item in value]
    if isinstance(value, dict):
        if _ATOMS.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values())):
            return value
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (Job, JobReference, JobGroup)):
        raise UnfinishedError
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Media):
        return value.to_wire()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return plain(dict(value))
    dump = getattr(value, "model_dump", None)
    if dump is not None and hasattr(value, "model_fields_set"):
        return plain(dump(mode="python", warnings=False))  # it may hold a job where it wants a value
    return as_media(value)


def _key(key: Any) -> Any:
    if isinstance(key, (Job, JobReference, JobGroup)):
        raise ValueError("a mapping has a job as its key; a job may stand for a value only")
    key = plain(key)
    if isinstance(key, (str, int, float, bytes, type(None))):
        return key
    raise ValueError(f"a mapping has the key {_describe(key)}; only text and numbers can be keys")


def _describe(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '…'}"


def _compile(schema: Mapping[str, Any] | bool, references: CheckedReferences) -> Check:
    if schema is False:
        return _refuse("nothing is allowed here")
    if schema is True or not schema:
        return plain
    if "$ref" in schema:
        return references.check(str(schema["$ref"]))
    if "x-media" in schema:
        return _media_check(str(schema["x-media"]))
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return _any_of([_compile(option, references) for option in schema[word]], schema[word])
    checks: list[Check] = [_compile(option, references) for option in schema.get("allOf", ())]
    if "enum" in schema:
        checks.append(_one_of(list(schema["enum"])))
    if "const" in schema:
        checks.append(_one_of([schema["const"]]))
    kinds = schema.get("type")
    if isinstance(kinds, list):
        checks.append(
            _any_of(
                [_of_type(kind, schema, references) for kind in kinds], [{"type": kind} for kind in kinds]
            )
        )
    elif kinds is not None:
        checks.append(_of_type(kinds, schema, references))
    if not checks:
        return plain
    return checks[0] if len(checks) == 1 else _chain(checks)


def _refuse(why: str) -> Check:
    def check(value: Any) -> Any:
        raise ValueError(why)

    return check


def _chain(checks: Sequence[Check]) -> Check:
    def check(value: Any) -> Any:
        for one in checks:
            value = one(value)
        return value

    return check


def _any_of(checks: Sequence[Check], options: Sequence[Any]) -> Check:
    takes_text = {"type": "string"} in options

    def check(value: Any) -> Any:
        if takes_text and isinstance(value, str):
            return value  # and no path or address, even if media are welcome as well: a stranger may have written it
        reasons = []
        for one in checks:
            try:
                return one(value)
            except ValueError as exc:
                reasons.append(str(exc))
        why = " or ".join(dict.fromkeys(reasons))
        raise ValueError(why if len(why) <= _MAX_REASON else f"{why[:_MAX_REASON]}…")

    return check


def _one_of(allowed: list[Any]) -> Check:
    def check(value: Any) -> Any:
        value = plain(value)
        for one in allowed:
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return value
        raise ValueError(f"expected one of {', '.join(map(repr, allowed))}, got {_describe(value)}")

    return check


def _of_type(kind: str, schema: Mapping[str, Any], references: CheckedReferences) -> Check:
    match kind:
        case "string":
            return _string(schema)
        case "integer" | "number":
            return _number(kind, schema)
        case "boolean":
            return _boolean
        case "null":
            return _null
        case "array":
            return _array(schema, references)
        case "object":
            return _object(schema, references)
        case _:
            return plain


def _boolean(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise ValueError(f"expected true or false, got {_describe(value)}")


def _null(value: Any) -> Any:
    if plain(value) is None:
        return None
    raise ValueError(f"expected None, got {_describe(value)}")


def _string(schema: Mapping[str, Any]) -> Check:
    if (
        schema.get("format") in ("binary", "base64", "byte")
        or "contentEncoding" in schema
        or "contentMediaType" in schema
    ):
        return _bytes
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    pattern = _pattern(schema.get("pattern"))

    def check(value: Any) -> Any:
        if type(value) is not str:
            value = str(value) if isinstance(value, PathLike) or _is_text_like(value) else plain(value)
        if not isinstance(value, str):
            raise ValueError(f"expected a string, got {_describe(value)}")
        if len(value) < low or (high is not None and len(value) > high):
            raise ValueError(
                f"expected {low} to {'any number of' if high is None else high} characters, got {len(value)}"
            )
        if pattern is not None and not pattern.search(value):
            raise ValueError(f"expected a string that matches {pattern.pattern!r}, got {_describe(value)}")
        return value

    return check


def _pattern(text: Any) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, TypeError):  # regular expressions of ECMAScript know words that ours do not
        return None


def _is_text_like(value: Any) -> bool:
    return type(value).__module__ in ("datetime", "uuid", "decimal", "pydantic.networks")


def _media_check(kind: str) -> Check:
    from ._media import media_check

    return media_check(kind, unfinished=plain)


def _upload_check(value: Any) -> Any:
    """A file for a foreign service: pictures, sound and tables as (name, bytes, media type); what is a file as it is."""
    if isinstance(value, list):
        return [_upload_check(item) for item in value]
    from ._media import as_file

    found = as_file(value)
    return plain(value) if found is None else found


def _bytes(value: Any) -> Any:
    """Bytes, a path or an open file; text is taken for base64."""
    if isinstance(value, (bytes, str)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, PathLike):
        return Path(value).read_bytes()
    if isinstance(value, io.IOBase):
        data = value.read()
        return data.encode() if isinstance(data, str) else data
    raise ValueError(f"expected bytes, a path or an open file, got {_describe(plain(value))}")


def _number(kind: str, schema: Mapping[str, Any]) -> Check:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(above, bool):  # OpenAPI 3.0: true makes `minimum` exclusive
        low, above = (None, low) if above else (low, None)
    if isinstance(below, bool):
        high, below = (None, high) if below else (high, None)
    bounds = " and ".join(
        f"{sign} {bound}"
        for sign, bound in ((">=", low), (">", above), ("<=", high), ("<", below))
        if bound is not None
    )
    step = schema.get("multipleOf")

    def check(value: Any) -> Any:
        exact = type(value)
        if exact is not int and exact is not float:
            value = plain(value)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(
                    f"expected {'an integer' if kind == 'integer' else 'a number'}, got {_describe(value)}"
                )
            value = int(value) if isinstance(value, Integral) else float(value)
        if kind == "integer" and type(value) is float:
            if not value.is_integer():
                raise ValueError(f"expected an integer, got {_describe(value)}")
            value = int(value)
        if bounds and (
            (low is not None and value < low)
            or (high is not None and value > high)
            or (above is not None and value <= above)
            or (below is not None and value >= below)
        ):
            raise ValueError(f"expected a number {bounds}, got {value}")
        if step and not _is_multiple(value, step):
            raise ValueError(f"expected a multiple of {step}, got {value}")
        return value

    return check


def _is_multiple(value: float, step: float) -> bool:
    if type(value) is int and type(step) is int:
        return value % step == 0
    if not math.isfinite(value):
        return False
    # 0.3 is no exact multiple of 0.1; in doubt the value is let through, the server checks again
    return abs(math.remainder(value, step)) <= 1e-9 * max(abs(value), abs(step))


def _array(schema: Mapping[str, Any], references: CheckedReferences) -> Check:
    firsts = [_compile(item, references) for item in schema.get("prefixItems", ())]
    each = _compile(schema.get("items", True), references)
    low, high = schema.get("minItems", 0), schema.get("maxItems")

    def check(value: Any) -> Any:
        if hasattr(value, "tolist") and hasattr(value, "dtype"):
            return value
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (Sequence, set, frozenset)):
            raise ValueError(f"expected a list, got {_describe(plain(value))}")
        if len(value) < low or (high is not None and len(value) > high):
            raise ValueError(
                f"expected {low} to {'any number of' if high is None else high} items, got {len(value)}"
            )
        checked = []
        for index, item in enumerate(value):
            try:
                checked.append(firsts[index](item) if index < len(firsts) else each(item))
            except ValueError as exc:
                raise ValueError(f"[{index}]: {exc}") from None
        return checked

    return check


def _object(schema: Mapping[str, Any], references: CheckedReferences) -> Check:
    properties = {name: _compile(part, references) for name, part in schema.get("properties", {}).items()}
    required = list(schema.get("required", ()))
    rest = schema.get("additionalProperties", True)
    each = _compile(rest, references) if rest is not False else None

    def check(value: Any) -> Any:
        value = plain(value)
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping, got {_describe(value)}")
        missing = [name for name in required if name not in value]
        if missing:
            raise ValueError(f"missing {', '.join(map(repr, missing))}")
        checked = {}
        for name, item in value.items():
            one = properties.get(name, each)
            if one is None:
                raise ValueError(f"unknown key {name!r} (known: {', '.join(properties) or 'none'})")
            try:
                checked[_key(name)] = one(item)
            except ValueError as exc:
                raise ValueError(f"[{name!r}]: {exc}") from None
        return checked

    return check


def _array_check(tensor: TensorDescription, endpoint: EndpointDescription) -> Check:
    """Text goes to models as text; numbers as arrays. A model that does not say what it takes may want either."""
    if tensor.dtype not in (None, "object") or (tensor.dtype is None and not endpoint.direct):
        return _tensor_check(tensor, endpoint.batched)
    from ._text_arrays import holds_text, text_array_check

    text_check = text_array_check(tensor, endpoint.batched, plain)
    if tensor.dtype is not None:
        return text_check
    number_check = _tensor_check(tensor, endpoint.batched)
    return lambda value: text_check(value) if holds_text(value) else number_check(value)


def _tensor_check(tensor: TensorDescription, batched: bool) -> Check:
    """Arrays of the right dtype and shape as they are, others of a fitting kind cast, lists as arrays if numpy is there."""
    want, item = tensor.dtype, None if tensor.shape is None else tuple(tensor.shape)
    fixed = item is not None and None not in item
    rank = None if item is None else len(item)
    is_one = item is not None and bool(item) and set(item) == {1}

    def expected() -> str:
        dims = "any shape" if item is None else _shape_text(item)
        if batched and item is not None:
            dims += f" or {_shape_text(('n', *item))}"
        return f"{want or 'any dtype'} {dims}"

    def fits(shape: tuple[int, ...]) -> bool:
        if item is None:
            return True
        if len(shape) == rank:
            return all(w is None or w == g for w, g in zip(item, shape, strict=True))
        if batched and len(shape) == rank + 1:  # type: ignore[operator]
            return all(w is None or w == g for w, g in zip(item, shape[1:], strict=True))
        return False

    known: dict[Any, bool] = {}

    def check(value: Any) -> Any:
        try:
            dtype, shape = value.dtype, value.shape
        except AttributeError:
            return from_plain(value)
        if type(value).__module__ != "numpy":
            is_column = batched and item == (1,) and type(value).__module__.partition(".")[0] == "pandas"
            value = _to_numpy(value)
            if is_column and value.ndim == 1:
                value = value[:, None]
            dtype, shape = value.dtype, value.shape
        if shape == () and is_one:  # a number for an array that has room for just one
            value, shape = value.reshape(item), item
        if not (shape == item if fixed else False) and not fits(shape):
            raise ValueError(f"expected {expected()}, got {dtype} {_shape_text(shape)}")
        right = known.get(dtype)
        if right is None:
            right = known[dtype] = want is None or dtype.name == want
        return value if right else _cast(value, want, expected)

    def from_plain(value: Any) -> Any:
        if isinstance(value, memoryview):
            if value.ndim and value.format in "bBhHiIqQfd?":
                return check(_to_numpy(value))
            raise ValueError(f"expected {expected()}, got a memoryview of format {value.format!r}")
        if size_of(value) is None:  # a picture or table is an array here
            value = plain(value)
        if isinstance(value, PathLike):
            return check(_load_array(Path(value)))
        if isinstance(value, (str, bytes, Mapping)) or value is None:
            raise ValueError(f"expected {expected()}, got {_describe(value)}")
        if not isinstance(value, Sequence) and any(map(partial(hasattr, value), _ARRAY_PROTOCOLS)):
            return check(_to_numpy(value))
        shape = _nested_shape(value, expected)
        if shape == () and is_one:
            value, shape = _nested(value, len(item or ())), (1,) * len(item or ())
        if not fits(shape):
            raise ValueError(f"expected {expected()}, got nested lists {_shape_text(shape)}")
        return check(_to_numpy(value)) if _has_numpy() else value

    return check


@cache
def _has_numpy() -> bool:
    return importlib.util.find_spec("numpy") is not None


def _to_numpy(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "detach"):  # a torch tensor, wherever it lives
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has none; a float holds all of its values
            value = value.float()
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    if hasattr(value, "mask") and np.ma.is_masked(value):
        raise ValueError(
            "expected an array of which all counts, got one with masked elements; give array.filled(…) with what stands "
            "for them"
        )
    return np.asarray(value)


def _load_array(path: Path) -> Any:
    """The array in a `.npy` file; its bytes are read when they are sent."""
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as exc:
        raise ValueError(f"{path} cannot be read: {exc.strerror or exc}") from exc
    except (ValueError, EOFError) as exc:
        raise ValueError(f"{path} is not a .npy file with an array of numbers: {exc}") from exc


def _cast(array: Any, want: str | None, expected: Callable[[], str]) -> Any:
    import numpy as np

    target = np.dtype(want)
    if not array.size:
        return array.astype(target)
    if np.can_cast(array.dtype, target, "same_kind") or (array.dtype.kind in "iub" and target.kind in "fc"):
        if array.dtype.kind in "iu" and target.kind in "iu":
            bounds = np.iinfo(target)
            if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
                raise ValueError(
                    f"expected {expected()}, got {array.dtype} values outside {bounds.min} … {bounds.max}"
                )
        with np.errstate(over="ignore"):
            cast = array.astype(target)
        if target.kind in "fc" and not np.can_cast(array.dtype, target):
            is_infinite = np.isinf(cast)
            if is_infinite.any() and np.isfinite(array[is_infinite]).any():
                raise ValueError(f"expected {expected()}, got {array.dtype} values that are too large for it")
        return cast
    if array.dtype.kind in "iu" and target.kind in "iu":
        bounds = np.iinfo(target)
        if int(array.min()) >= bounds.min and int(array.max()) <= bounds.max:
            return array.astype(target)
        raise ValueError(
            f"expected {expected()}, got {array.dtype} values outside {bounds.min} … {bounds.max}"
        )
    raise ValueError(f"expected {expected()}, got {array.dtype} {_shape_text(array.shape)}")


def _shape_text(shape: Sequence[Any]) -> str:
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _nested_shape(value: Any, expected: Callable[[], str]) -> tuple[int, ...]:
    if isinstance(value, (str, bytes)) or value is None:
        raise ValueError(f"expected {expected()}, got {_describe(value)} inside")
    if not isinstance(value, Sequence):
        return tuple(getattr(value, "shape", ()))
    if not value:
        return (0,)
    shapes = {_nested_shape(item, expected) for item in value}
    if len(shapes) > 1:
        raise ValueError(f"expected {expected()}, got rows of different lengths")
    return (len(value), *shapes.pop())
