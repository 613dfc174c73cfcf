"""`Audio`: sound as samples and a rate, and as a WAV file."""

from __future__ import annotations

import base64
import html
import io
import struct
import wave
from importlib import import_module
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .media import Media, sniff

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Audio"]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_CHANNELS = 64
_MAX_PLAYED = 512 * 1024
_MAX_RATE = 768_000
_INSTALL = "only WAV is read and written without it: pip install soundfile"


class Audio:
    """Sound: `samples` as float32 from -1 to 1, `[frames]` or `[frames, channels]`, and `sample_rate` in Hz.

    It travels as a WAV file of 16 bits, so that samples are rounded to 1/32768 and cut at -1 and 1; return an array where
    that is too little. Other kinds of files are read and written where `soundfile` is installed.
    """

    __slots__ = ("_data", "_rate", "_samples")

    def __init__(self, samples: Any, sample_rate: int) -> None:
        """`samples` may be an array, a tensor or a list. Integers are scaled to -1 … 1. Raises ValueError."""
        if int(sample_rate) != sample_rate or not 0 < sample_rate <= _MAX_RATE:
            raise ValueError(
                f"sample_rate is a whole number of Hz from 1 to {_MAX_RATE}, not {sample_rate!r}"
            )
        self._samples: Any = _as_floats(samples)
        self._rate: int | None = int(sample_rate)
        self._data: bytes | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> Audio:
        """The sound in a file that was read; it is decoded when it is first used, which may raise ValueError."""
        audio = cls.__new__(cls)
        audio._data, audio._samples, audio._rate = bytes(data), None, None
        return audio

    @property
    def samples(self) -> NDArray[np.float32]:
        """The samples, `[frames]` or `[frames, channels]`."""
        self._decode()
        return self._samples  # type: ignore[no-any-return]

    @property
    def sample_rate(self) -> int:
        """Frames per second."""
        self._decode()
        assert self._rate is not None
        return self._rate

    @property
    def channels(self) -> int:
        """How many channels; 1 where `samples` has one axis."""
        return 1 if self.samples.ndim == 1 else int(self.samples.shape[1])

    @property
    def is_encoded(self) -> bool:
        """It is a file already, which is sent and saved as it is."""
        return self._data is not None

    @property
    def size(self) -> int:
        """About how many bytes it has, without decoding it."""
        return 4 * self._samples.size if self._data is None else len(self._data)

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / self.sample_rate

    def to_media(self) -> Media:
        """As a file: the one that it was made of, else a WAV."""
        if self._data is None:
            return Media("audio/wav", _write_wav(self.samples, self.sample_rate))
        return Media(sniff(self._data[:16]), self._data)

    def encode(self, suffix: str) -> bytes:
        """As a file whose name ends in `suffix`. Raises ValueError for a kind that cannot be written here."""
        kind = suffix.lower().removeprefix(".") or "wav"
        if kind in ("wav", "wave"):
            is_wav = self._data is not None and sniff(self._data[:16]) == "audio/wav"
            return self._data if is_wav and self._data else _write_wav(self.samples, self.sample_rate)
        soundfile = _soundfile(f"a .{kind} file")
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, self.samples, self.sample_rate, format=kind.upper())
        except (ValueError, RuntimeError, TypeError) as exc:
            raise ValueError(f"soundfile cannot write .{kind}: {exc}") from exc
        return buffer.getvalue()

    def save(self, path: str | PurePath) -> None:
        """Write a file of the kind that its name ends in; `.wav` needs nothing else."""
        data = self.encode(PurePath(path).suffix)
        with open(path, "wb") as file:
            file.write(data)

    def __repr__(self) -> str:
        try:
            channels = {1: "mono", 2: "stereo"}.get(self.channels, f"{self.channels} channels")
            return f"<Audio {self.duration:.3g} s, {channels}, {self.sample_rate} Hz>"
        except ValueError as exc:
            return f"<Audio that cannot be read: {exc}>"

    def _repr_html_(self) -> str | None:
        """A player with the sound inside of it; None, for the text, where that would make a notebook too large."""
        if self.size // (2 if self._data is None else 1) > _MAX_PLAYED:
            return None
        media = self.to_media()
        data = base64.b64encode(media.data).decode("ascii")
        return f'<audio controls src="data:{html.escape(media.media_type)};base64,{data}"></audio>'

    def _decode(self) -> None:
        if self._samples is None:
            assert self._data is not None
            self._samples, self._rate = _read(self._data)


