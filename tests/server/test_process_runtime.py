"""Worker processes: what happens when they die, hang, lose their server, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import ConfigurationError, InvalidInputError, JobFailed, ServerError
from socaity_server.runtimes import process
from socaity_server.runtimes.base import RuntimeOptions, TensorSpec
from socaity_server.runtimes.process import ProcessRuntime, WorkerDied

SOON = 20.0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MODEL = """
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def load():
    if (HERE / "exit_while_loading").exists():
        os._exit(7)
    if (HERE / "hang_while_loading").exists():
        time.sleep(1000)


def predict(x):
    what = x.flat[0] if x.size else 0
    if what == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == -2:
        os._exit(3)
    if what == -3:
        sys.exit(4)
    if what == -4:
        raise LookupError("not in the table")
    if what == -5:
        (HERE / "hangs").touch()
        time.sleep(1000)
    if what == -6 and not (HERE / "died_once").exists():
        (HERE / "died_once").touch()
        os._exit(1)
    if what == -7:
        print("a line from the model")
    if what == -8:
        return {"bad": np.array([object()])}
    if what == -9:  # a process that outlives its parent, and holds what it was given
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], close_fds=False)
        (HERE / "child").write_text(str(child.pid))
        os._exit(5)
    if what == -10:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    if what == -11:
        return {name: np.array([os.environ.get(name, "")]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"y": x * 2, "pid": np.full(len(x), os.getpid())}
"""

Make = Callable[..., ProcessRuntime]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "doubler.py"
    file.write_text(MODEL)
    return file


@pytest.fixture
def make(file: Path) -> Iterator[Make]:
    opened: list[ProcessRuntime] = []

    def make(options: RuntimeOptions | None = None, **kwargs: Any) -> ProcessRuntime:
        runtime = ProcessRuntime(file, options or RuntimeOptions(), backend="python", **kwargs)
        opened.append(runtime)
        return runtime

    yield make
    for runtime in opened:
        runtime.close()


def batch(value: float, rows: int = 1) -> dict[str, Any]:
    return {"x": np.full((rows, 2), value, np.float32)}


def until(condition: Callable[[], object]) -> None:
    """Wait for another process, which cannot tell."""
    deadline = time.monotonic() + SOON
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def is_alive(pid: int) -> bool:
    """A zombie is dead."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(
            OSError
        ):  # a thread that has ended meanwhile; its children went to another one
            found.update(map(int, (task / "children").read_text().split()))
    return found


@pytest.mark.parametrize(("value", "how"), [(-1, r"signal 9 \(SIGKILL\)"), (-2, "exit status 3")])
def test_worker_that_dies_fails_its_batch_alone(make: Make, value: int, how: str) -> None:
    runtime = make(retry=False)
    (first,) = runtime.pids
    with pytest.raises(WorkerDied, match=rf"'doubler\.py'.*{how}") as caught:
        runtime.run(batch(value))
    assert (caught.value.status, caught.value.code) == (500, "worker_died")
    assert runtime.run(batch(4))["y"].tolist() == [[8, 8]]
    assert runtime.pids != (first,)
    assert runtime.restarts == 1


def test_batch_of_a_worker_that_died_is_run_once_more(make: Make) -> None:
    runtime = make()
    assert runtime.run(batch(-6))["y"].tolist() == [[-12, -12]]
    assert runtime.restarts == 1


def test_batch_that_kills_every_worker_is_run_twice_only(make: Make) -> None:
    runtime = make(instances=2)
    with pytest.raises(WorkerDied):
        runtime.run(batch(-2))
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]
    until(lambda: len(runtime.pids) == 2)
    assert runtime.restarts == 2


def test_worker_that_dies_while_it_is_idle_is_replaced_before_it_is_needed(make: Make) -> None:
    runtime = make(retry=False)
    (first,) = runtime.pids
    os.kill(first, signal.SIGKILL)
    until(lambda: runtime.restarts == 1)
    assert runtime.pids != (first,)
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]


def test_other_worker_serves_on_while_one_is_replaced(make: Make) -> None:
    runtime = make(instances=2, retry=False)
    with pytest.raises(WorkerDied):
        runtime.run(batch(-1))
    started = time.monotonic()
    runtime.run(batch(1))
    assert time.monotonic() - started < SOON
    until(lambda: len(runtime.pids) == 2)


def test_crash_loop_backs_off_and_says_when_to_come_back(make: Make, file: Path) -> None:
    runtime = make(retry=False)
    (file.parent / "exit_while_loading").touch()
    with pytest.raises(WorkerDied):
        runtime.run(batch(-2))
    with pytest.raises(ServerError, match="keep dying") as caught:
        runtime.run(batch(1))
    assert (caught.value.status, caught.value.code) == (503, "model_unavailable")
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 30
    (file.parent / "exit_while_loading").unlink()
    until(lambda: runtime.pids)
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]


