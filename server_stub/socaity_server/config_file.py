"""A YAML file of settings, read strictly: every value knows its line, so that every error can name file and line."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.error import Mark, MarkedYAMLError
from yaml.reader import ReaderError

from socaity.exceptions import ConfigurationError

from .runtimes.specs import nearest

__all__ = ["Section", "Setting", "parse_sections", "read_sections"]

MAX_BYTES = 2**20
_MAX_DEPTH = 32
_LARGEST = 2**31 - 1
_TAG = "tag:yaml.org,2002:"


class Setting:
    """One value of the file. Its readers return the value in one type or raise an error that says what it must be."""

    def __init__(self, key: str, node: yaml.Node, file: str) -> None:
        self.key = key
        self.file = file
        self.line: int = node.start_mark.line + 1
        self._node = node

    def refuse(self, why: str) -> NoReturn:
        """Raise a ConfigurationError that says where the value is."""
        raise ConfigurationError(f"{self.file}:{self.line}: {why}")

    @property
    def is_none(self) -> bool:
        return self._tag == "null"

    @property
    def is_mapping(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_flag(self) -> bool:
        return self._tag == "bool"

    def text(self) -> str:
        """Text; a number stays as it is written, so that `version: 1.10` is '1.10'."""
        if not isinstance(self._node, yaml.ScalarNode):
            self._must_be("text")
        if "\0" in self._node.value:
            self._must_be("text without a NUL character")
        return str(self._node.value)

    def choice(self, *known: str) -> str:
        word = self.text().lower()
        if word not in known:
            self.refuse(f"{self.key} is one of {', '.join(known)}, not {word!r}{nearest(word, known)}.")
        return word

    def flag(self) -> bool:
        if not self.is_flag or not isinstance(self._node, yaml.ScalarNode):
            self._must_be("true or false")
        return self._node.value.lower() in ("true", "yes", "on")

    def integer(self, *, least: int, most: int = _LARGEST) -> int:
        number = self._integer()
        if number is None or not least <= number <= most:
            self._must_be(
                f"a whole number {f'of {least} or more' if most == _LARGEST else f'from {least} to {most}'}"
            )
        return number

    def number(self, *, least: float = 0.0, most: float = math.inf, above: bool = False) -> float:
        """A finite number; with `above`, `least` itself is refused."""
        value = self._number()
        if value is None or not least <= value <= most or (above and value == least):
            low = f"above {least:g}" if above else f"of {least:g} or more"
            self._must_be(f"a number {low}" + ("" if most == math.inf else f", at most {most:g}"))
        return value

    def items(self) -> list[Setting]:
        if not isinstance(self._node, yaml.SequenceNode):
            self._must_be("a list")
        return [
            Setting(f"{self.key}[{index}]", node, self.file) for index, node in enumerate(self._node.value)
        ]

    def axis_length(self) -> int | None:
        """The length of an axis; -1, null and '?' stand for any."""
        if self.is_none or (isinstance(self._node, yaml.ScalarNode) and self._node.value == "?"):
            return None
        length = self._integer()
        if length is None or length < -1 or length == 0:
            self._must_be("the length of an axis (-1, null or '?' for any)")
        return None if length == -1 else length

    def plain(self) -> Any:
        """The value as dicts with text as keys, lists, text, numbers, truth values and None."""
        node = self._node
        if isinstance(node, yaml.SequenceNode):
            return [item.plain() for item in self.items()]
        if isinstance(node, yaml.MappingNode):
            return {setting.key: setting.plain() for setting in Section(self)}
        if self.is_none:
            return None
        if self.is_flag:
            return self.flag()
        if self._tag == "int":
            number = self._integer()
            return node.value if number is None else number
        if self._tag == "float":
            value = self._number()
            return node.value if value is None else value
        return self.text()

    @property
    def _tag(self) -> str:
        return str(self._node.tag).removeprefix(_TAG)

    @property
    def _is_bare(self) -> bool:
        """A scalar without quotes: "5" in quotes is text."""
        return isinstance(self._node, yaml.ScalarNode) and self._node.style is None

    def _integer(self) -> int | None:
        """YAML 1.1 reads 010 as 8 and 1:30 as 90; nobody means that."""
        try:
            return int(self._node.value) if self._is_bare else None
        except ValueError:
            return None

    def _number(self) -> float | None:
        try:
            value = float(self._node.value) if self._is_bare else math.nan
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def _must_be(self, what: str) -> NoReturn:
        if isinstance(self._node, yaml.ScalarNode):
            shown = repr(self._node.value if len(self._node.value) <= 60 else self._node.value[:60] + "…")
            found = "nothing" if self.is_none else shown
        else:
            found = "a mapping" if self.is_mapping else "a list"
        self.refuse(f"{self.key} is {what}, not {found}.")


class Section:
    """A mapping of the file. Where `known` is given, another key is an error that names the nearest one.

    A key without a value (`timeout:`) counts as not given."""

    def __init__(self, setting: Setting, known: Collection[str] | None = None) -> None:
        node = setting._node
        if not isinstance(node, yaml.MappingNode):
            setting._must_be("a mapping of keys and values")
        self._settings: dict[str, Setting] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise ConfigurationError(f"{setting.file}:{line}: a key is text, not a list or a mapping.")
            if key in self._settings:
                first = self._settings[key].line
                raise ConfigurationError(
                    f"{setting.file}:{line}: the key {key!r} is there twice (first in line {first})."
                )
            if known is not None and key not in known:
                hint = nearest(key, known) or f" (known: {', '.join(sorted(known))})"
                raise ConfigurationError(f"{setting.file}:{line}: unknown key {key!r}{hint}.")
            value = Setting(key, value_node, setting.file)
            value.line = line
            self._settings[key] = value

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._settings.values())

    def get(self, key: str) -> Setting | None:
        setting = self._settings.get(key)
        return None if setting is None or setting.is_none else setting


def read_sections(path: Path) -> Setting | None:
    """The top of the file, None for an empty one. Raises ConfigurationError only."""
    try:
        if not path.is_file():
            raise ConfigurationError(f"There is no configuration file {str(path)!r}.")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read: {exc.strerror or exc}.") from exc
    if len(data) > MAX_BYTES:
        raise ConfigurationError(
            f"{path}: is larger than {MAX_BYTES // 2**20} MiB; this is no configuration."
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigurationError(f"{path}:{line}: is not UTF-8 text; save it as UTF-8.") from exc
    return parse_sections(text, file=str(path))


def parse_sections(text: str, *, file: str) -> Setting | None:
    """The top of a YAML text. Anchors, aliases and tags are refused: a configuration needs none of them."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except _Refused as exc:
        raise ConfigurationError(f"{file}:{exc.line}: {exc}.") from exc
    except MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        what = exc.problem or exc.context or "cannot be understood"
        raise ConfigurationError(f"{file}:{mark.line + 1 if mark else 1}: is not YAML: {what}.") from exc
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigurationError(f"{file}:{line}: is not YAML: the character {exc.character!r}.") from exc
    except (yaml.YAMLError, ValueError, ArithmeticError) as exc:
        # PyYAML lets some errors of Python through, for example chr() of "\UFFFFFFFF".
        raise ConfigurationError(f"{file}:1: is not YAML: {exc}.") from exc
    if node is None or node.tag == f"{_TAG}null":
        return None
    return Setting("the file", node, file)


class _Refused(Exception):
    def __init__(self, message: str, mark: Mark) -> None:
        super().__init__(message)
        self.line = mark.line + 1


class _Loader(yaml.SafeLoader):
    """Builds nodes only. Aliases would let a small file mean a huge one; depth would exhaust the stack."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused(
                "anchors and aliases (&, *) are not allowed; write the value out", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"the tag {str(event.tag)!r} is not allowed", event.start_mark)
        if self._depth >= _MAX_DEPTH:
            raise _Refused(f"values are nested deeper than {_MAX_DEPTH}", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1