def _as_floats(samples: Any) -> Any:
    import numpy as np

    if hasattr(samples, "detach"):  # a torch tensor, wherever it lives
        samples = samples.detach().cpu().float().numpy()
    array = np.asarray(samples)
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise ValueError(
            f"samples are numbers, [frames] or [frames, channels]; got {array.dtype}, {list(array.shape)}"
        )
    if array.ndim == 2 and not 1 <= array.shape[1] <= _MAX_CHANNELS:
        raise ValueError(
            f"samples have 1 to {_MAX_CHANNELS} channels on the second axis, not {array.shape[1]}"
        )
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    half = 2.0 ** (8 * array.dtype.itemsize - 1)
    return ((array.astype(np.float64) - (half if array.dtype.kind == "u" else 0.0)) / half).astype(np.float32)


def _write_wav(samples: Any, rate: int) -> bytes:
    import numpy as np

    whole = np.clip(np.rint(np.nan_to_num(samples) * 32768.0), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(whole.tobytes())
    return buffer.getvalue()


def _read(data: bytes) -> tuple[Any, int]:
    if sniff(data[:16]) == "audio/wav":
        samples, rate = _read_wav(data)
    else:
        soundfile = _soundfile("this kind of file" if data else "an empty file")
        try:
            samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        except (RuntimeError, TypeError, ValueError) as exc:
            raise ValueError(f"the sound cannot be read: {str(exc)[:100]}") from exc
    if not len(samples):
        raise ValueError("the sound has no samples")
    return samples, int(rate)


def _read_wav(data: bytes) -> tuple[Any, int]:
    """PCM of 8 to 32 bits and floats. The standard library's reader knows neither floats nor the extensible header."""
    import numpy as np

    head, body = _chunks(data)
    if len(head) < 16:
        raise ValueError("the WAV is broken: it has no format")
    form, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", head)
    if form == _EXTENSIBLE and len(head) >= 26:
        (form,) = struct.unpack_from("<H", head, 24)
    if not 1 <= channels <= _MAX_CHANNELS or not 0 < rate <= _MAX_RATE:
        raise ValueError(f"the WAV is broken: {channels} channels at {rate} Hz")
    width = bits // 8
    whole = body[: len(body) // (width * channels) * width * channels] if width else b""
    samples: Any
    if form == _FLOAT and width in (4, 8):
        samples = np.frombuffer(whole, f"<f{width}").astype(np.float32)
    elif form == _PCM and width == 1:
        samples = (np.frombuffer(whole, np.uint8).astype(np.float32) - 128) / 128
    elif form == _PCM and width == 3:
        wide = np.zeros((len(whole) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(whole, np.uint8).reshape(-1, 3)
        samples = wide.reshape(-1).view("<i4").astype(np.float32) / 2**31
    elif form == _PCM and width in (2, 4):
        samples = np.frombuffer(whole, f"<i{width}").astype(np.float32) / 2 ** (bits - 1)
    else:
        raise ValueError(f"a WAV of format {form} with {bits} bits is not known; convert it to PCM")
    return (samples.reshape(-1, channels) if channels > 1 else samples), rate


def _chunks(data: bytes) -> tuple[bytes, memoryview]:
    """The format and the samples of a RIFF file."""
    view, at, head = memoryview(data), 12, b""
    while at + 8 <= len(view):
        name, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        if name == b"fmt ":
            head = bytes(view[at + 8 : at + 8 + min(size, 64)])
        elif name == b"data":
            return head, view[at + 8 : at + 8 + size]  # one that was cut has what is there
        at += 8 + size + size % 2
    return head, memoryview(b"")


def _soundfile(what: str) -> Any:
    try:
        return import_module("soundfile")
    except (ImportError, OSError) as exc:
        raise ValueError(f"{what} needs soundfile; {_INSTALL}") from exc
