"""`Signature`: the inputs and outputs of a model as the protocol describes them, and whether a request fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from socaity.protocol.openinference.datatypes import DATATYPES, TensorError, datatype_of
from socaity.protocol.openinference.messages import InferRequest, RequestedOutput, Tensor
from socaity.protocol.openinference.tensors import read_raw

from ..runtimes.base import TensorSpec
from .failures import unsupported

__all__ = ["ANY_DATATYPE", "Signature", "TensorMetadata", "shape_text"]

Array: TypeAlias = np.ndarray[Any, Any]

ANY_DATATYPE = "FP32"
"""What is said of a tensor that may have any datatype: the protocol has no word for it, and most are."""
_UNKNOWN_SHAPE = (-1,)
_TEXTS = frozenset({"object", "str", "bytes"})


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output. `datatype` None: any; an axis of any length is -1; `shape` None: any rank and any lengths.

    Where calls are put together the shape has the batch axis in front.
    """

    name: str
    datatype: str | None
    shape: tuple[int, ...] | None
    optional: bool = False

    @classmethod
    def of_spec(cls, spec: TensorSpec, *, name: str | None = None) -> TensorMetadata | None:
        """From what a runtime says; None where the protocol has no such datatype."""
        kind = None
        if spec.dtype is not None:
            kind = "BYTES" if spec.dtype in _TEXTS else datatype_of(spec.dtype)
            if kind is None:
                return None
        shape = None if spec.shape is None else tuple(-1 if size is None else size for size in spec.shape)
        return cls(spec.name if name is None else name, kind, shape)

    def document(self) -> dict[str, Any]:
        """As in the metadata of a model."""
        return {
            "name": self.name,
            "datatype": self.datatype or ANY_DATATYPE,
            "shape": list(_UNKNOWN_SHAPE if self.shape is None else self.shape),
        }

    def check(self, tensor: Tensor, model: str) -> Array:
        """The data of a tensor that was sent for this one; raises TensorError."""
        if tensor.data is None:
            raise unsupported("shared memory regions")
        if tensor.datatype != self.datatype and self.datatype is not None:
            raise TensorError(
                f"inference input {self.name!r} data-type is {tensor.datatype!r}, but model {model!r} expects "
                f"{self.datatype!r}"
            )
        expected, got = self.shape, tensor.data.shape
        if expected is not None and (
            len(expected) != len(got)
            or any(size != -1 and size != found for size, found in zip(expected, got, strict=True))
        ):
            raise TensorError(
                f"unexpected shape for input {self.name!r} for model {model!r}. Expected {shape_text(expected)}, "
                f"got {shape_text(got)}"
            )
        return tensor.data


