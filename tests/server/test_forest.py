"""Forests answer with the same bits the short way as the usual one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)

from socaity_server.runtimes.forest import quick_forest

IMAGES, LABELS = load_digits(return_X_y=True)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (RandomForestClassifier, "predict"),
        (RandomForestClassifier, "predict_proba"),
        (ExtraTreesClassifier, "predict"),
        (RandomForestRegressor, "predict"),
        (ExtraTreesRegressor, "predict"),
    ],
)
@pytest.mark.parametrize("rows", [1, 7, 300, 1500])
def test_numbers_are_the_same(kind: Any, method: str, rows: int) -> None:
    forest = kind(20, random_state=0).fit(IMAGES[:500], LABELS[:500])
    quick = quick_forest(forest, method)
    assert quick is not None
    usual = getattr(forest, method)(IMAGES[:rows])
    answer = quick(IMAGES[:rows])
    assert answer.dtype == usual.dtype
    assert np.array_equal(answer, usual)
    assert np.array_equal(quick(IMAGES[:rows].astype(np.float32)), usual)


def test_names_of_classes_are_kept() -> None:
    names = np.array([f"digit {label}" for label in LABELS])
    forest = RandomForestClassifier(5, random_state=0).fit(IMAGES, names)
    quick = quick_forest(forest, "predict")
    assert quick is not None
    assert quick(IMAGES[:9]).tolist() == forest.predict(IMAGES[:9]).tolist()


def test_missing_values_are_left_to_the_forest() -> None:
    forest = RandomForestClassifier(5, random_state=0).fit(IMAGES, LABELS)
    quick = quick_forest(forest, "predict")
    assert quick is not None
    rows = np.where(np.arange(64) % 3, IMAGES[:5], np.nan)
    assert quick(rows).tolist() == forest.predict(rows).tolist()


def test_other_models_methods_and_several_targets_are_not_touched() -> None:
    forest = RandomForestClassifier(5, random_state=0).fit(IMAGES[:200], LABELS[:200])
    assert quick_forest(forest, "predict_log_proba") is None
    assert quick_forest(forest, "apply") is None
    both = RandomForestClassifier(5, random_state=0).fit(IMAGES[:200], np.stack([LABELS, LABELS], 1)[:200])
    assert quick_forest(both, "predict") is None
    boosted = GradientBoostingClassifier(n_estimators=2).fit(IMAGES[:200], LABELS[:200])
    assert quick_forest(boosted, "predict") is None

    class Own(RandomForestClassifier):
        pass

    assert quick_forest(Own(5).fit(IMAGES[:200], LABELS[:200]), "predict") is None


def test_forest_that_answers_otherwise_is_called_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestClassifier(5, random_state=0).fit(IMAGES[:200], LABELS[:200])
    monkeypatch.setattr(type(forest), "predict", lambda self, rows: np.zeros(len(rows), int) - 1)
    assert quick_forest(forest, "predict") is None
