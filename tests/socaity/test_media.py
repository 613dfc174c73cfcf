"""What a parameter for media takes, what is sent for it, and what becomes of media in results."""

from __future__ import annotations

import base64
import builtins
import io
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from socaity import InvalidInputError
from socaity._job import Job
from socaity._media import INLINE, Source, size_of
from socaity._media_decode import decode, make_decode
from socaity._schema import UnfinishedError, compile_check
from socaity._signature import make_signature
from socaity.protocol.audio import Audio
from socaity.protocol.description import EndpointDescription, ParameterDescription
from socaity.protocol.images import encode_image
from socaity.protocol.media import Media, guess_type, read_media, safe_name
from socaity.protocol.messagepack import packb, unpackb
from socaity.protocol.tables import decode_table, encode_table, pack_table

from .doubles import endpoint, held

Image = pytest.importorskip("PIL.Image")
pd = pytest.importorskip("pandas")
torch = pytest.importorskip("torch")

PNG = encode_image(Image.new("RGB", (6, 4), "red")).data


def check(kind: str, value: Any) -> Any:
    parameter = ParameterDescription(name="value", json_schema={"x-media": kind})
    return compile_check(parameter, endpoint())(value)


def opened(wire: Any) -> Any:
    return Image.open(io.BytesIO(wire["data"]))


def noise(height: int = 900, width: int = 700) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


# -- what is taken -----------------------------------------------------------------------------------------------------


def test_a_picture_is_taken_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    pixels = np.asarray(Image.open(io.BytesIO(PNG)))
    with path.open("rb") as file:
        forms = [
            Image.open(io.BytesIO(PNG)),
            pixels,
            torch.tensor(pixels),
            torch.tensor(pixels).permute(2, 0, 1),
            path,
            str(path),
            PNG,
            bytearray(PNG),
            file,
            io.BytesIO(PNG),
            f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
            Media("image/png", PNG),
            {"$media": "image/png", "data": PNG},
        ]
        for form in forms:
            wire = check("image", form)
            assert wire["$media"] == "image/png"
            assert np.array_equal(np.asarray(opened(wire)), pixels), type(form)


def test_grey_and_black_and_white_pixels_are_pictures() -> None:
    assert opened(check("image", np.zeros((4, 6), np.uint8))).mode == "L"
    assert opened(check("image", np.zeros((4, 6, 1), np.uint8))).mode == "L"
    assert opened(check("image", np.ones((4, 6), bool))).getpixel((0, 0)) == 255
    assert opened(check("image", np.zeros((4, 6, 4), np.uint8))).mode == "RGBA"


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "F", "CMYK", "YCbCr", "LAB"]
)
def test_every_mode_of_pillow_arrives_without_loss(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    found = opened(check("image", image))
    assert (found.mode, found.size, found.tobytes()) == (mode, (3, 2), image.tobytes())


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("image", "no/such/file.png", "there is no file str 'no/such/file.png'"),
        ("image", "a\0b", "there is no file"),
        ("image", "x" * 5000, "there is no file"),
        ("image", Path("no/such/file.png"), "cannot be read: No such file"),
        ("image", Path("/"), "is not a file"),
        ("image", 7, "expected a picture"),
        ("image", np.zeros((4, 6)), "array of uint8"),
        ("image", np.zeros((4, 6, 2), np.uint8), "array of uint8"),
        ("image", np.zeros((0, 6), np.uint8), "array of uint8"),
        ("image", b"RIFF\0\0\0\0WAVE", "got audio/wav"),
        ("image", io.StringIO("x"), 'open it with "rb"'),
        ("image", "data:image/png;base64,?", "not well formed"),
        ("image", None, "expected a picture"),
        ("audio", np.zeros(10), "socaity.Audio"),
        ("audio", PNG, "got image/png"),
        ("table", "no.csv", "there is no file"),
        ("table", 7, "expected a table"),
        ("bytes", 7, "expected bytes"),
        ("file", 7, "expected a file"),
    ],
)
def test_what_is_no_media_is_refused_in_words(kind: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(kind, value)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_call_names_the_parameter_that_was_wrong() -> None:
    service, transport = held(
        endpoint("look", ParameterDescription(name="image", json_schema={"x-media": "image"}))
    )
    with service, pytest.raises(InvalidInputError, match=r"look\(image=…\): expected a picture") as caught:
        service.look(image=7)
    assert caught.value.parameter == "image"
    assert not transport.calls


def test_large_media_wait_for_their_upload(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * (INLINE + 1))
    assert check("bytes", b"x" * INLINE) == b"x" * INLINE
    for kind, value in (
        ("image", noise()),
        ("image", Image.fromarray(noise())),
        ("bytes", b"x" * (INLINE + 1)),
        ("file", path),
        ("audio", Audio(np.zeros(10**6), 8000)),
        ("table", pd.DataFrame({"a": np.zeros(10**6)})),
    ):
        source = check(kind, value)
        assert type(source) is Source
        assert check(kind, source) is source
        content = source.content()
        content.hash()
        assert len(content.sha256) == 64
        assert sum(map(len, content.pieces())) == content.size == len(content.whole())


def test_what_is_drawn_after_the_call_is_not_sent() -> None:
    image = Image.fromarray(noise())
    before = image.copy()
    source = check("image", image)
    image.paste("black", (0, 0, 700, 900))
    assert np.array_equal(np.asarray(opened({"data": source.content().whole()})), np.asarray(before))
    pixels = noise()
    source = check("image", pixels)
    pixels[:] = 0
    assert opened({"data": source.content().whole()}).getextrema()[0][1] > 0


def test_an_open_file_may_be_closed_after_the_call(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    data = os.urandom(2 * INLINE)
    path.write_bytes(b"head" + data)
    with path.open("rb") as file:
        file.seek(4)
        source = check("file", file)
        assert file.tell() == 4
    assert source.content().whole() == data
    assert source.content().name == "a.bin"


def test_a_stream_that_can_be_read_once_is_kept(tmp_path: Path) -> None:
    import gzip

    data = os.urandom(2 * INLINE)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(data))
    with gzip.open(path) as file:
        source = check("file", file)
    assert source.content().whole() == data


def test_a_file_that_did_not_change_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * (INLINE + 1))
    first = check("file", path).content()
    first.hash()
    again = check("file", path).content()
    monkeypatch.setattr(again, "_read", lambda: pytest.fail("it was read again"))
    again.hash()
    assert again.sha256 == first.sha256
    path.write_bytes(b"y" * (INLINE + 2))
    other = check("file", path).content()
    other.hash()
    assert other.sha256 != first.sha256


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * (INLINE + 1))
    content = check("file", path).content()
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="changed while it was read"):
        content.hash()


