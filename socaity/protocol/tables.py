"""Tables as columns and back: `{"columns": […], "values": [array or list, …], "types": [name or null, …], "index": …}`."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .media import MARK, TABLE
from .messagepack import DTYPES, MalformedError, packb, unpackb

__all__ = ["decode_table", "encode_table", "pack_table"]

_TIMES = re.compile(r"(?:datetime64|timedelta64)\[(?:s|ms|us|ns)(?:, [A-Za-z0-9_/+:-]{1,64})?\]")
_NAMED = frozenset(
    {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64"}
    | {"boolean", "string", "str", "category"}
)


def pandas() -> Any:
    """The module. Raises ImportError with what to install."""
    try:
        return import_module("pandas")
    except ImportError as exc:
        raise ImportError("tables need pandas: pip install pandas") from exc


def encode_table(frame: Any) -> dict[str, Any]:
    """A DataFrame in the wire form of media. Raises ValueError for an index of several levels."""
    data: dict[str, Any] = {"columns": [], "values": [], "types": []}
    if frame.columns.nlevels > 1 or frame.index.nlevels > 1:
        raise ValueError("a table with several levels of columns or index cannot be sent; use reset_index()")
    for position, name in enumerate(frame.columns):
        values, kind = _encode_column(frame.iloc[:, position])
        data["columns"].append(name.item() if hasattr(name, "item") else name)
        data["values"].append(values)
        data["types"].append(kind)
    index = frame.index
    is_counter = type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1
    if not is_counter or index.name is not None:
        values, kind = _encode_column(index.to_series())
        data["index"] = {"name": index.name, "values": values, "type": kind}
    elif not data["columns"] and len(index):
        data["index"] = {"name": None, "values": list(range(len(index))), "type": "int64"}
    return {MARK: TABLE, "data": data}


def pack_table(frame: Any) -> bytes:
    """The data of the wire form as MessagePack: what is uploaded of a large table."""
    return packb(encode_table(frame)["data"])


def _encode_column(series: Any) -> tuple[Any, str | None]:
    kind = str(series.dtype)
    if kind in DTYPES:
        return series.to_numpy(), None
    if _TIMES.fullmatch(kind):
        whole = series.dt.tz_convert("UTC").dt.tz_localize(None) if "," in kind else series
        return whole.to_numpy().view("int64"), kind
    missing = series.isna()
    values = [None if gone else _plain(value) for value, gone in zip(series, missing, strict=True)]
    return values, kind if kind in _NAMED else None


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.item() if hasattr(value, "item") else value


def decode_table(data: Any) -> Any:
    """The DataFrame of a map of columns (or of its MessagePack), of `{"name": [values]}`, or of a list of such rows.

    Raises ValueError that says what is wrong, ImportError without pandas.
    """
    if isinstance(data, (bytes, memoryview)):
        try:
            data = unpackb(data)
        except MalformedError as exc:
            raise ValueError(f"the table is broken: {exc}") from exc
    pd = pandas()
    try:
        if isinstance(data, Mapping) and data.keys() >= {"columns", "values"} and "types" in data:
            return _decode_columns(pd, data)
        is_rows = isinstance(data, list) and all(isinstance(row, Mapping) for row in data)
        is_columns = isinstance(data, Mapping) and all(hasattr(values, "__len__") for values in data.values())
        if is_rows or is_columns:
            return pd.DataFrame(data)
    except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as exc:
        raise ValueError(f"the table is broken: {str(exc)[:200]}") from exc
    raise ValueError('expected a table: a list of rows, or {"column": [values]}')


def columns_of(data: Any) -> dict[Any, Any]:
    """The same as `{"name": values}`, for those without pandas."""
    if isinstance(data, (bytes, memoryview)):
        data = unpackb(data)
    return dict(zip(data["columns"], data["values"], strict=True))


def _decode_columns(pd: Any, data: Mapping[Any, Any]) -> Any:
    names, values, types = data["columns"], data["values"], data["types"]
    if not len(names) == len(values) == len(types):
        raise ValueError(f"{len(names)} names, {len(values)} columns, {len(types)} types")
    lengths = {len(column) for column in values}
    if len(lengths) > 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)[:4]}")
    decoded = [_decode_column(pd, *pair) for pair in zip(values, types, strict=True)]
    frame = pd.concat(decoded, axis=1) if decoded else pd.DataFrame()
    index = data.get("index")
    if index is not None:
        new = pd.Index(_decode_column(pd, index["values"], index["type"]))
        frame = frame.set_index(new) if decoded else pd.DataFrame(index=new)
        frame.index.name = index["name"]
    if decoded:
        frame.columns = pd.Index(names)
    return frame


def _decode_column(pd: Any, values: Any, kind: Any) -> Any:
    if kind is None or kind in DTYPES:
        # views of what was received cannot be written to
        return pd.Series(values.copy() if hasattr(values, "dtype") else values, dtype=kind)
    if not isinstance(kind, str) or not (kind in _NAMED or _TIMES.fullmatch(kind)):
        raise ValueError(f"a column of the unknown type {str(kind)[:50]!r}")
    if kind in _NAMED:
        return pd.Series(values, dtype=kind)
    base, comma, zone = kind.rstrip("]").partition(", ")
    import numpy as np

    series = pd.Series(np.asarray(values, "int64").view(base + "]"))
    return series.dt.tz_localize("UTC").dt.tz_convert(zone) if comma else series


def read_table_file(data: bytes, media_type: str) -> Any:
    """A file of a table: CSV, JSON, or parquet where pandas can read it. Raises ValueError, ImportError."""
    pd = pandas()
    try:
        if media_type == "application/vnd.apache.parquet":
            return pd.read_parquet(io.BytesIO(data))
        if media_type in ("application/json", "application/x-ndjson"):
            return pd.read_json(io.BytesIO(data), lines=media_type != "application/json")
        return pd.read_csv(io.BytesIO(data))
    except ImportError as exc:
        raise ValueError(f"a parquet file needs pyarrow: pip install pyarrow ({exc})") from exc
    except Exception as exc:  # readers raise whatever they like for broken files
        raise ValueError(f"the table cannot be read: {type(exc).__name__}: {str(exc)[:200]}") from exc
