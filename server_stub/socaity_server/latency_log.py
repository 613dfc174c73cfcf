"""`DEBUG_MODE`: a line with the waterfall of every request in `LOG_DIRECTORY/latency.log`; never what was in it."""

from __future__ import annotations

import logging
import logging.handlers
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from socaity.exceptions import ConfigurationError, SocaityError

from .waterfall import Waterfall

if TYPE_CHECKING:
    from .frontends.lite import ModelHandler

__all__ = ["LatencyLog"]

_FILE = "latency.log"
_MAX_BYTES = 10 * 2**20
_BACKUPS = 3


class LatencyLog:
    """An observer of requests that writes a file of its own, which starts anew at 10 MiB."""

    def __init__(self, directory: str) -> None:
        path = Path(directory) / _FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS
            )
        except OSError as exc:
            raise ConfigurationError(
                f"DEBUG_MODE writes to LOG_DIRECTORY, and {str(path)!r} cannot be written: {exc.strerror}."
            ) from exc
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        # not registered by name: two services in one process keep their own files
        self._logger = logging.Logger("socaity_server.latency", logging.INFO)
        self._logger.addHandler(self._handler)

    def succeeded(self, handler: ModelHandler, waterfall: Waterfall, headers: Mapping[bytes, bytes]) -> None:
        steps = " ".join(f"{name}={length * 1000:.3f}ms" for name, _, length in waterfall.steps)
        self._logger.info(
            "%s %s %s rows=%d batch=%d/%d",
            handler.endpoint,
            handler.name,
            steps,
            waterfall.rows,
            waterfall.batch_calls,
            waterfall.batch_rows,
        )

    def failed(
        self, handler: ModelHandler, error: SocaityError, arrived: float, headers: Mapping[bytes, bytes]
    ) -> None:
        self._logger.info(
            "%s %s failed %s after=%.3fms",
            handler.endpoint,
            handler.name,
            getattr(error, "code", None) or type(error).__name__,
            (time.monotonic() - arrived) * 1000,
        )

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
