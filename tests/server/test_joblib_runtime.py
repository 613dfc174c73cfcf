"""Pickled models: which are loaded, what is called, and what is said of old ones."""

from __future__ import annotations

import hashlib
import pickle
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.joblib import JoblibRuntime

joblib = pytest.importorskip("joblib")
pytest.importorskip("sklearn")

X = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]] * 5)
COLOURS = np.array(["blue", "green", "blue", "green"] * 5)


def dumped(model: Any, folder: Path) -> Path:
    file = folder / "model.joblib"
    joblib.dump(model, file)
    return file


def trusted(**kwargs: Any) -> RuntimeOptions:
    return RuntimeOptions(allow_pickle=True, **kwargs)


class TouchesWhenLoaded:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_pickle_is_not_loaded_unless_it_is_trusted(tmp_path: Path) -> None:
    trace = tmp_path / "code ran"
    file = dumped(TouchesWhenLoaded(trace), tmp_path)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(
        ConfigurationError, match=rf"model\.joblib.*runs? code.*sha256: {found}.*--allow-pickle"
    ):
        JoblibRuntime(file)
    with pytest.raises(ConfigurationError, match=found):
        JoblibRuntime(file, RuntimeOptions(sha256="f" * 64, allow_pickle=True))
    alone = rf"--allow-pickle .*This one alone can be allowed in a folder of its own.*sha256: {found}"
    with pytest.raises(ConfigurationError, match=alone):
        JoblibRuntime(file, RuntimeOptions(is_alone=True))
    assert not trace.exists()
    with pytest.raises(ConfigurationError, match="no method 'predict'"):
        JoblibRuntime(file, RuntimeOptions(sha256=found))
    assert trace.exists()