def test_pause_between_restarts_grows_up_to_half_a_minute(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make()
    monkeypatch.setattr(process.time, "monotonic", lambda: 0.0)
    delays = []
    with runtime._changed:
        for _ in range(12):
            runtime._restart_later(counted=True)
            delays.append(runtime._due.pop())
        runtime._deaths = 0
    monkeypatch.undo()
    assert delays == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_error_of_the_model_crosses_with_its_traceback_and_without_a_restart(make: Make) -> None:
    runtime = make()
    with pytest.raises(JobFailed, match="LookupError: not in the table") as caught:
        runtime.run(batch(-4))
    assert caught.value.error_type == "LookupError"
    assert caught.value.remote_traceback is not None
    assert 'doubler.py", line' in caught.value.remote_traceback
    assert "worker.py" not in caught.value.remote_traceback
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]
    assert runtime.restarts == 0


def test_model_that_exits_the_interpreter_only_fails_its_batch(make: Make) -> None:
    runtime = make()
    with pytest.raises(JobFailed, match="SystemExit: 4"):
        runtime.run(batch(-3))
    assert runtime.restarts == 0


def test_output_that_cannot_cross_is_named(make: Make) -> None:
    runtime = make()
    with pytest.raises(JobFailed, match=r"'bad' has items that cannot be sent to a process: object"):
        runtime.run(batch(-8))
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]


def test_refusal_of_an_input_crosses_as_one(tmp_path: Path) -> None:
    file = tmp_path / "one.py"
    file.write_text("def predict(text: str):\n    return text\n")
    runtime = ProcessRuntime(file, backend="python")
    with pytest.raises(InvalidInputError, match="takes one value") as caught:
        runtime.run({"text": np.array(["a", "b"], object)})
    assert caught.value.parameter == "text"
    runtime.close()


def test_worker_ignores_ctrl_c_and_the_stop_of_a_service_manager(make: Make) -> None:
    runtime = make()
    before = runtime.pids
    assert runtime.run(batch(-10))["y"].tolist() == [[-20, -20]]
    assert runtime.pids == before


def test_hung_batch_is_ended_from_outside_and_not_run_again(make: Make, file: Path) -> None:
    runtime = make(instances=2)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(runtime.run, batch(-5))
        until((file.parent / "hangs").exists)
        assert runtime.interrupt(longer_than=1000) == 0
        assert runtime.interrupt() == 1
        with pytest.raises(WorkerDied, match="ended from outside"):
            hung.result(SOON)
    assert runtime.interrupt() == 0
    assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]


def test_workers_run_batches_at_the_same_time(make: Make, file: Path) -> None:
    runtime = make(instances=2)
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(runtime.run, batch(-5))
        until((file.parent / "hangs").exists)
        assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]
        runtime.interrupt()
        with pytest.raises(WorkerDied):
            hung.result(SOON)


def test_more_threads_than_workers_take_turns(make: Make) -> None:
    runtime = make(instances=2)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda value: runtime.run(batch(value, 3)), range(200), timeout=SOON))
    assert [outputs["y"][2, 1] for outputs in results] == [2 * value for value in range(200)]
    assert {int(pid) for outputs in results for pid in outputs["pid"]} <= set(runtime.pids)


def test_last_worker_used_is_the_next(make: Make) -> None:
    runtime = make(instances=2)
    assert len({int(runtime.run(batch(1))["pid"][0]) for _ in range(10)}) == 1


def test_large_and_small_batches_share_the_memory(make: Make) -> None:
    runtime = make()
    large = np.arange(3_000_000, dtype=np.float64).reshape(-1, 3)
    for array in (large[:1], large, large[:0], large[:5], large[::2], large.T[:, :7]):
        outputs = runtime.run({"x": array + 1 if array is large else array})
        expected = (array + 1 if array is large else array) * 2
        assert np.array_equal(outputs["y"], expected)


@pytest.mark.parametrize("dtype", ["bool", "float16", "int8", "uint64", "complex128", "U5", "M8[ns]"])
def test_every_dtype_crosses(tmp_path: Path, dtype: str) -> None:
    file = tmp_path / "echo.py"
    file.write_text("def predict(x):\n    return x\n")
    runtime = ProcessRuntime(file, backend="python")
    array = np.zeros((2, 3), "int64").astype(dtype)
    found = runtime.run({"x": array})["output"]
    assert found.dtype == ("object" if dtype == "U5" else dtype)
    assert found.tolist() == array.tolist()
    runtime.close()


