"""Which models a folder holds: their names, files, versions and configurations, and what is refused."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socaity_server.model_files import scan_folder


def put(root: Path, name: str, text: str = "good") -> Path:
    """A file that appears at once."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text)
    part.replace(file)
    return file


def names(root: Path) -> dict[str, str | None]:
    """Each model and why it cannot be loaded."""
    return {
        name: model.error or " ".join(version.error for version in model.versions if version.error) or None
        for name, model in scan_folder(root).items()
    }


def files_of(root: Path, name: str) -> list[str]:
    model = scan_folder(root)[name]
    return [str(version.file.relative_to(root)) for version in model.versions if version.file is not None]


def test_a_model_is_named_by_its_configuration_its_folder_or_its_file(tmp_path: Path) -> None:
    put(tmp_path, "folder/model.onnx")
    put(tmp_path, "named/model_config.yaml", "name: other")
    put(tmp_path, "named/weights.pt")
    put(tmp_path, "seed/log_classifier.yaml", "model: {model_args: {model_file: x.pkl}}")
    put(tmp_path, "seed/x.pkl")
    put(tmp_path, "bare.onnx")
    put(tmp_path, "beside.yaml", "timeout: 1")
    put(tmp_path, "beside.onnx")
    put(tmp_path, "group/inner/model.py")
    assert names(tmp_path) == dict.fromkeys(["bare", "beside", "folder", "inner", "other", "seed"])
    assert scan_folder(tmp_path)["beside"].versions[0].config.timeout == 1.0
    assert {name: model.versions[0].backend for name, model in scan_folder(tmp_path).items()} == {
        "bare": "onnx",
        "beside": "onnx",
        "folder": "onnx",
        "inner": "python",
        "other": "torch",
        "seed": "joblib",
    }


def test_what_is_no_model_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "README.md")
    put(tmp_path, ".git/model.onnx")
    put(tmp_path, ".hidden.onnx")
    put(tmp_path, "__pycache__/model.py")
    put(tmp_path, "train.py", "print('hello')")
    put(tmp_path, "notes/todo.txt")
    put(tmp_path, "tools/convert.py")
    put(tmp_path, "a/model.onnx")
    put(tmp_path, "a/assets/embedding.onnx")
    put(tmp_path, "a/assets/labels.yaml", "- cat")
    put(tmp_path, "b/model_config.yaml")
    put(tmp_path, "b/model.py")
    put(tmp_path, "b/layers.py")
    put(tmp_path, "b/labels.yaml", "[1, 2]")
    (tmp_path / "b/model_config.yaml").write_text("")
    assert names(tmp_path) == {"a": None, "b": None}
    put(tmp_path, "script.py", "def predict(x):\n    return x\n")
    assert set(names(tmp_path)) == {"a", "b", "script"}


def test_every_configuration_of_the_first_model_server_is_a_model(tmp_path: Path) -> None:
    put(tmp_path, "one/a.yaml", "model:\n  name: a\n  model_args: {model_file: a.onnx}")
    put(tmp_path, "one/b.yaml", "model:\n  name: b\n  model_args: {model_file: b.onnx}")
    put(tmp_path, "one/a.onnx")
    put(tmp_path, "one/b.onnx")
    put(tmp_path, "one/deep/c.yaml", "model:\n  name: c\n  model_args: {model_file: c.onnx}")
    put(tmp_path, "one/deep/c.onnx")
    put(tmp_path, "p/p.yaml", "model: {backend: python, model_args: {class: 'models.p.code:X', kwargs: {}}}")
    put(tmp_path, "p/code.py")
    assert names(tmp_path) == dict.fromkeys(["a", "b", "c", "p"])
    assert files_of(tmp_path, "p") == ["p/code.py"]


def test_two_models_of_one_name_are_both_refused(tmp_path: Path) -> None:
    put(tmp_path, "x/a.yaml", "model: {name: same}")
    put(tmp_path, "x/model.onnx")
    put(tmp_path, "y/a.yaml", "model: {name: same}")
    put(tmp_path, "y/model.onnx")
    put(tmp_path, "z/model.onnx")
    found = names(tmp_path)
    assert found["z"] is None
    assert found["same"] is not None
    assert "2 models are called 'same'" in found["same"]
    assert "x/a.yaml" in found["same"]
    assert "y/a.yaml" in found["same"]


def test_which_file_is_the_model_must_be_clear(tmp_path: Path) -> None:
    put(tmp_path, "two/a.onnx")
    put(tmp_path, "two/b.pt")
    put(tmp_path, "main/model.onnx")
    put(tmp_path, "main/other.onnx")
    put(tmp_path, "backend/a.onnx")
    put(tmp_path, "backend/b.pt")
    put(tmp_path, "backend/model_config.yaml", "backend: torch")
    put(tmp_path, "none/model_config.yaml", "timeout: 1")
    put(tmp_path, "said/a.onnx")
    put(tmp_path, "said/b.onnx")
    put(tmp_path, "said/model_config.yaml", "file: b.onnx")
    found = names(tmp_path)
    assert found["two"] == "'two' has several model files (a.onnx, b.pt); say which with `file:`."
    assert (found["none"] or "").startswith("There is no model file (.onnx, ")
    assert [found["main"], found["backend"], found["said"]] == [None, None, None]
    assert files_of(tmp_path, "backend") == ["backend/b.pt"]
    assert files_of(tmp_path, "said") == ["said/b.onnx"]


