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
    if array.ndim == 2:
        axis = 0 if array.shape[0] <= array.shape[1] else 1
        array = array.take(0, axis) if array.shape[axis] == 1 else _mean(array, axis)
    if array.ndim != 1 or not array.size or rate <= 0 or array.dtype.kind not in "iuf":
        return None
    seconds = array.size / rate
    if array.dtype.kind in "iu":
        half = float(2 ** (8 * array.dtype.itemsize - 1))
        array = (array.astype(np.float32) - (half if array.dtype.kind == "u" else 0.0)) / half
    array = np.nan_to_num(array.astype(np.float32, copy=False))
    peaks = tuple(float(min(1.0, np.abs(part).max())) for part in np.array_split(array, min(80, array.size)))
    steps = [max(1, -(-rate // target)) for target in _RATES]
    step = next((step for step in steps if array.size / step * 2 <= max_bytes), steps[-1])
    array = array[: max_bytes // 2 * step]
    excerpt = array.size / rate
    if step > 1:
        array = array[: array.size // step * step].reshape(-1, step).mean(axis=1)
    data = (np.clip(array, -1.0, 1.0) * 32767).astype("<i2").tobytes()
    return Sound(_uri(data, round(rate / step)), seconds, excerpt, rate, peaks)


def _mean(array: Any, axis: int) -> Any:
    import numpy as np

    if array.dtype.kind in "iu":
        return array.mean(axis=axis).astype(array.dtype)
    return array.mean(axis=axis, dtype=np.float32)


def sound_of_wav(data: bytes, *, max_bytes: int = MAX_BYTES) -> Sound | None:
    """A WAV file; None if it is not plain PCM."""
    import numpy as np

    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames = file.readframes(file.getnframes())
    except (wave.Error, EOFError):
        return None
    kinds = {1: "u1", 2: "<i2", 4: "<i4"}
    if width not in kinds or not rate:
        return None
    samples = np.frombuffer(frames[: len(frames) // (width * channels) * (width * channels)], kinds[width])
    return sound_of(samples.reshape(-1, channels) if channels > 1 else samples, rate, max_bytes=max_bytes)


def _uri(samples: bytes, rate: int) -> str:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return f"data:audio/wav;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
