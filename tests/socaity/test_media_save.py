"""`job.save`: the right form for each result, whole files or none, and nothing lost."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from socaity import _whole_file
from socaity._media_save import save_result
from socaity.protocol.audio import Audio
from socaity.protocol.images import encode_image
from socaity.protocol.media import Media

Image = pytest.importorskip("PIL.Image")
pd = pytest.importorskip("pandas")
torch = pytest.importorskip("torch")

PICTURE = Image.new("RGB", (6, 4), "red")
SOUND = Audio(np.linspace(-1, 1, 50), 8000)
TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})


@pytest.mark.parametrize(
    ("value", "name", "kept"),
    [
        (PICTURE, "a", "a.png"),
        (PICTURE, "a.jpg", "a.jpg"),
        (SOUND, "a", "a.wav"),
        (TABLE, "a", "a.csv"),
        (TABLE, "a.json", "a.json"),
        (np.ones(3), "a", "a.npy"),
        (torch.ones(3, dtype=torch.bfloat16), "a", "a.npy"),
        (np.zeros((9, 9, 3), np.uint8), "a.png", "a.png"),
        (b"%PDF-", "a", "a.pdf"),
        (b"xyz", "a.dat", "a.dat"),
        ("text", "a", "a.txt"),
        ("text", "a.md", "a.md"),
        ("text", "a.json", "a.json"),
        ({"x": [1, None, float("nan")]}, "a", "a.json"),
        ([1, 2], "a.json", "a.json"),
        (None, "a", "a.json"),
        (Media("image/png", encode_image(PICTURE).data), "a", "a.png"),
        (Media("image/png", encode_image(PICTURE).data), "a.jpg", "a.jpg"),
        (Media("application/pdf", b"%PDF-"), "a", "a.pdf"),
    ],
)
def test_each_kind_of_result_has_its_form(tmp_path: Path, value: Any, name: str, kept: str) -> None:
    found = save_result(value, tmp_path / name)
    assert found == tmp_path / kept
    assert os.listdir(tmp_path) == [kept]
    assert (tmp_path / kept).stat().st_size > 0


def test_what_was_saved_can_be_read_again(tmp_path: Path) -> None:
    save_result(PICTURE, tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as found:
        assert found.size == (6, 4)
    save_result(SOUND, str(tmp_path / "a.wav"))
    assert Audio.from_bytes((tmp_path / "a.wav").read_bytes()).sample_rate == 8000
    save_result(np.arange(6.0), tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").tolist() == list(range(6))
    save_result(TABLE, tmp_path / "a.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.csv"), TABLE)
    save_result({"x": [1, float("nan")], "y": "ä"}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"x": [1, None], "y": "ä"}


def test_many_become_a_folder(tmp_path: Path) -> None:
    value = {
        "images": [PICTURE] * 11,
        "../../score": 0.5,
        "a/b": b"x",
        "A\\B": b"y",
        "text": "hello",
        "none": [],
    }
    found = save_result(value, tmp_path / "out")
    assert isinstance(found, list)
    names = sorted(path.relative_to(tmp_path / "out").as_posix() for path in found)
    assert names == sorted(
        [f"images/{number:02}.png" for number in range(11)]
        + ["score.json", "b.bin", "B_.bin", "text.txt", "none.json"]
    )
    assert all(path.is_file() for path in found)
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_is_written_over_unless_asked(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    save_result("old", target)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_result("new", target)
    assert target.read_text() == "old"
    assert save_result("new", target, overwrite=True) == target
    assert target.read_text() == "new"
    other = tmp_path / "out" / "1.png"
    other.parent.mkdir()
    other.write_text("mine")
    (tmp_path / "out" / "keep.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        save_result([PICTURE, PICTURE], tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["1.png", "keep.txt"]
    save_result([PICTURE, PICTURE], tmp_path / "out", overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == ["0.png", "1.png", "keep.txt"]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (PICTURE, "a.xyz"),
        (Image.new("RGBA", (2, 2)), "a.jpg"),
        (SOUND, "a.nonsense"),
        (TABLE, "a.png"),
        (np.ones(3), "a.png"),
        (np.ones(3), "a.xyz"),
        ({"a": object()}, "a.json"),
        ([1], "a.png"),
        (np.array([{}], dtype=object), "a.npy"),
        (Media("application/pdf", b"%PDF-"), "a.png"),
        ([PICTURE, object()], "a"),
    ],
)
def test_a_save_that_fails_leaves_nothing(tmp_path: Path, value: Any, name: str) -> None:
    with pytest.raises(ValueError):
        save_result(value, tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_whole_file.os, "link", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_result("text", tmp_path / "a.txt")
    assert not os.listdir(tmp_path)


def test_a_file_system_without_links_works_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_whole_file.os, "link", refuse)
    save_result("text", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "text"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_of_many_who_save_to_one_place_one_wins(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    won: list[str] = []

    def save(text: str) -> None:
        try:
            save_result(text, target)
        except FileExistsError:
            return
        won.append(text)

    threads = [threading.Thread(target=save, args=(f"number {number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [target.read_text()] == won
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        save_result("text", tmp_path / "none" / "a.txt")
