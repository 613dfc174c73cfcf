"""From a model file and its configuration to a model that can be served."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError, ServerError
from socaity_server import SocaityRouter, loading
from socaity_server.config_keys import parse_model_config
from socaity_server.example_inputs import ExampleInputs
from socaity_server.loading import LoadedModel, load_model
from socaity_server.model_config import BreakerConfig, ModelConfig
from socaity_server.models import model_route
from socaity_server.repository import ModelRepository
from socaity_server.runtimes.base import Runtime, TensorSpec
from socaity_server.settings import read_model_settings

PLUS_ONE = "def predict(x):\n    return {'y': x + 1}\n"
X = TensorSpec("x", "float32", (None, 3))
ARRAY: dict[str, Any] = {"type": "array", "items": {}}
NAMED = {"type": "object", "additionalProperties": ARRAY}


class FakeRuntime(Runtime):
    """Gives what `answer` makes of its inputs."""

    name = "fake 1"

    def __init__(
        self, inputs: tuple[TensorSpec, ...] = (X,), answer: Callable[[Any], Any] = dict, batched: bool = True
    ) -> None:
        self.inputs = inputs
        self.outputs = ()
        self.batched = batched
        self.answer = answer
        self.seen: list[dict[str, np.ndarray[Any, Any]]] = []
        self.closed = 0

    def run(self, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        self.seen.append(dict(inputs))
        result: dict[str, np.ndarray[Any, Any]] = self.answer(inputs)
        return result

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def load_fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., LoadedModel]:
    """Loads this runtime instead of a file."""

    def load(runtime: FakeRuntime, config: ModelConfig | None = None, **options: Any) -> LoadedModel:
        file = tmp_path / "model.onnx"
        file.write_bytes(b"model")
        monkeypatch.setattr(loading, "load_runtime", lambda path, **_: runtime)
        return load_model(file, config or ModelConfig(), name="a", **options)

    return load


def python_model(folder: Path, text: str = PLUS_ONE) -> Path:
    file = folder / "model.py"
    file.write_text(text)
    return file


def test_a_python_model_is_loaded_with_what_its_configuration_says(tmp_path: Path) -> None:
    config = parse_model_config(
        "execution: thread\ninputs: [{name: x, dtype: float32, shape: [-1, 3]}]\n"
        "outputs: [{name: y}]\nbatching: {max_batch_size: 8}"
    )
    loaded = load_model(python_model(tmp_path), config, name="a", version="2")
    assert (loaded.name, loaded.version, loaded.max_batch_size, loaded.instances) == ("a", "2", 8, 1)
    assert loaded.runtime.inputs == (X,)
    outputs = loaded.runtime.run({"x": np.zeros((2, 3), np.float32)})
    np.testing.assert_array_equal(outputs["y"], np.ones((2, 3)))
    assert "up to 8 per batch" in loaded.summary
    loaded.runtime.close()


def test_the_hash_holds_for_every_backend(tmp_path: Path) -> None:
    file = python_model(tmp_path, "raise SystemExit('it ran')")
    config = ModelConfig(sha256="0" * 64, execution="thread")
    with pytest.raises(ConfigurationError, match="is not the one that was configured"):
        load_model(file, config, name="a")
    file = python_model(tmp_path)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    load_model(file, ModelConfig(sha256=right.upper(), execution="thread"), name="a").runtime.close()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_model(tmp_path / "none.onnx", ModelConfig(), name="a")


def test_the_content_hash_changes_with_file_and_configuration(load_fake: Callable[..., LoadedModel]) -> None:
    first = load_fake(FakeRuntime()).content_hash
    assert load_fake(FakeRuntime()).content_hash == first
    assert load_fake(FakeRuntime(), ModelConfig(arguments={"a": {1: (2, Path("x"))}})).content_hash != first


def test_a_model_is_warmed_up_with_made_up_rows(load_fake: Callable[..., LoadedModel]) -> None:
    inputs = (
        X,
        TensorSpec("ids", "int64", (None, None)),
        TensorSpec("image", "uint8", (None, 3, None, None)),
        TensorSpec("text", "object", (None,)),
    )
    runtime = FakeRuntime(inputs)
    loaded = load_fake(runtime)
    assert loaded.warnings == ()
    seen = runtime.seen[0]
    assert {name: (str(array.dtype), array.shape[1:]) for name, array in seen.items()} == {
        "x": ("float32", (3,)),
        "ids": ("int64", (16,)),
        "image": ("uint8", (3, 224, 224)),
        "text": ("object", ()),
    }
    assert all(isinstance(text, str) and text.split() for text in seen["text"])
    runtime = FakeRuntime()
    load_fake(runtime, ModelConfig(warmup=False))
    assert runtime.seen == []


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((), "its inputs are not known"),
        ((TensorSpec("x", "float32", None),), "the shape of its input 'x' is not known"),
    ],
)
def test_where_no_rows_can_be_made_up_that_is_said(
    load_fake: Callable[..., LoadedModel], inputs: tuple[TensorSpec, ...], why: str
) -> None:
    loaded = load_fake(FakeRuntime(inputs))
    assert why in loaded.warnings[0]
    with pytest.raises(ConfigurationError, match="No example inputs can be made up"):
        ExampleInputs().of(loaded.runtime, 1)


def test_a_model_may_refuse_made_up_rows_but_not_those_beside_it(
    load_fake: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    def refuse(inputs: Any) -> Any:
        raise ValueError("not these")

    loaded = load_fake(FakeRuntime(answer=refuse))
    assert "refuses made up inputs (ValueError: not these)" in loaded.warnings[0]
    (tmp_path / "warmup.json").write_text("[[1, 2, 3]]")
    runtime = FakeRuntime(answer=refuse)
    with pytest.raises(ConfigurationError, match=r"refuses the rows of .*warmup.json: ValueError"):
        load_fake(runtime)
    assert runtime.closed == 1


def test_calls_of_a_model_that_does_not_give_a_row_for_each_row_are_not_put_together(
    load_fake: Callable[..., LoadedModel],
) -> None:
    def total(inputs: Any) -> Any:
        return {"sum": inputs["x"].sum(axis=0)}

    loaded = load_fake(FakeRuntime(answer=total))
    assert not loaded.runtime.batched
    assert (loaded.max_batch_size, loaded.warnings) == (
        1,
        ("Its calls are not put together: 2 rows gave sum [3].",),
    )
    runtime = FakeRuntime(answer=total)
    with pytest.raises(ConfigurationError, match="cannot be batched: 2 rows gave sum"):
        load_fake(runtime, ModelConfig(batched=True))
    assert runtime.closed == 1


def test_the_configuration_may_say_whether_calls_go_together(load_fake: Callable[..., LoadedModel]) -> None:
    assert not load_fake(FakeRuntime(), ModelConfig(batched=False)).runtime.batched
    assert load_fake(FakeRuntime(batched=False), ModelConfig(batched=True)).runtime.batched
    fixed = FakeRuntime((TensorSpec("x", "float32", (1, 3)),), batched=False)
    with pytest.raises(ConfigurationError, match="the first axis of its input 'x' has no free length"):
        load_fake(fixed, ModelConfig(batched=True))
    assert fixed.closed == 1


def test_a_model_is_measured_unless_that_was_done_before(
    load_fake: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    settings = read_model_settings({"SOCAITY_CACHE": str(tmp_path / "cache")})
    first = load_fake(FakeRuntime(), settings=settings)
    assert first.profile is not None
    assert first.profile.seconds
    assert first.max_batch_size == first.profile.max_batch_size
    assert " per row" in first.summary
    runtime = FakeRuntime()
    again = load_fake(runtime, settings=settings)
    assert again.profile == dataclasses.replace(first.profile, from_cache=True)
    other = load_fake(FakeRuntime(), ModelConfig(arguments={"level": 1}), settings=settings)
    assert other.profile is not None
    assert not other.profile.from_cache


def test_without_a_warm_up_nothing_is_run(load_fake: Callable[..., LoadedModel]) -> None:
    runtime = FakeRuntime()
    loaded = load_fake(runtime, ModelConfig(warmup=False, preferred_batch_sizes=(8, 16)))
    assert (runtime.seen, loaded.warnings, loaded.max_batch_size) == ([], (), 16)
    assert loaded.profile is not None
    assert not loaded.profile.seconds


def test_a_model_whose_rows_change_each_other_is_warned_of(load_fake: Callable[..., LoadedModel]) -> None:
    def centred(inputs: Any) -> Any:
        return {"y": inputs["x"] - inputs["x"].mean(axis=0)}

    (warning,) = load_fake(FakeRuntime(answer=centred)).warnings
    assert "depends on the rows that are computed with it" in warning


def test_a_model_gets_no_more_rows_than_it_takes(load_fake: Callable[..., LoadedModel]) -> None:
    runtime = FakeRuntime()
    runtime.max_rows = 3
    loaded = load_fake(runtime)
    assert max(len(seen["x"]) for seen in runtime.seen) <= 3
    assert loaded.profile is not None
    assert (loaded.max_batch_size, loaded.profile.rush_batch_size) <= (3, 3)
    assert loaded.warnings == ()


def test_a_model_that_holds_the_interpreter_lock_gets_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_runtime(path: Path, **options: Any) -> Runtime:
        asked.append((options["execution"], options["instances"], options["options"].threads))
        return FakeRuntime()

    monkeypatch.setattr(loading, "load_runtime", load_runtime)
    file = python_model(tmp_path)
    for cores, config in (
        (3, ModelConfig()),
        (64, ModelConfig()),
        (1, ModelConfig()),
        (8, ModelConfig(instances=7, threads=2)),
        (8, ModelConfig(execution="thread")),
    ):
        load_model(file, dataclasses.replace(config, warmup=False), name="a", cores=cores)
    assert asked == [
        ("process", 2, 1),
        ("process", 4, 1),
        ("process", 1, 1),
        ("process", 7, 2),
        ("thread", 1, 1),
    ]


def test_settings_of_the_server_fill_in_what_a_model_does_not_say(
    load_fake: Callable[..., LoadedModel],
) -> None:
    settings = read_model_settings(
        {"MAX_BATCH_SIZE": "8", "BATCHER_QUEUE_N": "99", "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "30"}
    )
    config = load_fake(FakeRuntime(), settings=settings).config
    assert (config.max_batch_size, config.queue_size, config.circuit_breaker.recovery_time) == (8, 99, 30.0)
    said = ModelConfig(
        max_batch_size=4, queue_size=5, circuit_breaker=BreakerConfig(recovery_time=7.0, enabled=False)
    )
    assert load_fake(FakeRuntime(), said, settings=settings).config == said
    config = load_fake(FakeRuntime(), ModelConfig(preferred_batch_sizes=(16,)), settings=settings).config
    assert config.max_batch_size == 16


def test_rows_beside_a_model_are_used_for_any_number_of_rows(tmp_path: Path) -> None:
    (tmp_path / "warmup.json").write_text(json.dumps({"x": [[1, 2, 3], [4, 5, 6]]}))
    examples = ExampleInputs(tmp_path / "model.onnx")
    runtime = FakeRuntime()
    rows = examples.of(runtime, 3)["x"]
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, [[1, 2, 3], [4, 5, 6], [1, 2, 3]])
    np.savez(tmp_path / "model.warmup.npz", x=np.ones((1, 3)))
    own = ExampleInputs(tmp_path / "model.onnx")
    np.testing.assert_array_equal(own.of(runtime, 2)["x"], np.ones((2, 3)))
    assert ExampleInputs(tmp_path / "other.onnx").file == tmp_path / "warmup.json"
    runtime.batched = False
    assert own.of(runtime, 2)["x"].shape == (1, 3)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"z": [[1]]}', "has the inputs z; the model takes x"),
        ('{"x": []}', "'x' has no rows"),
        ('{"x": 3}', "'x' has no rows"),
        ('{"x": [["a"]]}', "'x' is no float32"),
        ('{"x": [[1], [1, 2]]}', "'x' is no float32"),
    ],
)
def test_a_wrong_file_of_rows_is_an_error(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "warmup.json").write_text(text)
    with pytest.raises(ConfigurationError, match=error):
        ExampleInputs(tmp_path / "model.onnx").of(FakeRuntime(), 2)


def test_pickled_rows_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "warmup.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ExampleInputs(tmp_path / "model.onnx")
    (tmp_path / "warmup.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        ExampleInputs(tmp_path / "model.onnx")


def test_a_runtime_of_somebody_else_is_a_model() -> None:
    loaded = LoadedModel.of_runtime(FakeRuntime(), "a", ModelConfig(max_batch_size=4))
    assert (loaded.max_batch_size, loaded.path, loaded.profile) == (4, None, None)
    limited = FakeRuntime()
    limited.max_rows = 2
    assert dataclasses.replace(loaded, runtime=limited).max_batch_size == 2


SEED = """
model:
  name: {name}
  backend: {backend}
  model_args: {args}
  input: {{type: array, shape: [-1, 5], dtype: float32}}
  output: {{type: array, shape: [-1, 1], dtype: int64}}
  preferred_batch_size: [16, 32]
  max_batch_delay_ms: 10
  rush_batch_size: 64
