"""Loads TorchScript files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from socaity.exceptions import ConfigurationError

from .base import RuntimeOptions, TensorSpec
from .specs import LOADING, is_batched, nearest, of_type
from .torch_program import TorchProgram, torch_dtype

__all__ = ["load_script"]

_PLAIN: dict[str, tuple[type, str]] = {
    "bool": (bool, "bool"),
    "float": (float, "float64"),
    "int": (int, "int64"),
    "number": (float, "float64"),
    "str": (str, "object"),
}
_SAMPLE_ROWS = 2
_TOLERANCE = 1e-5


def load_script(torch: Any, stream: Any, file: Path, options: RuntimeOptions, device: str) -> TorchProgram:
    """The TorchScript module in `stream`, on `device`."""
    if options.arguments.get("compile"):
        raise ConfigurationError(
            f"{str(file)!r} is TorchScript, which torch.compile does not take. Leave `compile` out, or export the model "
            "with torch.export."
        )
    with LOADING, warnings.catch_warnings():
        # Torch wants its users to write other files; these are there all the same.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        try:
            module = torch.jit.load(stream, map_location=device).eval()
            parameters = module.forward.schema.arguments[1:]
        except Exception as exc:  # Torch raises RuntimeError for most, and others
            raise ConfigurationError(
                f"Torch {torch.__version__} cannot load {str(file)!r} ({of_type(exc)[:500]}). The file may be truncated, "
                "or written by a newer Torch."
            ) from exc
        takes, inputs = _inputs(parameters, options.inputs, file)
        dtypes = {spec.name: torch_dtype(torch, spec.dtype) for spec in inputs if takes[spec.name] is None}
        module = _quicker(torch, module, inputs, takes, device)
    return TorchProgram(
        call=lambda values: module(**values),
        takes=takes,
        inputs=inputs,
        outputs=options.outputs,
        batched=is_batched(inputs, options.outputs),
        dtypes=dtypes,
    )


def _inputs(
    parameters: Sequence[Any], declared: Sequence[TensorSpec], file: Path
) -> tuple[dict[str, type | None], tuple[TensorSpec, ...]]:
    """What `forward` takes. A parameter with a default is an input only if it is declared."""
    types = {parameter.name: str(parameter.type) for parameter in parameters}
    optional = {parameter.name for parameter in parameters if parameter.has_default_value()}
    names = [name for name in types if name not in optional]
    known: dict[str, TensorSpec] = {}
    for spec in declared:
        name = spec.name or (names[0] if len(names) == 1 else "")
        if name not in types:
            raise ConfigurationError(
                f"The declared input {spec.name!r} is not in {str(file)!r}; its `forward` takes "
                f"{', '.join(map(repr, types)) or 'nothing'}{nearest(name, types)}."
            )
        known[name] = TensorSpec(name, spec.dtype, spec.shape)
    takes: dict[str, type | None] = {}
    inputs: list[TensorSpec] = []
    for name, kind in types.items():
        if name in optional and name not in known:
            continue
        plain = _PLAIN.get(kind.removeprefix("Optional[").removesuffix("]"))
        if plain is not None:
            takes[name] = plain[0]
            inputs.append(known.get(name, TensorSpec(name, plain[1], ())))
        elif kind in ("Tensor", "Optional[Tensor]"):
            takes[name] = None
            inputs.append(known.get(name, TensorSpec(name, None, None)))
        else:
            raise ConfigurationError(
                f"The input {name!r} of {str(file)!r} is a {kind}; only tensors and plain values can be sent. Wrap the "
                "model in one that takes a tensor for each."
            )
    if not inputs:
        raise ConfigurationError(f"`forward` of {str(file)!r} takes no input.")
    return takes, tuple(inputs)


def _quicker(
    torch: Any,
    module: Any,
    inputs: Sequence[TensorSpec],
    takes: Mapping[str, type | None],
    device: str,
) -> Any:
    """The module with its weights folded in, if it is known to give the same results; else the module itself.

    That can be known of a module without a state, for inputs that are declared.
    """
    if device != "cpu" or "prim::SetAttr" in str(module.inlined_graph):
        return module
    sample = _sample(torch, inputs, takes)
    if sample is None:
        return module
    try:
        with torch.inference_mode():
            frozen = torch.jit.optimize_for_inference(torch.jit.freeze(module))
            for _ in range(3):  # the first runs are interpreted, and choose the code of the later ones
                if not _same(torch, module(**_copied(sample)), frozen(**_copied(sample))):
                    return module
    except Exception:  # the sample is a guess: a module that refuses it is left as it is
        return module
    return frozen


def _sample(
    torch: Any, inputs: Sequence[TensorSpec], takes: Mapping[str, type | None]
) -> dict[str, Any] | None:
    random = torch.Generator().manual_seed(0)
    sample: dict[str, Any] = {}
    for spec in inputs:
        dtype = torch_dtype(torch, spec.dtype)
        if takes[spec.name] is not None or dtype is None or spec.shape is None or None in spec.shape[1:]:
            return None
        shape = [_SAMPLE_ROWS if axis is None else axis for axis in spec.shape]
        tensor = torch.zeros(shape, dtype=dtype)
        sample[spec.name] = tensor.uniform_(0, 1, generator=random) if dtype.is_floating_point else tensor
    return sample


def _copied(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in sample.items()}


def _same(torch: Any, one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(torch, one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_comparison(torch), one, other))
    if isinstance(one, torch.Tensor):
        return bool(torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
    return bool(one == other)


def _comparison(torch: Any) -> Callable[[Any, Any], bool]:
    return lambda one, other: _same(torch, one, other)