def test_a_job_as_media_is_left_for_later() -> None:
    service, _ = held(endpoint())
    with service:
        for kind in ("image", "audio", "table", "file", "bytes"):
            with pytest.raises(UnfinishedError):
                check(kind, Job(service.ask, {}))


def test_lists_of_pictures() -> None:
    schema = {"type": "array", "items": {"x-media": "image"}}
    found = compile_check(ParameterDescription(name="value", json_schema=schema), endpoint())(
        [PNG, Path("/")][:1]
    )
    assert found[0]["$media"] == "image/png"
    with pytest.raises(ValueError, match=r"\[1\]: expected a picture"):
        compile_check(ParameterDescription(name="value", json_schema=schema), endpoint())([PNG, 7])


def test_arrays_come_from_files_and_pictures(tmp_path: Path) -> None:
    from socaity.protocol.description import TensorDescription

    parameter = ParameterDescription(name="value", tensor=TensorDescription(dtype="uint8"))
    taken = compile_check(parameter, endpoint())
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.uint8))
    assert taken(tmp_path / "a.npy").tolist() == list(range(6))
    assert taken(Image.new("L", (3, 2), 7)).tolist() == [[7] * 3] * 2
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("b.npy", "none.npy"):
        with pytest.raises(ValueError, match=name):
            taken(tmp_path / name)
    (tmp_path / "c.npy").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"not a \.npy file"):
        taken(tmp_path / "c.npy")


def test_the_signature_names_what_is_natural() -> None:
    parameters = [
        ParameterDescription(name="image", json_schema={"x-media": "image"}),
        ParameterDescription(name="data", json_schema={"x-media": "bytes"}),
    ]
    found = make_signature(
        EndpointDescription(name="a", path="/a", parameters=parameters, returns={"x-media": "table"})
    )
    assert str(found) == "(image: 'PIL.Image.Image', data: bytes) -> 'pandas.DataFrame'"


def test_files_of_other_services_take_the_same_objects(tmp_path: Path) -> None:
    parameter = ParameterDescription(name="value", location="file")
    taken = compile_check(parameter, endpoint())
    assert taken(Image.open(io.BytesIO(PNG)))[::2] == ("picture.png", "image/png")
    assert taken(Audio([0.0, 1.0], 8000))[::2] == ("sound.wav", "audio/wav")
    assert taken(pd.DataFrame({"a": [1]})) == ("table.csv", b"a\n1\n", "text/csv")
    assert taken(noise(8, 8))[2] == "image/png"
    (tmp_path / "a.txt").write_text("x")
    assert taken(str(tmp_path / "a.txt")) == tmp_path / "a.txt"
    assert taken("just text") == "just text"
    assert taken([PNG]) == [PNG]


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_are_decoded_at_any_depth_and_others_left_alone() -> None:
    wire = {"a": [{"$media": "image/png", "data": PNG}], "n": [1.0] * 3}
    found = decode(wire)
    assert found["a"][0].size == (6, 4)
    assert found["n"] is wire["n"]
    assert decode(found)["a"] is found["a"]
    for plain in (
        [1, 2],
        {"a": {"$media": 7, "data": b""}},
        {"$media": "image/png", "data": b"", "more": 1},
        "text",
    ):
        assert decode(plain) is plain


