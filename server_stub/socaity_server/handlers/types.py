"""The types of the Open Inference Protocol as handlers see them: pydantic models with the names and fields of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from math import prod
from typing import Any, Self, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, ValidationError

from socaity.protocol.openinference.datatypes import TensorError, datatype
from socaity.protocol.openinference.tensors import as_array, checked_shape, nesting_of, read_json

__all__ = [
    "Datatype",
    "InferenceRequest",
    "InferenceResponse",
    "LateData",
    "MetadataTensor",
    "ModelMetadataResponse",
    "ModelReadyResponse",
    "Parameters",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "ServerLiveResponse",
    "ServerMetadataResponse",
    "ServerReadyResponse",
    "TensorData",
    "reasons_of",
]

Array: TypeAlias = np.ndarray[Any, Any]


class Datatype(StrEnum):
    """The datatypes of tensors."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"
    BF16 = "BF16"
    BYTES = "BYTES"


class _Model(BaseModel):
    # `model_name` and its like are fields of the protocol
    model_config = ConfigDict(protected_namespaces=(), arbitrary_types_allowed=True)


class Parameters(_Model):
    """`content_type` says how a tensor is to be decoded and encoded; any other parameter is an attribute too.

    `decoded_payload` is what the codec of the content type made of the tensor or request.
    """

    model_config = ConfigDict(extra="allow")
    content_type: str | None = None
    _decoded: Any = PrivateAttr(default=None)

    @property
    def decoded_payload(self) -> Any:
        """None: no content type was given."""
        return self._decoded

    def given(self) -> dict[str, Any]:
        """All that were given, by name."""
        return {name: value for name, value in self.model_dump().items() if value is not None}


class TensorData(RootModel[Any]):
    """The elements of a tensor: `root` is the list, which is iterated, indexed and measured like one."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(self.root)

    def __getitem__(self, index: Any) -> Any:
        return self.root[index]

    def __len__(self) -> int:
        return len(self.root)


class LateData(TensorData):
    """Elements that become a list when somebody first asks for one; handlers of large tensors want the array."""

    _make: Callable[[], list[Any]] = PrivateAttr()

    @classmethod
    def of(cls, make: Callable[[], list[Any]]) -> Self:
        """The elements that `make` gives."""
        found = cls.model_construct(None)
        found._make = make
        object.__delattr__(found, "root")
        return found

    def __getattr__(self, name: str) -> Any:
        if name != "root":
            return super().__getattr__(name)  # type: ignore[misc]
        found = self._make()
        object.__setattr__(self, "root", found)
        return found


class _DataTensor(_Model):
    """A tensor with its elements: a list, nested or flat, or an array."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: Parameters | None = None
    data: TensorData
    _array: Any = PrivateAttr(default=None)

    def as_numpy(self) -> Array:
        """The elements as an array of the declared shape and datatype; raises TensorError where they are not of it.

        BYTES are objects, which are `bytes`.
        """
        if self._array is None:
            self._array = _as_array(self.name, self.datatype.value, self.shape, self.data.root)
        found: Array = self._array
        return found


class RequestInput(_DataTensor):
    """An input. Its data comes as a list, nested as it was sent and in row-major order (raw data is flat); text is `str` where
    it is UTF-8, else `bytes`."""


class ResponseOutput(_DataTensor):
    """An output. Its data may be a list, nested or flat, or an array."""


class RequestOutput(_Model):
    """An output that is wanted."""

    name: str
    parameters: Parameters | None = None


class InferenceRequest(_Model):
    """What a handler is asked. Without `outputs` all are wanted."""

    id: str | None = None
    parameters: Parameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None

    def validate_oip(self) -> None:
        """Raise TensorError where there is no input, or one whose data is not of its shape and datatype."""
        if not self.inputs:
            raise TensorError("Failed to validate InferenceRequest: it has no inputs")
        for one in self.inputs:
            _validate("InferenceRequest input", one)


class InferenceResponse(_Model):
    """What a handler answers. The `id` of the request is put in where the handler gives none."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]

    def validate_oip(self) -> None:
        """Raise TensorError for an output whose data is not of its shape and datatype."""
        for one in self.outputs:
            _validate("InferenceResponse output", one)


class MetadataTensor(_Model):
    """An input or output of a model; -1 in the shape stands for any length."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadataResponse(_Model):
    """What a model takes and gives."""

    name: str
    versions: list[str] | None = None
    platform: str
    inputs: list[MetadataTensor] = Field(default_factory=list)
    outputs: list[MetadataTensor] = Field(default_factory=list)


class ModelReadyResponse(_Model):
    """Whether a model is ready."""

    name: str
    ready: bool


class ServerLiveResponse(_Model):
    """Whether the server answers requests."""

    live: bool


class ServerReadyResponse(_Model):
    """Whether the server is ready; the field has this name in aiSSEMBLE."""

    live: bool


class ServerMetadataResponse(_Model):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


def _validate(what: str, tensor: _DataTensor) -> None:
    try:
        tensor.as_numpy()
    except TensorError as exc:
        raise TensorError(f"Failed to validate {what} ({tensor.name!r}): {exc}") from exc


def reasons_of(error: ValidationError) -> str:
    """What is wrong, in one line: pydantic's own text has several, and an address."""
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}"
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _as_array(name: str, kind: str, shape: list[int], data: Any) -> Array:
    if isinstance(data, np.ndarray):
        sizes = checked_shape(name, _resolved(name, shape, data.shape))
        dtype = np.dtype(datatype(kind, name).dtype)
        is_text = kind == "BYTES" and data.dtype.kind in "OSU"
        is_bf16 = kind == "BF16" and str(data.dtype) == "bfloat16"
        if data.dtype.newbyteorder("=") != dtype and not is_text and not is_bf16:
            raise TensorError(
                f"the tensor {name!r} has the datatype {kind}, and its data is an array of {data.dtype}"
            )
        if data.shape != sizes:
            raise TensorError(
                f"the tensor {name!r} has the shape {list(sizes)}, and its data is an array of the shape {list(data.shape)}"
            )
        return as_array(name, kind, data)
    if not isinstance(data, list):
        data = list(data) if isinstance(data, tuple) else [data]
    try:
        return read_json(name, kind, checked_shape(name, _resolved(name, shape, nesting_of(data))), data)
    except TensorError:
        # only then, as it looks at every element: what numpy has put into lists, which is as good
        plain = _plain(data)
        if plain is data:
            raise
    return read_json(name, kind, checked_shape(name, _resolved(name, shape, nesting_of(plain))), plain)


def _resolved(name: str, shape: list[int], found: Sequence[int]) -> list[int]:
    """The shape with a size for each -1, out of the shape that the data has: by place, or where it is flat by its length."""
    if -1 not in shape:
        return shape
    if len(found) == len(shape):
        return [got if size == -1 else size for size, got in zip(shape, found, strict=True)]
    known = prod(size for size in shape if size != -1)
    count = prod(found)
    if shape.count(-1) > 1 or known <= 0 or count % known:
        raise TensorError(
            f"the tensor {name!r} has the shape {shape}, and its data the shape {list(found)}, which does not say how long "
            "each -1 is"
        )
    return [count // known if size == -1 else size for size in shape]


def _plain(data: Any) -> Any:
    """Lists, and numbers and text of Python, for tuples, arrays and scalars of numpy; the same object where there are none."""
    if isinstance(data, np.ndarray | np.generic):
        return data.tolist()
    if not isinstance(data, list | tuple):
        return data
    found = [_plain(one) for one in data]
    is_same = type(data) is list and all(new is old for new, old in zip(found, data, strict=True))
    return data if is_same else found
