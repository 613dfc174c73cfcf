"""Whether a browser sends a request for a page of another origin: programs send no `Origin`, browsers always do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_cross_origin"]


def is_cross_origin(scope: Mapping[str, Any]) -> bool:
    """True for an `Origin` that is not the host of the request (`null` included)."""
    origin = host = None
    for name, value in scope["headers"]:
        if name == b"origin":
            origin = value
        elif name == b"host":
            host = value
    return origin is not None and origin.partition(b"://")[2] != host
