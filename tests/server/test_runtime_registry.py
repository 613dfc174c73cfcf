"""Which engine runs which file, and what is said when none does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from socaity.exceptions import ConfigurationError
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.registry import backend_of, load_runtime
from socaity_server.runtimes.specs import merged

FILE = Path("model.bin")
READ = (TensorSpec("x", "float32", (None, 4)), TensorSpec("y", None, None))


@pytest.mark.parametrize(
    ("path", "backend", "expected"),
    [
        ("m.onnx", None, "onnx"),
        ("M.ONNX", None, "onnx"),
        ("m.pt", None, "torch"),
        ("m.pt2", None, "torch"),
        ("m.pth", None, "torch"),
        ("m.joblib", None, "joblib"),
        ("m.pkl", None, "joblib"),
        ("m.pickle", None, "joblib"),
        ("m.py", None, "python"),
        ("m.jit", "torch", "torch"),
        ("m.bin", "sklearn", "joblib"),
        ("m.bin", " OnnxRuntime ", "onnx"),
    ],
)
def test_backend_is_the_named_one_or_that_of_the_suffix(
    path: str, backend: str | None, expected: str
) -> None:
    assert backend_of(path, backend) == expected


@pytest.mark.parametrize(
    ("path", "backend", "message"),
    [
        ("m.onx", None, r"'m\.onx': a model file ends in .*\.onnx.*did you mean '\.onnx'"),
        ("m", None, r"No backend is known for 'm'"),
        ("m.onnx", "pytroch", r"one of joblib, onnx, python, torch, not 'pytroch'; did you mean 'pytorch'"),
        ("m.pb", "tensorflow", r"'tensorflow' is not supported; export the model to ONNX"),
        ("m.pb", "jax", r"'jax' is not supported"),
    ],
)
def test_unknown_backend_is_refused_with_the_nearest(path: str, backend: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        backend_of(path, backend)


def test_importing_the_registry_imports_no_engine() -> None:
    program = (
        "import sys, socaity_server.runtimes.registry as r; r.engine_of('torch'); r.engine_of('joblib'); "
        "print([m for m in ('torch', 'sklearn', 'joblib', 'onnxruntime', 'asyncio') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize("field", ["threads", "instances"])
def test_counts_below_one_are_refused(tmp_path: Path, field: str) -> None:
    file = tmp_path / "m.py"
    file.write_text("def predict(x):\n    return x\n")
    arguments: dict[str, Any] = (
        {"options": RuntimeOptions(threads=0)} if field == "threads" else {"instances": 0}
    )
    with pytest.raises(ConfigurationError, match=f"{field} must be at least 1, not 0"):
        load_runtime(file, execution="thread", **arguments)


def test_declared_tensors_fill_what_the_model_does_not_say() -> None:
    declared = [TensorSpec("y", "int64", (None, 2)), TensorSpec("x", None, (None, 4))]
    assert merged(declared, READ, role="input", file=FILE) == (READ[0], TensorSpec("y", "int64", (None, 2)))


def test_only_tensor_needs_no_name() -> None:
    assert merged([TensorSpec("", "float32", None)], READ[:1], role="input", file=FILE) == READ[:1]


def test_free_axis_may_be_declared_shorter() -> None:
    (spec,) = merged([TensorSpec("x", None, (1, 4))], READ[:1], role="input", file=FILE)
    assert spec.shape == (1, 4)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            TensorSpec("x", "float64", None),
            r"'x' of 'model\.bin' is declared with the dtype float64.*float32",
        ),
        (TensorSpec("x", None, (None, 5)), r"shape \[any, 5\], but the model has \[any, 4\]"),
        (TensorSpec("x", None, (None,)), r"shape \[any\], but the model has \[any, 4\]"),
        (TensorSpec("x", None, (None, None)), r"shape \[any, any\], but the model has \[any, 4\]"),
        (TensorSpec("X1", None, None), r"'X1' is not in 'model\.bin'; its inputs: 'x', 'y'"),
        (TensorSpec("", None, None), r"'' is not in 'model\.bin'; its inputs: 'x', 'y'"),
    ],
)
def test_declaration_that_contradicts_the_model_names_both(declared: TensorSpec, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        merged([declared], READ, role="input", file=FILE)
