"""PyTorch models: TorchScript (`.pt`, `.pth`) and exported programs (`.pt2`)."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from socaity.exceptions import ConfigurationError, InvalidInputError

from .base import DEFAULT_OPTIONS, Runtime, RuntimeOptions
from .specs import check_arguments, check_hash, check_pickle, cuda_index, model_file
from .torch_export import load_exported
from .torch_program import TorchProgram, by_name, dtype_name
from .torch_script import load_script

__all__ = ["TorchRuntime"]


class TorchRuntime(Runtime):
    """A TorchScript file or an exported program as a runtime.

    Without `device`, the GPU is used if there is one when the model is loaded. TorchScript does not say what its tensors
    look like: their names are those of `forward`, and calls are put together only if `inputs` are declared with a free
    first axis. Exported programs know. Where no dtype is known, float64 becomes Torch's default dtype.

    The argument `compile` asks for `torch.compile` (exported programs only). An exported program can run code while it is
    loaded: as for a pickle, its hash must be configured, or pickles allowed. What `torch.save` writes is never loaded.
    `threads` is set for the whole process, where the model that was loaded last wins. Outputs that are no dict are called
    `output`, or `output_0` and so on, unless they are declared.
    """

    def __init__(self, path: str | os.PathLike[str], options: RuntimeOptions = DEFAULT_OPTIONS) -> None:
        file = model_file(path, options)
        check_arguments(options.arguments, {"compile"}, "Torch", file)
        is_exported = _is_exported(file)
        torch = _import_engine()
        self.name = f"torch {torch.__version__}"
        self.device = _device(torch, options.device, file)
        if torch.get_num_threads() != options.threads:
            torch.set_num_threads(options.threads)
        with file.open("rb") as stream:
            # Hashed and read through one open file: nobody can put another in its place between the two.
            if is_exported:
                check_pickle(file, stream, options, "an exported program")
                program = load_exported(torch, stream, file, options, self.device)
            else:
                check_hash(file, stream, options.sha256)
                program = load_script(torch, stream, file, options, self.device)
        self.inputs = program.inputs
        self.outputs = program.outputs
        self.batched = program.batched
        self.max_rows = program.max_rows
        self._declared = [spec.name for spec in options.outputs]
        self._torch = torch
        self._program: TorchProgram | None = program

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs for `inputs`; what Torch raises gets out as it is."""
        program = self._program
        if program is None:
            raise RuntimeError("The model is closed.")
        with self._torch.inference_mode():
            result = program.call({name: self._value(program, name, inputs[name]) for name in program.takes})
            return {name: self._array(value) for name, value in by_name(result, self._declared).items()}

    def close(self) -> None:
        """Free the model."""
        self._program = None

    def _value(self, program: TorchProgram, name: str, array: np.ndarray[Any, Any]) -> Any:
        kind = program.takes[name]
        if kind is not None:  # a plain number or text
            if array.size != 1:
                raise InvalidInputError(
                    f"Parameter {name!r} takes one value, not an array of the shape {list(array.shape)}.",
                    parameter=name,
                )
            return kind(array.reshape(()).item())
        # Always a copy: the caller's array may be read-only, and a model may write to what it gets.
        tensor = self._torch.tensor(array, device=self.device)
        dtype = program.dtypes.get(name)
        if dtype is None and array.dtype == np.float64:
            dtype = self._torch.get_default_dtype()
        return tensor if dtype is None else tensor.to(dtype)

    def _array(self, value: Any) -> np.ndarray[Any, Any]:
        if not isinstance(value, self._torch.Tensor):
            array = np.asarray(value)
            return array.astype(object) if array.dtype.kind == "U" else array
        tensor = value.detach().cpu().resolve_conj().resolve_neg()
        if dtype_name(tensor.dtype) is None:
            tensor = tensor.float()  # such as bfloat16, which numpy does not have
        # A copy: the tensor may be a buffer of the model, which its next run writes to.
        return np.array(tensor.numpy())


def _import_engine() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as exc:
        raise ConfigurationError("Torch models need PyTorch: pip install 'socaity[torch]'") from exc


def _device(torch: Any, device: str | None, file: Path) -> str:
    index = cuda_index(device, file)
    if device == "cpu" or (device is None and not torch.cuda.is_available()):
        return "cpu"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (index or 0) >= count:
        raise ConfigurationError(
            f"The device of {str(file)!r} is {device}, but Torch finds {count or 'no'} GPU{'s' if count > 1 else ''}. "
            "Use the device cpu, or a Torch that is built for the GPU and its driver."
        )
    return f"cuda:{index or 0}"


def _is_exported(file: Path) -> bool:
    """What the archive holds, whatever its name ends in; refuses what is neither."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as exc:
        raise ConfigurationError(
            f"{str(file)!r} is no TorchScript file and no exported program. It may be truncated, or weights that an old "
            f"torch.save has pickled. {_HOW_TO_EXPORT}"
        ) from exc
    if "archive_format" in names or any(name.startswith("models/") for name in names):
        return True
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return False
    what = (
        "weights or a module that torch.save has pickled"
        if "data.pkl" in names
        else "another kind of archive"
    )
    raise ConfigurationError(f"{str(file)!r} holds {what}, not a program. {_HOW_TO_EXPORT}")


_HOW_TO_EXPORT = (
    "Export the model with torch.export.save(torch.export.export(model, example), 'model.pt2'), or with "
    "torch.jit.save(torch.jit.script(model), 'model.pt')."
)
