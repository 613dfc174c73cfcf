"""`Profile`, how a model is best run here, and the files in which profiles are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Profile", "ProfileCache", "default_cache_directory"]

_logger = logging.getLogger(__name__)

_FORMAT = 2
_SANE = 2**20


@dataclass(frozen=True, slots=True)
class Profile:
    """How a model is best run here; times are in seconds.

    `fixed` and `per_row` are those of s(n) = a + b·n, 0.0 where nothing could be measured; `seconds` has the median for
    every batch size that was tried. `max_batch_size` is the smallest size beyond which doubling gains less than 3 % of
    throughput, `rush_batch_size` the one of the best throughput. `notes` say what was not as usual, in sentences.
    """

    fixed: float
    per_row: float
    seconds: Mapping[int, float]
    max_batch_size: int
    rush_batch_size: int
    threads: int
    instances: int
    from_cache: bool = False
    notes: tuple[str, ...] = ()


class ProfileCache:
    """Profiles in JSON files, one per key. Without a directory, or one that can be written to, there is none.

    Files that are damaged or not ours count as absent.
    """

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self.directory = None if directory is None else Path(directory)

    def get(self, key: str) -> Profile | None:
        """The profile that was put, with `from_cache` set."""
        try:
            return _profile_from(self._document(key)["profile"])
        except (KeyError, TypeError, ValueError):
            return None

    def engine(self, key: str) -> str | None:
        """The engine with which it was measured."""
        engine = self._document(key).get("engine")
        return engine if isinstance(engine, str) else None

    def put(self, key: str, profile: Profile, *, engine: str = "") -> None:
        """Keep `profile`; a reader sees the old file or the new one. What cannot be written is not kept."""
        if self.directory is None:
            return
        document = {
            "format": _FORMAT,
            "key": key,
            "engine": engine,
            "profile": {**_fields(profile), "seconds": {str(n): s for n, s in profile.seconds.items()}},
        }
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.directory, prefix=".", suffix=".tmp")
            try:
                with open(handle, "w", encoding="utf-8") as stream:
                    json.dump(document, stream, allow_nan=False)
                os.replace(name, self._file(key))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(name)
                raise
        except OSError as exc:
            _logger.debug("The profile of a model was not kept: %s", exc)

    def _document(self, key: str) -> dict[str, Any]:
        if self.directory is None:
            return {}
        try:
            document = json.loads(self._file(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(document, dict) or document.get("format") != _FORMAT or document.get("key") != key:
            return {}
        return document

    def _file(self, key: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def default_cache_directory(environ: Mapping[str, str], *, platform: str = sys.platform) -> Path | None:
    """Where profiles are kept: below `SOCAITY_CACHE`, else where the system keeps caches of a user. None: nowhere.

    Those are `XDG_CACHE_HOME` or `~/.cache` (XDG Base Directory Specification; relative ones are ignored),
    `~/Library/Caches` on macOS and `LOCALAPPDATA` on Windows.
    """
    if chosen := environ.get("SOCAITY_CACHE"):
        return Path(chosen) / "profiles"
    home = environ.get("HOME")
    if platform == "win32":
        base = environ.get("LOCALAPPDATA")
    elif platform == "darwin":
        base = f"{home}/Library/Caches" if home else None
    else:
        base = environ.get("XDG_CACHE_HOME")
        if not base or not base.startswith("/"):
            base = f"{home}/.cache" if home else None
    return Path(base) / "socaity" / "profiles" if base else None


def _fields(profile: Profile) -> dict[str, Any]:
    return {
        field.name: getattr(profile, field.name)
        for field in dataclasses.fields(profile)
        if field.name != "from_cache"
    }


def _profile_from(document: Mapping[str, Any]) -> Profile:
    """Raises KeyError, TypeError or ValueError for what `put` cannot have written."""
    seconds = {_whole(int(rows)): _seconds(took) for rows, took in dict(document["seconds"]).items()}
    return Profile(
        fixed=_seconds(document["fixed"]),
        per_row=_seconds(document["per_row"]),
        seconds=seconds,
        max_batch_size=_whole(document["max_batch_size"]),
        rush_batch_size=_whole(document["rush_batch_size"]),
        threads=_whole(document["threads"]),
        instances=_whole(document["instances"]),
        from_cache=True,
        notes=tuple(str(note) for note in document["notes"]),
    )


def _whole(value: object) -> int:
    if type(value) is not int or not 1 <= value <= _SANE:
        raise ValueError(f"{value!r} is no count.")
    return value


def _seconds(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{value!r} is no time.")
    return float(value)  # type: ignore[arg-type]
