"""What every runtime promises, in this process and in workers. Subclass `RuntimeContract` and give it a `case` fixture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server.runtimes.base import Runtime, RuntimeOptions, TensorSpec
from socaity_server.runtimes.registry import load_runtime

SOON = 20.0
ROWS = 5
TOLERANCE = 1e-5

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class RuntimeCase:
    """A model file for one engine. `example(rows)` gives inputs whose rows differ; `bad` inputs make the model raise."""

    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    example: Callable[[int], Arrays]
    bad: Arrays
    options: RuntimeOptions = field(default_factory=RuntimeOptions)

    def load(self, execution: Literal["thread", "process"], file: Path | None = None) -> Runtime:
        return load_runtime(file or self.file, options=self.options, execution=execution)


class RuntimeContract:
    @pytest.fixture(scope="class", params=["thread", "process"])
    @classmethod
    def execution(cls, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls, case: RuntimeCase, execution: Any) -> Iterator[Runtime]:
        runtime = case.load(execution)
        yield runtime
        runtime.close()

    def test_model_says_what_it_takes_and_gives(
        self, case: RuntimeCase, runtime: Runtime, execution: str
    ) -> None:
        assert runtime.inputs == case.inputs
        assert runtime.outputs == case.outputs
        assert runtime.batched
        assert runtime.name
        assert runtime.device == "cpu"
        assert runtime.in_process is (execution == "process")

    def test_outputs_are_as_described(self, case: RuntimeCase, runtime: Runtime) -> None:
        outputs = runtime.run(case.example(ROWS))
        assert all(type(array) is np.ndarray for array in outputs.values())
        assert all(array.shape[0] == ROWS for array in outputs.values())
        for spec in case.outputs:
            array = outputs[spec.name]
            if spec.dtype is not None:
                assert array.dtype == spec.dtype
            if spec.shape is not None:
                assert len(array.shape) == len(spec.shape)
                assert all(
                    axis in (None, length) for axis, length in zip(spec.shape, array.shape, strict=True)
                )

    def test_rows_give_the_same_alone_and_in_a_batch(self, case: RuntimeCase, runtime: Runtime) -> None:
        inputs = case.example(ROWS)
        together = runtime.run(inputs)
        for row in range(ROWS):
            alone = runtime.run({name: array[row : row + 1] for name, array in inputs.items()})
            assert alone.keys() == together.keys()
            for name, array in alone.items():
                same(array, together[name][row : row + 1])

    def test_inputs_may_be_read_only_and_are_not_changed(self, case: RuntimeCase, runtime: Runtime) -> None:
        inputs = case.example(ROWS)
        views = {name: unwritable(array) for name, array in inputs.items()}
        outputs = runtime.run(views)
        for name, array in inputs.items():
            assert np.array_equal(views[name], array)
        for name, array in runtime.run(inputs).items():
            same(outputs[name], array)

    def test_outputs_keep_their_values_when_the_model_runs_again(
        self, case: RuntimeCase, runtime: Runtime
    ) -> None:
        first = runtime.run(case.example(ROWS))
        kept = {name: array.copy() for name, array in first.items()}
        runtime.run({name: array[::-1].copy() for name, array in case.example(ROWS).items()})
        for name, array in first.items():
            assert np.array_equal(array, kept[name])

    def test_batches_of_other_sizes_follow_each_other(self, case: RuntimeCase, runtime: Runtime) -> None:
        for rows in (1, 300, 2, 40):
            outputs = runtime.run(case.example(rows))
            assert {len(array) for array in outputs.values()} == {rows}

    def test_four_threads_may_run_it_at_once(self, case: RuntimeCase, runtime: Runtime) -> None:
        sizes = [1, 2, 3, 4]
        expected = [runtime.run(case.example(rows)) for rows in sizes]
        together = threading.Barrier(len(sizes))

        def call(rows: int) -> list[Any]:
            together.wait(SOON)
            return [runtime.run(case.example(rows)) for _ in range(5)]

        with ThreadPoolExecutor(len(sizes)) as pool:
            for results, wanted in zip(pool.map(call, sizes, timeout=SOON), expected, strict=True):
                for outputs in results:
                    for name, array in wanted.items():
                        same(outputs[name], array)

    def test_model_runs_on_after_an_error(self, case: RuntimeCase, runtime: Runtime) -> None:
        before = runtime.run(case.example(ROWS))
        with pytest.raises(Exception, match=r"\w"):
            runtime.run(case.bad)
        for name, array in runtime.run(case.example(ROWS)).items():
            same(array, before[name])

    def test_closing_twice_is_closing_once(self, case: RuntimeCase, execution: Any) -> None:
        runtime = case.load(execution)
        runtime.run(case.example(1))
        runtime.close()
        runtime.close()
        with pytest.raises(RuntimeError, match="closed"):
            runtime.run(case.example(1))

    @pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
    def test_damaged_file_is_named(
        self, case: RuntimeCase, execution: Any, damage: str, tmp_path: Path
    ) -> None:
        file = tmp_path / f"{damage}{case.file.suffix}"
        content = case.file.read_bytes()
        if damage != "missing":
            file.write_bytes(b"" if damage == "empty" else content[: len(content) * 9 // 10])
        with pytest.raises(ConfigurationError, match=file.name):
            case.load(execution, file)

    def test_hash_of_another_file_is_refused(self, case: RuntimeCase) -> None:
        with pytest.raises(ConfigurationError, match=r"sha256 [0-9a-f]{64}, not the configured 0{64}"):
            load_runtime(case.file, options=RuntimeOptions(sha256="0" * 64), execution="thread")


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    """Equal, but for how the order of additions rounds."""
    assert one.dtype == other.dtype
    if one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)
    else:
        np.testing.assert_array_equal(one, other)


def unwritable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values as in a buffer from the network: read-only, and not where the processor would like them."""
    view = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    assert not view.flags.writeable
    return view