class Signature:
    """The inputs and outputs of the model `model`. Without `knows_outputs` they are known only when it has run.

    With a `max_batch_size` above 0 every tensor has a batch axis in front, of any length.
    """

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorMetadata],
        outputs: Sequence[TensorMetadata],
        *,
        max_batch_size: int = 0,
        knows_outputs: bool = True,
    ) -> None:
        self.model = model
        self.inputs = {one.name: one for one in inputs}
        self.outputs = {one.name: one for one in outputs}
        self.max_batch_size = max_batch_size
        self.knows_outputs = knows_outputs
        self._required = sum(not one.optional for one in inputs)

    @property
    def has_batch_axis(self) -> bool:
        """Whether requests are put together along their first axis."""
        return self.max_batch_size > 0

    def arrays(self, request: InferRequest) -> dict[str, Array]:
        """The inputs of a request by name; raises TensorError that says what does not fit."""
        if request.raw is not None:
            return self._raw(request.raw)
        inputs, found = self.inputs, {}
        for tensor in request.inputs:
            metadata = inputs.get(tensor.name)
            if metadata is None:
                raise TensorError(
                    f"unexpected inference input {tensor.name!r} for model {self.model!r}; its inputs are "
                    f"{', '.join(inputs)}"
                )
            found[tensor.name] = metadata.check(tensor, self.model)
        if len(found) < self._required or (
            self._required != len(inputs) and any(one not in found for one in self._names_required())
        ):
            raise self._missing(len(found), [one for one in self._names_required() if one not in found])
        return found

    def check_wanted(self, wanted: Sequence[RequestedOutput] | None) -> None:
        """What can be said of requested outputs before the model runs: raises TensorError, and the error 501 for shared
        memory."""
        if wanted is None:
            return
        if self.knows_outputs:
            self.check_outputs(wanted, self.outputs)
        for output in wanted:
            if "shared_memory_region" in output.parameters:
                raise unsupported("shared memory regions")
            classes = output.parameters.get("classification")
            if classes and (type(classes) is not int or classes < 0):
                raise TensorError(
                    f"classification of the output {output.name!r} is a number of classes, not {classes!r}"
                )

    def check_outputs(self, wanted: Sequence[RequestedOutput] | None, known: Mapping[str, Any]) -> None:
        """Raises TensorError for a requested output that is not among the known ones."""
        for output in wanted or ():
            if output.name not in known:
                raise TensorError(
                    f"unexpected inference output {output.name!r} for model {self.model!r}; its outputs are "
                    f"{', '.join(known) or 'none'}"
                )

    def rows(self, arrays: Mapping[str, Array]) -> int:
        """The length of the batch axis; raises TensorError where the inputs do not agree."""
        rows = -1
        first = ""
        for name, array in arrays.items():
            if not array.ndim:
                raise TensorError(
                    f"input {name!r} of model {self.model!r} needs a batch axis; got the shape []"
                )
            if rows < 0:
                rows, first = array.shape[0], name
            elif array.shape[0] != rows:
                raise TensorError(
                    f"the inputs of model {self.model!r} must have one batch size; {first!r} has {rows} rows and "
                    f"{name!r} {array.shape[0]}"
                )
        return rows

    def _names_required(self) -> list[str]:
        return [one.name for one in self.inputs.values() if not one.optional]

    def _missing(self, got: int, names: Sequence[str]) -> TensorError:
        count = len(self.inputs)
        if self._required == count:
            expected = f"expected {count} inputs but got {got} inputs"
        else:
            expected = f"expected number of inputs between {self._required} and {count} but got {got}"
        return TensorError(f"{expected} for model {self.model!r}; missing: {', '.join(names)}")

    def _raw(self, raw: memoryview) -> dict[str, Array]:
        """The only input of a request that is nothing but its data."""
        if len(self.inputs) != 1:
            raise TensorError(
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(self.inputs)} inputs in "
                f"{self.model!r} model configuration"
            )
        (metadata,) = self.inputs.values()
        name, kind = metadata.name, metadata.datatype
        item = _UNKNOWN_SHAPE if metadata.shape is None else metadata.shape[1 if self.has_batch_axis else 0 :]
        batch = (1,) if self.has_batch_axis else ()
        if kind is None:
            raise TensorError(
                f"The datatype of the raw input {name!r} can not be deduced: model {self.model!r} takes any"
            )
        if kind == "BYTES":
            if item not in ((), (1,), _UNKNOWN_SHAPE):
                raise TensorError(
                    f"For BYTE datatype raw input {name!r}, the model must have input shape [1]; it is "
                    f"{shape_text(item)}"
                )
            text = np.empty(1, object)
            text[0] = bytes(raw)
            return {name: text.reshape(batch) if item == () else text.reshape((*batch, 1))}
        free = item.count(-1)
        if free > 1:
            raise TensorError(
                f"The shape of the raw input {name!r} can not be deduced because there are more than one variable-sized "
                "dimension"
            )
        size = DATATYPES[kind].size
        for known in item:
            size *= 1 if known == -1 else known
        if free and (not size or len(raw) % size):
            raise TensorError(
                f"The raw input {name!r} ({kind} {shape_text(item)}) takes a multiple of {size} bytes; got {len(raw)}"
            )
        shape = tuple(len(raw) // size if one == -1 else one for one in item)
        return {name: read_raw(name, kind, (*batch, *shape), raw)}


def shape_text(shape: Sequence[int]) -> str:
    """A shape in an error text."""
    return f"[{','.join(map(str, shape))}]"
