"""A value as a small picture, player, table or text: whatever it is, small, escaped, and never an error."""

import base64
import io
import re
import subprocess
import sys
import tracemalloc
import wave
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from socaity._pictures import MAX_BYTES, picture_of_array
from socaity._preview import LIMIT, SIDE, preview
from socaity._sound import sound_of, sound_of_wav

EVIL = "<script>alert(1)</script>\"'&"
NOISE = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)


def text_of(page: str) -> str:
    return re.sub(r"<[^>]*>", "", page)


def image_bytes(page: str) -> list[tuple[str, bytes]]:
    return [
        (kind, base64.b64decode(data))
        for kind, data in re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    ]


def png_of(array: Any) -> bytes:
    picture = picture_of_array(array, SIDE)
    assert picture is not None
    assert picture.uri is not None
    return base64.b64decode(picture.uri.partition(",")[2])


# -- pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "shape", "mode"),
    [
        (np.full((40, 60), 7, np.uint8), (60, 40), "L"),
        (np.full((40, 60, 1), 7, np.uint8), (60, 40), "L"),
        (np.full((40, 60, 3), 7, np.uint8), (60, 40), "RGB"),
        (np.full((3, 40, 60), 7, np.uint8), (60, 40), "RGB"),
        (np.full((40, 60, 4), 7, np.uint8), (60, 40), "RGBA"),
        (np.ones((40, 60), bool), (60, 40), "L"),
        (np.full((40, 60, 3), 0.5, np.float32), (60, 40), "RGB"),
        (np.zeros((1000, 500, 3), np.uint8), (128, 256), "RGB"),
    ],
)
def test_arrays_of_pixels_become_pictures_that_others_can_read(
    array: Any, shape: tuple[int, int], mode: str
) -> None:
    image_module = pytest.importorskip("PIL.Image")
    with image_module.open(io.BytesIO(png_of(array))) as image:
        assert (image.size, image.mode) == (shape, mode)


def test_the_pixels_are_those_of_the_array() -> None:
    image_module = pytest.importorskip("PIL.Image")
    array = NOISE[:50, :70]
    with image_module.open(io.BytesIO(png_of(array))) as image:
        assert (np.asarray(image) == array).all()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((40, 60), np.float32),
        np.full((40, 60, 3), 7.0),
        np.full((40, 60, 3), np.nan),
        np.zeros((3, 2), np.uint8),
        np.zeros((40, 60, 5), np.uint8),
        np.zeros(100, np.uint8),
    ],
)
def test_other_arrays_are_numbers(array: Any) -> None:
    page = preview(array)
    assert "<img" not in page
    assert f"{array.dtype}, {' × '.join(map(str, array.shape))}" in page


def test_a_large_noisy_picture_stays_small() -> None:
    page = preview(NOISE)
    ((_, data),) = image_bytes(page)
    assert len(data) <= MAX_BYTES
    assert 'alt="picture, 1920 × 1080"' in page
    assert 'width="256" height="144"' in page


def test_a_batch_of_pictures_is_a_row_of_them() -> None:
    page = preview(NOISE[:320, :320].reshape(10, 32, 320, 3))
    assert len(image_bytes(page)) == 4
    assert "and 6 more" in page


def test_pictures_of_pillow_are_made_small_and_stay_as_they_are() -> None:
    image_module = pytest.importorskip("PIL.Image")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "HSV"):
        image = image_module.new(mode, (700, 350))
        ((_, data),) = image_bytes(preview(image))
        assert image.size == (700, 350)
        with image_module.open(io.BytesIO(data)) as small:
            assert small.size == (256, 128)
    ((kind, data),) = image_bytes(preview(image_module.fromarray(NOISE[:256, :256])))
    assert kind == "jpeg"
    assert len(data) <= MAX_BYTES


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_files_of_pictures_are_known_by_their_first_bytes(form: str) -> None:
    image_module = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image_module.new("RGB", (600, 300), "red").save(buffer, form)
    for data in (buffer.getvalue(), bytearray(buffer.getvalue()), memoryview(buffer.getvalue())):
        page = preview(data)
        assert len(image_bytes(page)) == 1
        assert f'alt="{form} picture, 600 × 300"' in page
    broken = preview(buffer.getvalue()[:40])
    assert "<img" not in broken
    assert "cannot be read" in broken


