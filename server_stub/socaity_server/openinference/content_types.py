"""Content types in requests to models and functions, which get arrays whatever is said: only words that mean that are taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest

__all__ = ["check_content_types"]

_KEY = "content_type"
_ARRAYS = frozenset({"np", "numpy"})
"""The first is the word of MLServer's clients."""
_TEXT = "str"


def check_content_types(request: InferRequest, *, own: Mapping[str, Any] | None = None) -> None:
    """Raises TensorError for a content type that would have to be decoded. `own` are the parameters of a function, one of
    which may have the name."""
    if own is None or _KEY not in own:
        _check(request.parameters, "the request")
    for tensor in request.inputs:
        if tensor.parameters:
            _check(tensor.parameters, f"the input {tensor.name!r}")
            if tensor.parameters.get(_KEY) == _TEXT and tensor.datatype != "BYTES":
                raise TensorError(
                    f"the input {tensor.name!r} is {tensor.datatype}; the content type 'str' is for BYTES"
                )
    for output in request.outputs or ():
        if output.parameters:
            _check(output.parameters, f"the requested output {output.name!r}")


def _check(parameters: Mapping[str, Any], owner: str) -> None:
    name = parameters.get(_KEY)
    if name and name not in _ARRAYS and name != _TEXT:
        raise TensorError(
            f"the content type {str(name)[:60]!r} of {owner} is not known here (known: np, numpy, str); only models of "
            "handlers can have others"
        )
