"""Every example runs alone and prints what it computes."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
DEADLINE = 50


def output_of(name: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_hello_prints_the_signature_the_answer_and_the_refusal() -> None:
    assert output_of("01_hello.py") == [
        "(name: str, times: int = 1) -> str",
        "Hello, Ada! Hello, Ada!",
        "greet() has no argument 'nam'; did you mean 'name'?",
    ]


def test_async_awaits_gathers_and_cancels() -> None:
    square, squares, *ended, counted, cancelled = output_of("02_async.py")
    assert square == "9"
    assert squares == str([number * number for number in range(10)])
    assert sorted(ended) == ["succeeded 16", "succeeded 25"]
    assert counted == "3 1.0 ['at 1', 'at 2', 'at 3']"
    assert cancelled.startswith("cancelled:")


def test_streaming_prints_every_word_in_order() -> None:
    assert [line.split() for line in output_of("03_streaming.py")] == [
        [f"sync-{number}" for number in range(5)],
        [f"async-{number}" for number in range(5)],
        ["['whole-0',", "'whole-1',", "'whole-2']"],
    ]


def test_batching_runs_many_calls_in_few_batches() -> None:
    text = "\n".join(output_of("04_batching_and_map.py"))
    batches = re.search(r"^360 calls of norm ran in (\d+) batches$", text, re.M)
    assert batches is not None
    assert int(batches[1]) < 180
    accuracy = re.search(r"^a stack: \(360, 10\), ([\d.]+)% are right$", text, re.M)
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    assert "all 360 calls have ended" in text


def test_files_and_media_go_in_and_come_out() -> None:
    assert output_of("05_files_and_media.py") == [
        "(document: 'pathlib.Path') -> dict[str, int]",
        "{'lines': 2, 'words': 8}",
        "{'lines': 1, 'words': 2}",
        "{'lines': 2, 'words': 8}",
        "<Audio 1 s, mono, 16000 Hz> -> faded.wav",
        "saved checker.pbm",
    ]


def test_pipelines_go_on_where_one_step_fails() -> None:
    first, second, *pages, rest = output_of("06_pipelines.py")
    assert (first, second) == ("page 1 is 10 dark", "page 2 is 20 dark after 3 steps")
    assert [page.split()[0] for page in pages] == ["1", "2", "3", "4"]
    assert "read failed: its step label" in pages[2]
    assert "ValueError: the ink is dry" in pages[2]
    assert rest == "[50.0, 60.0]"


def test_typed_stub_is_written_imported_and_checked() -> None:
    *heads, painted, fits = output_of("07_typed_stub.py")
    assert heads == [
        "class Style:",
        "def paint(text: Input[str], style: Input[Style | None] = None) -> list[Style]:",
    ]
    assert (painted, fits) == ("ink a cat 1.0", "fits: True")


def test_own_transport_maps_what_goes_wrong() -> None:
    *lines, lost, gone = output_of("08_own_transport.py")
    assert lines == [
        "(text: str, times: int = 1) -> Any",
        "HEY HEY Progress(fraction=1.0, message='hey 2')",
        "[3, 2, 1]",
        "1000000000 running",
        "JobCancelled: the service has stopped the job",
        "JobFailed: ZeroDivisionError: division by zero",
        f"NotFoundError: there is no job {'f' * 32}",
    ]
    assert lost.startswith("JobLost: ")
    assert lost.endswith(", while the job was running")
    assert gone.startswith("ConnectError: nobody answers at 127.0.0.1:")


def test_own_runtime_is_served_and_batched() -> None:
    signature, one, many, refused = output_of("09_own_runtime.py")
    assert signature == "(x: 'Array[float32, 64]') -> 'dict[str, Array]'"
    assert one == "one item: 6 (10,)"
    ran = re.fullmatch(r"180 calls ran in (\d+) batches; (\d+)% are right", many)
    assert ran is not None
    assert int(ran[1]) < 90
    assert int(ran[2]) > 85
    assert refused == (
        "odd: odd/model_config.yaml:1: backend is one of joblib, linear, onnx, python, torch, not 'lineer'; "
        "did you mean 'linear'?."
    )


def test_open_inference_is_called_over_both_wires_with_a_key() -> None:
    *lines, refusal = output_of("10_open_inference.py")
    for wire, said in (("oip+http", lines[:3]), ("oip+grpc", lines[3:])):
        assert said[0].startswith(f"{wire}: (x: 'Array[float32, 64]'")
        assert re.fullmatch(rf"{re.escape(wire)}: float32 \(360, 10\), 9[5-9]% are right", said[1])
        assert said[2] == f"{wire}: c a t"
    assert refusal == "without a key: 401 unauthenticated"