def test_what_the_model_prints_goes_to_stderr(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = make()
    runtime.run(batch(-7))
    runtime.close()
    captured = capfd.readouterr()
    assert "a line from the model" in captured.err
    assert captured.out == ""


def test_threads_are_limited_before_the_model_is_imported(make: Make) -> None:
    runtime = make(RuntimeOptions(threads=3))
    outputs = runtime.run(batch(-11))
    assert {name: array.tolist() for name, array in outputs.items()} == {
        "OMP_NUM_THREADS": ["3"],
        "MKL_NUM_THREADS": ["3"],
    }


def test_description_comes_from_the_worker(make: Make) -> None:
    inputs, outputs = (TensorSpec("x", "float32", (None, 2)),), (TensorSpec("y", "float32", (None, 2)),)
    runtime = make(RuntimeOptions(inputs=inputs, outputs=outputs))
    assert (runtime.inputs, runtime.outputs, runtime.batched, runtime.device) == (
        inputs,
        outputs,
        True,
        "cpu",
    )
    assert runtime.name.startswith("Python ")
    assert runtime.in_process
    assert not runtime.holds_gil


def test_worker_that_ends_while_it_loads_is_an_error_of_the_configuration(make: Make, file: Path) -> None:
    (file.parent / "exit_while_loading").touch()
    with pytest.raises(ConfigurationError, match=r"that loads '.*doubler\.py' ended with exit status 7"):
        make(instances=2)


def test_loading_has_a_deadline(make: Make, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "hang_while_loading").touch()
    monkeypatch.setattr("socaity_server.runtimes.worker_process._LOOK_INTERVAL", 0.05)
    with pytest.raises(ConfigurationError, match=r"doubler\.py' took longer than 0\.2 seconds"):
        make(load_timeout=0.2)


def test_arguments_that_are_no_plain_values_are_refused(make: Make) -> None:
    with pytest.raises(ConfigurationError, match=r"doubler\.py' must be plain values"):
        make(RuntimeOptions(arguments={"kwargs": {"function": print}}))


@LINUX
def test_closing_leaves_nothing_behind(make: Make) -> None:
    make().close()  # what is opened once and for all is open now
    open_before, children_before = descriptors(), children()
    runtime = make(instances=2)
    workers = set(runtime.pids)
    runtime.run(batch(1, 100_000))
    with pytest.raises(WorkerDied):
        runtime.run(batch(-2))
    until(lambda: len(runtime.pids) == 2)
    workers |= set(runtime.pids)
    started = time.monotonic()
    runtime.close()
    assert time.monotonic() - started < 5
    assert descriptors() == open_before
    assert children() == children_before
    assert not any(map(is_alive, workers))


@LINUX
def test_failed_start_leaves_nothing_behind(make: Make, file: Path) -> None:
    make().close()
    open_before, children_before = descriptors(), children()
    (file.parent / "exit_while_loading").touch()
    with pytest.raises(ConfigurationError):
        make(instances=2)
    assert (descriptors(), children()) == (open_before, children_before)


@LINUX
def test_closing_ends_a_worker_that_hangs(make: Make, file: Path) -> None:
    runtime = make()
    (pid,) = runtime.pids
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(runtime.run, batch(-5))
        until((file.parent / "hangs").exists)
        runtime.close()
        with pytest.raises(WorkerDied):
            hung.result(SOON)
    assert not is_alive(pid)


@LINUX
def test_death_is_noticed_although_a_child_of_the_worker_lives_on(make: Make, file: Path) -> None:
    runtime = make(retry=False)
    try:
        with pytest.raises(WorkerDied, match="exit status 5"):
            runtime.run(batch(-9))
        assert runtime.run(batch(1))["y"].tolist() == [[2, 2]]
    finally:
        os.kill(int((file.parent / "child").read_text()), signal.SIGKILL)


@LINUX
@pytest.mark.parametrize("value", [1, -5])
def test_worker_ends_with_a_server_that_is_killed(file: Path, value: int) -> None:
    """Also one whose model hangs. The program of the server has no file, as in a notebook."""
    program = f"""
        import numpy as np
        from socaity_server.runtimes.process import ProcessRuntime

        runtime = ProcessRuntime({str(file)!r}, backend="python")
        print(*runtime.pids, flush=True)
        runtime.run({{"x": np.full((1, 2), {value})}})
        print("done", flush=True)
        input()
        """
    with subprocess.Popen(
        [sys.executable, "-c", f"exec({textwrap.dedent(program)!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        if value == -5:
            until((file.parent / "hangs").exists)
        else:
            assert server.stdout.readline() == "done\n"
        assert is_alive(pid)
        server.kill()
    until(lambda: not is_alive(pid))


def test_closed_runtime_says_so(make: Make) -> None:
    runtime = make()
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.run(batch(1))


def test_overhead_of_a_small_batch_is_small(make: Make) -> None:
    runtime = make()
    inputs = batch(1, 8)
    seconds = []
    for _ in range(400):
        started = time.perf_counter()
        runtime.run(inputs)
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[200] < 0.002  # 0.05 ms on an idle machine
