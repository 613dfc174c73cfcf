"""What a request to infer and its answer say, however they are carried."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

__all__ = ["InferRequest", "InferResponse", "Parameter", "Parameters", "RequestedOutput", "Tensor"]

Parameter: TypeAlias = str | bool | int | float
Parameters: TypeAlias = dict[str, Parameter]


@dataclass(slots=True, eq=False)
class Tensor:
    """An input or an output. `data` has the shape and the dtype that `shape` and `datatype` say.

    BYTES are an array of objects, each of them `bytes`; BF16 is float32. `data` is None where it comes another way (shared
    memory, which `parameters` name). `is_binary`: it came, or shall be sent, as raw bytes and not as numbers in JSON. `nesting`
    has the lengths of the lists in which it came; none, or one, where it came flat.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any] | None
    parameters: Parameters = field(default_factory=dict)
    is_binary: bool = False
    nesting: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class RequestedOutput:
    """An output that is wanted. Its `parameters` may hold `binary_data` and `classification`."""

    name: str
    parameters: Parameters = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class InferRequest:
    """A request. An empty `model_version` or `id` was not given; `outputs` is None where all are wanted.

    `raw` is the body of a request that is nothing but the data of the model's only input; it has no `inputs` then.
    """

    model_name: str
    inputs: list[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    outputs: list[RequestedOutput] | None = None
    raw: memoryview | None = None

    def wants_binary(self, output: str) -> bool:
        """Whether an output is wanted as raw bytes (REST): the output's own parameter counts more than that of the request."""
        default = bool(self.parameters.get("binary_data_output", self.raw is not None))
        for wanted in self.outputs or ():
            if wanted.name == output:
                return bool(wanted.parameters.get("binary_data", default))
        return default


@dataclass(slots=True, eq=False)
class InferResponse:
    """An answer. An empty `model_version` or `id` is left out of it."""

    model_name: str
    outputs: list[Tensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
