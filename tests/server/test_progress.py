"""What a function may say of its progress, and what becomes of it."""

from __future__ import annotations

import math

import pytest

from socaity_server import JobProgress


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([0.2, 0.7, 0.4], 0.7),
        ([0.5, 3], 1.0),
        ([0.5, -1], 0.5),
        ([0.5, math.nan], 0.5),
        ([0.5, None, 0.1], 0.1),
    ],
)
def test_progress_never_falls(said: list[float | None], kept: float) -> None:
    progress = JobProgress()
    for fraction in said:
        progress.progress = fraction
    assert progress.progress == kept
