"""`read_model_config`: the keys of a model's configuration file, ours and those of the first model server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeAlias, cast

from socaity.exceptions import ConfigurationError

from .config_file import Section, Setting, parse_sections, read_sections
from .model_config import BreakerConfig, Execution, ModelConfig, PadConfig
from .runtimes.base import TensorSpec
from .runtimes.registry import ALIASES, NOT_SUPPORTED, backends
from .runtimes.specs import nearest

__all__ = ["parse_model_config", "read_model_config"]

_DTYPES = (
    *("bool", "bfloat16", "float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "object"),
)
_DTYPE_ALIASES = {"float": "float64", "integer": "int64", "int": "int64", "str": "object", "string": "object"}
_MODEL_NAME = re.compile(r"\w[\w.-]*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def read_model_config(path: Path, *, base: ModelConfig | None = None) -> ModelConfig:
    """The configuration in a file; what it does not say is as in `base`.

    Our keys and those of the first model server (`model: {model_args: …}`) may be mixed where they do not contradict
    each other. Raises ConfigurationError, which names file and line.
    """
    return _build(read_sections(path), base)


def parse_model_config(
    text: str, *, file: str = "model_config.yaml", base: ModelConfig | None = None
) -> ModelConfig:
    """`read_model_config` for a text; `file` is what errors call it."""
    return _build(parse_sections(text, file=file), base)


def _build(top: Setting | None, base: ModelConfig | None) -> ModelConfig:
    reader = _Reader()
    if top is not None:
        reader.read(Section(top, _KEYS))
    return reader.config(base or ModelConfig())


class _Reader:
    """Collects values by field, and where each was said: two keys may mean one field."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._places: dict[str, Setting] = {}
        self._arguments: dict[str, Any] = {}
        self._largest: int | None = None

    def read(self, section: Section) -> None:
        for setting in section:
            if setting.is_none:
                continue
            if setting.key == "model":
                self.read(Section(setting, _KEYS - {"model"}))
            elif setting.key == "batching":
                self._read_batching(setting)
            elif setting.key == "model_args":
                self._read_model_args(Section(setting, _MODEL_ARGS))
            elif setting.key == "arguments":
                for argument in Section(setting):
                    self._argument(argument, argument.plain())
            else:
                self._read_one(setting, _FIELDS)

    def config(self, base: ModelConfig) -> ModelConfig:
        if self._arguments:
            self._values["arguments"] = {**base.arguments, **self._arguments}
        if self._largest is not None:
            self._values.setdefault("max_batch_size", self._largest)
        config = dataclasses.replace(base, **self._values)
        most = config.max_batch_size
        if most is not None and max(config.preferred_batch_sizes, default=0) > most:
            self._complain(
                f"preferred_batch_sizes has {max(config.preferred_batch_sizes)}, which is above max_batch_size {most}",
                "preferred_batch_sizes",
                "max_batch_size",
            )
        if config.rush_batch_size is not None and config.rush_batch_size < (most or 1):
            self._complain(
                f"rush_batch_size is at least max_batch_size {most}, not {config.rush_batch_size}",
                "rush_batch_size",
                "max_batch_size",
            )
        return config

    def _read_one(self, setting: Setting, fields: Mapping[str, tuple[str, _Read]]) -> None:
        name, read = fields[setting.key]
        self._put(name, read(setting), setting)
        if setting.key == "preferred_batch_size":
            self._largest = max(self._values["preferred_batch_sizes"])

    def _read_batching(self, setting: Setting) -> None:
        if setting.is_flag:  # `batching: false`
            self._put("batched", setting.flag(), setting)
            return
        for one in Section(setting, _BATCHING):
            if not one.is_none:
                self._read_one(one, _BATCHING)

    def _read_model_args(self, section: Section) -> None:
        for setting in section:
            if setting.is_none:
                continue
            if setting.key == "class":
                self._argument(setting, setting.text())
            elif setting.key == "kwargs":
                self._argument(setting, {one.key: one.plain() for one in Section(setting)})
            else:
                self._read_one(setting, _FIELDS)

    def _argument(self, setting: Setting, value: Any) -> None:
        self._note(f"arguments.{setting.key}", self._arguments.get(setting.key), value, setting)
        self._arguments[setting.key] = value

    def _put(self, name: str, value: Any, setting: Setting) -> None:
        self._note(name, self._values.get(name), value, setting)
        self._values[name] = value

    def _note(self, name: str, known: Any, value: Any, setting: Setting) -> None:
        first = self._places.setdefault(name, setting)
        if first is not setting and known != value:
            setting.refuse(
                f"{setting.key} contradicts {first.key} in line {first.line} ({value!r}, {known!r}); keep one of them."
            )

    def _complain(self, why: str, *names: str) -> None:
        for name in names:
            if name in self._places:
                self._places[name].refuse(f"{why}.")
        raise ConfigurationError(f"{why}.")


