"""Which models a folder holds, by name and version. Reads file names, times and configurations; loads nothing."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from socaity.exceptions import ConfigurationError

from .config_keys import read_model_config
from .model_config import ModelConfig
from .runtimes.registry import model_suffixes

__all__ = ["ModelFiles", "VersionFiles", "fingerprint", "scan_folder"]

_CONFIG_NAMES = ("model_config.yaml", "model_config.yml")
_NAME = re.compile(r"\w[\w.-]*")
_VERSION = re.compile(r"0|[1-9][0-9]{0,17}")
_SEED_KEY = re.compile(rb"^model\s*:", re.MULTILINE)
_NAME_KEY = re.compile(r"""^\s*name\s*:\s*["']?(\w[\w.-]*)["']?\s*(?:#.*)?$""", re.MULTILINE)
# A script beside the models (train.py) must not be run only because it is there.
_IS_PYTHON_MODEL = re.compile(rb"^(?:(?:async\s+)?def\s+predict\b|class\s+Model\b)", re.MULTILINE)
_MAX_DEPTH = 8
_PASSING = (".log", ".lock", ".part", ".swp", ".tmp", "~")

Fingerprint = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class VersionFiles:
    """One version of a model. `error` says why it cannot be loaded; `watched` are the files and folders whose change
    makes it another one, and `state` what they were like when they were looked at."""

    version: str | None
    file: Path | None
    config: ModelConfig
    watched: tuple[Path, ...]
    state: Fingerprint
    error: str | None = None

    @property
    def backend(self) -> str | None:
        """What is configured, or what the file's name says."""
        suffix = "" if self.file is None else self.file.suffix.lower()
        return self.config.backend or model_suffixes().get(suffix)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model: its folder, file or configuration, and its versions, the newest first. With `error` none of them is used."""

    name: str
    path: Path
    versions: tuple[VersionFiles, ...]
    error: str | None = None


def scan_folder(root: Path) -> dict[str, ModelFiles]:
    """All models below `root` by name, also those that cannot be loaded.

    Raises ConfigurationError where `root` is no folder, or cannot be read.
    """
    if not root.is_dir():
        raise ConfigurationError(f"There is no folder of models {str(root)!r}.")
    try:
        scanner = _Scanner(root)
        found = list(scanner.folder(root))
    except OSError as exc:
        raise ConfigurationError(
            f"The folder of models {str(root)!r} cannot be read: {exc.strerror}."
        ) from exc
    return _by_name(found, root)


def fingerprint(watched: Iterable[Path]) -> Fingerprint:
    """What tells one state of files from another without reading them. Hidden files and byte code do not count."""
    return tuple(sorted(_stats(watched)))


def _by_name(found: list[ModelFiles], root: Path) -> dict[str, ModelFiles]:
    groups: dict[str, list[ModelFiles]] = defaultdict(list)
    for model in found:
        groups[model.name].append(model)
    models: dict[str, ModelFiles] = {}
    for name, same in sorted(groups.items()):
        models[name] = same[0]
        if len(same) > 1:
            places = " and ".join(sorted(_origin(model).relative_to(root).as_posix() for model in same))
            models[name] = replace(
                same[0],
                versions=tuple(version for model in same for version in model.versions),
                error=f"{len(same)} models are called {name!r}: {places}; rename all but one.",
            )
        elif not _NAME.fullmatch(name):
            models[name] = replace(
                same[0], error=f"{name!r} is no name for a model: use letters, digits, '_', '-' and '.'."
            )
    return models


def _origin(model: ModelFiles) -> Path:
    files = [
        path for version in model.versions for path in version.watched if path.suffix in (".yaml", ".yml")
    ]
    return files[0] if files else model.path


class _Scanner:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._resolved = root.resolve()

    def folder(self, folder: Path, *, depth: int = 0, inside: bool = False) -> Iterator[ModelFiles]:
        """The models in a folder and below it. `inside` a model's own folder only marked configurations are models."""
        is_root = depth == 0
        entries = _visible(folder)
        files = [path for path in entries if not path.is_dir()]
        versions = [path for path in entries if path not in files and _VERSION.fullmatch(path.name)]
        main, configs = _configs(files, is_root=is_root, inside=inside)
        is_model = main is not None
        if not is_model and not configs and not inside:
            candidates = _candidates(files, None)
            is_model = bool(candidates) or any(_candidates(_visible(one), None) for one in versions)
            if is_root:  # the folder of models, unless it looks like a single model
                others = [path for path in entries if path not in files and path not in versions]
                is_model = is_model and not others and all(path.stem == "model" for path in candidates)
        if is_model:
            yield self._model(folder, main, entries, versions)
        found = [self._configured(config, files) for config in configs]
        yield from found
        if is_root and not is_model:
            yield from self._bare(files, configs, found)
        inside = inside or is_model or (bool(configs) and not is_root)
        for sub in entries:
            if depth < _MAX_DEPTH and sub not in files and not (is_model and sub in versions):
                yield from self._sub_folder(sub, depth=depth + 1, inside=inside)

    def _sub_folder(self, sub: Path, *, depth: int, inside: bool) -> Iterator[ModelFiles]:
        why = self._outside(sub)
        if why is None and sub.is_symlink() and sub.resolve() in sub.absolute().parents:
            return  # a link to a folder around it: the way would go round in circles
        try:
            if why is None:
                yield from self.folder(sub, depth=depth, inside=inside)
        except OSError as exc:
            why = f"{self._shown(sub)} cannot be read: {exc.strerror}."
        if why is not None and not inside:
            yield ModelFiles(sub.name, sub, (), error=why)

    def _model(
        self, folder: Path, main: Path | None, entries: list[Path], versions: list[Path]
    ) -> ModelFiles:
        """A folder that is a model, with numbered versions or without."""
        name, config, error = self._read(main, default=_folder_name(folder))
        own = tuple(path for path in entries if path not in versions)
        found = []
        files = [path for path in own if not path.is_dir()]
        has_own = bool(config.file) or bool(_candidates(files, config.backend))
        if has_own or not versions:
            file, why = self._choose(folder, config, main, files)
            version = config.version or ("0" if versions else None)
            found.append(VersionFiles(version, file, config, own, fingerprint(own), error or why))
        for sub in sorted(versions, key=lambda path: int(path.name), reverse=True):
            found.append(self._version(sub, name, config, main, error))
        if has_own and versions:
            # the file without a number is the oldest
            found.append(found.pop(0))
        return ModelFiles(name, folder, tuple(found), error=_same_versions(found))

    def _version(
        self, folder: Path, name: str, base: ModelConfig, main: Path | None, error: str | None
    ) -> VersionFiles:
        watched = (folder,) if main is None else (folder, main)
        error = error or self._outside(folder)
        if error is not None:
            return VersionFiles(folder.name, None, base, watched, fingerprint(watched), error)
        files = [path for path in _visible(folder) if not path.is_dir()]
        own, _ = _configs(files, is_root=False, inside=False)
        own_name, config, error = self._read(own, default=name, base=base)
        if error is None and own_name != name:
            error = f"{self._shown(own or folder)}: the name {own_name!r} is not that of the model, {name!r}."
        file, why = self._choose(folder, config, own, files)
        return VersionFiles(folder.name, file, config, watched, fingerprint(watched), error or why)

    def _configured(self, path: Path, files: list[Path]) -> ModelFiles:
        """A model that is a configuration: one of several in a folder, or one beside the folders."""
        default = _folder_name(path.parent) if path.name in _CONFIG_NAMES else path.stem
        name, config, error = self._read(path, default=default)
        same_stem = [file for file in files if file.stem == path.stem]
        file, why = self._choose(path.parent, config, path, same_stem)
        watched = (path, *_with(file, files))
        version = VersionFiles(config.version, file, config, watched, fingerprint(watched), error or why)
        return ModelFiles(name, path, (version,))

    def _bare(self, files: list[Path], configs: list[Path], found: list[ModelFiles]) -> Iterator[ModelFiles]:
        """Files without a configuration. What belongs to a configuration, even to a wrong one, is not served without it."""
        claimed = {version.file for model in found for version in model.versions}
        texts = [_head(model.path) for model in found if any(one.error for one in model.versions)]
        for file in _candidates(files, None, any_python=True):
            if file in claimed or any(config.stem == file.stem for config in configs):
                continue
            if any(os.fsencode(file.name) in text for text in texts):
                continue
            if file.suffix == ".py" and not _IS_PYTHON_MODEL.search(_head(file)):
                continue
            watched = _with(file, files)
            why = self._outside(file) or (None if file.is_file() else f"{self._shown(file)} is not a file.")
            version = VersionFiles(None, file, ModelConfig(), watched, fingerprint(watched), why)
            yield ModelFiles(file.stem, file, (version,))

    def _read(
        self, path: Path | None, *, default: str, base: ModelConfig | None = None
    ) -> tuple[str, ModelConfig, str | None]:
        """The name of the model, its configuration, and why that cannot be used."""
        config = base or ModelConfig()
        if path is None:
            return default, config, None
        if (why := self._outside(path)) is not None:
            return default, config, why
        try:
            config = read_model_config(path, base=base)
            return config.name or default, config, None
        except ConfigurationError as exc:
            why = str(exc).replace(f"{self._root}{os.sep}", "")
        # a mistake elsewhere in the file does not give the model another name
        match = _NAME_KEY.search(_head(path).decode(errors="replace"))
        return match[1] if match else default, config, why

    def _choose(
        self, folder: Path, config: ModelConfig, path: Path | None, files: list[Path]
    ) -> tuple[Path | None, str | None]:
        """The model file, or why there is none."""
        if config.file is not None:
            file = folder / config.file
        elif config.backend == "python" and "class" in config.arguments:
            module = str(config.arguments["class"]).partition(":")[0]
            file = folder / f"{module.replace('.', '/')}.py"
            if not file.is_file():
                file = folder / f"{module.rpartition('.')[2]}.py"
            if path is not None and not file.is_file():
                file = path  # an installed module: only the folder of the file matters
        else:
            candidates = _candidates(files, config.backend)
            named = [one for one in candidates if path is not None and one.stem == path.stem]
            chosen = named or [one for one in candidates if one.stem == "model"] or candidates
            if len(chosen) != 1:
                return None, self._not_one(folder, chosen)
            file = chosen[0]
        why = self._outside(file)
        if why is None and not file.is_file():
            why = f"There is no model file {self._shown(file)}."
        return file, why

    def _not_one(self, folder: Path, chosen: list[Path]) -> str:
        if not chosen:
            return f"There is no model file ({', '.join(model_suffixes())}) in {self._shown(folder)}; say which with `file:`."
        names = ", ".join(one.name for one in chosen)
        return f"{self._shown(folder)} has several model files ({names}); say which with `file:`."

    def _outside(self, path: Path) -> str | None:
        try:
            if path.resolve().is_relative_to(self._resolved):
                return None
            return f"{self._shown(path)} leads out of the folder of models; copy the file into it."
        except (OSError, RuntimeError):  # a link to itself
            return f"{self._shown(path)} is a link that leads nowhere."

    def _shown(self, path: Path) -> str:
        shown = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        return repr(shown.as_posix())


def _configs(files: list[Path], *, is_root: bool, inside: bool) -> tuple[Path | None, list[Path]]:
    """The folder's own configuration, and those that are models of their own."""
    found = [path for path in files if path.suffix.lower() in (".yaml", ".yml")]
    main = next((path for path in found if path.name in _CONFIG_NAMES), None)
    if inside:
        return None, [path for path in found if path == main or _SEED_KEY.search(_head(path))]
    if main is not None:
        # other YAML files beside it (labels, a pipeline) are the model's own business
        return main, [path for path in found if path != main and _SEED_KEY.search(_head(path))]
    if len(found) == 1 and not is_root:
        return found[0], []
    return None, found


def _candidates(files: Iterable[Path], backend: str | None, *, any_python: bool = False) -> list[Path]:
    """Files that may be a model. Other Python files than `model.py` are mostly what a model imports."""
    any_python = any_python or backend == "python"
    suffixes = model_suffixes()
    return [
        path
        for path in files
        if path.suffix.lower() in suffixes
        and backend in (None, suffixes[path.suffix.lower()])
        and not _is_warmup(path)
        and (path.suffix != ".py" or any_python or path.stem == "model")
    ]


def _is_warmup(path: Path) -> bool:
    """Rows to run a model with, which an added runtime may have the suffix of."""
    return path.suffix in (".json", ".npz") and (path.stem == "warmup" or path.stem.endswith(".warmup"))


def _with(file: Path | None, files: list[Path]) -> tuple[Path, ...]:
    """A file and what belongs to it by name: the data of an ONNX file, a warm-up file."""
    if file is None:
        return ()
    return (
        file,
        *[one for one in files if one != file and one.name.startswith((f"{file.stem}.", file.name))],
    )


def _same_versions(versions: list[VersionFiles]) -> str | None:
    seen = [version.version for version in versions]
    twice = next((version for version in seen if seen.count(version) > 1), None)
    return (
        None if twice is None else f"Two files are version {twice!r}; change `version:` or the folder's name."
    )


def _folder_name(folder: Path) -> str:
    return folder.resolve().name if folder.name in ("", "..") else folder.name


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith(_PASSING)


def _head(path: Path) -> bytes:
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(2**20)
    except OSError:
        return b""


def _stats(watched: Iterable[Path], depth: int = 0) -> Iterator[tuple[str, int, int, int]]:
    for path in watched:
        try:
            if path.is_dir():
                if depth <= _MAX_DEPTH:
                    yield from _stats(_visible(path), depth + 1)
                continue
            stat = path.stat()
        except OSError:
            continue  # gone since it was listed, or a link that leads nowhere
        yield str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino
