"""Sound made small enough for a page: one channel, a lower rate, and only the beginning of what is long."""

from __future__ import annotations

import base64
import io
import wave
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 240_000
"""Of the sound in a page, before base64: a quarter of a minute at the lowest rate."""
_RATES = (16_000, 8_000)
_PEAKS = 80
_PIECES, _PIECE = 20, 1_000


@dataclass(frozen=True, slots=True)
class Sound:
    """A WAV as a `data:` URI; `seconds` and `rate` are those of the original, `shown` of the excerpt."""

    uri: str
    seconds: float
    shown: float
    rate: int
    peaks: tuple[float, ...]

    def outline(self, width: int, height: int) -> str:
        """The loudness as an SVG path, symmetric to the middle."""
        if not self.peaks:
            return ""
        middle, step = height / 2, width / len(self.peaks)
        return "".join(
            f"M{(number + 0.5) * step:.1f} {middle - level:.1f}V{middle + level:.1f}"
            for number, level in enumerate(max(0.5, peak * middle) for peak in self.peaks)
        )


def sound_of(samples: Any, rate: Any, *, max_bytes: int = MAX_BYTES) -> Sound | None:
    """Samples as an array or tensor: numbers from -1 to 1, or integers; one channel, or several along either axis."""
    import numpy as np

    if hasattr(samples, "detach"):
        samples = samples.detach().cpu()
    array = np.asarray(samples)
    rate = int(rate)
    if array.ndim == 2 and array.shape[0] <= array.shape[1]:
        array = array.T
    if array.ndim not in (1, 2) or not array.size or rate <= 0 or array.dtype.kind not in "iuf":
        return None
    size = len(array)
    edges = np.linspace(0, size, min(_PEAKS, size) + 1).astype(int)
    peaks = tuple(
        _peak(array[start:end]) for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    )
    steps = [max(1, -(-rate // target)) for target in _RATES]
    step = next((step for step in steps if size / step * 2 <= max_bytes), steps[-1])
    excerpt = _mono(array[: max_bytes // 2 * step])
    shown = excerpt.size / rate
    if step > 1:
        excerpt = excerpt[: excerpt.size // step * step].reshape(-1, step).mean(axis=1)
    data = (np.clip(excerpt, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return Sound(_uri(data, round(rate / step)), size / rate, shown, rate, peaks)


def _peak(part: Any) -> float:
    """The loudest of a part; of a long one pieces are looked at, because nobody sees more in so small a drawing."""
    import numpy as np

    if len(part) > _PIECES * _PIECE:
        starts = np.linspace(0, len(part) - _PIECE, _PIECES).astype(int).tolist()
        return max(_peak(part[start : start + _PIECE]) for start in starts)
    return float(min(1.0, np.abs(_mono(part)).max()))


def _mono(part: Any) -> Any:
    """Samples by channel as one channel of numbers from -1 to 1."""
    import numpy as np

    mixed = part.mean(axis=1, dtype=np.float32) if part.ndim == 2 else part.astype(np.float32, copy=False)
    if part.dtype.kind in "iu":
        half = float(2 ** (8 * part.dtype.itemsize - 1))
        mixed = (mixed - (half if part.dtype.kind == "u" else 0.0)) / half
    return np.nan_to_num(mixed)


def sound_of_wav(data: bytes, *, max_bytes: int = MAX_BYTES) -> Sound | None:
    """A WAV file, of which only what is shown is read; None if it is not plain PCM."""
    import numpy as np

    source = io.BytesIO(data)
    try:
        with wave.open(source) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            count, first = file.getnframes(), file.readframes(1)
            start = source.tell() - len(first)
    except (wave.Error, EOFError):
        return None
    kinds = {1: "u1", 2: "<i2", 4: "<i4"}
    if width not in kinds or not rate or not first:
        return None
    count = min(count, (len(data) - start) // (width * channels))
    if count < 1:
        return None
    samples = np.frombuffer(data, kinds[width], count * channels, start)
    return sound_of(samples.reshape(-1, channels) if channels > 1 else samples, rate, max_bytes=max_bytes)


def _uri(samples: bytes, rate: int) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