def test_a_file_that_claims_to_be_huge_is_not_unpacked() -> None:
    pytest.importorskip("PIL.Image")
    data = bytearray(png_of(np.zeros((64, 64), np.uint8)))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    assert (
        preview(bytes(data)) == '<span class="text">PNG picture, 60000 × 60000, too large to show here</span>'
    )


WITHOUT_PILLOW = """
import sys
sys.modules["PIL"] = sys.modules["PIL.Image"] = None
from socaity._preview import preview
data = bytes.fromhex(sys.argv[1])
print(preview(data)[:40])
print(preview(data + bytes(200_000)))
"""


def test_without_pillow_small_files_are_shown_unchanged() -> None:
    data = png_of(np.zeros((171, 256), np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PILLOW, data.hex()],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    small, large = done.stdout.splitlines()
    assert small == '<img src="data:image/png;base64,iVBORw0K'
    assert large == '<span class="text">PNG picture, 256 × 171, 200,' + large[47:]
    assert "Pillow would show it" in large


# -- sound ---------------------------------------------------------------------------------------------------------------


def waves(seconds: float, rate: int, channels: int = 1) -> Any:
    tone = np.sin(np.arange(int(seconds * rate)) * 0.05).astype(np.float32) * 0.5
    return tone if channels == 1 else np.stack([tone] * channels)


def wav_in(page: str) -> wave.Wave_read:
    found = re.search(r'src="data:audio/wav;base64,([^"]+)"', page)
    assert found is not None
    return wave.open(io.BytesIO(base64.b64decode(found.group(1))))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_samples_with_a_rate_become_a_player(channels: int, kind: Any) -> None:
    samples = waves(2.0, 24_000, channels)
    if kind is np.int16:
        samples = (samples * 32767).astype(kind)
    for one in (samples, samples.T):
        page = preview(SimpleNamespace(samples=one, sample_rate=24_000))
        with wav_in(page) as file:
            assert file.getnframes() / file.getframerate() == pytest.approx(2.0, abs=0.01)
            loudest = np.abs(np.frombuffer(file.readframes(48_000), "<i2").astype(int)).max()
            assert loudest == pytest.approx(0.5 * 32767, rel=0.1)
        assert 'aria-label="audio, 2.0 s, 24,000 Hz"' in page


def test_long_sound_is_an_excerpt_and_says_so() -> None:
    page = preview(SimpleNamespace(samples=waves(120, 44_100), sample_rate=44_100))
    assert len(page) < LIMIT
    assert "audio, 2:00, 44,100 Hz; the first 16 s can be heard" in page


def test_files_of_sound_are_played_too() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((waves(1.0, 8000, 2).T * 32767).astype("<i2").tobytes())
    assert "audio, 1.0 s, 8,000 Hz" in preview(buffer.getvalue())
    assert "cannot be played" in preview(buffer.getvalue()[:30])
    assert sound_of_wav(b"RIFF") is None
    assert "MP3 audio, 103 bytes" in preview(b"ID3" + bytes(100))


@pytest.mark.parametrize("channels", [1, 2])
def test_of_a_long_file_only_what_is_shown_is_read(channels: int) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(np.repeat(np.array([1000, 16_000], "<i2"), 25_000_000).tobytes())
    data = buffer.getvalue()
    tracemalloc.start()
    try:
        sound = sound_of_wav(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(data) / 5
    assert sound is not None
    assert sound.seconds == pytest.approx(50_000_000 / channels / 48_000)
    quiet, loud = sound.peaks[:40], sound.peaks[40:]
    assert quiet == pytest.approx([1000 / 2**15] * 40)
    assert loud == pytest.approx([16_000 / 2**15] * 40)


def test_file_that_was_cut_off_is_played_as_far_as_it_goes() -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    sound = sound_of_wav(buffer.getvalue()[:-4001])
    assert sound is not None
    assert sound.seconds == 999 / 8000


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 2, 2)), np.array(["a"])])
def test_samples_that_are_none_are_said_to_be(samples: Any) -> None:
    assert sound_of(samples, 8000) is None
    assert "cannot be played" in preview(SimpleNamespace(samples=samples, sample_rate=8000))


