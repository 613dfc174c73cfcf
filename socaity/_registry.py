"""From a URL scheme to the transport class, through entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from .exceptions import ConfigurationError

if TYPE_CHECKING:
    from .transport import Transport

GROUP = "socaity.transports"
"""Entry points named after a URL scheme."""
NAMED_GROUP = "socaity.transports.named"
"""Entry points named after a transport, for `connect(…, transport="…")`."""


def find_transport(scheme: str, name: str | None = None) -> type[Transport]:
    """The transport class of a scheme, or the one called `name`."""
    group, key = (GROUP, scheme) if name is None else (NAMED_GROUP, name)
    known: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=group)}
    if key not in known:
        what = f"No transport for scheme {scheme!r}" if name is None else f"No transport is called {name!r}"
        raise ConfigurationError(
            f"{what} (known: {', '.join(sorted(known))}); install one or pass transport=…"
        )
    try:
        loaded: type[Transport] = known[key].load()
    except ImportError as exc:
        raise ConfigurationError(f"The transport for {key!r} could not be loaded: {exc}") from exc
    return loaded