def _name(setting: Setting) -> str:
    name = setting.text()
    if not _MODEL_NAME.fullmatch(name):
        setting.refuse(f"a model's name has letters, digits, '_', '-' and '.', not {name!r}.")
    return name


def _text(setting: Setting) -> str:
    text = setting.text().strip()
    if not text:
        setting.refuse(f"{setting.key} is empty.")
    return text


def _backend(setting: Setting) -> str:
    word = setting.text().strip().lower()
    if word in NOT_SUPPORTED:
        setting.refuse(f"the backend {word!r} is not supported; export the model to ONNX and use 'onnx'.")
    known = backends()
    if ALIASES.get(word, word) not in known:
        hint = nearest(word, (*known, *ALIASES))
        setting.refuse(f"backend is one of {', '.join(known)}, not {word!r}{hint}.")
    return ALIASES.get(word, word)


def _file(setting: Setting) -> str:
    text = _text(setting)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(text).drive or "\\" in text:
        setting.refuse(f"{setting.key} is a path below the folder of this file, with '/', not {text!r}.")
    return text


def _sha256(setting: Setting) -> str:
    text = setting.text().strip()
    if not _SHA256.fullmatch(text):
        setting.refuse(f"sha256 has 64 hexadecimal digits (of `sha256sum FILE`), not {text[:80]!r}.")
    return text.lower()


def _sizes(setting: Setting) -> tuple[int, ...]:
    sizes = {one.integer(least=1) for one in setting.items()}
    if not sizes:
        setting.refuse(f"{setting.key} is empty; give at least one size.")
    return tuple(sorted(sizes))


def _tensors(setting: Setting) -> tuple[TensorSpec, ...]:
    items = setting.items()
    specs = tuple(_tensor(item, needs_name=len(items) > 1) for item in items)
    names = [spec.name for spec in specs]
    for spec, item in zip(specs, items, strict=True):
        if names.count(spec.name) > 1:
            item.refuse(f"two {setting.key} are called {spec.name!r}.")
    return specs


def _one_tensor(setting: Setting) -> tuple[TensorSpec, ...]:
    return (_tensor(setting, needs_name=False),)


def _tensor(setting: Setting, *, needs_name: bool) -> TensorSpec:
    section = Section(setting, ("name", "dtype", "shape", "type"))
    name, dtype, shape, kind = (section.get(key) for key in ("name", "dtype", "shape", "type"))
    if kind is not None:
        kind.choice("array")
    if name is None and needs_name:
        setting.refuse(f"{setting.key} needs a name, as there are several.")
    return TensorSpec(
        "" if name is None else _text(name),
        None if dtype is None else _dtype(dtype),
        None if shape is None else tuple(axis.axis_length() for axis in shape.items()),
    )


def _dtype(setting: Setting) -> str:
    word = setting.choice(*_DTYPES, *_DTYPE_ALIASES)
    return _DTYPE_ALIASES.get(word, word)