def test_sound_and_tables_and_files_are_decoded() -> None:
    sound = Audio(np.linspace(-1, 1, 50), 8000)
    found = decode(sound.to_media().to_wire())
    assert isinstance(found, Audio)
    assert np.allclose(found.samples, sound.samples, atol=1e-4)
    frame = pd.DataFrame({"a": [1, 2]})
    pd.testing.assert_frame_equal(decode(unpackb(packb(encode_table(frame)))), frame)
    assert decode({"$media": "application/pdf", "data": b"%PDF", "name": "../a.pdf"}).name == "a.pdf"


def test_a_picture_that_cannot_be_read_stays_the_file() -> None:
    assert decode({"$media": "image/svg+xml", "data": b"<svg/>"}) == Media("image/svg+xml", b"<svg/>")


def test_without_pillow_and_pandas_the_bytes_and_columns_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from socaity import _media_decode

    monkeypatch.setattr(_media_decode, "_is_installed", lambda package: False)
    assert decode({"$media": "image/png", "data": PNG}) == Media("image/png", PNG)
    assert decode(unpackb(packb(encode_table(pd.DataFrame({"a": [1]})))))["a"].tolist() == [1]
    assert decode({"$media": "audio/wav", "data": b"x"}) == Media("audio/wav", b"x")


def test_only_results_that_may_hold_media_are_looked_at() -> None:
    def of(returns: dict[str, Any], **more: Any) -> Any:
        return make_decode(EndpointDescription(name="a", path="/a", returns=returns, **more))

    assert of({"type": "string"}) is None
    assert of({"type": "array", "items": {"type": "number"}}) is None
    assert of({}, direct=True) is None
    assert of({}) is decode
    assert of({"type": "array", "items": {"x-media": "image"}}) is decode
    assert of({"type": "array", "items": {}}) is decode
    assert of({"type": "object", "additionalProperties": True}) is decode
    assert of({"type": "object", "properties": {"a": {"type": "array"}}}) is decode
    assert of({"type": "object", "properties": {"a": {"type": "integer"}}}) is None


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return original(name, *rest, **more)

    import importlib

    monkeypatch.setattr(importlib, "import_module", lambda name, *_: without(name))
    monkeypatch.setattr("socaity.protocol.images.import_module", lambda name: without(name))
    with pytest.raises(ImportError, match="pip install pillow"):
        check("image", np.zeros((4, 6), np.uint8))


# -- the forms themselves ----------------------------------------------------------------------------------------------


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 50), st.integers(1, 3)), elements=st.floats(-1, 1, width=32)
    ),
    st.integers(1, 192_000),
)
def test_sound_survives_a_wav(samples: Any, rate: int) -> None:
    found = Audio.from_bytes(Audio(samples, rate).to_media().data)
    expected = samples[:, 0] if samples.shape[1] == 1 else samples
    assert found.sample_rate == rate
    assert np.allclose(found.samples, expected, atol=1 / 32768)


@pytest.mark.parametrize(("width", "peak"), [(1, 127), (2, 2**14), (3, 2**22), (4, 2**30)])
def test_wav_of_every_width_is_read(width: int, peak: int) -> None:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        frame = b"\xc0" if width == 1 else peak.to_bytes(width, "little", signed=True)
        file.writeframes(frame * 20)
    found = Audio.from_bytes(buffer.getvalue())
    assert (found.channels, found.samples.shape) == (2, (10, 2))
    assert np.allclose(found.samples, 0.5, atol=1e-2)


def test_wav_of_floats_and_with_the_long_header_are_read() -> None:
    import struct

    samples = np.array([0.25, -1.5], "<f4").tobytes()

    def wav(head: bytes) -> bytes:
        body = (
            b"fmt "
            + struct.pack("<I", len(head))
            + head
            + b"data"
            + struct.pack("<I", len(samples))
            + samples
        )
        return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body

    plain = struct.pack("<HHIIHH", 3, 1, 8000, 32000, 4, 32)
    long = struct.pack("<HHIIHHHHIH14s", 0xFFFE, 1, 8000, 32000, 4, 32, 22, 32, 0, 3, b"")
    for head in (plain, long):
        assert Audio.from_bytes(wav(head)).samples.tolist() == [0.25, -1.5]
    with pytest.raises(ValueError, match="is not known"):
        _ = Audio.from_bytes(wav(struct.pack("<HHIIHH", 85, 1, 8000, 32000, 4, 32))).samples