def test_links_and_paths_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "models"
    put(tmp_path, "secret.onnx")
    put(tmp_path, "secret/model.onnx")
    put(tmp_path, "outside.yaml", "name: a")
    put(root, "up/model_config.yaml", "file: ../../secret.onnx")
    for name in ("linked", "config", "loop"):
        (root / name).mkdir()
    (root / "linked/model.onnx").symlink_to(tmp_path / "secret.onnx")
    (root / "config/model_config.yaml").symlink_to(tmp_path / "outside.yaml")
    (root / "loop/model.onnx").symlink_to("model.onnx")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "bare.onnx").symlink_to(tmp_path / "secret.onnx")
    (root / "around").symlink_to(root)
    put(root, "v1/model.onnx")
    (root / "latest").symlink_to("v1")
    found = names(root)
    assert [name for name, error in found.items() if error is None] == ["latest", "v1"]
    assert {name for name, error in found.items() if error and "leads out of the folder" in error} == {
        *("linked", "config", "folder", "bare"),
    }
    assert "is a path below the folder" in (found["up"] or "")


def test_names_that_are_no_part_of_a_path_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "my model/model.onnx")
    put(tmp_path, "-x.onnx")
    put(tmp_path, "good-1.2/model.onnx")
    found = names(tmp_path)
    assert found["good-1.2"] is None
    assert "is no name for a model" in (found["my model"] or "")
    assert "is no name for a model" in (found["-x"] or "")


def test_a_wrong_configuration_keeps_its_model_from_being_served_without_it(tmp_path: Path) -> None:
    put(tmp_path, "a.yaml", "name: fancy\nsha256: wrong")
    put(tmp_path, "a.onnx")
    put(tmp_path, "b.yaml", "file: weights.onnx\nnonsense: 1")
    put(tmp_path, "weights.onnx")
    found = names(tmp_path)
    assert set(found) == {"fancy", "b"}
    assert "a.yaml:2: sha256 has 64" in (found["fancy"] or "")


def test_versions_are_numbered_folders_and_may_say_more(tmp_path: Path) -> None:
    put(tmp_path, "a/model_config.yaml", "timeout: 1\nthreads: 1")
    put(tmp_path, "a/model.onnx")
    put(tmp_path, "a/2/model.onnx")
    put(tmp_path, "a/10/net.onnx")
    put(tmp_path, "a/10/model_config.yaml", "timeout: 2")
    put(tmp_path, "a/3/model_config.yaml", "name: b")
    put(tmp_path, "a/3/model.onnx")
    put(tmp_path, "a/007/model.onnx")
    model = scan_folder(tmp_path)["a"]
    assert [version.version for version in model.versions] == ["10", "3", "2", "0"]
    assert [version.config.timeout for version in model.versions] == [2.0, 1.0, 1.0, 1.0]
    assert model.versions[0].config.threads == 1
    assert "is not that of the model" in (model.versions[1].error or "")
    put(tmp_path, "a/model_config.yaml", "version: '2'")
    assert "Two files are version '2'" in (names(tmp_path)["a"] or "")


def test_a_folder_that_is_one_model_is_one(tmp_path: Path) -> None:
    put(tmp_path, "digits/model_config.yaml", "timeout: 1")
    put(tmp_path, "digits/1/model.onnx")
    assert names(tmp_path / "digits") == {"digits": None}
    put(tmp_path, "words/1/model.onnx")
    assert names(tmp_path / "words") == {"words": None}


def test_a_change_of_any_file_of_a_model_is_seen(tmp_path: Path) -> None:
    put(tmp_path, "a/model.onnx")
    put(tmp_path, "a/model_config.yaml", "timeout: 1")
    put(tmp_path, "bare.onnx")
    for name in (
        "a/model.onnx.data",
        "a/model_config.yaml",
        "a/layers/attention.py",
        "bare.onnx.data",
        "bare.onnx",
    ):
        before = scan_folder(tmp_path)
        put(tmp_path, name, "timeout: 12345")
        after = scan_folder(tmp_path)
        changed = {model for model in after if before[model] != after[model]}
        assert changed == {name.partition("/")[0].partition(".")[0]}, name
    before = scan_folder(tmp_path)
    put(tmp_path, "a/requests.log")
    put(tmp_path, "a/__pycache__/x.pyc")
    assert scan_folder(tmp_path) == before


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "1", "2", "model", ".x", "é"]), min_size=1, max_size=3).map(
            "/".join
        ),
        st.tuples(
            st.sampled_from([".onnx", ".py", ".yaml", ".txt", "/model_config.yaml", ""]),
            st.sampled_from(["", "name: a", "model: {name: b}", "file: model.onnx", "[", "def predict(): 1"]),
        ),
        max_size=8,
    )
)
def test_any_folder_can_be_scanned(tmp_path: Path, files: dict[str, tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        for stem, (suffix, text) in files.items():
            with contextlib.suppress(OSError):
                put(Path(folder), stem + suffix, text)
        for name, model in scan_folder(Path(folder)).items():
            assert model.name == name
            assert model.error or model.versions
            for version in model.versions:
                assert version.error is not None or (version.file is not None and version.file.is_file())
