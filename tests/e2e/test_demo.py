"""`make demo` ends by itself, shows every part and leaves nothing running."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE = 55
ROWS_OF_TEST_SET = len(np.load(EXAMPLES / "models" / "digits_held_out.npz")["y"])


def load_demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo_shows_every_part_and_ends() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "demo.py"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE,
    )
    assert ran.returncode == 0, ran.stderr
    assert "Error" not in ran.stderr
    text = ran.stdout

    address = re.search(r"A server runs at (http://127\.0\.0\.1:\d+)", text)
    assert address is not None
    right, all_of_them, accuracy = re.findall(r"(\d+) of (\d+) are read right: ([\d.]+)%", text)[0]
    assert int(all_of_them) == ROWS_OF_TEST_SET
    assert float(accuracy) == pytest.approx(100 * int(right) / ROWS_OF_TEST_SET, abs=0.06)
    assert float(accuracy) > 95
    first_predictions = re.findall(r"(\d) \([\d.]+%\)", text)[:6]
    assert len(first_predictions) == 6
    assert re.search(r"I see a \w+ \([\d.]+%\); if not, then a \w+ \([\d.]+%\)\.", text)
    assert "\n  100%, 600,000 resamples\n" in text
    low, high = map(float, re.findall(r"accuracy: ([\d.]+)% to ([\d.]+)%", text)[0])
    assert low < float(accuracy) < high
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert f"spell: {' '.join(words[int(digit)] for digit in first_predictions)}\n" in text
    rates = re.findall(r": ([\d,]+) calls per second; ([\d,]+) answers as in one big call", text)
    assert [answers for _, answers in rates] == ["36,000", "36,000"]
    assert all(int(rate.replace(",", "")) > 100 for rate, _ in rates)
    assert text.endswith("The server was stopped.\n")


@pytest.mark.parametrize(
    ("service", "deadline", "message"),
    [
        ("raise SystemExit(3)", 30.0, "ended with code 3"),
        ("import threading; threading.Event().wait(60)", 0.5, "did not say within 0.5 s"),
    ],
)
def test_demo_says_why_when_the_server_does_not_come_up(
    service: str, deadline: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load_demo()
    (tmp_path / "demo_service.py").write_text(service, encoding="utf-8")
    monkeypatch.setattr(demo, "HERE", tmp_path)
    monkeypatch.setattr(demo, "DEADLINE", deadline)
    with pytest.raises(SystemExit, match=message), demo.running_server():
        raise AssertionError("the server is not up")
