"""What traces and logs are written, for the parts of the protocol that ask; nothing of it can be set by clients.

Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol (extension_trace.md, extension_logging.md)
"""

from __future__ import annotations

import logging

__all__ = ["log_settings", "trace_settings"]


def trace_settings() -> dict[str, str | list[str]]:
    """No traces of this kind are written: OpenTelemetry has its own."""
    return {
        "trace_file": "",
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
    }


def log_settings() -> dict[str, str | bool | int]:
    """How the logger of the server is set."""
    logger = logging.getLogger("socaity_server")
    levels = {
        f"log_{level}": logger.isEnabledFor(getattr(logging, level.upper()))
        for level in ("info", "warning", "error")
    }
    return {
        "log_file": "",
        **levels,
        "log_verbose_level": int(logger.isEnabledFor(logging.DEBUG)),
        "log_format": "default",
    }