"""


@pytest.mark.anyio
async def test_the_folder_of_the_first_model_server_is_served(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    linear = pytest.importorskip("sklearn.linear_model")
    x = np.random.default_rng(0).random((20, 5)).astype(np.float32)
    for folder in ("pickled", "python"):
        (tmp_path / "models" / folder).mkdir(parents=True)
    joblib.dump(linear.LogisticRegression().fit(x, x[:, 0] > 0.5), tmp_path / "models/pickled/model.pkl")
    (tmp_path / "models/pickled/log_classifier.yaml").write_text(
        SEED.format(name="LogisticRegression", backend="sklearn", args="{model_file: model.pkl}").replace(
            "int64", "bool"
        )
    )
    (tmp_path / "models/python/model.py").write_text(
        "class multiply:\n"
        "    def __init__(self, name, compile):\n        self.name = name\n"
        "    def predict(self, X):\n        return (2 * X[:, :1]).astype('int64')\n"
    )
    (tmp_path / "models/python/log_classifier.yaml").write_text(
        SEED.format(
            name="RawLogClassifier_10",
            backend="python",
            args="{class: 'models.python.model:multiply', kwargs: {name: a, compile: false}}",
        )
    )
    outputs: dict[str, dict[str, np.ndarray[Any, Any]]] = {}

    async def on_ready(name: str, loaded: LoadedModel, previous: LoadedModel | None) -> None:
        outputs[name] = loaded.runtime.run({loaded.runtime.inputs[0].name: x})
        assert (loaded.max_batch_size, loaded.config.rush_batch_size) == (32, 64)

    async def on_gone(name: str, loaded: LoadedModel) -> None:
        pass

    repository = ModelRepository(tmp_path / "models", on_ready=on_ready, on_gone=on_gone, allow_pickle=True)
    try:
        listing = await repository.load_all()
    finally:
        await repository.aclose()
    assert [(status.name, status.reason) for status in listing] == [
        ("LogisticRegression", None),
        ("RawLogClassifier_10", None),
    ]
    np.testing.assert_array_equal(outputs["LogisticRegression"]["predictions"].shape, (20,))
    np.testing.assert_array_equal(next(iter(outputs["RawLogClassifier_10"].values())), 2 * x[:, :1] // 1)


@pytest.mark.anyio
async def test_a_folder_of_real_models_is_served_and_reloaded(tmp_path: Path) -> None:
    served: dict[str, LoadedModel] = {}

    async def on_ready(name: str, loaded: LoadedModel, previous: LoadedModel | None) -> None:
        served[name] = loaded

    async def on_gone(name: str, loaded: LoadedModel) -> None:
        del served[name]

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        python_model(tmp_path / name)
        (tmp_path / name / "model_config.yaml").write_text(
            "execution: thread\ninputs: [{name: x, dtype: float32, shape: [-1, 3]}]"
        )
    (tmp_path / "bad").mkdir()
    python_model(tmp_path / "bad", "def predict(:\n")
    (tmp_path / "bad/model_config.yaml").write_text("execution: thread")
    repository = ModelRepository(tmp_path, on_ready=on_ready, on_gone=on_gone)
    try:
        listing = await repository.load_all()
        assert {status.name: status.state for status in listing} == {
            "bad": "failed",
            "one": "ready",
            "two": "ready",
        }
        assert str(tmp_path) not in (listing[0].reason or "")
        python_model(tmp_path / "one", PLUS_ONE.replace("+ 1", "+ 2"))
        await repository.reload("one")
        x = np.zeros((1, 3), np.float32)
        assert served["one"].runtime.run({"x": x})["y"][0, 0] == 2
        assert served["two"].runtime.run({"x": x})["y"][0, 0] == 1
    finally:
        await repository.aclose()
    assert served == {}


def test_worker_that_dies_is_called_by_the_name_of_its_model(tmp_path: Path) -> None:
    file = python_model(tmp_path, "import os\ndef predict(x):\n    os._exit(3)\n")
    config = ModelConfig(warmup=False, idempotent=False, instances=1)
    runtime = load_model(file, config, name="sentences").runtime
    try:
        with pytest.raises(ServerError, match="The worker process of 'sentences' ended with exit status 3"):
            runtime.run({"x": np.zeros((1, 3), np.float32)})
    finally:
        runtime.close()


@pytest.mark.anyio
async def test_refused_pickle_says_what_is_possible_where_it_lies(tmp_path: Path) -> None:
    async def on_ready(name: str, loaded: LoadedModel, previous: LoadedModel | None) -> None:
        raise AssertionError("a pickle was loaded")

    async def on_gone(name: str, loaded: LoadedModel) -> None:
        pass

    (tmp_path / "models" / "folder").mkdir(parents=True)
    for name in ("alone.joblib", "configured.joblib", "folder/model.joblib"):
        (tmp_path / "models" / name).write_bytes(pickle.dumps(name))
    (tmp_path / "models" / "configured.yaml").write_text("file: configured.joblib")
    repository = ModelRepository(tmp_path / "models", on_ready=on_ready, on_gone=on_gone)
    try:
        reasons = {status.name: status.reason or "" for status in await repository.load_all()}
    finally:
        await repository.aclose()
    assert all("is a pickle, which can run code" in reason for reason in reasons.values())
    assert "If you trust it, allow all such files with --allow-pickle" in reasons["alone"]
    assert "in a folder of its own, by a model_config.yaml beside it that says `sha256: " in reasons["alone"]
    for name in ("configured", "folder"):
        assert "put `sha256: " in reasons[name]
    with pytest.raises(ConfigurationError, match=r"--allow-pickle \(`allow_pickle=True`\)\. This one alone"):
        SocaityRouter().add_model(tmp_path / "models" / "alone.joblib")


@pytest.mark.parametrize(
    ("answer", "inputs", "returns"),
    [
        (lambda given: {"y": given["x"]}, (X,), ARRAY),
        (
            lambda given: {"y": given["x"], "z": given["x"]},
            (X,),
            {"type": "object", "properties": {"y": ARRAY, "z": ARRAY}},
        ),
        # it cannot be warmed up
        (dict, (TensorSpec("x", None, None),), {"anyOf": [ARRAY, NAMED]}),
    ],
)
def test_what_a_model_gives_is_described_as_far_as_it_is_known(
    load_fake: Callable[..., LoadedModel], answer: Any, inputs: Any, returns: dict[str, Any]
) -> None:
    assert model_route(load_fake(FakeRuntime(inputs, answer))).returns == returns


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_what_a_python_model_says_of_its_result_is_described(tmp_path: Path, execution: str) -> None:
    text = "import numpy as np\ndef predict(x) -> tuple[np.ndarray, np.ndarray]:\n    return x, x\n"
    config = parse_model_config(f"execution: {execution}")
    model = load_model(python_model(tmp_path, text), config, name="a")
    try:
        assert model_route(model).returns == NAMED
    finally:
        model.runtime.close()
