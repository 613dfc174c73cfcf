"""Torch: which files are refused, how inputs and outputs get their names, and what belongs to the caller."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import pickle
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError, InvalidInputError, ServerError
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.registry import load_runtime
from socaity_server.runtimes.torch import TorchRuntime

from .. import real_models

TRUSTED = RuntimeOptions(allow_pickle=True)


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    torch = real_models.require_torch()
    threads = torch.get_num_threads()
    yield torch
    torch.set_num_threads(threads)


def save_source(torch: Any, file: Path, forward: str, *, state: dict[str, Any] | None = None) -> Path:
    """A TorchScript module with this `forward`. Torch reads the source of a class, which must therefore be in a file."""
    source = file.with_suffix(".source.py")
    source.write_text(
        "from typing import List, Optional\nimport torch\nfrom torch import Tensor\n"
        f"class Model(torch.nn.Module):\n{textwrap.indent(forward, '    ')}"
    )
    module = _class_in(source)()
    for name, value in (state or {}).items():
        module.register_buffer(name, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), file)
    return file


def _class_in(source: Path) -> Any:
    spec = importlib.util.spec_from_file_location("source_of_model", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model


def save_program(
    torch: Any, file: Path, module: Any, *example: Any, shapes: Any = None, **named: Any
) -> Path:
    torch.export.save(torch.export.export(module, example, named, dynamic_shapes=shapes), file)
    return file


def test_weights_and_modules_of_torch_save_are_refused_without_being_read(torch: Any, tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    for number, value in enumerate((layer, layer.state_dict())):
        file = tmp_path / f"weights{number}.pt"
        torch.save(value, file)
        with pytest.raises(
            ConfigurationError, match=r"torch\.save has pickled.*torch\.export\.save.*torch\.jit\.save"
        ):
            TorchRuntime(file, TRUSTED)
    old = tmp_path / "old.pt"
    old.write_bytes(pickle.dumps({"weight": [1.0]}))
    with pytest.raises(ConfigurationError, match=r"old\.pt' is no TorchScript file.*torch\.export\.save"):
        TorchRuntime(old, TRUSTED)


def test_exported_program_runs_code_while_it_is_loaded_and_must_be_trusted(
    torch: Any, tmp_path: Path
) -> None:
    file = save_program(torch, tmp_path / "m.pt2", torch.nn.Linear(2, 2), torch.zeros(3, 2))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ConfigurationError, match=rf"run code while it is loaded.*sha256: {found}"):
        TorchRuntime(file)
    assert TorchRuntime(file, RuntimeOptions(sha256=found)).inputs[0].shape == (3, 2)


def test_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "arrays.pt"
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(2))
    file.write_bytes(buffer.getvalue())
    with pytest.raises(ConfigurationError, match="another kind of archive, not a program"):
        TorchRuntime(file)


def test_missing_extra_gives_the_pip_line(
    torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x):\n    return x\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'socaity\[torch\]'"):
        TorchRuntime(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RuntimeOptions(device="cuda:64"), r"is cuda:64, but Torch finds .* GPU"),
        (RuntimeOptions(device="mps"), r"is cpu, cuda or cuda:N .*, not 'mps'"),
        (RuntimeOptions(arguments={"compile": True}), r"TorchScript, which torch\.compile does not take"),
        (RuntimeOptions(arguments={"compiled": True}), r"no argument 'compiled'.*did you mean 'compile'"),
        (RuntimeOptions(inputs=(TensorSpec("y", None, None),)), r"'y' is not in .*`forward` takes 'x'"),
    ],
)
def test_option_that_the_model_cannot_have_is_refused(
    torch: Any, tmp_path: Path, options: RuntimeOptions, message: str
) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x):\n    return x\n")
    with pytest.raises(ConfigurationError, match=message):
        TorchRuntime(file, options)


def test_script_takes_plain_values(torch: Any, tmp_path: Path) -> None:
    file = save_source(
        torch,
        tmp_path / "m.pt",
        "def forward(self, x, times: int, by: float, negate: bool, extra: Optional[Tensor] = None):\n"
        "    y = x * times / by\n"
        "    if negate:\n        y = -y\n"
        "    if extra is not None:\n        y = y + extra\n"
        "    return y\n",
    )
    runtime = TorchRuntime(file)
    plain = (
        TensorSpec("times", "int64", ()),
        TensorSpec("by", "float64", ()),
        TensorSpec("negate", "bool", ()),
    )
    assert runtime.inputs == (TensorSpec("x", None, None), *plain)
    assert not runtime.batched
    values = {"x": np.ones(2), "times": np.array(6), "by": np.array([4.0]), "negate": np.array(True)}
    found = runtime.run(values)["output"]
    assert (found.dtype, found.tolist()) == (np.float32, [-1.5, -1.5])
    with pytest.raises(InvalidInputError, match="'times' takes one value") as caught:
        runtime.run({**values, "times": np.array([1, 2])})
    assert caught.value.parameter == "times"

    with_extra = TorchRuntime(file, RuntimeOptions(inputs=(TensorSpec("extra", "float32", (2,)),)))
    assert with_extra.inputs[-1] == TensorSpec("extra", "float32", (2,))
    assert with_extra.run({**values, "extra": np.ones(2, np.float32)})["output"].tolist() == [-0.5, -0.5]


def test_script_with_an_input_that_cannot_be_sent_is_refused(torch: Any, tmp_path: Path) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x: List[Tensor]):\n    return x[0]\n")
    with pytest.raises(ConfigurationError, match=r"'x' of .*m\.pt' is a List\[Tensor\]"):
        TorchRuntime(file)


@pytest.mark.parametrize(
    ("returned", "declared", "names"),
    [
        ("x", (), ["output"]),
        ("x", ("score",), ["score"]),
        ("(x, x + 1)", (), ["output_0", "output_1"]),
        ("(x, x + 1)", ("low", "high"), ["low", "high"]),
        ("[x, x]", (), ["output_0", "output_1"]),
        ("{'a': x, 'b': x}", (), ["a", "b"]),
        ("(x, (x, x))", (), ["output_0", "output_1_0", "output_1_1"]),
    ],
)
def test_outputs_are_named(
    torch: Any, tmp_path: Path, returned: str, declared: tuple[str, ...], names: list[str]
) -> None:
    file = save_source(torch, tmp_path / "m.pt", f"def forward(self, x):\n    return {returned}\n")
    options = RuntimeOptions(outputs=tuple(TensorSpec(name, None, None) for name in declared))
    assert list(TorchRuntime(file, options).run({"x": np.ones((1, 2), np.float32)})) == names


def test_wrong_number_of_declared_outputs_is_an_error(torch: Any, tmp_path: Path) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x):\n    return x, x\n")
    runtime = TorchRuntime(file, RuntimeOptions(outputs=(TensorSpec("y", None, None),) * 3))
    with pytest.raises(ServerError, match="returned 2 outputs, but 3 are declared"):
        runtime.run({"x": np.ones(1)})


def test_model_that_writes_to_its_input_or_gives_its_state_away_changes_nothing_outside(
    torch: Any, tmp_path: Path
) -> None:
    source = "def forward(self, x):\n    x.add_(1)\n    self.total.add_(x)\n    return self.total\n"
    runtime = TorchRuntime(save_source(torch, tmp_path / "m.pt", source, state={"total": torch.zeros(2)}))
    inputs = {"x": np.ones(2, np.float32)}
    first = runtime.run(inputs)["output"]
    second = runtime.run(inputs)["output"]
    assert inputs["x"].tolist() == [1, 1]
    assert (first.tolist(), second.tolist()) == ([2, 2], [4, 4])


def test_types_that_numpy_does_not_have_become_float32(torch: Any, tmp_path: Path) -> None:
    file = save_program(
        torch, tmp_path / "m.pt2", torch.nn.Identity(), torch.zeros(2, 3, dtype=torch.bfloat16)
    )
    runtime = TorchRuntime(file, TRUSTED)
    assert runtime.inputs[0].dtype == runtime.outputs[0].dtype == "float32"
    assert (
        runtime.run({runtime.inputs[0].name: np.full((2, 3), 0.5, np.float32)})["output"].tolist()
        == [[0.5] * 3] * 2
    )


def test_double_is_kept_where_it_is_declared(torch: Any, tmp_path: Path) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x):\n    return x\n")
    declared = TorchRuntime(file, RuntimeOptions(inputs=(TensorSpec("x", "float64", (None,)),)))
    assert declared.batched
    assert declared.run({"x": np.ones(1)})["output"].dtype == np.float64
    assert TorchRuntime(file).run({"x": np.ones(1)})["output"].dtype == np.float32
    assert TorchRuntime(file).run({"x": np.ones(1, np.int64)})["output"].dtype == np.int64


def test_weights_are_folded_in_only_where_the_results_stay_equal(torch: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(inplace=True), torch.nn.Flatten()
    ).eval()
    file = tmp_path / "conv.pt"
    real_models.save_script(torch, module, torch.rand(2, 3, 8, 8), file)
    inputs = {"input": np.random.default_rng(0).random((5, 3, 8, 8), np.float32)}
    declared = RuntimeOptions(inputs=(TensorSpec("input", "float32", (None, 3, 8, 8)),))
    quick, usual = TorchRuntime(file, declared), TorchRuntime(file)
    for _ in range(3):
        np.testing.assert_allclose(quick.run(inputs)["output"], usual.run(inputs)["output"], atol=1e-5)

    # Random numbers differ from run to run, so that nothing can be known of the results.
    noise = save_source(
        torch, tmp_path / "noise.pt", "def forward(self, x):\n    return torch.rand_like(x)\n"
    )
    runtime = TorchRuntime(noise, RuntimeOptions(inputs=(TensorSpec("x", "float32", (None, 2)),)))
    assert runtime.run({"x": np.ones((2, 2), np.float32)})["output"].shape == (2, 2)


def test_exported_program_knows_names_shapes_and_limits(torch: Any, tmp_path: Path) -> None:
    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, times: int, *, mask: Any) -> Any:
            y = x * times * mask
            return {"y": y, "rest": (y.sum(1), y > 0)}

    rows = torch.export.Dim("rows", max=32)
    file = save_program(
        torch,
        tmp_path / "m.pt2",
        Model(),
        torch.ones(2, 4),
        3,
        mask=torch.ones(2, 4, dtype=torch.int64),
        shapes={"x": {0: rows}, "times": None, "mask": {0: rows}},
    )
    runtime = TorchRuntime(file, TRUSTED)
    assert runtime.inputs == (TensorSpec("x", "float32", (None, 4)), TensorSpec("mask", "int64", (None, 4)))
    assert runtime.outputs == (
        TensorSpec("y", "float32", (None, 4)),
        TensorSpec("rest_0", "float32", (None,)),
        TensorSpec("rest_1", "bool", (None, 4)),
    )
    assert (runtime.batched, runtime.max_rows) == (True, 32)
    outputs = runtime.run({"x": np.ones((1, 4), np.float32), "mask": np.array([[1, 0, 1, 0]])})
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "y": [[3, 0, 3, 0]],
        "rest_0": [6],
        "rest_1": [[True, False, True, False]],
    }


def test_exported_program_is_batched_only_if_all_first_axes_are_one(torch: Any, tmp_path: Path) -> None:
    class Rows(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any, z: Any) -> Any:
            return x @ z.T

    class Doubled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return torch.cat([x, x])

    n, m = torch.export.Dim("n"), torch.export.Dim("m")
    two = (torch.ones(3, 4), torch.ones(5, 4))
    file = save_program(torch, tmp_path / "two.pt2", Rows(), *two, shapes=({0: n}, {0: m}))
    assert not TorchRuntime(file, TRUSTED).batched
    file = save_program(torch, tmp_path / "double.pt2", Doubled(), two[0], shapes=({0: n},))
    assert not TorchRuntime(file, TRUSTED).batched
    file = save_program(torch, tmp_path / "fixed.pt2", Doubled(), two[0])
    runtime = TorchRuntime(file, TRUSTED)
    assert not runtime.batched
    assert runtime.outputs == (TensorSpec("output", "float32", (6, 4)),)
    with pytest.raises(ConfigurationError, match="returned 1 outputs, but 2 are declared"):
        TorchRuntime(file, RuntimeOptions(allow_pickle=True, outputs=(TensorSpec("a", None, None),) * 2))


def test_threads_are_set_for_the_process(torch: Any, tmp_path: Path) -> None:
    file = save_source(torch, tmp_path / "m.pt", "def forward(self, x):\n    return x\n")
    TorchRuntime(file, RuntimeOptions(threads=2))
    assert torch.get_num_threads() == 2


@pytest.mark.long
@pytest.mark.timeout(300)
def test_compiled_program_gives_the_same(torch: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    rows = torch.export.Dim("rows")
    file = save_program(torch, tmp_path / "m.pt2", module, torch.rand(3, 4), shapes=({0: rows},))
    usual = TorchRuntime(file, TRUSTED)
    # In a process of its own, as the compiler leaves threads behind.
    options = RuntimeOptions(allow_pickle=True, arguments={"compile": True})
    compiled = load_runtime(file, options=options, execution="process")
    for count in (1, 3, 8):
        inputs = {"input": np.random.default_rng(0).random((count, 4), np.float32)}
        np.testing.assert_allclose(compiled.run(inputs)["output"], usual.run(inputs)["output"], atol=1e-5)
    compiled.close()
