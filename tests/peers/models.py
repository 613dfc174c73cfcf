"""The models that our server serves to the programs of the peers, written as users write them: files in a folder."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import onnx
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

DTYPES = {
    "BOOL": "bool",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "FP16": "float16",
    "BF16": "bfloat16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
IDENTITY = """
def predict(INPUT0):
    return {"OUTPUT0": INPUT0}
"""
SLOW = """
import time

def predict(INPUT0):
    time.sleep(float(INPUT0.max()))
    return {"OUTPUT0": INPUT0}
"""
BROKEN = """
def predict(INPUT0):
    raise ArithmeticError("this model always fails")
"""
TEXTS = """
import numpy as np

def as_text(numbers):
    return np.array([[str(one).encode() for one in row] for row in numbers], object)

def predict(INPUT0, INPUT1):
    first, second = (np.array([[int(one) for one in row] for row in rows]) for rows in (INPUT0, INPUT1))
    return {"OUTPUT0": as_text(first + second), "OUTPUT1": as_text(first - second)}
"""
ONE_AT_A_TIME = "batching: {max_batch_size: 1, rush_batch_size: 1}\n"


def write_models(folder: Path) -> None:
    """One folder for each model, with the file of the model and what its configuration says."""
    _simple(folder / "simple" / "model.onnx")
    _matrix(folder / "identity_fp32_matrix" / "model.onnx")
    for datatype, dtype in DTYPES.items():
        _python(folder / f"identity_{datatype.lower()}", IDENTITY, dtype, "[-1]", "allow_nan: true\n")
    _python(folder / "identity_fp32_cube", IDENTITY, "float32", "[-1, -1, -1]")
    _python(folder / "identity_bytes_pair", IDENTITY, "object", "[-1, 2]")
    for name in ("comes_and_goes", "goes_and_comes"):
        _python(folder / name, IDENTITY, "float32", "[-1]")
    _python(folder / "slow", SLOW, "float32", "[-1]", f"instances: 4\n{ONE_AT_A_TIME}")
    _python(folder / "queue_of_one", SLOW, "float32", "[-1]", f"instances: 1\nqueue_size: 1\n{ONE_AT_A_TIME}")
    _python(folder / "broken", BROKEN, "float32", "[-1]", "circuit_breaker: false\n")
    pair = "inputs:\n  - {name: INPUT0, dtype: object, shape: [-1, 16]}\n  - {name: INPUT1, dtype: object, shape: [-1, 16]}\n"
    pair += pair.replace("INPUT", "OUTPUT").replace("inputs", "outputs")
    _write(folder / "simple_string", TEXTS, pair)


def _python(folder: Path, code: str, dtype: str, shape: str, more: str = "") -> None:
    said = f"dtype: {dtype}, shape: {shape}"
    tensors = f"inputs: [{{name: INPUT0, {said}}}]\noutputs: [{{name: OUTPUT0, {said}}}]\n"
    _write(folder, code, tensors + more)


def _write(folder: Path, code: str, config: str) -> None:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(dedent(code))
    # threads and no warm-up: two dozen models are there in a second
    (folder / "model_config.yaml").write_text(f"{config}execution: thread\nwarmup: false\n")


def _simple(path: Path) -> None:
    """The sum and the difference of two rows of sixteen numbers."""
    names = ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    first, second, total, difference = (
        make_tensor_value_info(name, TensorProto.INT32, ["rows", 16]) for name in names
    )
    nodes = [make_node("Add", names[:2], names[2:3]), make_node("Sub", names[:2], names[3:])]
    _save(path, nodes, [first, second], [total, difference])


def _matrix(path: Path) -> None:
    given, answer = (
        make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"]) for name in ("INPUT0", "OUTPUT0")
    )
    _save(path, [make_node("Identity", ["INPUT0"], ["OUTPUT0"])], [given], [answer])


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any]) -> None:
    path.parent.mkdir(parents=True)
    graph = make_graph(nodes, path.parent.name, inputs, outputs)
    model = make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
