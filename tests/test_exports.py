"""Every public name has a docstring, an entry in docs/api.md and a line in tests/typing/api.py."""

import inspect
import re
from pathlib import Path

import pytest

import socaity

ROOT = Path(__file__).parents[1]
NAMES = [name for name in socaity.__all__ if not name.startswith("__")]


def mentions(path: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", (ROOT / path).read_text(encoding="utf-8")) is not None


def test_all_is_sorted_and_has_no_duplicates() -> None:
    assert list(socaity.__all__) == sorted(set(socaity.__all__))


def test_dir_lists_every_public_name() -> None:
    assert set(socaity.__all__) <= set(dir(socaity))


@pytest.mark.parametrize("name", NAMES)
def test_name_resolves_and_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(socaity, name)
    doc = vars(value).get("__doc__") if inspect.isclass(value) else getattr(value, "__doc__", None)
    assert doc
    assert doc.strip()


@pytest.mark.parametrize("name", NAMES)
def test_name_is_type_checked(name: str) -> None:
    assert mentions("tests/typing/api.py", name)


@pytest.mark.parametrize("name", NAMES)
def test_name_is_in_the_reference(name: str) -> None:
    assert mentions("docs/api.md", name)
