"""Media in results as the objects that a program wants: PIL images, Audio, DataFrames; `Media` where a package is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from .protocol.audio import Audio
from .protocol.media import TABLE, Media, is_media, read_media

if TYPE_CHECKING:
    from .protocol.description import EndpointDescription

__all__ = ["decode", "make_decode"]

_HOLDERS = frozenset({dict, list})


def make_decode(endpoint: EndpointDescription) -> Callable[[Any], Any] | None:
    """What to do with each result, or chunk of a stream; None where there can be no media in it."""
    if endpoint.direct or not _may_hold_media(endpoint.returns):
        return None
    return decode


def _may_hold_media(schema: Any) -> bool:
    """Whether a schema names media, or says nothing at all."""
    if not isinstance(schema, Mapping) or not schema:
        return True
    waiting: list[Any] = [schema]  # no recursion: a description may be deeper than the stack
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            if "x-media" in node or _is_open(node):
                return True
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return False


def _is_open(schema: Mapping[str, Any]) -> bool:
    """Whether it takes a list or map of anything, as of `list[Any]`."""
    if schema.get("type") == "array":
        return not schema.get("items") and not schema.get("prefixItems")
    return schema.get("type") == "object" and schema.get("additionalProperties") in (True, {})


def decode(value: Any) -> Any:
    """`value` with the media in it decoded, at any depth; the same object where there are none.

    Pixels and samples are unpacked when they are first used.
    """
    kind = type(value)
    if kind is dict:
        if is_media(value):
            return _decode(value)
        if _HOLDERS.isdisjoint(map(type, value.values())):
            return value
        changed = {key: decode(item) for key, item in value.items()}
        return value if all(changed[key] is item for key, item in value.items()) else changed
    if kind is list:
        # one pass in C keeps long lists of numbers cheap
        if _HOLDERS.isdisjoint(map(type, value)):
            return value
        items = [decode(item) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return value


def _decode(wire: dict[str, Any]) -> Any:
    if wire["$media"] == TABLE and not isinstance(wire["data"], str):
        return _decode_table(wire["data"])
    try:
        media = read_media(wire)
    except ValueError:  # a map of somebody else that only looks like ours
        return wire
    assert media is not None
    family = media.media_type.partition("/")[0]
    if family == "image" and _is_installed("PIL"):
        return _decode_image(media)
    can_read = _is_installed("numpy") and (media.media_type == "audio/wav" or _is_installed("soundfile"))
    return Audio.from_bytes(media.data) if family == "audio" and can_read else media


def _decode_image(media: Media) -> Any:
    from .protocol.images import open_image

    try:
        return open_image(media.data, whole=False)
    except (
        ValueError
    ):  # a kind that Pillow does not read, or too large to unpack: the file itself is there still
        return media


def _decode_table(data: Any) -> Any:
    from .protocol.tables import columns_of, decode_table

    return decode_table(data) if _is_installed("pandas") else columns_of(data)


@cache
def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
