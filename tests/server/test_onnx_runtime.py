"""The ONNX runtime: what it reads from a graph, what it computes, and how it refuses a file."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError, JobFailed
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.onnx import ONNXRuntime

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

DEADLINE = 10.0
DIGITS = Path(__file__).parents[2] / "examples" / "models"
Axes = Sequence[int | str | None]


def save_model(
    file: Path,
    *,
    inputs: dict[str, Axes] | None = None,
    output: Axes | None = ("N", 2),
    dtype: str = "FLOAT",
    opset: int = 17,
    op: str = "Identity",
) -> Path:
    """A graph that applies `op` to its first input."""
    helper, element = onnx.helper, getattr(onnx.TensorProto, dtype)
    inputs = {"x": ("N", 2)} if inputs is None else inputs
    graph = helper.make_graph(
        [helper.make_node(op, [next(iter(inputs))], ["y"])],
        "test",
        [helper.make_tensor_value_info(name, element, axes) for name, axes in inputs.items()],
        [helper.make_tensor_value_info("y", element, output)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file


def test_digits_are_recognised_in_batches_of_any_size() -> None:
    runtime = ONNXRuntime(DIGITS / "digits.onnx")
    assert runtime.inputs == (TensorSpec("x", "float32", (None, 64)),)
    assert runtime.outputs == (TensorSpec("probabilities", "float32", (None, 10)),)
    assert runtime.batched
    assert runtime.name.startswith("onnxruntime ")
    with np.load(DIGITS / "digits_held_out.npz") as held_out:
        pixels, labels = held_out["x"].astype(np.float32), held_out["y"]
    probabilities = runtime.run({"x": pixels})["probabilities"]
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    one = runtime.run({"x": pixels[:1]})["probabilities"]
    np.testing.assert_allclose(one, probabilities[:1], atol=1e-6)
    runtime.close()


def test_read_only_views_are_accepted_and_not_written_to(tmp_path: Path) -> None:
    runtime = ONNXRuntime(save_model(tmp_path / "m.onnx", op="Neg"))
    data = b"\0" + np.arange(4, dtype="<f4").tobytes()
    view = np.frombuffer(data, dtype="<f4", offset=1).reshape(2, 2)  # unaligned, as in a network buffer
    assert runtime.run({"x": view})["y"].tolist() == [[-0.0, -1.0], [-2.0, -3.0]]
    assert view.tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        ("BOOL", "bool"),
        ("DOUBLE", "float64"),
        ("FLOAT", "float32"),
        ("FLOAT16", "float16"),
        ("INT16", "int16"),
        ("INT32", "int32"),
        ("INT64", "int64"),
        ("INT8", "int8"),
        ("STRING", "object"),
        ("UINT16", "uint16"),
        ("UINT32", "uint32"),
        ("UINT64", "uint64"),
        ("UINT8", "uint8"),
    ],
)
def test_every_dtype_goes_in_and_out(tmp_path: Path, element: str, dtype: str) -> None:
    runtime = ONNXRuntime(save_model(tmp_path / "m.onnx", dtype=element))
    assert runtime.inputs[0].dtype == runtime.outputs[0].dtype == dtype
    value = np.array([["", "ä"]], dtype=object) if dtype == "object" else np.array([[0, 1]], dtype=dtype)
    result = runtime.run({"x": value})["y"]
    assert result.dtype == dtype
    assert result.tolist() == value.tolist()


@pytest.mark.parametrize(
    ("inputs", "output", "batched"),
    [
        ({"x": ("N", 2)}, ("N", 2), True),
        ({"x": (None, 2)}, (None, 2), True),
        ({"x": ("N", 2), "z": ("N", "M")}, ("N", 2), True),
        ({"x": ("N", 2)}, None, True),
        ({"x": (1, 2)}, (1, 2), False),
        ({"x": ("N", 2), "z": (3,)}, ("N", 2), False),
        ({"x": ("N", 2), "z": ()}, ("N", 2), False),
    ],
)
def test_model_is_batched_if_the_first_axis_of_every_input_is_free(
    tmp_path: Path, inputs: dict[str, Axes], output: Axes | None, batched: bool
) -> None:
    assert ONNXRuntime(save_model(tmp_path / "m.onnx", inputs=inputs, output=output)).batched is batched


def test_model_that_folds_the_batch_into_one_row_is_not_batched(tmp_path: Path) -> None:
    runtime = ONNXRuntime(save_model(tmp_path / "m.onnx", op="ReduceSum", output=(1, 1)))
    assert not runtime.batched


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no model file .*gone\.onnx"):
        ONNXRuntime(tmp_path / "gone.onnx")


@pytest.mark.parametrize("kept", [0, 1, 100, 19_000])
def test_truncated_file_is_named(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "cut.onnx"
    file.write_bytes((DIGITS / "digits.onnx").read_bytes()[:kept])
    with pytest.raises(ConfigurationError, match=r"cut\.onnx"):
        ONNXRuntime(file)


def test_file_that_is_not_onnx_is_named(tmp_path: Path) -> None:
    file = tmp_path / "page.onnx"
    file.write_text("<html>Not found</html>")
    with pytest.raises(ConfigurationError, match=r"cannot load .*page\.onnx"):
        ONNXRuntime(file)


def test_opset_of_the_future_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"m\.onnx.*opset"):
        ONNXRuntime(save_model(tmp_path / "m.onnx", opset=999))


def test_type_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"input 'x' of .*m\.onnx.*bfloat16"):
        ONNXRuntime(save_model(tmp_path / "m.onnx", dtype="BFLOAT16"))


def test_missing_extra_gives_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'socaity\[onnx\]'"):
        ONNXRuntime(DIGITS / "digits.onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RuntimeOptions(device="gpu"), r"digits\.onnx' is cpu, cuda or cuda:N"),
        (RuntimeOptions(device="cuda:1"), r"digits\.onnx' is cuda:1, but .*pip install onnxruntime-gpu"),
        (RuntimeOptions(arguments={"graph_optimization": "none"}), r"one of off, basic, extended, all"),
        (
            RuntimeOptions(arguments={"optimization": "all"}),
            r"no argument 'optimization'.*'graph_optimization'",
        ),
        (
            RuntimeOptions(inputs=(TensorSpec("y", None, None),)),
            r"'y' is not in .*digits\.onnx'; its inputs: 'x'",
        ),
        (
            RuntimeOptions(outputs=(TensorSpec("", "float64", None),)),
            r"dtype float64, but the model has float32",
        ),
    ],
)
def test_option_that_the_model_cannot_have_is_refused(options: RuntimeOptions, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ONNXRuntime(DIGITS / "digits.onnx", options)


@pytest.mark.parametrize("level", ["off", "basic", "extended", "all"])
def test_every_level_of_optimization_gives_the_same(level: str) -> None:
    runtime = ONNXRuntime(
        DIGITS / "digits.onnx", RuntimeOptions(device="cpu", arguments={"graph_optimization": level})
    )
    pixels = {"x": np.full((2, 64), 3, np.float32)}
    expected = ONNXRuntime(DIGITS / "digits.onnx").run(pixels)["probabilities"]
    np.testing.assert_allclose(runtime.run(pixels)["probabilities"], expected, atol=1e-6)


def test_declared_shape_fills_free_axes(tmp_path: Path) -> None:
    file = save_model(tmp_path / "m.onnx", inputs={"x": ("N", "M")}, output=("N", "M"))
    runtime = ONNXRuntime(file, RuntimeOptions(inputs=(TensorSpec("x", "float32", (None, 7)),)))
    assert runtime.inputs == (TensorSpec("x", "float32", (None, 7)),)
    assert not ONNXRuntime(file, RuntimeOptions(inputs=(TensorSpec("x", None, (1, 7)),))).batched


def test_failed_run_shows_no_value_of_the_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    helper, element = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "i"], ["y"])],
        "test",
        [helper.make_tensor_value_info("i", element.INT64, ["N"])],
        [helper.make_tensor_value_info("y", element.FLOAT, ["N"])],
        [onnx.numpy_helper.from_array(np.zeros(3, np.float32), "table")],
    )
    file = tmp_path / "lookup.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(JobFailed, match=r"Gather node.*out of data bounds") as caught:
        ONNXRuntime(file).run({"i": np.array([987654])})
    captured = capfd.readouterr()
    shown = "".join(traceback.format_exception(caught.value)) + captured.out + captured.err
    assert "987654" not in shown.replace("np.array([987654])", "")


def test_no_threads_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        ONNXRuntime(DIGITS / "digits.onnx", RuntimeOptions(threads=0))


@pytest.mark.parametrize(
    "inputs", [{}, {"x": np.zeros((1, 3), np.float32)}, {"x": np.zeros((1, 2), np.int64)}]
)
def test_wrong_inputs_raise(tmp_path: Path, inputs: dict[str, Any]) -> None:
    runtime = ONNXRuntime(save_model(tmp_path / "m.onnx"))
    with pytest.raises(Exception, match="x"):
        runtime.run(inputs)


def test_closed_model_says_so() -> None:
    runtime = ONNXRuntime(DIGITS / "digits.onnx")
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.run({"x": np.zeros((1, 64), np.float32)})


def test_one_model_runs_on_several_threads_at_once() -> None:
    runtime = ONNXRuntime(DIGITS / "digits.onnx", RuntimeOptions(threads=2))
    together = threading.Barrier(4)

    def call(pixel: int) -> Any:
        together.wait(DEADLINE)
        return runtime.run({"x": np.full((1, 64), pixel, np.float32)})["probabilities"][0].tolist()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(call, range(4), timeout=DEADLINE))
    assert results == [
        runtime.run({"x": np.full((1, 64), pixel, np.float32)})["probabilities"][0].tolist()
        for pixel in range(4)
    ]


def test_long_run_is_ended_by_interrupt_and_a_short_one_is_not(tmp_path: Path) -> None:
    """A loop that would take hours."""
    number = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["go"], ["on"]),
            onnx.helper.make_node("Add", ["sum", "sum"], ["more"]),
        ],
        "body",
        [
            number("i", onnx.TensorProto.INT64, []),
            number("go", onnx.TensorProto.BOOL, []),
            number("sum", onnx.TensorProto.FLOAT, [None]),
        ],
        [number("on", onnx.TensorProto.BOOL, []), number("more", onnx.TensorProto.FLOAT, [None])],
    )
    loop = onnx.helper.make_node("Loop", ["count", "", "x"], ["y"], body=body)
    graph = onnx.helper.make_graph(
        [loop],
        "forever",
        [number("count", onnx.TensorProto.INT64, []), number("x", onnx.TensorProto.FLOAT, [None])],
        [number("y", onnx.TensorProto.FLOAT, [None])],
    )
    file = tmp_path / "forever.onnx"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    runtime = ONNXRuntime(file)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            runtime.run({"count": np.array(2**62), "x": np.ones(2, np.float32)})
        except JobFailed as exc:
            failed.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert runtime.interrupt(longer_than=3600.0) == 0
    while not runtime.interrupt():
        assert thread.is_alive()
    thread.join(10.0)
    assert len(failed) == 1
    assert runtime.interrupt() == 0
    outputs = runtime.run({"count": np.array(3), "x": np.ones(2, np.float32)})
    assert outputs["y"].tolist() == [8.0, 8.0]
