"""A model is measured within its budget, run the way that measured best, and not measured twice."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity_server.profile import (
    Profile,
    ProfileCache,
    batch_dependence,
    default_cache_directory,
    run_delay,
    tune,
)
from socaity_server.runtimes.base import Runtime, RuntimeOptions, TensorSpec

DIGITS = Path(__file__).parents[2] / "examples" / "models" / "digits.onnx"

Arrays = dict[str, np.ndarray[Any, Any]]
Cost = Callable[[int, int], float]


class FakeClock:
    """Moves when a fake model runs or loads."""

    def __init__(self) -> None:
        self.now = 100.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class FakeRuntime(Runtime):
    """Takes `cost(rows, threads)` seconds; at most `parallel` threads that run it at once do not hinder each other."""

    def __init__(
        self,
        clock: FakeClock,
        cost: Cost,
        threads: int = 1,
        *,
        batched: bool = True,
        in_process: bool = False,
        parallel: int = 1,
        device: str = "cpu",
        most_rows: int = 10**9,
    ) -> None:
        self.name = "fake 1.0"
        self.inputs = (TensorSpec("x", "float32", (None, 4)),)
        self.outputs = (TensorSpec("y", "float32", (None, 4)),)
        self.batched = batched
        self.in_process = in_process
        self.device = device
        self.threads = threads
        self.closed = 0
        self.sizes: list[int] = []
        self._clock = clock
        self._cost = cost
        self._parallel = parallel
        self._most_rows = most_rows

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        assert not self.closed
        rows = len(inputs["x"])
        if rows > self._most_rows:
            raise ValueError(f"at most {self._most_rows} rows\nand a long trace")
        self.sizes.append(rows)
        runs = sum(thread.name.startswith("profile") for thread in threading.enumerate())
        self._clock.pass_time(self._cost(rows, self.threads) / max(min(runs, self._parallel), 1))
        return {"y": inputs["x"]}

    def close(self) -> None:
        self.closed += 1


class Loader:
    """Loads fake models, and remembers them."""

    def __init__(self, cost: Cost, *, seconds: float = 0.0, **options: Any) -> None:
        self.clock = FakeClock()
        self.loaded: list[FakeRuntime] = []
        self._cost = cost
        self._seconds = seconds
        self._options = options

    def __call__(self, threads: int) -> Runtime:
        self.clock.pass_time(self._seconds)
        runtime = FakeRuntime(self.clock, self._cost, threads, **self._options)
        self.loaded.append(runtime)
        return runtime

    @property
    def open(self) -> list[FakeRuntime]:
        return [runtime for runtime in self.loaded if not runtime.closed]


def example(runtime: Runtime, rows: int) -> Arrays | None:
    return {"x": np.zeros((rows, 4), np.float32)}


def tuned(loader: Loader, *, cores: int = 4, **options: Any) -> Profile:
    options = {"key": "model", "example": example, "clock": loader.clock, "waited": float, **options}
    runtime, profile = tune(loader, cores=cores, **options)
    assert loader.open == [runtime], "what is not used is closed"
    assert profile.threads == loader.open[0].threads
    return profile


def linear(fixed: float, per_row: float) -> Cost:
    return lambda rows, threads: fixed + per_row * rows


def test_quick_model_is_measured_and_keeps_one_thread() -> None:
    loader = Loader(linear(100e-6, 10e-6))
    profile = tuned(loader)
    assert (profile.threads, profile.instances) == (1, 1)
    assert len(loader.loaded) == 1
    assert profile.fixed == pytest.approx(100e-6, rel=1e-6)
    assert profile.per_row == pytest.approx(10e-6, rel=1e-6)
    assert profile.seconds[8] == pytest.approx(180e-6)
    assert not profile.from_cache
    assert profile.notes == ()


def test_batch_is_as_large_as_doubling_gains() -> None:
    profile = tuned(Loader(linear(100e-6, 10e-6)))
    assert profile.max_batch_size == 256  # 2·(100 + 10·256) / (100 + 10·512) is below 1.03
    assert profile.rush_batch_size == 1024


def test_model_that_gains_nothing_from_batches_has_none() -> None:
    loader = Loader(linear(0.0, 100e-6))
    profile = tuned(loader)
    assert profile.max_batch_size == 1
    assert set(profile.seconds) == {1, 2, 4}, "flat twice is enough"


def test_one_disturbed_size_does_not_end_the_growth() -> None:
    def cost(rows: int, threads: int) -> float:
        return (100e-6 + 1e-6 * rows) * (3 if rows == 8 else 1)

    profile = tuned(Loader(cost))
    assert profile.max_batch_size >= 512


def test_size_that_gets_worse_is_not_used() -> None:
    def cost(rows: int, threads: int) -> float:
        return (100e-6 + 5e-6 * rows) * (1 if rows <= 32 else 2)

    profile = tuned(Loader(cost))
    assert profile.max_batch_size == 32
    assert profile.rush_batch_size == 32


def test_first_run_does_not_count() -> None:
    cold = iter([0.5])

    def cost(rows: int, threads: int) -> float:
        return next(cold, 100e-6)

    assert tuned(Loader(cost)).seconds[1] == pytest.approx(100e-6)


def test_one_slow_run_among_several_does_not_count() -> None:
    runs = iter(range(10**6))

    def cost(rows: int, threads: int) -> float:
        return 0.02 if next(runs) == 2 else 200e-6

    assert tuned(Loader(cost)).seconds[1] == pytest.approx(200e-6)


def test_configured_size_is_kept_and_bounds_the_measurement() -> None:
    profile = tuned(Loader(linear(100e-6, 1e-6)), max_batch_size=12)
    assert (profile.max_batch_size, profile.rush_batch_size) == (12, 12)
    assert set(profile.seconds) == {1, 2, 4, 8}


def test_model_for_one_row_is_measured_with_one() -> None:
    loader = Loader(linear(100e-6, 1e-6), batched=False)
    profile = tuned(loader, max_batch_size=8)
    assert set(profile.seconds) == {1}
    assert (profile.max_batch_size, profile.rush_batch_size) == (1, 1)


def test_larger_model_gets_the_threads_that_make_it_quicker() -> None:
    loader = Loader(lambda rows, threads: (0.004 + 0.002 * rows) / threads)
    profile = tuned(loader, cores=4)
    assert (profile.threads, profile.instances) == (4, 1)
    assert [runtime.threads for runtime in loader.loaded] == [1, 2, 4]


def test_threads_that_gain_nothing_are_not_used() -> None:
    loader = Loader(linear(0.004, 0.002))
    profile = tuned(loader, cores=16)
    assert (profile.threads, profile.instances) == (1, 1)
    assert [runtime.threads for runtime in loader.loaded] == [1, 2]


def test_model_that_only_gains_from_instances_gets_them() -> None:
    loader = Loader(linear(0.004, 0.002), parallel=4)
    profile = tuned(loader, cores=4)
    assert (profile.threads, profile.instances) == (1, 4)


def test_instances_that_gain_nothing_are_not_used() -> None:
    profile = tuned(Loader(linear(0.004, 0.002), parallel=2), cores=16, threads=1)
    assert profile.instances == 2


def test_threads_win_over_as_many_instances() -> None:
    loader = Loader(lambda rows, threads: (0.004 + 0.002 * rows) / threads, parallel=2)
    profile = tuned(loader, cores=2)
    assert (profile.threads, profile.instances) == (2, 1)


def test_quick_model_with_heavy_rows_may_have_instances() -> None:
    profile = tuned(Loader(linear(0.0, 500e-6), parallel=4), cores=4)
    assert (profile.threads, profile.instances) == (1, 4)


def test_given_threads_and_instances_are_kept() -> None:
    loader = Loader(linear(0.004, 0.002))
    profile = tuned(loader, cores=4, threads=3, instances=2)
    assert (profile.threads, profile.instances) == (3, 2)
    assert len(loader.loaded) == 1


def test_given_instances_leave_their_cores_to_threads() -> None:
    loader = Loader(lambda rows, threads: (0.004 + 0.002 * rows) / threads)
    profile = tuned(loader, cores=4, instances=2)
    assert (profile.threads, profile.instances) == (2, 2)
    assert [runtime.threads for runtime in loader.loaded] == [1, 2]


@pytest.mark.parametrize(("cores", "instances"), [(1, 1), (2, 1), (8, 7)])
def test_model_that_holds_the_interpreter_leaves_one_core_to_the_loop(cores: int, instances: int) -> None:
    loader = Loader(linear(0.004, 0.002), in_process=True)
    profile = tuned(loader, cores=cores)
    assert (profile.threads, profile.instances) == (1, instances)
    assert len(loader.loaded) == 1


def test_threads_of_the_processor_are_not_tried_for_a_graphics_card() -> None:
    loader = Loader(linear(0.004, 0.0001), device="cuda:0")
    profile = tuned(loader, cores=16)
    assert profile.threads == 1
    assert profile.instances <= 2
    assert len(loader.loaded) == 1


@pytest.mark.parametrize("per_row", [1e-5, 1e-3, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("cores", [1, 2, 8])
def test_budget_is_kept_and_loading_is_free(per_row: float, cores: int) -> None:
    loader = Loader(linear(per_row, per_row), seconds=50.0)
    tuned(loader, cores=cores)
    measured = loader.clock.now - 100.0 - 50.0 * len(loader.loaded)
    assert measured <= 2.0 + 2 * per_row


def test_very_slow_model_is_run_once_or_twice() -> None:
    loader = Loader(linear(3.0, 3.0))
    profile = tuned(loader, cores=8)
    assert loader.loaded[0].sizes == [1]
    assert profile.seconds == {1: pytest.approx(6.0)}
    assert profile.max_batch_size == 1
    assert any("max_batch_size" in note for note in profile.notes)


def test_slow_model_still_shows_what_two_rows_take() -> None:
    profile = tuned(Loader(linear(0.3, 0.01)), cores=1)
    assert 2 in profile.seconds
    assert profile.max_batch_size >= 2


def test_large_rows_are_not_multiplied_beyond_memory() -> None:
    sizes: list[int] = []

    def large(runtime: Runtime, rows: int) -> Arrays | None:
        sizes.append(rows)
        return {"x": np.zeros((rows, 2**21), np.float32)}  # 8 MiB a row

    profile = tuned(Loader(linear(100e-6, 1e-6)), example=large)
    assert max(sizes) == 8
    assert profile.max_batch_size == 8


def test_model_without_example_gets_a_default_and_a_note() -> None:
    profile = tuned(Loader(linear(0.1, 0.1)), example=lambda runtime, rows: None)
    assert (profile.fixed, profile.per_row, profile.seconds) == (0.0, 0.0, {})
    assert profile.max_batch_size == 64
    assert profile.notes == ("The model was not measured: no example input could be made for it.",)


def test_model_that_fails_with_the_example_is_not_measured() -> None:
    profile = tuned(Loader(linear(0.1, 0.1), most_rows=0))
    assert profile.seconds == {}
    assert profile.notes == ("The model was not measured: ValueError: at most 0 rows",)


def test_model_that_fails_with_many_rows_gets_no_more() -> None:
    profile = tuned(Loader(linear(100e-6, 1e-6), most_rows=8))
    assert profile.rush_batch_size == profile.max_batch_size == 8
    assert profile.notes == ("The model fails with 16 rows: ValueError: at most 8 rows",)


def test_model_that_answers_too_few_rows_gets_one_at_a_time() -> None:
    class OneAnswer(FakeRuntime):
        def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
            return {"y": super().run(inputs)["y"][:1]}

    clock = FakeClock()
    _, profile = tune(
        lambda threads: OneAnswer(clock, linear(100e-6, 0.0)),
        cores=1,
        key="",
        example=example,
        clock=clock,
        waited=float,
    )
    assert profile.max_batch_size == 1
    assert "the output 'y' has 1 rows for 2 rows of input" in profile.notes[0]


def test_more_threads_that_cannot_be_loaded_are_done_without() -> None:
    clock = FakeClock()
    first = FakeRuntime(clock, linear(0.004, 0.002))

    def load(threads: int) -> Runtime:
        if threads > 1:
            raise MemoryError("no room")
        return first

    runtime, profile = tune(load, cores=4, key="", example=example, clock=clock, waited=float)
    assert runtime is first
    assert not first.closed
    assert profile.notes == ("The model does not load with 2 threads: MemoryError: no room",)


def test_interruption_closes_what_was_loaded() -> None:
    def interrupt(rows: int, threads: int) -> float:
        if threads > 1:
            raise KeyboardInterrupt
        return 0.01

    loader = Loader(interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuned(loader)
    assert len(loader.loaded) == 2
    assert loader.open == []


# The cache


def test_profile_is_measured_once(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path / "new" / "profiles")
    first = tuned(Loader(lambda rows, threads: (0.004 + 0.002 * rows) / threads), cache=cache)
    loader = Loader(linear(1.0, 1.0))
    second = tuned(loader, cache=cache)
    assert second.from_cache
    assert [(runtime.threads, runtime.sizes) for runtime in loader.loaded] == [(4, [])]
    assert (second.fixed, second.per_row, second.seconds) == (first.fixed, first.per_row, first.seconds)


@pytest.mark.parametrize("changed", [{"key": "other"}, {"cores": 2}, {"threads": 1}, {"max_batch_size": 8}])
def test_what_was_measured_for_something_else_is_not_used(tmp_path: Path, changed: dict[str, Any]) -> None:
    cache = ProfileCache(tmp_path)
    tuned(Loader(linear(1e-4, 1e-6)), cache=cache)
    assert not tuned(Loader(linear(1e-4, 1e-6)), cache=cache, **changed).from_cache


def test_profile_of_another_engine_is_not_used(tmp_path: Path) -> None:
    cache = ProfileCache(tmp_path)
    tuned(Loader(lambda rows, threads: (0.004 + 0.002 * rows) / threads), cache=cache)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text().replace("fake 1.0", "fake 0.9"))
    loader = Loader(linear(1e-4, 1e-6))
    assert not tuned(loader, cache=cache).from_cache
    assert [runtime.threads for runtime in loader.loaded] == [4, 1]


def test_profile_survives_the_file(tmp_path: Path) -> None:
    profile = Profile(0.001, 2e-5, {1: 0.001, 2: 0.0011}, 2, 4, 3, 2, notes=("é",))
    ProfileCache(tmp_path).put("key", profile)
    found = ProfileCache(tmp_path).get("key")
    assert found == Profile(0.001, 2e-5, {1: 0.001, 2: 0.0011}, 2, 4, 3, 2, from_cache=True, notes=("é",))
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"], "nothing is left of the writing"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"format": 2', '"format": 99'),
        lambda text: text.replace('"key": "key"', '"key": "other"'),
        lambda text: text.replace('"threads": 3', '"threads": -1'),
        lambda text: text.replace('"threads": 3', '"threads": 1e9'),
        lambda text: text.replace('"threads": 3', '"threads": true'),
        lambda text: text.replace('"fixed": 0.001', '"fixed": NaN'),
        lambda text: text.replace('"fixed": 0.001', '"fixed": "0.001"'),
        lambda text: text.replace('"fixed": 0.001', '"fixd": 0.001'),
        lambda text: text.replace('"seconds": {', '"seconds": {"x": 1, '),
        lambda text: text.replace('"notes": []', '"notes": null'),
    ],
)
def test_damaged_file_counts_as_absent(tmp_path: Path, damage: Callable[[str], str]) -> None:
    cache = ProfileCache(tmp_path)
    cache.put("key", Profile(0.001, 2e-5, {1: 0.001}, 1, 1, 3, 1))
    (file,) = tmp_path.iterdir()
    text = file.read_text()
    assert damage(text) != text
    file.write_text(damage(text))
    assert cache.get("key") is None


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (ProfileCache(tmp_path / "file" / "below"), ProfileCache()):
        cache.put("key", Profile(0.0, 0.0, {}, 1, 1, 1, 1))
        assert cache.get("key") is None
        assert cache.engine("key") is None


def test_default_profile_is_not_kept(tmp_path: Path) -> None:
    tuned(Loader(linear(1e-4, 0.0)), cache=ProfileCache(tmp_path), example=lambda runtime, rows: None)
    assert list(tmp_path.iterdir()) == []


def test_file_is_plain_json(tmp_path: Path) -> None:
    tuned(Loader(linear(1e-4, 1e-6)), cache=ProfileCache(tmp_path))
    (file,) = tmp_path.iterdir()
    document = json.loads(file.read_text())
    assert document["engine"] == "fake 1.0"
    assert document["profile"]["seconds"]["1"] == pytest.approx(101e-6)


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"HOME": "/home/me"}, "/home/me/.cache/socaity/profiles"),
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": "/x"}, "/x/socaity/profiles"),
        ("linux", {"HOME": "/home/me", "XDG_CACHE_HOME": "rel"}, "/home/me/.cache/socaity/profiles"),
        ("linux", {"HOME": "/home/me", "SOCAITY_CACHE": "/c"}, "/c/profiles"),
        ("darwin", {"HOME": "/Users/me"}, "/Users/me/Library/Caches/socaity/profiles"),
        ("win32", {"LOCALAPPDATA": "/AppData"}, "/AppData/socaity/profiles"),
        ("linux", {}, None),
        ("darwin", {}, None),
        ("win32", {"HOME": "/home/me"}, None),
    ],
)
def test_cache_is_where_the_system_keeps_caches(
    platform: str, environ: dict[str, str], expected: str | None
) -> None:
    found = default_cache_directory(environ, platform=platform)
    assert found == (None if expected is None else Path(expected))


# Rows that depend on each other


class FunctionRuntime(Runtime):
    """Any function of `x` as a model with the output `y`."""

    name = "function"
    inputs = (TensorSpec("x", "float32", (None, 4)),)
    outputs = (TensorSpec("y", None, None),)
    batched = True

    def __init__(self, function: Callable[[np.ndarray[Any, Any]], Any]) -> None:
        self._function = function

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        result = self._function(inputs["x"])
        return result if isinstance(result, dict) else {"y": result}


X = {"x": np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2,
        lambda x: x * np.float32(1 + 1e-5 * len(x)),
        lambda x: np.full((len(x), 2), np.nan),
        lambda x: np.full((len(x), 2), np.inf),
        lambda x: np.zeros((len(x), 0)),
        lambda x: (x > 0).astype(np.uint8),
        lambda x: x[:, 0] > 0,
        lambda x: np.array([str(row) for row in x], object),
        lambda x: np.array([{"label": float(row[0])} for row in x], object),
        lambda x: x.astype(np.complex64),
        lambda x: {"a": x, "b": x[:, 0].astype(np.int64)},
    ],
)
def test_rows_that_mind_their_own_business_give_no_warning(
    function: Callable[[np.ndarray[Any, Any]], Any],
) -> None:
    assert batch_dependence(FunctionRuntime(function), X) is None


def test_normalisation_over_the_batch_is_found_with_its_output_and_size() -> None:
    def function(x: np.ndarray[Any, Any]) -> Arrays:
        return {"fine": x, "normed": np.arange(len(x), dtype=np.float32)[:, None] * 0.5}

    text = batch_dependence(FunctionRuntime(function), X)
    assert text == (
        "The answer for a row depends on the rows that are computed with it: the output 'normed' of row 4 differs by up to 2. "
        "Set `batching: false` unless that is meant."
    )


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: np.full(len(x), len(x), np.int64), "'y' of row 0 differs by up to 4"),
        (lambda x: np.full(len(x), 250 + len(x), np.uint8), "differs by up to 4"),
        (lambda x: np.full(len(x), len(x) > 1), "differs by up to 1"),
        (lambda x: np.array([f"{len(x)}"] * len(x), object), "differs in 1 of 1 values"),
        (lambda x: np.zeros((len(x), len(x))), "has the shape [1, 1] alone and [1, 5] in a batch"),
        (lambda x: np.where(len(x) > 1, np.nan, x), "differs by up to inf"),
        (lambda x: {"y": x} if len(x) == 1 else {"y": x, "z": x}, "'z' of row 0 is missing"),
    ],
)
def test_every_kind_of_output_is_compared(
    function: Callable[[np.ndarray[Any, Any]], Any], words: str
) -> None:
    text = batch_dependence(FunctionRuntime(function), X)
    assert text is not None
    assert words in text


def test_wrong_number_of_rows_is_said() -> None:
    text = batch_dependence(FunctionRuntime(lambda x: x.mean(0, keepdims=True)), X)
    assert text == "The output 'y' has 1 rows for 5 rows of input; set `batching: false`."


def test_output_without_rows_is_said() -> None:
    text = batch_dependence(FunctionRuntime(lambda x: np.float32(1).reshape(())), X)
    assert text is not None
    assert "has 0 rows" in text


def test_model_that_takes_one_row_only_is_said() -> None:
    def function(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return x.reshape(1, 4)

    text = batch_dependence(FunctionRuntime(function), X)
    assert text is not None
    assert text.startswith("The model answers rows one by one, but not 5 at once (ValueError: ")


def test_model_with_chance_is_not_called_dependent() -> None:
    chance = np.random.default_rng(2)
    text = batch_dependence(FunctionRuntime(lambda x: x + chance.normal(size=x.shape)), X)
    assert text == "The model gives different answers for the same input; is it in training mode?"


def test_model_that_fails_anyhow_gives_no_warning() -> None:
    def function(x: np.ndarray[Any, Any]) -> Any:
        raise IndexError("out of range")

    assert batch_dependence(FunctionRuntime(function), X) is None


def test_one_row_says_nothing() -> None:
    assert batch_dependence(FunctionRuntime(lambda x: x), {"x": X["x"][:1]}) is None
    assert batch_dependence(FunctionRuntime(lambda x: x), {}) is None


def test_at_most_eight_rows_are_run() -> None:
    sizes: list[int] = []

    def function(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        sizes.append(len(x))
        return x

    batch_dependence(FunctionRuntime(function), {"x": np.zeros((100, 4))})
    assert sizes == [1] * 8 + [8]


# A real model


def test_real_model_is_measured_in_time() -> None:
    onnx = pytest.importorskip("socaity_server.runtimes.onnx")
    pytest.importorskip("onnxruntime")

    def digits(runtime: Runtime, rows: int) -> Arrays | None:
        (spec,) = runtime.inputs
        assert spec.shape is not None
        shape = (rows, *(axis or 1 for axis in spec.shape[1:]))
        return {spec.name: np.random.default_rng(0).random(shape).astype(spec.dtype)}

    started = time.monotonic()
    runtime, profile = tune(
        lambda threads: onnx.ONNXRuntime(DIGITS, RuntimeOptions(threads=threads)),
        cores=2,
        key="digits",
        example=digits,
    )
    took = time.monotonic() - started
    try:
        assert took < 2.5
        assert profile.threads * profile.instances <= 2
        assert 2 <= profile.max_batch_size <= profile.rush_batch_size <= 1024
        assert profile.fixed + profile.per_row == pytest.approx(profile.seconds[1], rel=0.9)
        inputs = digits(runtime, 8)
        assert inputs is not None
        assert batch_dependence(runtime, inputs) is None
    finally:
        runtime.close()


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux counts how long a thread waits for a processor"
)
def test_time_without_a_processor_is_counted_apart() -> None:
    """Two threads that hash without the interpreter lock, on one processor: each waits about half of the time."""

    def hash_for(seconds: float) -> tuple[float, float]:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        together.wait(10)
        started, waited = time.perf_counter(), run_delay()
        while time.perf_counter() - started < seconds:
            hashlib.sha256(block).digest()
        return time.perf_counter() - started, run_delay() - waited

    block, together = bytes(2**20), threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        measured = list(pool.map(hash_for, [0.4, 0.4]))
    waited = sum(waited for _, waited in measured)
    assert 0.2 < waited < sum(took for took, _ in measured)


def test_instances_of_a_model_that_waited_for_a_processor_are_counted_as_if_it_had_not() -> None:
    clock = FakeClock()
    delays = threading.local()

    class Starved(FakeRuntime):
        """Runs well beside itself, but something else takes the processor three quarters of the time."""

        def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
            before = clock()
            outputs = super().run(inputs)
            lost = 3 * (clock() - before)
            clock.pass_time(lost)
            delays.seconds = getattr(delays, "seconds", 0.0) + lost
            return outputs

    def waited() -> float:
        return getattr(delays, "seconds", 0.0)

    runtime, profile = tune(
        lambda threads: Starved(clock, linear(0.0, 0.004), threads, parallel=2),
        cores=2,
        key="",
        example=example,
        threads=1,
        clock=clock,
        waited=waited,
    )
    assert profile.per_row == pytest.approx(0.004, rel=0.01)
    assert profile.fixed == pytest.approx(0.0, abs=1e-5)
    runtime.close()
