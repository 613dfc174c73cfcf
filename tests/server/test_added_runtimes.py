"""Runtimes of other packages and of the program itself: found, used in both ways of running, and refused with a reason."""

from __future__ import annotations

import importlib
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server.model_files import scan_folder
from socaity_server.runtimes import registry
from socaity_server.runtimes.base import Runtime
from socaity_server.runtimes.registry import add_runtime, backend_of, backends, load_runtime, model_suffixes

SOURCE = """
from pathlib import Path

import numpy as np
from socaity_server import Runtime, TensorSpec

class Scale(Runtime):
    suffixes = (".scale",)

    def __init__(self, path, options):
        self._factor = float(Path(path).read_text())
        self.name = "scale 1"
        self.inputs = (TensorSpec("x", "float64", (None,)),)
        self.outputs = (TensorSpec("y", "float64", (None,)),)
        self.batched = True

    def run(self, inputs):
        return {"y": inputs["x"] * self._factor}

class Other(Scale):
    pass

class Greedy(Scale):
    suffixes = (".onnx",)
"""

Install = Callable[..., None]


@pytest.fixture
def scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes `SOURCE` an installed package with these entry points; the table of the registry is a new one."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "scales.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(registry, "_added", registry._own_table())

    def install(**points: str) -> None:
        about = site / "scales-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: scales\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (about / "entry_points.txt").write_text(f"[socaity.runtimes]\n{lines}\n")
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("scales", None)


def _scale(name: str = "Scale") -> type[Runtime]:
    found: type[Runtime] = getattr(importlib.import_module("scales"), name)
    return found


def _file(folder: Path) -> Path:
    file = folder / "m.scale"
    file.write_text("2.5")
    return file


@pytest.mark.parametrize("execution", ["thread", "process"])
@pytest.mark.parametrize("way", ["entry point", "call"])
def test_added_runtime_runs_a_file_of_its_suffix(
    scales: Install, tmp_path: Path, way: str, execution: str
) -> None:
    if way == "call":
        add_runtime("scale", _scale())
    else:
        scales(scale="scales:Scale")
    file = _file(tmp_path)
    assert backend_of(file) == "scale"
    runtime = load_runtime(file, execution=execution)  # type: ignore[arg-type]
    try:
        assert (runtime.name, runtime.in_process) == ("scale 1", execution == "process")
        assert runtime.run({"x": np.array([2.0])})["y"].tolist() == [5.0]
    finally:
        runtime.close()


def test_added_runtime_is_named_where_an_unknown_one_is_refused(scales: Install) -> None:
    scales(scale="scales:Scale")
    assert backends() == ("joblib", "onnx", "python", "scale", "torch")
    with pytest.raises(ConfigurationError, match=r"python, scale, torch, not 'scael'; did you mean 'scale'"):
        backend_of("m.bin", "scael")
    with pytest.raises(ConfigurationError, match=r"ends in \.onnx, .*\.scale; did you mean '\.scale'"):
        backend_of("m.scal")


def test_package_that_cannot_be_imported_concerns_only_its_own_models(
    scales: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scales(broken="no_such_module:Scale", scale="scales:Scale")
    with caplog.at_level(logging.WARNING):
        assert backend_of(_file(tmp_path)) == "scale"
    why = r"The runtime 'broken' of the package 'scales' \(no_such_module:Scale\) cannot be loaded: ModuleNotFound"
    with pytest.raises(ConfigurationError, match=why):
        load_runtime(_file(tmp_path), backend="broken")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_installed_runtime_cannot_take_what_others_have(
    scales: Install, caplog: pytest.LogCaptureFixture
) -> None:
    scales(onnx="scales:Scale", greedy="scales:Greedy", thing="scales:np")
    with caplog.at_level(logging.WARNING):
        assert model_suffixes()[".onnx"] == "onnx"
    said = " ".join(caplog.messages)
    assert "There is a backend 'onnx' already" in said
    assert "'.onnx' files belong to the backend 'onnx'" in said
    assert "The runtime 'thing' is not a subclass of Runtime" in said


@pytest.mark.parametrize(
    ("name", "runtime", "message"),
    [
        ("onnx", "Scale", "There is a backend 'onnx' already; give Scale another name"),
        ("sklearn", "Scale", "There is a backend 'sklearn' already"),
        ("scale", "Other", "There is a backend 'scale' already; give Other another name"),
        ("Scale", "Scale", "has lower-case letters"),
        ("greedy", "Greedy", r"'\.onnx' files belong to the backend 'onnx'; take the suffix from Greedy"),
        ("other", "Other", r"'\.scale' files belong to the backend 'scale'"),
    ],
)
def test_name_and_suffix_must_be_free(scales: Install, name: str, runtime: str, message: str) -> None:
    add_runtime("scale", _scale())
    with pytest.raises(ConfigurationError, match=message):
        add_runtime(name, _scale(runtime))


def test_same_runtime_may_be_added_again(scales: Install) -> None:
    add_runtime("scale", _scale())
    add_runtime("scale", _scale())
    assert backends().count("scale") == 1


def test_class_that_is_defined_again_takes_its_own_place(scales: Install, tmp_path: Path) -> None:
    add_runtime("scale", _scale())
    sys.modules.pop("scales")
    again = _scale()
    add_runtime("scale", again)
    runtime = load_runtime(_file(tmp_path))
    assert type(runtime) is again


def test_what_is_no_runtime_is_refused(scales: Install) -> None:
    with pytest.raises(ConfigurationError, match="The runtime 'text' is not a subclass of Runtime"):
        add_runtime("text", str)  # type: ignore[arg-type]


def test_class_of_the_started_program_cannot_run_in_a_worker_process(scales: Install, tmp_path: Path) -> None:
    class Local(_scale()):  # type: ignore[misc]
        suffixes = (".local",)

    add_runtime("local", Local)
    with pytest.raises(
        ConfigurationError, match="put the class into a module of its own, or use execution: thr"
    ):
        load_runtime(_file(tmp_path), backend="local", execution="process")


def test_warm_up_file_is_not_taken_for_a_model(scales: Install, tmp_path: Path) -> None:
    namespace = {"Runtime": Runtime}
    exec(textwrap.dedent("class Archive(Runtime):\n    suffixes = ('.npz',)"), namespace)
    add_runtime("archive", namespace["Archive"])
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    for name in ("m.npz", "warmup.npz", "m.warmup.npz"):
        (folder / name).write_bytes(b"x")
    found = scan_folder(tmp_path / "models")["m"]
    assert [(version.file, version.error) for version in found.versions] == [(folder / "m.npz", None)]