def test_classifier_of_texts_gives_texts(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeClassifier

    runtime = JoblibRuntime(dumped(DecisionTreeClassifier().fit(X, COLOURS), tmp_path), trusted())
    assert runtime.inputs == (TensorSpec("X", "float64", (None, 2)),)
    assert runtime.outputs == (TensorSpec("predictions", "object", (None,)),)
    found = runtime.run({"X": X[:2]})["predictions"]
    assert found.dtype == object
    assert found.tolist() == ["blue", "green"]


@pytest.mark.parametrize(
    ("method", "name", "shape"),
    [("predict_proba", "probabilities", (None, 2)), ("predict_log_proba", "log_probabilities", (None, 2))],
)
def test_method_names_the_output(tmp_path: Path, method: str, name: str, shape: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(X, COLOURS)
    runtime = JoblibRuntime(dumped(model, tmp_path), trusted(arguments={"method": method}))
    assert runtime.outputs == (TensorSpec(name, "float64", shape),)
    np.testing.assert_array_equal(runtime.run({"X": X})[name], getattr(model, method)(X))


def test_tensors_may_be_renamed_and_the_dtype_chosen(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    options = trusted(
        inputs=(TensorSpec("features", "float32", None),), outputs=(TensorSpec("price", None, None),)
    )
    runtime = JoblibRuntime(dumped(LinearRegression().fit(X, X.sum(axis=1)), tmp_path), options)
    assert runtime.inputs == (TensorSpec("features", "float32", (None, 2)),)
    np.testing.assert_allclose(
        runtime.run({"features": X[:3].astype(np.float32)})["price"], [0, 2, 1], atol=1e-5
    )


def test_declared_width_must_be_that_of_the_model(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    options = trusted(inputs=(TensorSpec("X", None, (None, 3)),))
    with pytest.raises(ConfigurationError, match=r"\[any, 3\], but the model has \[any, 2\]"):
        JoblibRuntime(dumped(LinearRegression().fit(X, X[:, 0]), tmp_path), options)


def test_pipeline_takes_texts(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = np.array(["good fine", "bad", "fine", "bad awful"] * 5, object)
    model = make_pipeline(CountVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 5)
    options = trusted(inputs=(TensorSpec("text", "object", (None,)),))
    runtime = JoblibRuntime(dumped(model, tmp_path), options)
    assert runtime.batched
    assert runtime.run({"text": texts[:2]})["predictions"].tolist() == [1, 0]


def test_several_targets_give_several_probabilities(tmp_path: Path) -> None:
    from sklearn.tree import DecisionTreeClassifier

    model = DecisionTreeClassifier().fit(X, X.astype(int))
    runtime = JoblibRuntime(dumped(model, tmp_path), trusted(arguments={"method": "predict_proba"}))
    assert sorted(runtime.run({"X": X})) == ["probabilities_0", "probabilities_1"]


def test_threads_become_the_jobs_of_every_estimator_inside(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RandomForestRegressor(3, n_jobs=-1, random_state=0)).fit(
        X, X[:, 0]
    )
    runtime = JoblibRuntime(dumped(model, tmp_path), trusted(threads=2))
    call: Any = runtime._call
    assert call.__self__.named_steps["randomforestregressor"].n_jobs == 2


class Doubler:
    def predict(self, X: Any) -> Any:
        return X * 2


def test_anything_with_predict_may_be_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_module(monkeypatch, Doubler)
    runtime = JoblibRuntime(dumped(Doubler(), tmp_path), trusted())
    assert runtime.inputs == (TensorSpec("X", None, None),)
    assert runtime.outputs == (TensorSpec("predictions", None, None),)
    assert runtime.batched
    assert runtime.run({"X": np.ones(3)})["predictions"].tolist() == [2, 2, 2]


def test_callable_gets_the_declared_inputs_by_name(tmp_path: Path) -> None:
    inputs = (TensorSpec("x1", "float64", (None,)), TensorSpec("x2", "float64", (None,)))
    runtime = JoblibRuntime(dumped(length, tmp_path), trusted(inputs=inputs))
    assert runtime.inputs == inputs
    assert runtime.run({"x1": np.array([3.0]), "x2": np.array([4.0])})["output"].tolist() == [5]


def length(x1: Any, x2: Any) -> Any:
    return np.sqrt(x1**2 + x2**2)


def with_module(monkeypatch: pytest.MonkeyPatch, *classes: type) -> None:
    """Pickles name a module that can be imported, unlike that of a test."""
    module = ModuleType("models_of_tests")
    for one in classes:
        setattr(module, one.__name__, one)
        monkeypatch.setattr(one, "__module__", module.__name__)
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_missing_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_module(monkeypatch, Doubler)
    file = dumped(Doubler(), tmp_path)
    monkeypatch.delitem(sys.modules, "models_of_tests")
    with pytest.raises(
        ConfigurationError, match=r"model\.joblib' needs the module 'models_of_tests'.*Install"
    ):
        JoblibRuntime(file, trusted())


def test_missing_extra_gives_the_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = dumped(1, tmp_path)
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'socaity\[sklearn\]'"):
        JoblibRuntime(file, trusted())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "predict_probability"}, r"LinearRegression, which has no method.*It has predict"),
        ({"method": "__class__"}, r"a name such as predict"),
        ({"metod": "predict"}, r"no argument 'metod'.*did you mean 'method'"),
    ],
)
def test_wrong_argument_is_refused(tmp_path: Path, arguments: Any, message: str) -> None:
    from sklearn.linear_model import LinearRegression

    with pytest.raises(ConfigurationError, match=message):
        JoblibRuntime(dumped(LinearRegression().fit(X, X[:, 0]), tmp_path), trusted(arguments=arguments))


def test_model_of_another_version_warns_once_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn import base
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(3, random_state=0).fit(X, COLOURS)
    with monkeypatch.context() as patch:
        patch.setattr(base, "__version__", "0.1.2")
        file = dumped(model, tmp_path)
    runtime = JoblibRuntime(file, trusted())
    (warning,) = runtime.warnings
    assert warning.startswith(
        "DecisionTreeClassifier, RandomForestClassifier saved with scikit-learn 0.1.2, loaded with"
    )
    assert "Train it again" in warning


def test_columns_with_names_do_not_warn_at_every_call(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(X, X[:, 0])
    model.feature_names_in_ = np.array(["a", "b"], object)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JoblibRuntime(dumped(model, tmp_path), trusted()).run({"X": X})


def test_plain_pickle_is_read_as_well(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(LinearRegression().fit(X, X[:, 0])))
    np.testing.assert_allclose(
        JoblibRuntime(file, trusted()).run({"X": X})["predictions"], X[:, 0], atol=1e-9
    )
