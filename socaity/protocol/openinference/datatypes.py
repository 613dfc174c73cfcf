"""The datatypes of the Open Inference Protocol, and what numpy calls them."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["DATATYPES", "Datatype", "TensorError", "datatype", "datatype_of"]


class TensorError(ValueError):
    """A tensor, or a request around it, is not what the protocol or the model allows. The text says which and why."""


class Datatype(NamedTuple):
    """One datatype. `dtype` is the numpy dtype of our arrays, `size` the bytes of one element on the wire (0: it varies).

    numpy has no bfloat16: BF16 is float32 here, which holds all of its values. BYTES are arrays of `bytes` objects.
    """

    name: str
    dtype: str
    size: int


DATATYPES: dict[str, Datatype] = {
    name: Datatype(name, dtype, size)
    for name, dtype, size in [
        ("BOOL", "bool", 1),
        ("UINT8", "uint8", 1),
        ("UINT16", "uint16", 2),
        ("UINT32", "uint32", 4),
        ("UINT64", "uint64", 8),
        ("INT8", "int8", 1),
        ("INT16", "int16", 2),
        ("INT32", "int32", 4),
        ("INT64", "int64", 8),
        ("FP16", "float16", 2),
        ("FP32", "float32", 4),
        ("FP64", "float64", 8),
        ("BF16", "float32", 2),
        ("BYTES", "object", 0),
    ]
}
_OF_DTYPE = {kind.dtype: name for name, kind in DATATYPES.items() if name != "BF16"} | {"bfloat16": "BF16"}


def datatype(name: object, tensor: str) -> Datatype:
    """The datatype of that name; raises TensorError that names the tensor and the known ones."""
    known = DATATYPES.get(name) if isinstance(name, str) else None
    if known is None:
        raise TensorError(
            f"the tensor {tensor!r} has an unknown datatype {str(name)[:40]!r} (known: {', '.join(DATATYPES)})"
        )
    return known


def datatype_of(dtype: Any) -> str | None:
    """The name for a numpy dtype (or its name); text and bytes are BYTES. None: there is none, as for complex numbers."""
    name = str(dtype)
    found = _OF_DTYPE.get(name)
    if found is None and name[:2] in ("<U", "|S", ">U"):
        return "BYTES"
    return found
