"""All runtimes keep the contract, and give the same for the same real model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity_server.runtimes.base import Runtime, RuntimeOptions, TensorSpec
from socaity_server.runtimes.registry import load_runtime

from .. import real_models
from .runtime import ROWS, Arrays, RuntimeCase, RuntimeContract

pytest.importorskip("onnxruntime")

TRUSTED = RuntimeOptions(allow_pickle=True)
PIXELS = (None, 64)
NUMPY_MODEL = '''
"""The digits' network without any library."""

from pathlib import Path

import numpy as np


class Model:
    def load(self):
        with np.load(Path(__file__).with_name("weights.npz")) as weights:
            self.weights = dict(weights)

    def predict(self, x: np.ndarray) -> dict[str, np.ndarray]:
        weights = self.weights
        hidden = (x * weights["scale"] + weights["offset"]) @ weights["w0"] + weights["b0"]
        scores = np.maximum(hidden, 0) @ weights["w1"] + weights["b1"]
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return {"probabilities": shares / shares.sum(axis=1, keepdims=True)}
'''
# One text a row would be cut to the length of the first: rows of text are objects.
SENTENCES = [
    "A man is playing a guitar.",
    "Someone plays the guitar.",
    "The stock market fell sharply today.",
    "Shares dropped on Wall Street.",
    "The cat sleeps on the warm windowsill all afternoon.",
]


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    real_models.save_digit_network(folder)
    real_models.save_digit_forest(folder)
    save_numpy_model(folder)
    return folder


@pytest.fixture(scope="session")
def torch_folder(digits_folder: Path) -> Path:
    real_models.save_digit_torch(digits_folder / "mlp.joblib")
    return digits_folder


@pytest.fixture(scope="session")
def sentence_weights() -> Any:
    return real_models.minilm().read_weights()


@pytest.fixture(scope="session")
def sentence_graph(sentence_weights: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sentences") / "minilm.onnx"
    real_models.minilm().build(file, sentence_weights)
    return file


def save_numpy_model(folder: Path) -> None:
    import joblib

    scaler, network = joblib.load(folder / "mlp.joblib").named_steps.values()
    np.savez(
        folder / "weights.npz",
        scale=scaler.scale_,
        offset=scaler.min_,
        **{f"w{layer}": weights for layer, weights in enumerate(network.coefs_)},
        **{f"b{layer}": bias for layer, bias in enumerate(network.intercepts_)},
    )
    (folder / "model.py").write_text(NUMPY_MODEL)


def pixels(name: str, dtype: str = "float32") -> Any:
    def example(rows: int) -> Arrays:
        return {name: real_models.digits()[0][:rows].astype(dtype)}

    return example


def bad_pixels(name: str) -> Arrays:
    return {name: np.zeros((2, 63), np.float32)}


class TestONNX(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, digits_folder: Path) -> RuntimeCase:
        return RuntimeCase(
            digits_folder / "mlp.onnx",
            inputs=(TensorSpec("X", "float32", PIXELS),),
            outputs=(
                TensorSpec("label", "int64", (None,)),
                TensorSpec("probabilities", "float32", (None, 10)),
            ),
            example=pixels("X"),
            bad=bad_pixels("X"),
        )


class TestJoblib(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, digits_folder: Path) -> RuntimeCase:
        return RuntimeCase(
            digits_folder / "forest.joblib",
            inputs=(TensorSpec("X", "float64", PIXELS),),
            outputs=(TensorSpec("predictions", "int64", (None,)),),
            example=pixels("X", "float64"),
            bad=bad_pixels("X"),
            options=TRUSTED,
        )


class TestPython(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, digits_folder: Path) -> RuntimeCase:
        return RuntimeCase(
            digits_folder / "model.py",
            inputs=(TensorSpec("x", None, None),),
            outputs=(),
            example=pixels("x"),
            bad=bad_pixels("x"),
        )


class TestTorchScript(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, torch_folder: Path) -> RuntimeCase:
        spec = TensorSpec("x", "float32", PIXELS)
        return RuntimeCase(
            torch_folder / "mlp.pt",
            inputs=(spec,),
            outputs=(),
            example=pixels("x"),
            bad=bad_pixels("x"),
            options=RuntimeOptions(inputs=(spec,)),
        )


class TestExportedProgram(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, torch_folder: Path) -> RuntimeCase:
        return RuntimeCase(
            torch_folder / "mlp.pt2",
            inputs=(TensorSpec("x", "float32", PIXELS),),
            outputs=(TensorSpec("probabilities", "float32", (None, 10)),),
            example=pixels("x"),
            bad=bad_pixels("x"),
            options=RuntimeOptions(allow_pickle=True, outputs=(TensorSpec("probabilities", None, None),)),
        )


class TestText(RuntimeContract):
    """Text goes in and out, also through shared memory."""

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, tmp_path_factory: pytest.TempPathFactory) -> RuntimeCase:
        file = tmp_path_factory.mktemp("text") / "upper.py"
        file.write_text(
            "def predict(text, times):\n"
            "    if len(text) != len(times):\n"
            "        raise ValueError('no')\n"
            "    return {'upper': [one.upper() * n for one, n in zip(text, times)], 'length': [len(one) for one in text]}\n"
        )
        inputs = (TensorSpec("text", "object", (None,)), TensorSpec("times", "int64", (None,)))
        outputs = (TensorSpec("upper", "object", (None,)), TensorSpec("length", "int64", (None,)))
        return RuntimeCase(
            file,
            inputs=inputs,
            outputs=outputs,
            example=texts,
            bad={"text": np.array(["a"], object), "times": np.array([1, 2])},
            options=RuntimeOptions(inputs=inputs, outputs=outputs),
        )

    def test_inputs_may_be_read_only_and_are_not_changed(self, case: RuntimeCase, runtime: Runtime) -> None:
        inputs = texts(ROWS)
        for array in inputs.values():
            array.flags.writeable = False
        runtime.run(inputs)
        assert all(np.array_equal(array, texts(ROWS)[name]) for name, array in inputs.items())


def texts(rows: int) -> Arrays:
    return {
        "text": np.array([f"{row}: \u00e4\U0001f600\ud800\0"[: 4 + row % 4] for row in range(rows)], object),
        "times": np.arange(rows) % 3,
    }


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_pinned_pickle_is_loaded_without_further_permission(digits_folder: Path, execution: Any) -> None:
    file = digits_folder / "forest.joblib"
    pinned = RuntimeOptions(sha256=hashlib.sha256(file.read_bytes()).hexdigest().upper())
    runtime = load_runtime(file, options=pinned, execution=execution)
    assert runtime.run(pixels("X", "float64")(1))["predictions"].tolist() == [0]
    runtime.close()


def test_digit_network_gives_the_same_in_every_engine(torch_folder: Path) -> None:
    probabilities = RuntimeOptions(allow_pickle=True, arguments={"method": "predict_proba"})
    images, labels = real_models.digits()
    results: dict[str, Any] = {}
    for name, options in {
        "mlp.joblib": probabilities,
        "mlp.onnx": TRUSTED,
        "mlp.pt": TRUSTED,
        "mlp.pt2": TRUSTED,
        "model.py": TRUSTED,
    }.items():
        runtime = load_runtime(torch_folder / name, options=options, execution="thread")
        outputs = runtime.run({runtime.inputs[0].name: images[:200]})
        results[name] = outputs.get("probabilities", outputs.get("output"))
        runtime.close()
    expected = results.pop("mlp.joblib")
    assert (expected.argmax(axis=1) == labels[:200]).mean() > 0.9
    for name, found in results.items():
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)


def test_digit_forest_gives_the_same_as_pickle_and_as_graph(digits_folder: Path) -> None:
    images, labels = real_models.digits()
    pickled = load_runtime(digits_folder / "forest.joblib", options=TRUSTED, execution="process", instances=2)
    graph = load_runtime(digits_folder / "forest.onnx")
    found = pickled.run({"X": images.astype(np.float64)})["predictions"]
    np.testing.assert_array_equal(found, graph.run({"X": images})["label"])
    assert (found == labels).mean() > 0.99
    pickled.close()


@pytest.mark.parametrize("execution", ["thread", "process"])
def test_speech_is_detected_the_same_by_script_and_by_graph(execution: Any) -> None:
    real_models.require_torch()
    script_file, graph_file = real_models.voice_files()
    script = load_runtime(script_file, backend="torch", execution=execution)
    graph = load_runtime(graph_file)
    assert script.inputs == (TensorSpec("x", None, None), TensorSpec("sr", "int64", ()))
    assert not script.batched
    rate = np.array(real_models.VOICE_RATE)
    # The script keeps the state of the stream itself; the graph is given it, and the end of the chunk before.
    state = np.zeros((2, 1, 128), np.float32)
    context = np.zeros((1, real_models.VOICE_CONTEXT), np.float32)
    from_script, from_graph = [], []
    for row in real_models.voice_signal():
        chunk = row[None]
        from_script.append(script.run({"x": chunk, "sr": rate})["output"].item())
        outputs = graph.run({"input": np.concatenate([context, chunk], axis=1), "state": state, "sr": rate})
        from_graph.append(outputs["output"].item())
        state, context = outputs["stateN"], chunk[:, -real_models.VOICE_CONTEXT :]
    np.testing.assert_allclose(from_script, from_graph, atol=1e-4)
    assert max(from_script) > 0.8
    assert min(from_script) < 0.2
    script.close()
    graph.close()


def test_paraphrases_are_nearer_than_other_sentences(sentence_graph: Path, sentence_weights: Any) -> None:
    runtime = load_runtime(sentence_graph)
    assert runtime.inputs == (
        TensorSpec("input_ids", "int64", (None, None)),
        TensorSpec("attention_mask", "int64", (None, None)),
    )
    assert runtime.outputs == (TensorSpec("embeddings", "float32", (None, 384)),)
    assert runtime.batched
    vectors = runtime.run(real_models.tokens(sentence_weights, SENTENCES))["embeddings"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    paraphrases = [cosines[0, 1], cosines[2, 3]]
    others = [cosines[one, other] for one, other in ((0, 2), (0, 3), (1, 2), (1, 3), (0, 4), (2, 4))]
    assert min(paraphrases) > max(others) + 0.2
    alone = runtime.run(real_models.tokens(sentence_weights, SENTENCES[:1]))["embeddings"]  # without filling
    np.testing.assert_allclose(alone, vectors[:1], atol=1e-5)
    runtime.close()


def test_sentence_graph_equals_an_independent_implementation(
    sentence_graph: Path, sentence_weights: Any
) -> None:
    torch = real_models.require_torch()
    inputs = real_models.tokens(sentence_weights, SENTENCES)
    with torch.inference_mode():
        module = real_models.sentence_module(sentence_weights)
        expected = module(*map(torch.tensor, inputs.values()))["embeddings"].numpy()
    found = load_runtime(sentence_graph).run(inputs)["embeddings"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.timeout(180)  # a real model in three forms: ten seconds on a machine that has time for it
def test_sentence_model_gives_the_same_as_graph_and_as_exported_program(
    sentence_graph: Path, sentence_weights: Any, tmp_path: Path
) -> None:
    file = tmp_path / "minilm.pt2"
    real_models.save_sentence_program(sentence_weights, file)
    graph, program = load_runtime(sentence_graph), load_runtime(file, options=TRUSTED, execution="process")
    assert program.inputs == graph.inputs
    assert program.outputs == graph.outputs
    assert program.batched
    for count in (1, 5):
        inputs = real_models.tokens(sentence_weights, SENTENCES[:count])
        np.testing.assert_allclose(
            program.run(inputs)["embeddings"], graph.run(inputs)["embeddings"], atol=1e-4
        )
    program.close()
