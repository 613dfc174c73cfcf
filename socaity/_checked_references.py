"""The references in the schema of a parameter, checked so that no schema makes a call endless."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from .protocol.schemas import find

__all__ = ["CheckedReferences"]

Check = Callable[[Any], Any]

_FREE_STEPS = 1_000
_MAX_REMEMBERED = 50_000


class CheckedReferences:
    """What the references within `root` name, each compiled when it is first used: schemas may be recursive.

    Options of options that name the same schemas would check one value again and again, far more often than there are
    schemas and values. Where a check takes many steps, it therefore remembers what it has found out.
    """

    def __init__(self, root: Any, compile_schema: Callable[[Any, CheckedReferences], Check]) -> None:
        self._root = root
        self._compile = compile_schema
        self._compiled: dict[str, Check] = {}
        self._calls = threading.local()
        self._has_any = False

    def check(self, reference: str) -> Check:
        """The check of what `reference` names; anything passes if that is nothing."""
        self._has_any = True

        def check(value: Any) -> Any:
            compiled = self._compiled.get(reference)
            if compiled is None:
                target = find(reference, self._root)
                target = target if isinstance(target, (Mapping, bool)) else {}
                compiled = self._compiled[reference] = self._compile(target, self)
            found: _Found | None = getattr(self._calls, "found", None)
            return compiled(value) if found is None else found.check(reference, compiled, value)

        return check

    def whole(self, check: Check) -> Check:
        """The check of the parameter, which has its own memory for each call."""
        if not self._has_any:
            return check
        calls = self._calls

        def within_a_call(value: Any) -> Any:
            before = getattr(calls, "found", None)
            calls.found = _Found()
            try:
                return check(value)
            finally:
                calls.found = before

        return within_a_call


class _Found:
    """What one call has found out about its values."""

    def __init__(self) -> None:
        self._steps = 0
        self._known: dict[tuple[str, int], tuple[Any, Any, str | None]] = {}

    def check(self, reference: str, check: Check, value: Any) -> Any:
        self._steps += 1
        if self._steps <= _FREE_STEPS:
            return check(value)
        key = reference, id(value)
        known = self._known.get(key)
        if known is not None:
            _, result, why = known
            if why is not None:
                raise ValueError(why)
            return result
        if len(self._known) >= _MAX_REMEMBERED:  # a long list, of which every item comes once
            self._known.clear()
        try:
            result = check(value)
        except ValueError as exc:
            self._known[key] = value, None, str(exc)
            raise
        self._known[key] = value, result, None  # with the value itself, so that no other one gets its id
        return result
