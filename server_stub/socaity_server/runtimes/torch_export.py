"""Loads exported programs: what `torch.export.save` has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socaity.exceptions import ConfigurationError, ServerError

from .base import RuntimeOptions, TensorSpec
from .specs import is_batched, merged, of_type
from .torch_program import TorchProgram, by_name, dtype_name, torch_dtype

__all__ = ["load_exported"]

_PLAIN: dict[str, tuple[type, str]] = {
    "SymBoolArgument": (bool, "bool"),
    "SymFloatArgument": (float, "float64"),
    "SymIntArgument": (int, "int64"),
}


def load_exported(torch: Any, stream: Any, file: Path, options: RuntimeOptions, device: str) -> TorchProgram:
    """The exported program in `stream`, on `device`. The stream must be trusted."""
    try:
        exported = torch.export.load(stream)
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        module = exported.module()
    except Exception as exc:  # Torch raises RuntimeError for most, and many others
        raise ConfigurationError(
            f"Torch {torch.__version__} cannot load {str(file)!r} ({of_type(exc)[:500]}). The file may be truncated, or "
            "written by another version of Torch, which exported programs are bound to: export the model again."
        ) from exc
    if options.arguments.get("compile"):
        module = torch.compile(module)
    metas = _metas(exported)
    fixed, takes, read = _inputs(exported, metas, file)
    inputs = merged(options.inputs, read, role="input", file=file)
    outputs = _outputs(torch, exported, metas, options, file)
    symbols = _batch_symbols(exported, metas)
    is_one_batch = len(symbols) == 1 and None not in symbols
    return TorchProgram(
        call=_caller(module, exported.call_spec.in_spec, fixed),
        takes=takes,
        inputs=inputs,
        outputs=outputs,
        batched=is_one_batch and is_batched(inputs, outputs),
        dtypes=_dtypes(torch, takes, metas, inputs),
        max_rows=_most_rows(exported, symbols) if is_one_batch else None,
    )


def _metas(exported: Any) -> dict[str, Any]:
    """The pretended tensor of every input and output, by the name of its node."""
    return {node.name: node.meta["val"] for node in exported.graph.nodes if "val" in node.meta}


def _inputs(
    exported: Any, metas: Mapping[str, Any], file: Path
) -> tuple[list[tuple[str, Any]], dict[str, type | None], list[TensorSpec]]:
    """All arguments in order (name, and value of those that the export has fixed); what is taken; and its specs."""
    arguments: list[tuple[str, Any]] = []
    takes: dict[str, type | None] = {}
    specs: list[TensorSpec] = []
    for one in exported.graph_signature.input_specs:
        if one.kind.name != "USER_INPUT":
            continue
        kind, name = type(one.arg).__name__, one.arg.name
        if kind == "ConstantArgument":
            arguments.append(("", one.arg.value))
            continue
        arguments.append((name, None))
        if kind == "TensorArgument":
            takes[name] = None
            specs.append(_spec(name, metas[name]))
        elif kind in _PLAIN:
            takes[name], dtype = _PLAIN[kind]
            specs.append(TensorSpec(name, dtype, ()))
        else:
            raise ConfigurationError(
                f"The input {name!r} of {str(file)!r} is neither a tensor nor a number, and cannot be sent."
            )
    return arguments, takes, specs


def _caller(module: Any, structure: Any, arguments: Sequence[tuple[str, Any]]) -> Any:
    from torch.utils._pytree import tree_unflatten

    def call(values: Mapping[str, Any]) -> Any:
        flat = [values[name] if name else value for name, value in arguments]
        positional, named = tree_unflatten(flat, structure)
        return module(*positional, **named)

    return call


def _outputs(
    torch: Any, exported: Any, metas: Mapping[str, Any], options: RuntimeOptions, file: Path
) -> tuple[TensorSpec, ...]:
    from torch.utils._pytree import tree_unflatten

    leaves = [
        metas.get(one.arg.name, one.arg) if type(one.arg).__name__ != "ConstantArgument" else one.arg.value
        for one in exported.graph_signature.output_specs
        if one.kind.name == "USER_OUTPUT"
    ]
    declared = [spec.name for spec in options.outputs]
    if declared == [""]:
        declared = []
    try:
        named = by_name(tree_unflatten(leaves, exported.call_spec.out_spec), declared)
    except ServerError as exc:
        raise ConfigurationError(f"The outputs of {str(file)!r}: {exc}") from exc
    specs = [
        _spec(name, leaf) if isinstance(leaf, torch.Tensor) else TensorSpec(name, None, None)
        for name, leaf in named.items()
    ]
    return merged(options.outputs, specs, role="output", file=file)


def _spec(name: str, meta: Any) -> TensorSpec:
    # An axis of any length is a symbol; a dtype that numpy lacks is taken and given as float32.
    shape = tuple(axis if isinstance(axis, int) else None for axis in meta.shape)
    return TensorSpec(name, dtype_name(meta.dtype) or "float32", shape)


def _dtypes(
    torch: Any, takes: Mapping[str, type | None], metas: Mapping[str, Any], inputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    return {
        spec.name: metas[spec.name].dtype if spec.name in metas else torch_dtype(torch, spec.dtype)
        for spec in inputs
        if takes[spec.name] is None
    }


def _batch_symbols(exported: Any, metas: Mapping[str, Any]) -> set[Any]:
    """The lengths of the first axes of all inputs and outputs: one symbol if they are one batch; None for a fixed one."""
    signature = exported.graph_signature
    tensors = [
        metas[one.arg.name]
        for one in (*signature.input_specs, *signature.output_specs)
        if one.kind.name in ("USER_INPUT", "USER_OUTPUT") and type(one.arg).__name__ == "TensorArgument"
    ]
    return {
        None if not tensor.shape or isinstance(tensor.shape[0], int) else tensor.shape[0].node.expr
        for tensor in tensors
    }


def _most_rows(exported: Any, symbols: set[Any]) -> int | None:
    (symbol,) = symbols
    limits = exported.range_constraints.get(symbol)
    upper = None if limits is None else limits.upper
    return int(upper) if upper is not None and upper.is_finite and upper < 2**31 else None