# -- tables and everything else -----------------------------------------------------------------------------------------


def test_a_frame_is_its_head() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({f"c{number}": range(100) for number in range(30)})
    frame["c0"] = EVIL
    page = preview(frame)
    assert "100 rows × 31 columns" not in page
    assert "100 rows × 30 columns" in page
    assert page.count("<tr>") == 6
    assert page.count("<th ") == 9
    assert "<script" not in page
    assert "100 rows × 1 column" in preview(frame["c1"])


def test_records_are_a_table() -> None:
    page = preview([{"word": EVIL, "score": 0.123456}] * 30)
    assert text_of(page).startswith("30 rows")
    assert "<td>0.1235</td>" in page
    assert "<script" not in page
    assert "<table" not in preview([{"a": 1}, {"b": 2}])
    assert "<table" not in preview([{"a": [1]}])


def test_tensors_are_pictures_or_numbers() -> None:
    torch = pytest.importorskip("torch")
    assert len(image_bytes(preview(torch.zeros(3, 900, 600)))) == 1
    assert 'alt="picture, 600 × 900"' in preview(torch.zeros(3, 900, 600, requires_grad=True))
    assert len(image_bytes(preview(torch.zeros(900, 600, dtype=torch.uint8)))) == 1
    text = text_of(preview(torch.arange(10.0, dtype=torch.bfloat16)))
    assert text == "torch bfloat16, 10, cpu: 0, 1, 2, 3, 4, 5, … (0 … 9)"
    assert "sparse" not in preview(torch.eye(20).to_sparse())


@dataclass
class Found:
    label: str
    score: float


class Answer(BaseModel):
    text: str
    found: list[int]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        pytest.param(10**5000, "an integer of 16610 bits", id="long"),
        (0.25, "0.25"),
        ("one\ntwo", "one\ntwo"),
        (b"\x00\x01", "bytes, 2 bytes: 00 01"),
        (b"%PDF-1.7", "PDF document, 8 bytes"),
        ([1, 2.5, None], "[1, 2.5, None] (3)"),
        (["once ", "upon"], "once upon"),
        ({"a": 1, "b": "x"}, "a1bx"),
        (Found("cat", 0.5), "labelcatscore0.5"),
        (Answer(text="hi", found=[1]), "texthifound[1] (1)"),
        (np.float32(0.5), "np.float32(0.5)"),
        (np.array(3), "3"),
        (object, "&lt;class &#x27;object&#x27;&gt;"),
    ],
)
def test_everything_else_is_text(value: object, text: str) -> None:
    assert text_of(preview(value)) == text


@pytest.mark.parametrize(
    "value",
    [EVIL, [EVIL, 1], {EVIL: EVIL}, [{EVIL: EVIL}], Found(EVIL, 1.0), {"a": {"b": [EVIL, {"c": EVIL}]}}],
)
def test_nothing_in_a_value_is_markup(value: object) -> None:
    page = preview(value)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Endless(list[Any]):
    pass


def test_no_value_raises_and_none_is_endless() -> None:
    endless = Endless()
    endless.append(endless)
    assert preview(endless)
    assert "Rude (no preview: RuntimeError)" in preview(Rude())


def test_the_whole_stays_below_its_limit() -> None:
    value = {f"key {number}": [NOISE] * 20 for number in range(20)}
    page = preview(value)
    assert len(page) <= LIMIT + 20_000
    assert "too large to show here" in page or "…" in page
    assert len(preview("x" * 10_000_000)) < 2000
    assert len(preview({"x" * 1000: ["y" * 1000] * 100})) < 20_000
