"""Models that are Python code: what is called, with what, and what is said when it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError, InvalidInputError
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.python import PythonRuntime

Load = Callable[..., PythonRuntime]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write a file and load it. What models import is forgotten after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def load(text: str, name: str = "model.py", **options: Any) -> PythonRuntime:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return PythonRuntime(file, RuntimeOptions(**options))

    yield load
    for module in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


def test_inputs_are_the_parameters_of_predict(load: Load) -> None:
    runtime = load("def predict(x, y, *, scale=2):\n    return x * scale + y\n")
    assert runtime.inputs == (TensorSpec("x", None, None), TensorSpec("y", None, None))
    assert runtime.outputs == ()
    assert runtime.batched
    assert runtime.holds_gil
    assert runtime.run({"y": np.ones(2), "x": np.ones(2)})["output"].tolist() == [3, 3]


def test_default_becomes_an_input_if_it_is_declared(load: Load) -> None:
    inputs = (TensorSpec("x", "float32", (None,)), TensorSpec("scale", "float32", (None,)))
    runtime = load("def predict(x, scale=2):\n    return x * scale\n", inputs=inputs)
    assert runtime.inputs == inputs
    assert runtime.run({"x": np.ones(2), "scale": np.array([3, 4])})["output"].tolist() == [3, 4]


def test_load_is_called_once_before_the_first_prediction(load: Load) -> None:
    runtime = load(
        "calls = []\ndef load():\n    calls.append(1)\ndef predict(x):\n    return x + len(calls)\n"
    )
    assert [runtime.run({"x": np.zeros(1)})["output"].item() for _ in range(3)] == [1, 1, 1]


def test_class_model_is_made_and_loaded(load: Load) -> None:
    runtime = load(
        "class Model:\n"
        "    def load(self):\n        self.factor = 3\n"
        "    def predict(self, x):\n        return {'y': x * self.factor, 'z': x}\n"
    )
    assert {name: array.tolist() for name, array in runtime.run({"x": np.ones(1)}).items()} == {
        "y": [3],
        "z": [1],
    }


def test_class_and_its_arguments_may_be_configured(load: Load) -> None:
    text = (
        "class Scale:\n"
        "    def __init__(self, by):\n        self.by = by\n"
        "    def predict(self, X):\n        return X * self.by\n"
    )
    arguments = {"class": "scaling:Scale", "kwargs": {"by": 5}}
    runtime = load(text, "scaling.py", arguments=arguments)
    assert runtime.inputs == (TensorSpec("X", None, None),)
    assert runtime.run({"X": np.ones(2)})["output"].tolist() == [5, 5]


def test_class_may_be_in_a_package_and_the_path_its_folder(load: Load, tmp_path: Path) -> None:
    load("def predict(x):\n    return x\n")
    package = tmp_path / "package_of_model"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner.py").write_text("class Echo:\n    def predict(self, X):\n        return X\n")
    for path in (tmp_path, package / "inner.py", tmp_path / "model.py"):
        runtime = PythonRuntime(path, RuntimeOptions(arguments={"class": "package_of_model.inner:Echo"}))
        assert runtime.run({"X": np.ones(1)})["output"].tolist() == [1]


def test_siblings_may_be_imported_also_later(load: Load, tmp_path: Path) -> None:
    (tmp_path / "sibling_of_model.py").write_text("FACTOR = 7\n")
    runtime = load("def predict(x):\n    from sibling_of_model import FACTOR\n    return x * FACTOR\n")
    assert runtime.run({"x": np.ones(1)})["output"].tolist() == [7]


def test_models_of_the_same_name_do_not_mix(load: Load) -> None:
    one = load("VALUE = 1\ndef predict(x):\n    return x + VALUE\n", "one/model.py")
    two = load("VALUE = 2\ndef predict(x):\n    return x + VALUE\n", "two/model.py")
    assert [model.run({"x": np.zeros(1)})["output"].item() for model in (one, two)] == [1, 2]


def test_changed_file_is_read_again_within_the_same_second(load: Load, tmp_path: Path) -> None:
    load("def predict(x):\n    return x + 1\n")
    stamp = (tmp_path / "model.py").stat().st_mtime_ns
    runtime = load("def predict(x):\n    return x + 2\n")
    os.utime(tmp_path / "model.py", ns=(stamp, stamp))
    assert runtime.run({"x": np.zeros(1)})["output"].item() == 2


def test_annotated_plain_value_is_given_as_one(load: Load) -> None:
    runtime = load(
        "from __future__ import annotations\ndef predict(text: str, times: int):\n    return text * times\n"
    )
    assert runtime.inputs == (TensorSpec("text", "object", ()), TensorSpec("times", "int64", ()))
    assert not runtime.batched
    assert runtime.run({"text": np.array("ab", object), "times": np.array(2)})["output"].item() == "abab"
    with pytest.raises(InvalidInputError, match="'times' takes one value") as caught:
        runtime.run({"text": np.array("ab", object), "times": np.array([2, 3])})
    assert caught.value.parameter == "times"


def test_declared_tensors_are_given_as_arrays(load: Load) -> None:
    inputs, outputs = (TensorSpec("", "object", (None,)),), (TensorSpec("", "object", (None,)),)
    runtime = load(
        "def predict(text: str):\n    return [one.upper() for one in text]\n", inputs=inputs, outputs=outputs
    )
    assert runtime.inputs == (TensorSpec("text", "object", (None,)),)
    assert runtime.outputs == (TensorSpec("output", "object", (None,)),)
    found = runtime.run({"text": np.array(["a", "b"], object)})["output"]
    assert (found.dtype, found.tolist()) == (object, ["A", "B"])


def test_declared_outputs_name_a_tuple(load: Load) -> None:
    outputs = (TensorSpec("low", None, None), TensorSpec("high", None, None))
    runtime = load("def predict(x):\n    return x - 1, x + 1\n", outputs=outputs)
    assert {name: array.item() for name, array in runtime.run({"x": np.zeros(1)}).items()} == {
        "low": -1,
        "high": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef predict(x)\n", r"model\.py' failed at model\.py:2: SyntaxError"),
        ("import module_that_is_not_there\n", r"failed at model\.py:1: ModuleNotFoundError.*not_there"),
        (
            "def load():\n    open('no such file')\ndef predict(x): ...\n",
            r"load\(\) of .*model\.py:2: FileNotFound",
        ),
        ("import sys\ndef load():\n    sys.exit(1)\ndef predict(x): ...\n", r"model\.py:3: SystemExit: 1"),
        (
            "class Model:\n    def __init__(self):\n        1 / 0\n",
            r"Model\(\) of .*model\.py:3: ZeroDivisionError",
        ),
        ("def forecast(x): ...\n", r"model\.py' has no `predict`"),
        ("predict = 1\n", r"model\.py' has no `predict`"),
        (
            "from socaity_server import SocaityRouter\napi = SocaityRouter()\n",
            "To serve its routes: socaity serve model:api",
        ),
        ("def predict(): ...\n", r"names no input"),
        ("def predict(**inputs): ...\n", r"names no input.*declare"),
        ("def predict(x, /): ...\n", r"by name: 'x'"),
        ("def predict(*x): ...\n", r"by name: '\*x'"),
    ],
)
def test_file_that_cannot_be_a_model_says_why_and_where(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("scaling", r"written 'module:Class', not 'scaling'"),
        ("scaling:Scal", r"'scaling' has no class 'Scal'; did you mean 'Scale'"),
        ("scaling:Plain", r"class 'scaling:Plain' has no `predict`"),
        ("no_such_module:Scale", r"module 'no_such_module' failed.*No module named"),
        ("scaling:Scale", r"Scale\(\) failed at scaling\.py:2: TypeError"),
    ],
)
def test_wrong_class_is_refused(load: Load, target: str, message: str) -> None:
    text = "class Plain: ...\ndef make(by): return by['x']\nclass Scale:\n    def __init__(self):\n        make(1)\n"
    with pytest.raises(ConfigurationError, match=message):
        load(text, "scaling.py", arguments={"class": target})


@pytest.mark.parametrize("names", [("x",), ("x", "z"), ("x", "y", "z"), ("", "y")])
def test_declared_inputs_must_be_those_of_predict(load: Load, names: tuple[str, ...]) -> None:
    inputs = tuple(TensorSpec(name, None, None) for name in names)
    with pytest.raises(ConfigurationError, match=r"`predict` takes 'x', 'y'. Make the names the same"):
        load("def predict(x, y): ...\n", inputs=inputs)


def test_closed_model_says_so(load: Load) -> None:
    before = set(sys.modules)
    runtime = load("def predict(x): ...\n")
    runtime.close()
    runtime.close()
    assert set(sys.modules) == before
    with pytest.raises(RuntimeError, match="closed"):
        runtime.run({"x": np.ones(1)})


@pytest.mark.parametrize(
    ("annotation", "single"),
    [
        ("", None),
        (" -> Any", None),
        (" -> None", None),
        (" -> np.ndarray | dict[str, np.ndarray]", None),
        (" -> 'Missing'", None),
        (" -> np.ndarray", True),
        (" -> NDArray[np.float32]", True),
        (" -> 'np.ndarray'", True),
        (" -> list[float]", True),
        (" -> float", True),
        (" -> dict[str, np.ndarray]", None),  # of one output it is that array
        (" -> Mapping[str, np.ndarray]", None),
        (" -> One", True),
        (" -> Both", False),
        (" -> Named", False),
        (" -> tuple", None),
        (" -> tuple[np.ndarray, ...]", None),
        (" -> tuple[np.ndarray]", True),
        (" -> tuple[np.ndarray, np.ndarray]", False),
    ],
)
def test_what_predict_says_that_it_returns(load: Load, annotation: str, single: bool | None) -> None:
    text = (
        "from collections.abc import Mapping\nfrom typing import Any, NamedTuple, TypedDict\nimport numpy as np\n"
        "from numpy.typing import NDArray\n"
        "class One(TypedDict):\n    a: np.ndarray\n"
        "class Both(TypedDict):\n    a: np.ndarray\n    b: np.ndarray\n"
        "class Named(NamedTuple):\n    a: np.ndarray\n    b: np.ndarray\n"
        f"def predict(x){annotation}:\n    return x\n"
    )
    assert load(text).single is single