def _pad(setting: Setting) -> PadConfig:
    section = Section(setting, [one.name for one in dataclasses.fields(PadConfig)])
    values: dict[str, Any] = {}
    for one in section:
        if one.is_none:
            continue
        if one.key == "axis":
            values["axis"] = one.integer(least=0, most=31)
        elif one.key == "to":
            values["to"] = _sizes(one)
        elif one.key == "value":
            values["value"] = one.number(least=-1e308)
        elif one.key == "waste":
            values["waste"] = one.number(most=1.0)
        else:
            values[one.key] = tuple(_text(item) for item in one.items())
    return PadConfig(**values)


def _breaker(setting: Setting) -> BreakerConfig:
    if setting.is_flag:
        return BreakerConfig(enabled=setting.flag())
    values: dict[str, Any] = {}
    for one in Section(setting, [one.name for one in dataclasses.fields(BreakerConfig)]):
        if one.is_none:
            continue
        if one.key == "enabled":
            values["enabled"] = one.flag()
        elif one.key == "minimum_calls":
            values["minimum_calls"] = one.integer(least=1)
        else:
            most = 1.0 if one.key.endswith("_rate") else float("inf")
            values[one.key] = one.number(above=True, most=most)
    return BreakerConfig(**values)


def _caching(setting: Setting) -> bool:
    if setting.flag():
        setting.refuse("caching is not built; remove the key.")
    return False


def _flag(setting: Setting) -> bool:
    return setting.flag()


def _count(setting: Setting) -> int:
    return setting.integer(least=1)


def _seconds(setting: Setting) -> float:
    return setting.number()


def _positive_seconds(setting: Setting) -> float:
    return setting.number(above=True)


def _milliseconds(setting: Setting) -> float:
    return setting.number() / 1000


def _execution(setting: Setting) -> Execution:
    return cast(Execution, setting.choice("thread", "process"))


_Read: TypeAlias = Callable[[Setting], Any]

_FIELDS: dict[str, tuple[str, _Read]] = {
    "name": ("name", _name),
    "version": ("version", _text),
    "description": ("description", Setting.text),
    "backend": ("backend", _backend),
    "file": ("file", _file),
    "sha256": ("sha256", _sha256),
    "device": ("device", _text),
    "inputs": ("inputs", _tensors),
    "outputs": ("outputs", _tensors),
    "queue_size": ("queue_size", _count),
    "queue_bytes": ("queue_bytes", _count),
    "instances": ("instances", _count),
    "threads": ("threads", _count),
    "execution": ("execution", _execution),
    "timeout": ("timeout", _positive_seconds),
    "warmup": ("warmup", _flag),
    "idempotent": ("idempotent", _flag),
    "allow_nan": ("allow_nan", _flag),
    "circuit_breaker": ("circuit_breaker", _breaker),
    # of the first model server
    "model_file": ("file", _file),
    "input": ("inputs", _one_tensor),
    "output": ("outputs", _one_tensor),
    "caching": ("caching", _caching),
    "preferred_batch_size": ("preferred_batch_sizes", _sizes),
    "max_batch_delay_ms": ("max_batch_wait", _milliseconds),
    "rush_batch_size": ("rush_batch_size", _count),
}
_BATCHING: dict[str, tuple[str, _Read]] = {
    "enabled": ("batched", _flag),
    "max_batch_size": ("max_batch_size", _count),
    "max_batch_wait": ("max_batch_wait", _seconds),
    "preferred_batch_sizes": ("preferred_batch_sizes", _sizes),
    "rush_batch_size": ("rush_batch_size", _count),
    "pad": ("pad", _pad),
}
_MODEL_ARGS = frozenset({"model_file", "device", "class", "kwargs"})
_KEYS = (frozenset(_FIELDS) - {"model_file"}) | {"model", "model_args", "batching", "arguments"}
