"""What a model says of itself -> a `Model`, which knows its endpoint and how tensors are called there; pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from socaity.exceptions import ProtocolError
from socaity.protocol.description import EndpointDescription, ParameterDescription, TensorDescription
from socaity.protocol.openinference.datatypes import DATATYPES

__all__ = ["Model", "TensorMetadata", "read_model"]

_MAX_TENSORS = 10_000
_PROPERTIES = ("any_datatype", "any_shape", "decoupled", "optional")
_PARAMETERS_SCHEMA = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": ["boolean", "integer", "number", "string"]}},
        {"type": "null"},
    ]
}
_TEXT_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "string", "format": "binary"}, {"type": "array", "items": {}}]
}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """One declared tensor; -1 in the shape is a dimension of any size.

    An empty datatype is any, and a shape that is None as well: the protocol has no words for it, our server has.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None
    is_optional: bool = False

    @property
    def text(self) -> str:
        return (
            f"{self.datatype or 'any datatype'} {'of any shape' if self.shape is None else list(self.shape)}"
        )

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape is one."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(want in (-1, got) for want, got in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Model:
    """A model, or one version of it (an empty `version`: the server picks). `versions` are those that there are, as it says.

    `inputs` are by the name of the argument; it has none where the model does not say what it takes. `has_batch_axis`: the
    first axis of all inputs may have any size, the same for all. `options_name` is the argument for the parameters of a
    request.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    inputs: Mapping[str, TensorMetadata]
    outputs: Mapping[str, TensorMetadata]
    has_batch_axis: bool
    is_decoupled: bool
    options_name: str
    endpoint: EndpointDescription


def read_model(
    metadata: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    *,
    endpoint: str,
    name: str,
    version: str = "",
    streams: bool = False,
) -> Model:
    """The model that the metadata, and the configuration if there is one, describe. Raises ProtocolError."""
    config = config or {}
    properties = _properties(metadata)
    optional = properties["optional"] | {
        str(one.get("name"))
        for one in config.get("input") or ()
        if isinstance(one, Mapping) and one.get("optional")
    }
    inputs = _by_argument(
        [
            TensorMetadata(
                one.name,
                "" if one.name in properties["any_datatype"] else one.datatype,
                None if one.name in properties["any_shape"] else one.shape,
                one.name in optional,
            )
            for one in _read_tensors(name, metadata, "inputs")
        ]
    )
    outputs = {one.name: one for one in _read_tensors(name, metadata, "outputs")}
    policy = config.get("model_transaction_policy")
    is_decoupled = (
        streams
        or "true" in properties["decoupled"]
        or (isinstance(policy, Mapping) and bool(policy.get("decoupled")))
    )
    # where the model does not batch, one input may be longer than another; one that says nothing has to be guessed
    has_batch_axis = (
        config.get("max_batch_size") != 0
        and bool(inputs)
        and all((one.shape or ())[:1] == (-1,) for one in inputs.values())
    )
    options_name = _free("parameters", inputs)
    parameters = [
        _parameter(argument, one, has_batch_axis)
        for argument, one in sorted(inputs.items(), key=lambda item: item[1].is_optional)
    ]
    parameters.append(
        ParameterDescription(
            name=options_name,
            required=False,
            json_schema=_PARAMETERS_SCHEMA,
            description="Parameters of the request, which the server or the model may know.",
        )
    )
    if not inputs:
        parameters.append(
            ParameterDescription(name="inputs", required=False, variadic=True, description="Inputs by name.")
        )
    described = EndpointDescription(
        name=endpoint,
        path=name,
        doc=_doc(metadata, name, version, outputs, is_decoupled=is_decoupled),
        parameters=parameters,
        returns=_returns(outputs, has_batch_axis=has_batch_axis),
        streaming=is_decoupled,
        batched=has_batch_axis,
        direct=True,
        idempotent=not is_decoupled,
    )
    versions = metadata.get("versions")
    return Model(
        name,
        version,
        tuple(map(str, versions)) if isinstance(versions, list) else (),
        inputs,
        outputs,
        has_batch_axis,
        is_decoupled,
        options_name,
        described,
    )


def _properties(metadata: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """What our server says besides: names with commas between them."""
    given = metadata.get("properties")
    found = given if isinstance(given, Mapping) else {}
    return {key: frozenset(str(found.get(key, "")).split(",")) for key in _PROPERTIES}


def _read_tensors(model: str, metadata: Mapping[str, Any], key: str) -> list[TensorMetadata]:
    entries = metadata.get(key) or []
    if not isinstance(entries, list) or len(entries) > _MAX_TENSORS:
        raise ProtocolError(f"the model {model!r} describes its {key} with something that is not a list")
    found: list[TensorMetadata] = []
    for entry in entries:
        shape = entry.get("shape") if isinstance(entry, Mapping) else None
        if (
            not isinstance(shape, list)
            or not all(type(size) is int for size in shape)
            or not isinstance(entry.get("name"), str)
            or not isinstance(entry.get("datatype"), str)
        ):
            raise ProtocolError(
                f"the model {model!r} describes one of its {key} in a form that is not known; a name, a datatype and "
                "a shape are expected"
            )
        sizes = tuple(max(size, -1) for size in shape)
        found.append(TensorMetadata(entry["name"], entry["datatype"].upper(), sizes))
    return found


def _by_argument(tensors: list[TensorMetadata]) -> dict[str, TensorMetadata]:
    """By a name that is one in Python; a name that is one already stays as it is."""
    taken = {one.name for one in tensors if _is_argument(one.name)}
    found: dict[str, TensorMetadata] = {}
    for one in tensors:
        argument = one.name
        if not _is_argument(argument):
            argument = _free(_identifier(argument), taken)
            taken.add(argument)
        found[argument] = one
    return found


def _is_argument(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


def _identifier(name: str) -> str:
    found = re.sub(r"\W+", "_", name).strip("_") or "input"
    found = f"_{found}" if found[0].isdigit() else found
    return f"{found}_" if keyword.iskeyword(found) else found


def _free(name: str, taken: Mapping[str, Any] | set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _parameter(argument: str, tensor: TensorMetadata, has_batch_axis: bool) -> ParameterDescription:
    described = ParameterDescription(
        name=argument,
        required=not tensor.is_optional,
        description=tensor.text if argument == tensor.name else f"{tensor.text}, the tensor {tensor.name!r}",
    )
    kind = DATATYPES.get(tensor.datatype)
    if not tensor.datatype:
        shape = _item_shape(tensor.shape, has_batch_axis=has_batch_axis)
        described.tensor = TensorDescription(dtype=None, shape=shape)
        return described
    if kind is None:  # whoever calls it learns which datatypes are known
        return described
    if kind.name == "BYTES":
        described.json_schema = _TEXT_SCHEMA
        return described
    described.tensor = TensorDescription(
        dtype=kind.dtype, shape=_item_shape(tensor.shape, has_batch_axis=has_batch_axis)
    )
    return described


def _item_shape(shape: tuple[int, ...] | None, *, has_batch_axis: bool) -> list[int | None] | None:
    if shape is None:
        return None
    return [None if size == -1 else size for size in (shape[1:] if has_batch_axis else shape)]


def _returns(outputs: Mapping[str, TensorMetadata], *, has_batch_axis: bool) -> dict[str, Any]:
    schemas = {name: _schema(one, has_batch_axis=has_batch_axis) for name, one in outputs.items()}
    if len(schemas) == 1:
        return next(iter(schemas.values()))
    return {"type": "object", "properties": schemas} if schemas else {}


def _schema(tensor: TensorMetadata, *, has_batch_axis: bool) -> dict[str, Any]:
    if _is_one_text(tensor):
        return {"anyOf": [{"type": "string"}, {"type": "string", "format": "binary"}]}
    return {"type": "array", "items": {}} if has_batch_axis else {}


def _is_one_text(tensor: TensorMetadata) -> bool:
    """Whether it is text, and by its shape never more than one."""
    return tensor.datatype == "BYTES" and tensor.shape is not None and set(tensor.shape) <= {1}


def _doc(
    metadata: Mapping[str, Any],
    name: str,
    version: str,
    outputs: Mapping[str, TensorMetadata],
    *,
    is_decoupled: bool,
) -> str:
    platform = metadata.get("platform")
    what = f"The model {name}"
    if version:
        what += f", version {version}"
    if isinstance(platform, str) and platform:
        what += f" ({platform})"
    lines = [f"{what}."]
    if outputs:
        gives = ", ".join(f"{one.name} {one.text}" for one in outputs.values())
        lines.append(f"{'Streams' if is_decoupled else 'Gives'} {gives}.")
    return "\n\n".join(lines)
