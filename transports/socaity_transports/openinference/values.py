"""Arguments -> the tensors of a request, and the tensors of an answer -> a value; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from socaity.exceptions import InvalidInputError, ProtocolError
from socaity.protocol.openinference.datatypes import TensorError, datatype_of
from socaity.protocol.openinference.messages import InferResponse, Parameters, Tensor
from socaity.protocol.openinference.tensors import as_array

from .models import Model, TensorMetadata

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["read_value", "split_arguments", "write_inputs"]


def split_arguments(model: Model, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], Parameters]:
    """The inputs that were given, and the parameters of the request."""
    inputs = {name: value for name, value in arguments.items() if value is not None}
    parameters = inputs.pop(model.options_name, None)
    return inputs, dict(parameters or {})


def write_inputs(model: Model, inputs: Mapping[str, Any]) -> tuple[list[Tensor], bool]:
    """The tensors, and whether they are one item that came without its batch axis. Raises InvalidInputError."""
    arrays: dict[str, Array] = {}
    lacking: set[str] = set()
    metadata: dict[str, TensorMetadata] = {}
    for name, value in inputs.items():
        known = model.inputs.get(name)
        if known is None and model.inputs:
            raise InvalidInputError(f"{model.endpoint.name}() has no input {name!r}", parameter=name)
        try:
            _refuse_masked(value)
            declared = known if known is not None and known.datatype else _guessed(known, name, value)
            array = (
                _as_text(model, declared, value)
                if declared.datatype == "BYTES"
                else _as_numbers(declared, value)
            )
        except (TensorError, TypeError, ValueError) as exc:
            raise InvalidInputError(f"{model.endpoint.name}({name}=…): {exc}", parameter=name) from exc
        if known is not None and model.has_batch_axis and array.ndim == len(known.shape or ()) - 1:
            lacking.add(name)
        arrays[name], metadata[name] = array, declared
    is_single = bool(arrays) and len(lacking) == len(arrays)
    for name in lacking:
        arrays[name] = arrays[name][None]
    _check_rows(model, arrays, lacking)
    for name, array in arrays.items():
        if name in model.inputs and not model.inputs[name].takes(array.shape):
            raise InvalidInputError(
                f"{model.endpoint.name}({name}=…): expected {model.inputs[name].text}, got {metadata[name].datatype} "
                f"{list(array.shape)}",
                parameter=name,
            )
    tensors = [
        Tensor(metadata[name].name, metadata[name].datatype, array.shape, array)
        for name, array in arrays.items()
    ]
    return tensors, is_single


def read_value(model: Model, response: InferResponse, *, is_single: bool) -> Any:
    """The value of an answer: that of its only output, or a mapping of all by name. Raises ProtocolError.

    The only output may have another name than the model says: MLServer's MLflow models declare output-0 and give output-1.
    None where it is missing: our functions that give None answer so.
    """
    values = {
        one.name: _read_output(model, model.outputs.get(one.name), one, is_single=is_single)
        for one in response.outputs
    }
    if len(values) <= 1 and len(model.outputs) <= 1:
        return next(iter(values.values()), None)
    return values


# -- inputs -----------------------------------------------------------------------------------------------------------


def _refuse_masked(value: Any) -> None:
    """What is behind the mask would be sent as if it counted."""
    if not hasattr(value, "mask"):  # nearly always, and the look at it loads numpy.ma
        return
    import numpy as np

    if np.ma.is_masked(value):
        raise TensorError(
            "some elements of the array are masked, and the protocol has no masks; give array.filled(…) with what "
            "stands for them"
        )


def _guessed(known: TensorMetadata | None, name: str, value: Any) -> TensorMetadata:
    """What an input is of which the model does not say the datatype: that of the array."""
    import numpy as np

    name, shape = (name, None) if known is None else (known.name, known.shape)
    if isinstance(value, str | bytes):
        return TensorMetadata(name, "BYTES", shape)
    array = np.asarray(value)
    first = array.reshape(-1)[0] if array.dtype.kind == "O" and array.size else ""
    if not isinstance(first, str | bytes):
        raise TensorError(
            f"a {type(first).__name__} has no datatype here; give numbers, text or an array of a dtype"
        )
    kind = datatype_of(array.dtype.newbyteorder("="))
    if kind is None:
        raise TensorError(f"an array of {array.dtype} has no datatype in this protocol")
    return TensorMetadata(name, kind, shape)


def _as_numbers(declared: TensorMetadata, value: Any) -> Array:
    return as_array(declared.name, declared.datatype, value)


def _as_text(model: Model, declared: TensorMetadata, value: Any) -> Array:
    """Text as an array of objects. One text is the only element of an item that may have one; a list of them for a tensor
    of rows with one text each is a column."""
    import numpy as np

    if isinstance(value, str | bytes | bytearray | memoryview):
        array = np.empty((), object)
        array[()] = value if isinstance(value, str) else bytes(value)
        shape = (1,) if declared.shape is None else declared.shape
        item = shape[1:] if model.has_batch_axis else shape
        return array.reshape((1,) * len(item)) if all(size in (1, -1) for size in item) else array
    # an array of bytes would lose the zeros at their ends
    array = np.asarray(value) if hasattr(value, "dtype") else np.array(value, dtype=object)
    if array.dtype.kind not in "OSU":
        raise TensorError(f"expected text (BYTES), got {array.dtype}")
    for one in array.reshape(-1).tolist() if array.dtype.kind == "O" else ():
        if not isinstance(one, str | bytes):
            raise TensorError(f"expected text or bytes in every element, got {type(one).__name__}")
    if declared.shape == (-1, 1) and array.ndim == 1:
        return array[:, None]
    return array


def _check_rows(model: Model, arrays: Mapping[str, Array], lacking: set[str]) -> None:
    if not model.has_batch_axis:
        return
    rows = {name: array.shape[0] for name, array in arrays.items() if array.ndim}
    if len(set(rows.values())) > 1:
        said = ", ".join(
            f"{name} {'one item' if name in lacking else f'{count} rows'}" for name, count in rows.items()
        )
        raise InvalidInputError(
            f"{model.endpoint.name}(): all inputs need the same number of rows; got {said}",
            parameter=next(iter(lacking), next(iter(rows))),
        )


# -- outputs ----------------------------------------------------------------------------------------------------------


def _read_output(model: Model, declared: TensorMetadata | None, tensor: Tensor, *, is_single: bool) -> Any:
    if tensor.data is None:
        raise ProtocolError(
            f"the model {model.name!r} answered without the data of its output {tensor.name!r}"
        )
    array = tensor.data
    shape = declared.shape if declared is not None else None
    if is_single and shape is not None and shape[:1] == (-1,) and array.shape[:1] == (1,):
        array, shape = array[0:1].reshape(array.shape[1:]), shape[1:]
    if tensor.datatype != "BYTES":
        if not array.flags.writeable:  # a view of bytes that gRPC has read
            array = array.copy()
        return array if array.ndim or not is_single else array[()]
    texts = _decoded(array)
    if texts.size == 1 and shape is not None and all(size == 1 for size in shape):
        return texts.reshape(-1)[0]
    return texts


def _decoded(array: Array) -> Array:
    """Elements as text if all of them are UTF-8, otherwise as the bytes that they are."""
    import numpy as np

    texts = np.empty(array.size, object)
    elements = array.reshape(-1).tolist()
    try:
        texts[:] = [one.decode() if isinstance(one, bytes) else str(one) for one in elements]
    except UnicodeDecodeError:
        texts[:] = elements
    return texts.reshape(array.shape)
