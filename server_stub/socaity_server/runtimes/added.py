"""Runtimes of others: those of installed packages (entry points `socaity.runtimes`), and those that a program has added."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from socaity.exceptions import ConfigurationError

from .base import Runtime
from .specs import of_type

__all__ = ["GROUP", "AddedRuntime", "RuntimeTable", "find_runtime", "place_of"]

GROUP = "socaity.runtimes"
"""Entry points named after a back-end, whose value is a subclass of `Runtime`."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_SUFFIX = re.compile(r"\.[a-z0-9_+-]+")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AddedRuntime:
    """One back-end. `runtime` is None where its class could not be had, and `error` says why."""

    name: str
    runtime: type[Runtime] | None
    error: str | None = None


class RuntimeTable:
    """The added back-ends by name, and the file suffixes that are theirs.

    `known` are the names that are taken, `suffixes` those of our own engines. Installed packages are looked for once,
    when somebody asks for the first time. A package that is broken concerns only those who ask for its back-end.
    """

    def __init__(self, known: Sequence[str], suffixes: Mapping[str, str]) -> None:
        self._known = frozenset(known)
        self._own_suffixes = suffixes
        self._by_call: dict[str, AddedRuntime] = {}

    def add(self, name: str, runtime: type[Runtime]) -> None:
        """See `add_runtime`."""
        self._check(name, runtime, self._installed)
        self._by_call[name] = AddedRuntime(name, runtime)

    def get(self, name: str) -> AddedRuntime | None:
        """The back-end of that name, if it was added."""
        return self._by_call.get(name) or self._installed.get(name)

    def names(self) -> tuple[str, ...]:
        """All added ones, also those that cannot be used."""
        return tuple(sorted({*self._by_call, *self._installed}))

    def suffixes(self) -> dict[str, str]:
        """The added back-end of each suffix."""
        return {
            suffix: one.name
            for one in (*self._installed.values(), *self._by_call.values())
            if one.runtime is not None
            for suffix in one.runtime.suffixes
        }

    @functools.cached_property
    def _installed(self) -> dict[str, AddedRuntime]:
        found: dict[str, AddedRuntime] = {}
        for point in entry_points(group=GROUP):
            try:
                runtime = _loaded(point)
                self._check(point.name, runtime, found)
            except ConfigurationError as exc:
                _logger.warning("%s", exc)
                if point.name not in self._known:
                    found.setdefault(point.name, AddedRuntime(point.name, None, str(exc)))
            else:
                found[point.name] = AddedRuntime(point.name, runtime)
        return found

    def _check(self, name: str, runtime: object, installed: Mapping[str, AddedRuntime]) -> None:
        """Raise ConfigurationError unless this is a runtime whose name and suffixes are free."""
        if not isinstance(runtime, type) or not issubclass(runtime, Runtime):
            raise ConfigurationError(f"The runtime {name!r} is not a subclass of Runtime: {runtime!r}.")
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"The name of a runtime has lower-case letters, digits, '_' and '-', not {name!r}."
            )
        known = self._by_call.get(name) or installed.get(name)
        if name in self._known or (known is not None and not _is_same(known.runtime, runtime)):
            raise ConfigurationError(
                f"There is a backend {name!r} already; give {runtime.__qualname__} another name."
            )
        owners = {**self._own_suffixes}
        for one in (*installed.values(), *self._by_call.values()):
            owners.update(dict.fromkeys(one.runtime.suffixes if one.runtime is not None else (), one.name))
        for suffix in runtime.suffixes:
            if not _SUFFIX.fullmatch(suffix):
                raise ConfigurationError(
                    f"A suffix of {runtime.__qualname__} is written '.name' in lower case, not {suffix!r}."
                )
            if owners.get(suffix, name) != name:
                raise ConfigurationError(
                    f"{suffix!r} files belong to the backend {owners[suffix]!r}; take the suffix from "
                    f"{runtime.__qualname__}, and name {name!r} in the model_config.yaml of its models."
                )


def _is_same(known: type[Runtime] | None, runtime: type[Runtime]) -> bool:
    """Also a class that was defined again, as when a cell of a notebook is run twice."""
    return known is None or (known.__module__, known.__qualname__) == (
        runtime.__module__,
        runtime.__qualname__,
    )


def place_of(runtime: type[Runtime]) -> str | None:
    """`module:Class`, by which another process finds the class; None: it cannot."""
    if runtime.__module__ == "__main__" or "<locals>" in runtime.__qualname__:
        return None
    return f"{runtime.__module__}:{runtime.__qualname__}"


def find_runtime(place: str) -> type[Runtime]:
    """The class that `place_of` has named."""
    module, _, name = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    runtime: type[Runtime] = found
    return runtime


def _loaded(point: EntryPoint) -> type[Runtime]:
    try:
        loaded: type[Runtime] = point.load()
    except Exception as exc:  # the package of somebody else may raise anything
        package = "" if point.dist is None else f" of the package {point.dist.name!r}"
        raise ConfigurationError(
            f"The runtime {point.name!r}{package} ({point.value}) cannot be loaded: {of_type(exc)}."
        ) from exc
    return loaded
