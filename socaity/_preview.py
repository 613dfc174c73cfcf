"""A value as a small picture, player, table or text, in HTML: bounded in size, everything escaped, nothing imported for it
that the program has not imported, but Pillow, where it is installed, to make pictures smaller."""

from __future__ import annotations

import dataclasses
import html
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import _sound
from ._pictures import Picture, picture_of_array, picture_of_bytes, picture_of_pil
from ._steps import duration, one_line

LIMIT = 400_000
"""Bytes of HTML for one value."""
SIDE = 256
"""Pixels of the longer side of a picture."""

_MAX_TEXT = 600
_MAX_CELL = 60
_MAX_ITEMS = 8
_MAX_ROWS = 5
_MAX_DEPTH = 3
_LOOKED_AT = 100_000
"""Numbers of an array that are looked at for its smallest and largest."""
_KINDS = (
    (b"%PDF", "PDF document"),
    (b"PK\x03\x04", "ZIP archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"ID3", "MP3 audio"),
    (b"\xff\xfb", "MP3 audio"),
    (b"\xff\xf3", "MP3 audio"),
    (b"OggS", "Ogg audio"),
    (b"fLaC", "FLAC audio"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM video"),
)


def preview(value: object, *, limit: int = LIMIT, side: int = SIDE) -> str:
    """`value` as HTML of at most about `limit` bytes; never raises, whatever the value does."""
    try:
        return _Preview(limit, side).of(value)
    except (
        Exception
    ) as exc:  # a picture that is broken, a __repr__ that raises: the type is still something to say
        return _text(f"{type(value).__name__} (no preview: {type(exc).__name__})")


class _Preview:
    """What is left of the allowance while the parts of one value are drawn."""

    def __init__(self, limit: int, side: int) -> None:
        self._left = limit
        self._side = side

    def of(self, value: object, depth: int = 0) -> str:
        if self._left <= 0:
            return _text("…")
        drawn = self._draw(value, depth)
        if len(drawn) > self._left:
            drawn = _text(f"{type(value).__name__} (too large to show here)")
        self._left -= len(drawn)
        return drawn

    def _draw(self, value: Any, depth: int) -> str:
        if value is None or isinstance(value, bool | int | float | complex):
            return _text(repr(value) if not isinstance(value, int) else _integer(value))
        if isinstance(value, str):
            return _long_text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._of_bytes(value)
        if _is_of(value, "socaity.protocol.media", "Media"):
            return self._of_bytes(value.data)
        if _is_of(value, "numpy", "ndarray"):
            return self._of_array(value)
        if _is_of(value, "torch", "Tensor"):
            return self._of_tensor(value)
        if _is_of(value, "PIL", "Image.Image"):
            return _picture(picture_of_pil(value, self._side))
        if _is_of(value, "pandas", "DataFrame") or _is_of(value, "pandas", "Series"):
            return _frame(value)
        if hasattr(value, "samples") and hasattr(value, "sample_rate"):
            return _player(_sound.sound_of(value.samples, value.sample_rate, max_bytes=self._sound_bytes))
        return self._of_container(value, depth)

    @property
    def _sound_bytes(self) -> int:
        return max(0, min(_sound.MAX_BYTES, int((self._left - 4000) * 0.7)))

    def _of_bytes(self, value: bytes | bytearray | memoryview) -> str:
        head = bytes(value[:16])
        size = _size(len(value) if not isinstance(value, memoryview) else value.nbytes)
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
            try:
                return _player(_sound.sound_of_wav(bytes(value), max_bytes=self._sound_bytes))
            except ImportError:  # numpy
                return _text(f"WAV audio, {size}")
        picture = picture_of_bytes(value, self._side)
        if picture is not None:
            return _picture(picture)
        for magic, kind in _KINDS:
            if head.startswith(magic):
                return _text(f"{kind}, {size}")
        return _text(f"bytes, {size}: {head.hex(' ')}{' …' if len(value) > len(head) else ''}")

    def _of_array(self, value: Any) -> str:
        if value.ndim == 0:
            return _text(repr(value.item())[:_MAX_TEXT])
        if value.ndim == 4 and value.dtype.name == "uint8" and len(value) > 0:
            return self._grid(
                [picture_of_array(one, self._side // 2) for one in value[:4]], len(value), value
            )
        picture = picture_of_array(value, self._side)
        return _array_text(value) if picture is None else _picture(picture)

    def _grid(self, pictures: list[Picture | None], count: int, value: Any) -> str:
        shown = [_picture(one) for one in pictures if one is not None]
        if not shown:
            return _array_text(value)
        more = _text(f"and {count - len(shown)} more") if count > len(shown) else ""
        return f'<div class="grid">{"".join(shown)}{more}</div>'

    def _of_tensor(self, value: Any) -> str:
        value = value.detach()
        name = f"torch {str(value.dtype).removeprefix('torch.')}, {_shape(value.shape)}, {value.device}"
        if value.is_sparse or value.is_quantized or value.is_meta:
            return _text(name)
        if value.ndim in (2, 3) and min(value.shape[-2:]) > 0:
            # the pixels are picked where the tensor is, so that a large one does not leave its device
            is_planar = value.ndim == 3 and value.shape[0] in (1, 3, 4)
            pixels = value.movedim(0, -1) if is_planar else value
            height, width = pixels.shape[:2]
            picked = pixels[:: max(1, height // (2 * self._side)), :: max(1, width // (2 * self._side))]
            if value.ndim == 2 or picked.shape[-1] in (1, 3, 4):
                picture = picture_of_array(_as_numpy(picked), self._side, full=(width, height))
                if picture is not None:
                    return _picture(picture)
        flat = _as_numpy(value.reshape(-1)[:_LOOKED_AT])
        return _text(f"{name}{_extent(flat, value.numel())}")

    def _of_container(self, value: Any, depth: int) -> str:
        if isinstance(value, Mapping):
            return self._pairs(list(value.items())[: _MAX_ITEMS + 1], len(value), depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [one.name for one in dataclasses.fields(value)]
            return self._pairs([(name, getattr(value, name)) for name in names], len(names), depth)
        fields: Mapping[str, Any] | None = getattr(type(value), "model_fields", None)
        if fields is not None:
            names = list(fields)
            return self._pairs([(name, getattr(value, name)) for name in names], len(names), depth)
        if isinstance(value, list | tuple):
            if value and all(isinstance(one, Mapping) for one in value[:_MAX_ROWS]):
                table = _table_of(value)
                if table:
                    return table
            return self._items(value, depth)
        return _long_text(repr(value))

    def _pairs(self, pairs: Sequence[tuple[object, object]], count: int, depth: int) -> str:
        if depth >= _MAX_DEPTH:
            return _text(f"{count} entries")
        rows = [
            f"<dt>{html.escape(one_line(name, _MAX_CELL))}</dt><dd>{self.of(one, depth + 1)}</dd>"
            for name, one in pairs[:_MAX_ITEMS]
        ]
        if count > _MAX_ITEMS:
            rows.append(f"<dt>…</dt><dd>{_text(f'and {count - _MAX_ITEMS} more')}</dd>")
        return f'<dl class="pairs">{"".join(rows)}</dl>' if rows else _text("{}")

    def _items(self, value: Sequence[Any], depth: int) -> str:
        if all(one is None or isinstance(one, bool | int | float) for one in value[:50]):
            more = ", …" if len(value) > 20 else ""
            return _text(f"[{', '.join(_number(one) for one in value[:20])}{more}] ({len(value)})")
        if depth >= _MAX_DEPTH:
            return _text(f"{len(value)} items")
        if (
            all(isinstance(one, str) for one in value[: _MAX_ITEMS * 4])
            and sum(map(len, value[:50])) < _MAX_TEXT
        ):
            return _long_text("".join(value)) if depth == 0 else _long_text(repr(value))
        parts = [f"<li>{self.of(one, depth + 1)}</li>" for one in value[:_MAX_ITEMS]]
        if len(value) > _MAX_ITEMS:
            parts.append(f"<li>{_text(f'and {len(value) - _MAX_ITEMS} more')}</li>")
        return f'<ul class="grid">{"".join(parts)}</ul>'


# -- single things -------------------------------------------------------------------------------------------------------


def _is_of(value: object, module: str, name: str) -> bool:
    """Whether it is of a class of a module that is loaded; loads none."""
    kind: Any = sys.modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _text(text: str) -> str:
    return f'<span class="text">{html.escape(text)}</span>'


def _long_text(text: str) -> str:
    shown = "".join(char if char.isprintable() or char in "\n\t" else " " for char in text[:_MAX_TEXT])
    if len(text) > _MAX_TEXT:
        shown += f"… ({len(text):,} characters)"
    return f'<span class="text long">{html.escape(shown)}</span>'


def _picture(picture: Picture | None) -> str:
    if picture is None:
        return _text("a picture that cannot be shown here")
    if picture.uri is None:
        return _text(picture.label)
    return (
        f'<img src="{picture.uri}" width="{picture.width}" height="{picture.height}" '
        f'alt="{html.escape(picture.label, quote=True)}" title="{html.escape(picture.label, quote=True)}">'
    )


def _player(sound: _sound.Sound | None) -> str:
    if sound is None:
        return _text("audio that cannot be played here")
    excerpt = (
        f"; the first {duration(sound.shown)} can be heard" if sound.shown < sound.seconds - 0.05 else ""
    )
    label = f"audio, {duration(sound.seconds)}, {sound.rate:,} Hz{excerpt}"
    return (
        f'<figure class="sound"><svg class="wave" viewBox="0 0 240 40" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}"><path d="{sound.outline(240, 40)}"/></svg>'
        f'<audio controls preload="metadata" src="{sound.uri}"></audio><figcaption>{label}</figcaption></figure>'
    )


def _frame(value: Any) -> str:
    if value.ndim == 1:
        value = value.to_frame()
    head = value.iloc[:_MAX_ROWS, :_MAX_ITEMS]
    columns = [str(name) for name in head.columns]
    rows = [[str(index), *row] for index, row in zip(head.index, head.itertuples(index=False), strict=True)]
    caption = f"{_plural(len(value), 'row')} × {_plural(value.shape[1], 'column')}"
    return _table(["", *columns], rows, caption)


def _table_of(value: Sequence[Any]) -> str:
    """Records with the same few plain fields as a table; empty if they are none."""
    names = list(value[0])
    rows = [list(one.values()) for one in value[:_MAX_ROWS] if list(one) == names]
    plain = (str, int, float, bool, type(None))
    is_plain = all(isinstance(cell, plain) for row in rows for cell in row)
    if not names or len(names) > _MAX_ITEMS or not is_plain or len(rows) < min(len(value), _MAX_ROWS):
        return ""
    return _table([str(name) for name in names], rows, _plural(len(value), "row"))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    head = "".join(f'<th scope="col">{_cell(one)}</th>' for one in columns)
    body = "".join(f"<tr>{''.join(f'<td>{_cell(one)}</td>' for one in row)}</tr>" for row in rows)
    return (
        f'<div class="table" tabindex="0" role="group" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    text = _number(value) if isinstance(value, float) else one_line(value, _MAX_CELL + 1)
    return html.escape(text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…")


def _number(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else _integer(value) if type(value) is int else str(value)
    )


def _integer(value: int) -> str:
    # Python refuses to write out very long ones
    return str(value) if value.bit_length() < 200 else f"an integer of {value.bit_length()} bits"


def _array_text(value: Any) -> str:
    name = f"{value.dtype}, {_shape(value.shape)}"
    return _text(
        f"{name}{_extent(value.reshape(-1)[:_LOOKED_AT] if value.flags.c_contiguous else None, value.size)}"
    )


def _extent(flat: Any, size: int) -> str:
    """The first numbers of an array and how far they go."""
    if flat is None or not size or flat.dtype.kind not in "biuf":
        return ""
    first = ", ".join(_number(one) for one in flat[:6].tolist())
    extent = f"{_number(flat.min().item())} … {_number(flat.max().item())}"
    return f": {first}{', …' if size > 6 else ''} ({'' if size <= len(flat) else 'begins with '}{extent})"


def _as_numpy(tensor: Any) -> Any:
    tensor = tensor.cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _size(count: float) -> str:
    if count < 1000:
        return _plural(int(count), "byte")
    for unit in ("KB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} GB"
