"""A random forest for scikit-learn's handwritten digits, as a joblib file that is the same every time."""

from __future__ import annotations

from pathlib import Path


def build(path: Path, trees: int = 100) -> Path:
    """Train and write it, unless it is there."""
    if not path.exists():
        import joblib
        from sklearn.datasets import load_digits
        from sklearn.ensemble import RandomForestClassifier

        pixels, labels = load_digits(return_X_y=True)
        forest = RandomForestClassifier(n_estimators=trees, random_state=0, n_jobs=1).fit(pixels, labels)
        path.parent.mkdir(parents=True, exist_ok=True)
        joblib.dump(forest, path)
    return path
