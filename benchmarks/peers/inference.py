"""The models as the servers of the peers run them: the same code, files and engines for all of them.

Runs in the environments of the peers: it may import numpy, onnxruntime, joblib and tokenizers, and nothing of ours.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Predict = Callable[[Sequence[Any]], list[Any]]
"""One entry for each request, in order: a row of floats or a text, and what is answered to it (an array or a number)."""

_MAX_TOKENS = 256


def load(
    model: str, path: str, *, threads: int = 1, spinning: bool = False, chunk: int = 0, quick: str = ""
) -> Predict:
    """`mlp`, `tensor`, `forest` or `minilm`; `threads` of one batch; `quick`: see `_forest`; `chunk`: see `_minilm`."""
    if model in {"mlp", "tensor"}:
        return _mlp(path, threads, spinning)
    if model == "forest":
        return _forest(path, quick)
    return _minilm(path, threads, spinning, chunk)


def _mlp(path: str, threads: int, spinning: bool) -> Predict:
    session = _session(path, threads, spinning)

    def predict(rows: Sequence[Sequence[float]]) -> list[Any]:
        return list(session.run(None, {"x": np.array(rows, np.float32)})[0])

    return predict


def _forest(path: str, quick: str) -> Predict:
    """`quick` is the file in which our server has its own way of asking the trees; else `forest.predict` does it."""
    import joblib

    forest = joblib.load(path)
    forest.n_jobs = 1
    call = runpy.run_path(quick)["quick_forest"](forest, "predict") if quick else forest.predict

    def predict(rows: Sequence[Sequence[float]]) -> list[int]:
        return call(np.array(rows, np.float32)).tolist()

    return predict


def _minilm(path: str, threads: int, spinning: bool, chunk: int) -> Predict:
    """With `chunk`, texts of about the same length are run together, at most so many at once: less padding."""
    from tokenizers import Tokenizer

    session = _session(path, threads, spinning)
    names = [one.name for one in session.get_inputs()]
    tokenizer = Tokenizer.from_file(str(Path(path).parent / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)

    def predict(texts: Sequence[str]) -> list[Any]:
        encoded = tokenizer.encode_batch_fast(list(texts))
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
        step = chunk or len(texts)
        answers: list[Any] = [None] * len(texts)
        for start in range(0, len(texts), step):
            chosen = order[start : start + step]
            longest = len(encoded[chosen[-1]].ids)
            ids = np.zeros((len(chosen), longest), np.int64)
            mask = np.zeros((len(chosen), longest), np.int64)
            for row, index in enumerate(chosen):
                length = len(encoded[index].ids)
                ids[row, :length] = encoded[index].ids
                mask[row, :length] = 1
            feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            vectors = session.run(None, {name: feeds[name] for name in names})[0]
            for index, vector in zip(chosen, vectors, strict=True):
                answers[index] = vector
        return answers

    return predict


def _session(path: str, threads: int, spinning: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
