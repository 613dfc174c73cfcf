"""Every test that the page on client cases names exists, and every case is a test or a stated decision."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from socaity.testing import TransportContract

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "design" / "client-cases.md"
NAMED = re.compile(r"`([\w/]+(?:\.py)?)::(\w+)`")
CASES = 63


def rows() -> dict[int, list[str]]:
    """The cells of each case, by its number."""
    found: dict[int, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0].isdigit():
            assert int(cells[0]) not in found, f"case {cells[0]} is there twice"
            found[int(cells[0])] = cells
    return found


@cache
def names_in(file: str) -> frozenset[str]:
    """The functions of a test file that pytest collects, also those of its classes."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [
        one for body in bodies for one in body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return frozenset(one.name for one in functions if one.name.startswith("test_"))


def test_every_case_is_there_in_order_and_whole() -> None:
    found = rows()
    assert list(found) == list(range(1, CASES + 1))
    assert {number: len(cells) for number, cells in found.items() if len(cells) != 4} == {}


def test_every_named_test_exists() -> None:
    missing = []
    for number, cells in rows().items():
        for file, name in NAMED.findall(cells[3]):
            if file == "contract":
                is_there = name.startswith("test_") and hasattr(TransportContract, name)
            else:
                is_there = (TESTS / file).is_file() and name in names_in(file)
            if not is_there:
                missing.append(f"{number}: {file}::{name}")
    assert missing == []


def test_the_proof_is_nothing_but_names() -> None:
    left = {number: NAMED.sub("", cells[3]).strip(" ,|") for number, cells in rows().items()}
    assert {number: text for number, text in left.items() if text} == {}


def test_a_case_without_a_test_is_a_stated_decision() -> None:
    silent = [
        number
        for number, cells in rows().items()
        if not NAMED.search(cells[3]) and "**Not here**: " not in cells[2]
    ]
    assert silent == []
