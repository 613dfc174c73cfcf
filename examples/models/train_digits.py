"""Trains the model of the examples on scikit-learn's handwritten digits and writes `digits.onnx` beside itself.

The model takes `x`, float32 [N, 64], the 8 x 8 pixels from 0 to 16, and gives `probabilities`, float32 [N, 10].
A fifth of the digits is held out of the training and written to `digits_held_out.npz` for the demo.
Needs scikit-learn, onnx and onnxruntime; the same versions give the same files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
BRIGHTEST = 16.0
SEED = 0
OPSET = 17  # old enough for every ONNX Runtime that we support
IR_VERSION = 8


def main() -> None:
    """Train, write the model and the held-out digits, and check the one against the other."""
    pixels, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels.astype(np.float32), labels, test_size=0.2, stratify=labels, random_state=SEED
    )
    classifier = MLPClassifier(hidden_layer_sizes=(64,), activation="relu", max_iter=1000, random_state=SEED)
    classifier.fit(train_x / BRIGHTEST, train_y)

    path = HERE / "digits.onnx"
    onnx.save(to_onnx(classifier), path)
    np.savez_compressed(HERE / "digits_held_out.npz", x=test_x.astype(np.uint8), y=test_y.astype(np.uint8))

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"x": test_x})
    np.testing.assert_allclose(probabilities, classifier.predict_proba(test_x / BRIGHTEST), atol=1e-5)
    accuracy = (probabilities.argmax(axis=1) == test_y).mean()
    print(f"{path.name}: {accuracy:.1%} of {len(test_y)} held-out digits are right")


def to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """The trained network as a graph: scale the pixels, hidden layer, relu, output layer, softmax."""
    (hidden_weights, output_weights), (hidden_bias, output_bias) = classifier.coefs_, classifier.intercepts_
    constants = {
        "brightest": np.float32(BRIGHTEST),
        "hidden_weights": hidden_weights.astype(np.float32),
        "hidden_bias": hidden_bias.astype(np.float32),
        "output_weights": output_weights.astype(np.float32),
        "output_bias": output_bias.astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Div", ["x", "brightest"], ["scaled"]),
            helper.make_node("Gemm", ["scaled", "hidden_weights", "hidden_bias"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "output_weights", "output_bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="socaity",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    return model


if __name__ == "__main__":
    main()
