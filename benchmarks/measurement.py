"""One measured number and what it is held against."""

from __future__ import annotations

from dataclasses import dataclass


class Skipped(Exception):
    """A benchmark cannot run here; the text says what is missing."""


@dataclass(frozen=True)
class Measurement:
    """`value` in `unit`; with `at_least` or `at_most` it has a target, else it is for information."""

    row: str
    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    @property
    def text(self) -> str:
        return f"{_number(self.value)} {self.unit}".strip()

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f"≥ {_number(self.at_least)} {self.unit}".strip()
        if self.at_most is not None:
            return f"≤ {_number(self.at_most)} {self.unit}".strip()
        return ""


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