@given(st.binary(max_size=200))
def test_no_bytes_make_the_wav_reader_fail_otherwise(data: bytes) -> None:
    audio = Audio.from_bytes(b"RIFF\0\0\0\0WAVE" + data)
    try:
        assert audio.samples.dtype == np.float32
    except ValueError:
        assert "cannot be read" in repr(audio)


def test_audio_is_made_of_arrays_tensors_lists_and_integers() -> None:
    assert Audio([0, 1.0], 8000).samples.dtype == np.float32
    assert Audio(torch.zeros(4, 2, requires_grad=True), 8000).channels == 2
    assert Audio(np.array([2**14], np.int16), 8000).samples.tolist() == [0.5]
    assert Audio(np.zeros(4000), 8000).duration == 0.5
    for samples, rate in (
        (["x"], 8000),
        (np.zeros((2, 2, 2)), 8000),
        ([0.0], 0),
        ([0.0], 1.5),
        (np.zeros((2, 99)), 1),
    ):
        with pytest.raises(ValueError):
            Audio(samples, rate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="soundfile"):
        Audio([0.0], 8000).encode(".nonsense")


def test_a_table_keeps_its_types() -> None:
    frame = pd.DataFrame(
        {
            "whole": [1, 2, 3],
            "text": ["x", None, "z"],
            "time": pd.to_datetime(["2020-01-01", "2021-01-01", None]),
            "zone": pd.date_range("2020", periods=3, tz="Europe/Berlin"),
            "span": pd.to_timedelta([1, 2, None], unit="s"),
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "float": [1.5, np.nan, np.inf],
            "kind": pd.Categorical(["u", "v", "u"]),
            "flag": [True, False, True],
            "half": np.array([1, 2, 3], np.float16),
        },
        index=pd.Index(["r", "s", "t"], name="row"),
    )
    pd.testing.assert_frame_equal(decode_table(unpackb(packb(encode_table(frame)))["data"]), frame)
    pd.testing.assert_frame_equal(decode_table(pack_table(frame)), frame)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame({"a": []}),
        pd.DataFrame(index=[1, 2]),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
    ],
)
def test_odd_tables_survive(frame: Any) -> None:
    found = decode_table(encode_table(frame)["data"])
    pd.testing.assert_frame_equal(found, frame, check_index_type=False, check_column_type=False)


def test_a_table_of_several_levels_says_what_to_do() -> None:
    frame = pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)]))
    with pytest.raises(ValueError, match="reset_index"):
        check("table", frame)


@given(st.text(max_size=300))
def test_no_name_leads_out_of_a_folder(name: str) -> None:
    found = safe_name(name)
    if found is not None:
        assert Path(found).name == found
        assert not found.startswith(".")
        assert len(found) <= 100
        assert (Path("/folder") / found).resolve().parent == Path("/folder")


def test_media_are_read_from_maps_and_data_urls_only() -> None:
    assert read_media({"$media": "image/png", "data": "aGk="}) == Media("image/png", b"hi")
    assert read_media("data:,a%20b") == Media("text/plain", b"a b")
    assert read_media("data:image/png;base64,aGk=") == Media("image/png", b"hi")
    for other in ("hello", b"data:,x", {"$media": "x"}, {"$media": "a/b", "data": b"", "x": 1}, None):
        assert read_media(other) is None
    for broken in ({"$media": "a/b\r\nX: y", "data": b""}, {"$media": "a/b", "data": 7}, "data:a/b;base64,?"):
        with pytest.raises(ValueError):
            read_media(broken)


def test_types_are_told_by_content_before_name() -> None:
    assert guess_type("a.txt", PNG[:16]) == "image/png"
    assert guess_type("a.csv") == "text/csv"
    assert guess_type("a.unheard-of") == "application/octet-stream"
    assert (size_of(Image.new("RGB", (4, 2))), size_of(Media("a/b", b"xyz")), size_of([1])) == (24, 3, None)


def test_sound_is_a_player_in_a_notebook_and_a_line_in_a_terminal() -> None:
    sound = Audio(np.zeros((800, 2), np.float32), 8000)
    assert repr(sound) == "<Audio 0.1 s, stereo, 8000 Hz>"
    page = sound._repr_html_()
    assert page is not None
    data = page.removeprefix('<audio controls src="data:audio/wav;base64,').removesuffix('"></audio>')
    assert base64.b64decode(data) == sound.encode(".wav")
    assert Audio(np.zeros(2_000_000, np.float32), 8000)._repr_html_() is None
